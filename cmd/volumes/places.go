package volumes

import (
	"slices"

	"ballast/cmd/control"
	"ballast/devices"
	"ballast/journal"
)

// journalArea is where a copy of the journal may be on a disk: the journal area without its
// scratch range.
type journalArea struct {
	disk      devices.Disk
	off, size int64
}

var (
	_ journal.Area = (*journalArea)(nil)
	_ journal.Thin = (*journalArea)(nil)
)

func (a *journalArea) ReadAt(p []byte, off int64) (int, error)  { return a.disk.ReadAt(p, a.off+off) }
func (a *journalArea) WriteAt(p []byte, off int64) (int, error) { return a.disk.WriteAt(p, a.off+off) }
func (a *journalArea) Sync() error                              { return a.disk.Sync() }
func (a *journalArea) Size() int64                              { return a.size }

// Thin says whether it is in a file.
func (a *journalArea) Thin() bool {
	f, ok := a.disk.(interface{ Block() bool })
	return ok && !f.Block()
}

// JournalPlace is where a copy of the journal may be on a device.
func JournalPlace(disk devices.Disk, l *devices.Label, domain string) journal.Place {
	_, scratch := l.Scratch()
	return journal.Place{Device: l.Device, Name: l.ID.String(), Domain: domain,
		Area: &journalArea{disk, l.JournalOff, l.JournalSize - scratch}}
}

// JournalPlaces are the places on the devices that are there.
func JournalPlaces(opened []Opened) (places []journal.Place) {
	for i := range opened {
		if o := &opened[i]; o.File != nil {
			places = append(places, JournalPlace(o.File, &o.Label, o.Config.Domain))
		}
	}
	return places
}

// JudgeStale gives up the devices whose label is older than the one that the journal knows they had:
// they are older images, as one put back from a backup is, and hold what was true once. A device that
// was away missed what the journal says it missed, an older image may lack anything.
func JudgeStale(volume string, opened []Opened, records []journal.Device) (stale []*control.Refusal) {
	for i := range opened {
		o := &opened[i]
		at := slices.IndexFunc(records, func(r journal.Device) bool { return r.UUID == o.Config.UUID })
		if o.File == nil || at < 0 || journal.Seq(o.Label.Anchor.Seq) >= records[at].LabelSeq {
			continue
		}
		if devices.NewerLabelLost(o.File, &o.Label) {
			continue // this one is left, and says nothing of how old the disk is
		}
		r := control.Refuse("E_DEVICE_STALE", "%s is an older image of device %s of volume %s: its label is of commit %d, the device has had that of commit %d",
			o.Config.Path, o.Label.ID, volume, o.Label.Anchor.Seq, records[at].LabelSeq).
			WithTry("put the disk back that was in use last").
			WithTry("while the volume is served by its other devices: ballast device online %s %s --resync", volume, o.Label.ID).
			WithTry("to save what the image has of a volume of one copy: ballast serve %s --accept-stale", volume)
		o.File.Close()
		o.File, o.Fault = nil, r
		stale = append(stale, r)
	}
	return stale
}

// Anchors are what the labels of devices say of the journal.
func Anchors(opened []Opened) (anchors []journal.State) {
	for _, o := range opened {
		if o.File != nil {
			a := o.Label.Anchor
			anchors = append(anchors, journal.State{Seq: journal.Seq(a.Seq), Count: a.Count, Digest: a.Digest})
		}
	}
	return anchors
}
