package striping

import (
	"context"
	"math"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// deviceRecord is what the journal says of one device, and what it should say. The volume alone
// writes it, through saveRecord, so that what changed for one reason never undoes what changed
// for another. Guarded by Volume.mu.
type deviceRecord struct {
	now   journal.Device // what it should be
	saved journal.Device // what was committed last
	gone  bool           // the device leaves: nothing is written any more
}

// loadRecord notes what the journal has about m.
func (v *Volume) loadRecord(m *member) error {
	m.record.now = m.Record
	key := journal.MakeKey(journal.SpaceDevice, uint64(m.Record.ID), 0)
	value, err := v.j.Get(key)
	if err != nil {
		return err
	}
	m.record.saved, err = journal.ParseDevice(key, value)
	return err
}

// saveRecord changes a device's record and commits it. One writer at a time, so that an older
// record never follows a newer one. What could not be committed goes with the next change.
func (v *Volume) saveRecord(ctx context.Context, m *member, change func(*journal.Device)) error {
	return v.saveRecords(ctx, []*member{m}, change)
}

// saveRecords is saveRecord of several devices in one batch.
func (v *Volume) saveRecords(ctx context.Context, list []*member, change func(*journal.Device)) error {
	v.recordLock.Lock()
	defer v.recordLock.Unlock()
	b := &journal.Batch{}
	saved := map[*member]journal.Device{}
	v.mu.Lock()
	for _, m := range list {
		if m.record.gone || m.left {
			continue
		}
		change(&m.record.now)
		saved[m] = m.record.now
		key := journal.DeviceKey(m.record.now.ID)
		b.Put(key, m.record.now.Pack(key))
	}
	v.mu.Unlock()
	if len(saved) == 0 {
		return nil
	}
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	v.mu.Lock()
	for m, rec := range saved {
		m.record.saved = rec
	}
	v.mu.Unlock()
	return nil
}

// learnInterval is the least time between two writings of what devices were measured to do.
const learnInterval = time.Minute

// learnLoop keeps what is measured in the journal, so that the next life of the volume, even
// after a crash, begins with it.
func (v *Volume) learnLoop() {
	t := time.NewTicker(learnInterval)
	defer t.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-t.C:
			v.learn(v.ctx)
		}
	}
}

// learn journals the speeds of devices, and where they were found, if that has changed. That it
// failed is told and does no harm: devices are measured again.
func (v *Volume) learn(ctx context.Context) {
	for _, m := range v.devs() {
		if m.Device == nil {
			continue
		}
		speeds := m.Device.Speeds()
		v.mu.Lock()
		saved := m.record.saved
		v.mu.Unlock()
		known := devices.Speeds{SecondsPerOp: saved.SecondsPerOp, SecondsPerByte: saved.SecondsPerByte}
		if saved.Path == m.Record.Path && !noticeable(known, speeds) {
			continue
		}
		err := v.saveRecord(ctx, m, func(r *journal.Device) {
			for i := range speeds.SecondsPerOp {
				if speeds.SecondsPerOp[i]+speeds.SecondsPerByte[i] > 0 {
					r.SecondsPerOp[i], r.SecondsPerByte[i] = speeds.SecondsPerOp[i], speeds.SecondsPerByte[i]
				}
			}
		})
		if err != nil && ctx.Err() == nil {
			v.log.Warn("journaling the speed of a device", "device", m.id.String(), "err", err)
		}
	}
}

// LearnedSpeeds is what the record of a device says of its speeds, for devices.Options.Learned; nil
// if that is nothing.
func LearnedSpeeds(r *journal.Device) *devices.Speeds {
	s := devices.Speeds{SecondsPerOp: r.SecondsPerOp, SecondsPerByte: r.SecondsPerByte}
	if s == (devices.Speeds{}) {
		return nil
	}
	return &s
}

// noticeable reports whether a device known as before would be used differently as now: a small
// or a large operation of some kind takes another time by a fifth or more.
func noticeable(before, now devices.Speeds) bool {
	for i := range now.SecondsPerOp {
		if now.SecondsPerOp[i]+now.SecondsPerByte[i] == 0 {
			continue // nothing was learned of these
		}
		for _, size := range []float64{blockSize, 1 << 20} {
			was := before.SecondsPerOp[i] + size*before.SecondsPerByte[i]
			is := now.SecondsPerOp[i] + size*now.SecondsPerByte[i]
			if math.Abs(is-was) >= 0.2*was {
				return true
			}
		}
	}
	return false
}
