package volumes

import (
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
