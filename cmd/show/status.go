package show

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/size"
	"ballast/striping"
)

// Status writes what state the volume is in, what to do about it, and its devices and exports.
func Status(w io.Writer, s *control.Status) {
	fmt.Fprintf(w, "volume:  %-20s state: %-10s copies: %d\n", s.Volume, strings.ToUpper(s.State), s.Copies)
	for _, h := range s.Health {
		fmt.Fprintf(w, "%-8s %s (%s)\n", h.Severity+":", Clean(h.Message), h.Code)
		if h.Action != "" {
			fmt.Fprintf(w, "%-9s%s\n", "action:", Clean(h.Action))
		}
	}
	if len(s.Health) == 0 {
		fmt.Fprintln(w, "status:  nothing needs attention")
	}
	fmt.Fprintf(w, "space:   %s raw, %s used, %s writable at copies=%d\n",
		size.Format(s.RawBytes), size.Format(s.UsedBytes), size.Format(s.FreeBytes), s.Copies)
	for i, address := range s.Daemon.NBD {
		if i == 0 {
			address += fmt.Sprintf("  (%s)", count(int64(s.Daemon.Clients), "connection", "connections"))
		}
		fmt.Fprintf(w, "nbd:     %s\n", address)
	}
	for _, m := range s.Daemon.Mounts {
		what := count(int64(m.OpenFiles), "open file", "open files")
		if m.ReadOnly {
			what += ", read-only"
		}
		fmt.Fprintf(w, "mount:   %s  (%s)\n", Clean(m.Dir), what)
	}
	if s.Daemon.HTTP != "" {
		fmt.Fprintf(w, "http:    http://%s/metrics\n", s.Daemon.HTTP)
	}
	fmt.Fprintf(w, "data:    %s\n", dataLine(s))
	if s.Journal.CopiesWanted > 0 {
		fmt.Fprintf(w, "journal: %s\n", journalLine(s))
	}
	for _, j := range s.Jobs {
		fmt.Fprintf(w, "job:     %s\n", jobLine(&j))
	}
	fmt.Fprintln(w)
	Devices(w, s.Devices)
	if len(s.Exports) > 0 {
		fmt.Fprintln(w)
		exportTable(w, s.Exports)
	}
	if len(s.Bad) > 0 {
		fmt.Fprintln(w)
		badTable(w, s.Bad)
	}
}

// badShown is how many unreadable ranges people are shown; JSON has all.
const badShown = 20

func badTable(w io.Writer, bad []striping.BadRange) {
	t := &table{}
	t.add("UNREADABLE", ">OFFSET", ">BYTES", "SINCE")
	for _, b := range bad[:min(len(bad), badShown)] {
		t.add(Clean(cmp.Or(b.Path, b.Export)), fmt.Sprint(b.Off), fmt.Sprint(b.Size), clock(b.Since))
	}
	t.write(w, "  ")
	if more := len(bad) - badShown; more > 0 {
		fmt.Fprintf(w, "  and %d more (--json lists all)\n", more)
	}
}

// journalLine says which devices have a copy of the journal.
func journalLine(s *control.Status) string {
	var on []string
	for _, c := range s.Journal.Copies {
		switch c.State {
		case "good":
			on = append(on, c.Device)
		case "making":
			on = append(on, c.Device+" (being made)")
		}
	}
	line := fmt.Sprintf("%d of %s on the devices: %s", s.Journal.CopiesGood, count(int64(s.Journal.CopiesWanted), "copy", "copies"), orDash(strings.Join(on, ", ")))
	if s.Journal.LiveBytes > 0 {
		line += "; " + size.Format(s.Journal.LiveBytes) + " each"
	}
	if s.Journal.Recovered != "" {
		line += "; " + Clean(s.Journal.Recovered)
	}
	return line
}

func dataLine(s *control.Status) string {
	var parts []string
	if s.Lost > 0 {
		parts = append(parts, count(s.Lost, "chunk", "chunks")+" lost")
	}
	if n := int64(len(s.Bad)); n > 0 {
		parts = append(parts, count(n, "range", "ranges")+" unreadable")
	}
	if s.Degraded > 0 {
		parts = append(parts, count(s.Degraded, "chunk has", "chunks have")+" fewer good copies than asked for")
	}
	if len(parts) == 0 {
		parts = append(parts, "no known errors")
	}
	if s.Healed > 0 {
		parts = append(parts, count(s.Healed, "block", "blocks")+" healed")
	}
	if s.Dirty > 0 {
		parts = append(parts, size.Format(s.Dirty)+" not yet written")
	}
	return strings.Join(parts, ", ")
}

// busyWithOthers is the share of a disk's time from which on a status speaks of those who take it.
const busyWithOthers = 0.3

// Devices writes a table of devices.
func Devices(w io.Writer, devices []striping.DeviceStatus) {
	t := &table{}
	grouped := slices.ContainsFunc(devices, func(d striping.DeviceStatus) bool { return d.Domain != "" })
	t.add(withDomain(grouped, "DEVICE", "DOMAIN", "STATE", ">SIZE", ">USED", ">READ", ">WRITE", ">QUEUE", ">LIMIT", ">P99", ">ERR", "PATH")...)
	for _, d := range devices {
		domain := Clean(d.Domain)
		path := Clean(d.Path)
		if d.Reason != "" {
			path += "  " + Clean(d.Reason)
		}
		if d.Unused > 0 {
			path += fmt.Sprintf("  (its disk has %s more: device grow)", size.Format(d.Unused))
		}
		if d.Buffered {
			path += "  (buffered: the file system refuses O_DIRECT)"
		}
		if k := d.Kernel; k != nil && k.ForeignShare >= busyWithOthers {
			path += fmt.Sprintf("  (others keep %s busy: %.0f%%, %s)", Clean(k.Disk), 100*k.ForeignShare, rate(k.ForeignRate))
		}
		if d.State == "missing" || d.State == "failed" {
			t.add(withDomain(grouped, d.Name, domain, d.State, size.Format(d.SizeBytes), percent(d.UsedBytes, d.SizeBytes), "-", "-", "-", "-", "-", fmt.Sprint(d.Errors), path)...)
			continue
		}
		t.add(withDomain(grouped, d.Name, domain, d.State, size.Format(d.SizeBytes), percent(d.UsedBytes, d.SizeBytes), rate(d.ReadRate), rate(d.WriteRate),
			fmt.Sprintf("%d+%d", d.InFlight, d.Waiting), fmt.Sprint(d.QueueLimit), seconds(d.P99Seconds), fmt.Sprint(d.Errors), path)...)
	}
	t.write(w, "  ")
}

// withDomain returns a row of a table without its second column, the failure domain, unless devices
// are grouped in such. A device that stands alone is its own.
func withDomain(grouped bool, row ...string) []string {
	if !grouped {
		return slices.Delete(row, 1, 2)
	}
	if row[1] == "" {
		row[1] = "-"
	}
	return row
}

func exportTable(w io.Writer, exports []striping.ExportInfo) {
	t := &table{}
	t.add("EXPORT", ">SIZE", ">USED", "CREATED")
	for _, e := range exports {
		name := Clean(e.Name)
		if e.ReadOnly {
			name += " (read-only)"
		}
		t.add(name, size.Format(e.SizeBytes), size.Format(e.UsedBytes), clock(e.Created))
	}
	t.write(w, "  ")
}

// Exports writes the exports with the addresses that clients open.
func Exports(w io.Writer, e *control.Exports) {
	if len(e.Exports) == 0 {
		fmt.Fprintf(w, "volume %s has no exports\n  try: ballast export create %s/NAME SIZE\n", e.Volume, e.Volume)
		return
	}
	exportTable(w, e.Exports)
	if len(e.URIs) == 0 {
		return
	}
	fmt.Fprintln(w)
	for _, x := range e.Exports {
		for _, uri := range e.URIs[x.Name] {
			fmt.Fprintln(w, "  "+uri)
		}
	}
}

// Usage is how a volume's space is used.
type Usage struct {
	Schema    string          `json:"schema"`
	Volume    string          `json:"volume"`
	Copies    int             `json:"copies"`
	RawBytes  int64           `json:"raw_bytes"`
	SizeBytes int64           `json:"size_bytes"`
	UsedBytes int64           `json:"used_bytes"`
	FreeBytes int64           `json:"free_bytes"`
	Exports   []UsageOfExport `json:"exports"`
	Devices   []UsageOfDevice `json:"devices"`
}

// UsageOfExport is one export's part; an export is thin, so used is what counts.
type UsageOfExport struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	UsedBytes int64  `json:"used_bytes"`
}

// UsageOfDevice is one device's part.
type UsageOfDevice struct {
	ID        string `json:"id"`
	SizeBytes int64  `json:"size_bytes"`
	UsedBytes int64  `json:"used_bytes"`
	FreeBytes int64  `json:"free_bytes"`
	Domain    string `json:"domain,omitempty"` // failure domain; none: the device itself
}

// UsageOf takes the usage out of a status.
func UsageOf(s *control.Status) *Usage {
	u := &Usage{Schema: "ballast.usage/1", Volume: s.Volume, Copies: s.Copies, RawBytes: s.RawBytes,
		SizeBytes: s.SizeBytes, UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes,
		Exports: []UsageOfExport{}, Devices: []UsageOfDevice{}}
	for _, e := range s.Exports {
		u.Exports = append(u.Exports, UsageOfExport{e.Name, e.SizeBytes, e.UsedBytes})
	}
	for _, d := range s.Devices {
		u.Devices = append(u.Devices, UsageOfDevice{d.Name, d.SizeBytes, d.UsedBytes, d.SizeBytes - d.UsedBytes, d.Domain})
	}
	return u
}

// Write writes u for people.
func (u *Usage) Write(w io.Writer) {
	fmt.Fprintf(w, "volume %s holds %s at copies=%d: %s used, %s writable; %s of raw disk\n",
		u.Volume, size.Format(u.SizeBytes), u.Copies, size.Format(u.UsedBytes), size.Format(u.FreeBytes), size.Format(u.RawBytes))
	if len(u.Exports) > 0 {
		fmt.Fprintln(w)
		t := &table{}
		t.add("EXPORT", ">SIZE", ">USED", ">FULL")
		for _, e := range u.Exports {
			t.add(Clean(e.Name), size.Format(e.SizeBytes), size.Format(e.UsedBytes), percent(e.UsedBytes, e.SizeBytes))
		}
		t.write(w, "  ")
	}
	fmt.Fprintln(w)
	t := &table{}
	grouped := slices.ContainsFunc(u.Devices, func(d UsageOfDevice) bool { return d.Domain != "" })
	t.add(withDomain(grouped, "DEVICE", "DOMAIN", ">SIZE", ">USED", ">FREE", ">FULL")...)
	for _, d := range u.Devices {
		t.add(withDomain(grouped, d.ID, Clean(d.Domain), size.Format(d.SizeBytes), size.Format(d.UsedBytes), size.Format(d.FreeBytes), percent(d.UsedBytes, d.SizeBytes))...)
	}
	t.write(w, "  ")
}

// Check returns the exit code of status --check and the line monitoring shows.
func Check(s *control.Status) (int, string) {
	worst, word := control.ExitCheckOK, "OK"
	for _, h := range s.Health {
		switch {
		case h.Severity == "critical":
			worst, word = control.ExitCheckCritical, "CRITICAL"
		case worst == control.ExitCheckOK:
			worst, word = control.ExitCheckWarning, "WARNING"
		}
	}
	switch {
	case s.State == "critical":
		worst, word = control.ExitCheckCritical, "CRITICAL"
	case s.State != "ok" && worst == control.ExitCheckOK:
		worst, word = control.ExitCheckWarning, "WARNING"
	}
	line := fmt.Sprintf("BALLAST %s - volume %s is %s, %s used of %s", word, s.Volume, s.State, percent(s.UsedBytes, s.SizeBytes), size.Format(s.SizeBytes))
	for _, h := range s.Health {
		line += fmt.Sprintf("; %s: %s", h.Code, Clean(h.Message))
	}
	return worst, line
}
