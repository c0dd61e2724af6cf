package daemon

import (
	"fmt"

	"ballast/cmd/size"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"
	"ballast/striping"
)

// queuedDisk sends a disk's operations through its device's queue, where they take their turn
// beside those of chunks.
type queuedDisk struct{ d *devices.Device }

func (q queuedDisk) do(r *devices.Request) (int, error) {
	// The journal leaves a device that does not answer by itself, and wants to know when it lets go
	// of what it holds.
	returned := make(chan struct{})
	r.Returned = func(*devices.Request) { close(returned) }
	err := q.d.Do(r)
	<-returned
	if err != nil {
		return 0, err
	}
	return int(r.Size()), nil
}

func (q queuedDisk) ReadAt(p []byte, off int64) (int, error) {
	return q.do(&devices.Request{Kind: devices.Read, Off: off, Bufs: [][]byte{p}})
}

func (q queuedDisk) WriteAt(p []byte, off int64) (int, error) {
	return q.do(&devices.Request{Kind: devices.Write, Off: off, Bufs: [][]byte{p}})
}

func (q queuedDisk) Sync() error {
	_, err := q.do(&devices.Request{Kind: devices.Sync})
	return err
}

func (q queuedDisk) Size() int64  { return q.d.Size() }
func (q queuedDisk) Close() error { return nil }

// startCopies begins to keep copies of the journal on the devices.
func (c *core) startCopies(records []journal.Device, sync bool) error {
	state := map[[16]byte]journal.DeviceState{}
	for _, r := range records {
		state[r.UUID] = r.State
	}
	var places []journal.Place
	for i := range c.opened {
		if o := &c.opened[i]; o.File != nil && c.devices[i] != nil && state[o.Config.UUID] != journal.Failed {
			places = append(places, volumes.JournalPlace(queuedDisk{c.devices[i]}, &o.Label, o.Config.Domain))
		}
	}
	return c.journal.StartCopies(journal.CopyOptions{Places: places, Need: max(c.config.Copies, 2), Async: c.config.Copies == 1 && !sync, Tell: c.tellRoom})
}

// tellRoom makes an event of a copy of the journal that gets full.
func (c *core) tellRoom(device, text string) {
	c.mu.Lock()
	v := c.volume
	c.mu.Unlock()
	if v != nil { // else status tells
		v.Warn("JOURNAL_AREA", fmt.Sprintf("device %s: %s", device, text))
	}
}

// judgeRoom adds to a status which copies of the journal get full, and what it will be with the volume full.
func judgeRoom(s *striping.Status, copies *journal.CopiesStatus) {
	s.Journal.LiveBytes = copies.Live
	for _, c := range copies.Copies {
		if c.State != journal.CopyGood || copies.Live <= c.Size/2 {
			continue
		}
		text := fmt.Sprintf("the journal takes %s; its copy on device %s has room for %s", size.Format(copies.Live), c.Name, size.Format(c.Size/4*3))
		if s.UsedBytes > 0 {
			text += fmt.Sprintf(", and a full volume of this kind needs about %s", size.Format(int64(float64(copies.Live)*float64(s.UsedBytes+s.FreeBytes)/float64(s.UsedBytes))))
		}
		s.Health = append(s.Health, striping.Health{Code: "JOURNAL_AREA", Severity: "warning", Message: text,
			Action: fmt.Sprintf("ballast device add %s DEVICE, before it is full: a device that joins has room for the journal of all of them; or have fewer and larger files", s.Volume)})
		if s.State == "ok" {
			s.State = "degraded"
		}
		return
	}
}

// tellRecovery logs what opening the journal took.
func (c *core) tellRecovery() {
	switch r := c.journal.Recovery(); {
	case r.From != "":
		c.log.Warn("the journal was made anew from its copy on a device", "device", r.From, "records", r.Records, "took", r.Took, "why", r.Why, "old", r.Kept)
	case r.LedOn > 0:
		c.log.Info("the journal took its newest commits from a copy", "groups", r.LedOn)
	}
}

// addCopies adds to a status how the copies of the journal are.
func addCopies(s *striping.Status, j *journal.Store) {
	copies := j.Copies()
	s.Journal.CopiesWanted, s.Journal.CopiesGood = copies.Wanted, copies.Good
	s.Journal.Copies = []striping.JournalCopy{}
	judgeRoom(s, &copies)
	making, reason := 0, ""
	for _, c := range copies.Copies {
		s.Journal.Copies = append(s.Journal.Copies, striping.JournalCopy{Device: c.Name, State: string(c.State), Seq: uint64(c.Seq),
			UsedBytes: c.Bytes, SizeBytes: c.Size, Reason: c.Reason})
		switch c.State {
		case journal.CopyMaking:
			making++
		case journal.CopyFailed:
			reason += fmt.Sprintf("; device %s: %s", c.Name, c.Reason)
		}
	}
	if r := j.Recovery(); r.From != "" {
		s.Journal.Recovered = fmt.Sprintf("made anew from the copy on device %s: %s", r.From, r.Why)
	}
	if copies.Good+making >= copies.Wanted {
		return
	}
	severity := "warning"
	if copies.Good == 0 {
		severity = "critical"
	}
	s.Health = append(s.Health, striping.Health{Code: "JOURNAL_COPIES", Severity: severity,
		Message: fmt.Sprintf("%d of %d copies of the journal on the devices are good%s", copies.Good, copies.Wanted, reason),
		Action:  "look at the devices it names; copies come back by themselves, or on another device that is added"})
}
