package daemon

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"
)

// labelWriter stores the journal's position in a device's label.
type labelWriter struct {
	mu    sync.Mutex // over label
	busy  chan struct{}
	file  *devices.File
	label devices.Label
}

// labelTimeout is how long writing a label may take before the volume goes on without.
const labelTimeout = 30 * time.Second

// write is what a striping.Member writes its label by.
func (w *labelWriter) write(s journal.State) error {
	select {
	case w.busy <- struct{}{}:
	default:
		return fmt.Errorf("label: the last writing of it hangs: %w", devices.ErrTimeout)
	}
	w.mu.Lock()
	w.label.Anchor = volumes.Anchor(s)
	w.mu.Unlock()
	return w.store(devices.WriteLabel)
}

// grow has the label say that the device has size bytes.
func (w *labelWriter) grow(size int64) error {
	timer := time.NewTimer(labelTimeout)
	defer timer.Stop()
	select {
	case w.busy <- struct{}{}:
	case <-timer.C:
		return fmt.Errorf("label: the last writing of it hangs: %w", devices.ErrTimeout)
	}
	w.mu.Lock()
	// Should this fail, the disk may have the new label or not. It stays true of the disk, so the
	// writings that follow repeat it.
	w.label.Size, w.label.Layout = size, w.label.Layout.Grown(size)
	w.mu.Unlock()
	return w.store(devices.GrowLabel)
}

// store writes the label. Writing to a disk that hangs cannot be called off, so it happens on a
// goroutine, one at a time: whoever calls has put a token into busy.
func (w *labelWriter) store(put func(devices.Disk, *devices.Label) error) error {
	w.mu.Lock()
	label := w.label
	w.mu.Unlock()
	label.Members = slices.Clone(label.Members)
	for i := range label.Members {
		if label.Members[i].ID == label.ID {
			label.Members[i].Size = label.Size // whatever volume.json says of it
		}
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-w.busy }()
		done <- put(w.file, &label)
	}()
	timer := time.NewTimer(labelTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("label: %w", devices.ErrTimeout)
	}
}

// setMembers has the next writing list the devices that there are since a change of membership.
func (w *labelWriter) setMembers(list []devices.Member, epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.label.Members, w.label.Epoch = list, epoch
}

// setSizes has the next writing list these sizes.
func (w *labelWriter) setSizes(c *volumes.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.label.Members = slices.Clone(w.label.Members)
	for i := range w.label.Members {
		for _, d := range c.Devices {
			if w.label.Members[i].ID == devices.ID(d.ID) {
				w.label.Members[i].Size = d.Size
			}
		}
	}
}

// labelMembers are the devices as labels list them.
func labelMembers(c *volumes.Config, epoch uint64) []devices.Member {
	var list []devices.Member
	for _, d := range c.Devices {
		list = append(list, devices.Member{ID: devices.ID(d.ID), UUID: devices.UUID(d.UUID), Size: d.Size, Epoch: epoch})
	}
	slices.SortFunc(list, func(a, b devices.Member) int { return int(a.ID) - int(b.ID) })
	return list
}

// relabel has all labels list the devices that there are now. They are written soon, one after the other:
// until then, or after a crash before, a label tells of an older epoch.
func (c *core) relabel() {
	epoch := c.volume.Epoch()
	for _, w := range c.labels {
		w.setMembers(labelMembers(c.config, epoch), epoch)
	}
	c.volume.WriteLabels()
}

// relabelSizes has all labels list the sizes that the devices have now.
func (c *core) relabelSizes() {
	for _, w := range c.labels {
		w.setSizes(c.config)
	}
}
