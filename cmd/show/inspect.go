package show

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"ballast/cmd/size"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"
)

// Inspection is what ballast inspect shows of a device.
type Inspection struct {
	Schema     string           `json:"schema"`
	Path       string           `json:"path"`
	Block      bool             `json:"block_device"`
	Size       int64            `json:"size_bytes"`
	SectorSize int              `json:"sector_bytes"`
	ReadOnly   bool             `json:"read_only"`
	Uses       []string         `json:"uses"`
	Signatures []string         `json:"signatures"`
	Blank      bool             `json:"blank"`
	Label      *Label           `json:"label"` // the newest sound one
	Fault      string           `json:"fault,omitempty"`
	Copies     []InspectionCopy `json:"label_copies"`
	Journal    *JournalRing     `json:"journal_copy"` // null: none
}

// JournalRing is the copy of the journal on a device, without all of it having been read.
type JournalRing struct {
	Seq     uint64 `json:"sequence"`
	Records uint64 `json:"records"`
	Digest  string `json:"digest,omitempty"`
	Life    uint64 `json:"life"`
	Bytes   int64  `json:"bytes"`
	Fault   string `json:"fault,omitempty"`
}

// AddJournal adds what copy of the journal there is.
func (x *Inspection) AddJournal(v *journal.Survey) {
	switch {
	case v.Err == nil:
		x.Journal = &JournalRing{Seq: uint64(v.State.Seq), Records: v.State.Count, Digest: v.State.Digest.String(), Life: v.Life.Number, Bytes: v.Bytes}
	case !errors.Is(v.Err, journal.ErrNotFound):
		x.Journal = &JournalRing{Fault: v.Err.Error()}
	}
}

func (j *JournalRing) write(w io.Writer) {
	switch {
	case j == nil:
		fmt.Fprintln(w, "  no copy of the journal")
	case j.Fault != "":
		fmt.Fprintf(w, "  copy of the journal: %s\n", Clean(j.Fault))
	default:
		fmt.Fprintf(w, "  copy of the journal: commit %d with %s in %s, opening %d\n", j.Seq, count(int64(j.Records), "record", "records"), size.Format(j.Bytes), j.Life)
	}
}

// Label is the label of a device.
type Label struct {
	Volume        string   `json:"volume"`
	VolumeUUID    string   `json:"volume_uuid"`
	Device        string   `json:"device"`
	DeviceUUID    string   `json:"device_uuid"`
	Size          int64    `json:"size_bytes"`
	ChunkSize     uint32   `json:"chunk_size_bytes"`
	Copies        uint8    `json:"copies"`
	JournalOff    int64    `json:"journal_offset"`
	JournalSize   int64    `json:"journal_size_bytes"`
	DataOff       int64    `json:"data_offset"`
	DataSize      int64    `json:"data_size_bytes"`
	Epoch         uint64   `json:"epoch"`
	Writes        uint64   `json:"writes"`
	AnchorSeq     uint64   `json:"anchor_sequence"`
	AnchorRecords uint64   `json:"anchor_records"`
	AnchorDigest  string   `json:"anchor_digest"`
	Members       []Member `json:"members"`
}

// Member is a device of the volume, by the label.
type Member struct {
	ID    string `json:"id"`
	UUID  string `json:"uuid"`
	Size  int64  `json:"size_bytes"`
	Epoch uint64 `json:"epoch"`
}

// InspectionCopy is one copy of the label.
type InspectionCopy struct {
	Off    int64  `json:"offset"`
	Writes uint64 `json:"writes"`
	Fault  string `json:"fault,omitempty"` // "" for a sound one
}

// InspectionOf is what is shown of an inspection.
func InspectionOf(in *devices.Inspection, copies []devices.LabelCopy) *Inspection {
	x := &Inspection{Schema: "ballast.inspect/1", Path: in.Path, Block: in.Block, Size: in.Size, SectorSize: in.SectorSize, ReadOnly: in.ReadOnly,
		Uses: append([]string{}, in.Uses...), Signatures: []string{}, Blank: in.Blank, Copies: []InspectionCopy{}}
	for _, s := range in.Signatures {
		x.Signatures = append(x.Signatures, s.String())
	}
	if in.LabelErr != nil && !errors.Is(in.LabelErr, devices.ErrNoLabel) {
		x.Fault = in.LabelErr.Error()
	}
	for _, c := range copies {
		copied := InspectionCopy{Off: c.Off, Writes: c.Label.Writes}
		if c.Err != nil {
			copied.Fault = c.Err.Error()
		}
		x.Copies = append(x.Copies, copied)
	}
	if in.Label != nil {
		x.Label = labelOf(in.Label)
	}
	return x
}

func labelOf(l *devices.Label) *Label {
	x := &Label{Volume: l.Name, VolumeUUID: l.Volume.String(), Device: l.ID.String(), DeviceUUID: l.Device.String(), Size: l.Size,
		ChunkSize: l.ChunkSize, Copies: l.Copies, JournalOff: l.JournalOff, JournalSize: l.JournalSize, DataOff: l.DataOff, DataSize: l.DataSize,
		Epoch: l.Epoch, Writes: l.Writes, AnchorSeq: l.Anchor.Seq, AnchorRecords: l.Anchor.Count, AnchorDigest: fmt.Sprintf("%x", l.Anchor.Digest), Members: []Member{}}
	for _, m := range l.Members {
		x.Members = append(x.Members, Member{m.ID.String(), m.UUID.String(), m.Size, m.Epoch})
	}
	return x
}

// Write writes x for people.
func (x *Inspection) Write(w io.Writer) {
	kind := "file"
	if x.Block {
		kind = fmt.Sprintf("block device with sectors of %d bytes", x.SectorSize)
	}
	fmt.Fprintf(w, "%s: %s, %s\n", Clean(x.Path), size.Format(x.Size), kind)
	for _, u := range x.Uses {
		fmt.Fprintf(w, "  in use: %s\n", Clean(u))
	}
	for _, s := range x.Signatures {
		fmt.Fprintf(w, "  holds:  %s\n", Clean(s))
	}
	switch {
	case x.Label != nil:
		x.Label.write(w)
		x.Journal.write(w)
	case x.Fault == "" && x.Blank:
		fmt.Fprintln(w, "  it is empty")
	case x.Fault == "":
		fmt.Fprintln(w, "  no ballast label")
	}
	if x.Fault != "" {
		fmt.Fprintf(w, "  fault:  %s\n", Clean(x.Fault))
	}
	if x.Label == nil && x.Fault == "" {
		return
	}
	for _, c := range x.Copies {
		state := fmt.Sprintf("sound, writing %d", c.Writes)
		if c.Fault != "" {
			state = Clean(c.Fault)
		}
		fmt.Fprintf(w, "  label at %#x: %s\n", c.Off, state)
	}
}

func (l *Label) write(w io.Writer) {
	fmt.Fprintf(w, "  device %s (%s) of volume %s (%s)\n", l.Device, l.DeviceUUID, Clean(l.Volume), l.VolumeUUID)
	fmt.Fprintf(w, "  chunks of %s in %d %s, membership epoch %d\n", size.Format(int64(l.ChunkSize)), l.Copies, map[bool]string{true: "copy", false: "copies"}[l.Copies == 1], l.Epoch)
	fmt.Fprintf(w, "  journal area %#x +%s, data %#x +%s\n", l.JournalOff, size.Format(l.JournalSize), l.DataOff, size.Format(l.DataSize))
	fmt.Fprintf(w, "  journal was at commit %d with %d records\n", l.AnchorSeq, l.AnchorRecords)
	t := &table{}
	t.add("MEMBER", ">SIZE", ">EPOCH", "UUID")
	for _, m := range l.Members {
		t.add(m.ID, size.Format(m.Size), fmt.Sprint(m.Epoch), m.UUID)
	}
	t.write(w, "  ")
}

// Created tells what create made.
func Created(w io.Writer, c *volumes.Config) {
	raw := int64(0)
	t := &table{}
	grouped := slices.ContainsFunc(c.Devices, func(d volumes.ConfigDevice) bool { return d.Domain != "" })
	t.add(withDomain(grouped, "DEVICE", "DOMAIN", ">SIZE", "PATH")...)
	for _, d := range c.Devices {
		raw += d.Size
		t.add(withDomain(grouped, devices.ID(d.ID).String(), Clean(d.Domain), size.Format(d.Size), Clean(d.Path))...)
	}
	fmt.Fprintf(w, "volume %s created: %s raw on %s, copies=%d, chunks of %s\n", c.Name, size.Format(raw), count(int64(len(c.Devices)), "device", "devices"), c.Copies, size.Format(c.ChunkSize))
	t.write(w, "  ")
	fmt.Fprintf(w, "\nnext:\n  ballast export create %s/NAME SIZE\n  ballast serve %s\n", c.Name, c.Name)
}
