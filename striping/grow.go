package striping

import (
	"context"
	"errors"
	"fmt"

	"ballast/devices"
	"ballast/journal"
)

// ErrNotGrown is returned when there is nothing more of a device than is used already.
var ErrNotGrown = errors.New("the device has not grown")

// GrowDevice takes what a device has more than before into use: its label says already that it has
// size bytes, of which dataSize from its DataOff on are for data. The journal says so before anything
// is placed there.
func (v *Volume) GrowDevice(ctx context.Context, id devices.ID, size, dataSize int64) error {
	m, err := v.member(id)
	if err != nil {
		return err
	}
	if m.Device == nil {
		return &StateError{fmt.Sprintf("device %v is not there", id)}
	}
	if _, before := m.alloc.usage(); dataSize-before < int64(v.info.ChunkSize) {
		return fmt.Errorf("device %v: %w by a whole chunk: its data area has %d bytes and would have %d", id, ErrNotGrown, before, dataSize)
	}
	if err := v.saveArea(ctx, m, size, dataSize); err != nil {
		return err
	}
	added := m.alloc.grow(dataSize)
	v.eventAlways(0, "DEVICE_GREW", id, fmt.Sprintf("it has %d bytes now, %d more for data", size, added))
	v.jobs.wake() // one may have waited for space
	return nil
}

// saveArea journals how large a device is and where its data lies.
func (v *Volume) saveArea(ctx context.Context, m *member, size, dataSize int64) error {
	return v.saveRecord(ctx, m, func(r *journal.Device) { r.Size, r.DataOff, r.DataSize = size, m.DataOff, dataSize })
}

// settleAreas has the journal say of every device what its label says: a crash may have come between
// the two. Called while the volume is being opened.
func (v *Volume) settleAreas(ctx context.Context) error {
	for _, m := range v.devs() {
		if m.Record.Size <= m.record.saved.Size {
			continue
		}
		if err := v.saveArea(ctx, m, m.Record.Size, m.DataSize); err != nil {
			return fmt.Errorf("device %v has grown: %w", m.id, err)
		}
	}
	return nil
}
