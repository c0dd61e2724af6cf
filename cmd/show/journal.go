package show

import (
	"fmt"
	"io"
	"strings"

	"ballast/cmd/size"
	"ballast/cmd/volumes"
	"ballast/devices"
)

// Imported tells what import did.
func Imported(w io.Writer, i *volumes.Imported) {
	fmt.Fprintf(w, "volume %s (%s) imported: %s, copies=%d\n", i.Volume, i.UUID, count(int64(len(i.Devices)), "device", "devices"), i.Copies)
	t := &table{}
	t.add("DEVICE", ">SIZE", "PATH")
	for _, d := range i.Devices {
		t.add(devices.ID(d.ID).String(), size.Format(d.Size), Clean(d.Path))
	}
	for _, d := range i.Missing {
		t.add(devices.ID(d.ID).String(), size.Format(d.Size), "missing ("+d.UUID.String()+")")
	}
	t.write(w, "  ")
	fmt.Fprintf(w, "its journal is the copy on device %s: commit %d with %s\n", i.From, i.Seq, count(int64(i.Records), "record", "records"))
	if i.ReadOnly {
		fmt.Fprintln(w, "clients may only read it")
	}
	fmt.Fprintf(w, "\nnext:\n  ballast serve %s\n", i.Volume)
}

// JournalReport writes what verifying a journal found.
func JournalReport(w io.Writer, r *volumes.JournalReport) {
	verdict := "SOUND"
	if !r.Sound {
		verdict = "DAMAGED"
	}
	fmt.Fprintf(w, "the journal of volume %s is %s\n", r.Volume, verdict)
	t := &table{}
	t.add("WHERE", ">COMMIT", ">RECORDS", ">BYTES", "STATE")
	row := func(where, bytes string, p *volumes.JournalPart, state string) {
		if p.Fault != "" {
			t.add(where, "-", "-", bytes, Clean(p.Fault))
			return
		}
		t.add(where, fmt.Sprint(p.Seq), fmt.Sprint(p.Records), bytes, state)
	}
	row("store", "-", &r.Store, "whole")
	for i := range r.Copies {
		c := &r.Copies[i]
		switch {
		case c.None:
			t.add(c.Device, "-", "-", "-", "no copy")
		case c.Old:
			row(c.Device, size.Format(c.Bytes), &c.JournalPart, "whole, of an earlier time")
		default:
			row(c.Device, size.Format(c.Bytes), &c.JournalPart, "whole")
		}
	}
	t.write(w, "  ")
}

// Salvage is what is left of journals on disks.
type Salvage struct {
	Schema  string          `json:"schema"`
	Devices []SalvageDevice `json:"devices"`
}

// SalvageDevice is what is left on one.
type SalvageDevice struct {
	Path    string `json:"path"`
	Volume  string `json:"volume,omitempty"`
	Device  string `json:"device,omitempty"`
	Whole   bool   `json:"whole"`
	Seq     uint64 `json:"sequence"`
	Records uint64 `json:"records"`
	Fault   string `json:"fault,omitempty"`
}

// Write writes s for people.
func (s *Salvage) Write(w io.Writer) {
	var whole []string
	for _, d := range s.Devices {
		of := ""
		if d.Volume != "" {
			of = fmt.Sprintf(", device %s of volume %s", d.Device, Clean(d.Volume))
		}
		if d.Whole {
			whole = append(whole, Clean(d.Path))
			fmt.Fprintf(w, "%s%s: a whole copy of the journal, commit %d with %s\n", Clean(d.Path), of, d.Seq, count(int64(d.Records), "record", "records"))
		} else {
			fmt.Fprintf(w, "%s%s: no copy of the journal: %s\n", Clean(d.Path), of, Clean(d.Fault))
		}
	}
	if len(whole) > 0 {
		fmt.Fprintf(w, "\nnext:\n  ballast import %s\n", strings.Join(whole, " "))
	}
}
