package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/policy"
)

// RoomError says that data does not fit where it should go. It is ErrNoSpace.
type RoomError struct {
	Need, Have int64 // bytes of copies
}

func (e *RoomError) Error() string {
	return fmt.Sprintf("%.1f MiB would have to go elsewhere, where there is room for %.1f MiB", float64(e.Need)/(1<<20), float64(e.Have)/(1<<20))
}

// Is makes it ErrNoSpace.
func (e *RoomError) Is(err error) bool { return err == ErrNoSpace }

// StateError says what state a device is in that stands against what is asked. It is ErrConflict.
type StateError struct{ What string }

func (e *StateError) Error() string { return e.What }

// Is makes it ErrConflict.
func (e *StateError) Is(err error) bool { return err == ErrConflict }

// DataError says what a device holds. It is ErrNotEmpty.
type DataError struct {
	Chunks, Bytes int64
	Only          int64 // chunks of which it has the only good copy
}

func (e *DataError) Error() string {
	text := fmt.Sprintf("it still holds %d chunks, %.1f MiB", e.Chunks, float64(e.Bytes)/(1<<20))
	if e.Only > 0 {
		text += fmt.Sprintf(", and the only good copy of %d of them", e.Only)
	}
	return text
}

// Is makes it ErrNotEmpty.
func (e *DataError) Is(err error) bool { return err == ErrNotEmpty }

// member returns a device that is part of the volume.
func (v *Volume) member(id devices.ID) (*member, error) {
	m := v.dev(id)
	if m == nil || m.left {
		return nil, fmt.Errorf("device %v: %w", id, ErrNoDevice)
	}
	return m, nil
}

// checkLeaving refuses a drain that cannot end.
func (v *Volume) checkLeaving(ids []devices.ID) error {
	if len(ids) == 0 {
		return fmt.Errorf("which device: %w", ErrNoDevice)
	}
	for i, id := range ids {
		m, err := v.member(id)
		if err != nil {
			return err
		}
		if slices.Contains(ids[:i], id) {
			return &StateError{fmt.Sprintf("device %v is named twice", id)}
		}
		switch s, reason := v.stateOf(m); s {
		case journal.Draining:
			return &StateError{fmt.Sprintf("device %v is being drained already", id)}
		case journal.Drained:
			return &StateError{fmt.Sprintf("device %v is drained already", id)}
		case journal.Missing, journal.Failed:
			return &StateError{fmt.Sprintf("device %v cannot be drained, it is %s (%s); what was on it is made anew from other copies by a rebuild", id, stateName(s), reason)}
		}
	}
	return v.checkRoom(ids)
}

// checkRoom refuses if what is on the devices ids does not fit on the others that take data.
func (v *Volume) checkRoom(ids []devices.ID) error {
	need := int64(0)
	free, capacity := map[string]int64{}, map[string]int64{}
	for _, m := range v.devs() {
		used, size := m.alloc.usage()
		switch {
		case slices.Contains(ids, m.id):
			need += used
		case m.takes():
			free[m.domain()] += size - used
			capacity[m.domain()] += size
		}
	}
	if len(capacity) < int(v.info.Copies) {
		return fmt.Errorf("%d copies need %d devices, in failure domains of their own, that take data; %d would be left: %w",
			v.info.Copies, v.info.Copies, len(capacity), ErrNeeded)
	}
	have := int64(0)
	var caps []int64
	for d, n := range free {
		have += n
		caps = append(caps, capacity[d])
	}
	have -= v.claimed.Load() * int64(v.info.Copies)
	if need > have {
		return &RoomError{need, max(have, 0)}
	}
	logical := v.fileBytes.Load()
	for _, o := range v.allObjects() {
		if !o.isFile {
			logical += o.slots.Load()
		}
	}
	if fit := policy.Capacity(caps, int(v.info.Copies)); logical > fit {
		return &RoomError{logical * int64(v.info.Copies), fit * int64(v.info.Copies)}
	}
	return nil
}

// Drain begins to move everything off some devices, which get nothing new from now on, and returns
// the job's ID.
func (v *Volume) Drain(ctx context.Context, ids []devices.ID, o JobOptions) (string, error) {
	return v.drain(ctx, ids, 0, o)
}

// Replace is Drain of one device to another one.
func (v *Volume) Replace(ctx context.Context, old, by devices.ID, o JobOptions) (string, error) {
	m, err := v.member(old)
	if err != nil {
		return "", err
	}
	n, err := v.member(by)
	if err != nil {
		return "", err
	}
	if old == by || !n.takes() {
		return "", &StateError{fmt.Sprintf("device %v takes no data", by)}
	}
	used, _ := m.alloc.usage()
	there, size := n.alloc.usage()
	if used > size-there {
		return "", &RoomError{used, size - there}
	}
	return v.drain(ctx, []devices.ID{old}, by, o)
}

func (v *Volume) drain(ctx context.Context, ids []devices.ID, target devices.ID, o JobOptions) (string, error) {
	if err := v.checkLeaving(ids); err != nil {
		return "", err
	}
	rec := journal.Job{Kind: journal.JobDrain, Target: uint16(target), Reason: o.Reason, Pace: uint64(o.Pace)}
	if target != 0 {
		rec.Kind = journal.JobReplace
	}
	for _, id := range ids {
		rec.Devices = append(rec.Devices, uint16(id))
		m := v.dev(id)
		v.mu.Lock()
		v.setStateLocked(m, journal.Draining, o.Reason)
		v.mu.Unlock()
	}
	back := func() {
		for _, id := range ids {
			v.mu.Lock()
			v.setStateLocked(v.dev(id), journal.Online, "")
			v.mu.Unlock()
		}
	}
	// What was being placed meanwhile may have taken the room.
	if err := v.checkRoom(ids); err != nil {
		back()
		return "", err
	}
	_, bytes, err := v.sizeMoves(ctx, v.ruleOf(&job{rec: rec}))
	rec.Total = uint64(bytes)
	var j *job
	if err == nil {
		j, err = v.addJob(ctx, rec)
	}
	if err != nil {
		back()
		return "", err
	}
	for _, id := range ids {
		v.changeState(v.dev(id), journal.Draining, o.Reason, 0, "DEVICE_DRAINING")
	}
	return j.id(), nil
}

// restoreDrains takes devices that a job is about out of placement at open, whatever their own record
// says: a crash may have come between the two.
func (v *Volume) restoreDrains() {
	for _, j := range v.jobs.list {
		if j.over() || !j.empties() {
			continue
		}
		for _, d := range j.rec.Devices {
			if m := v.dev(devices.ID(d)); m != nil && (m.state == journal.Online || m.state == journal.Rebuilding || m.state == journal.Slow) {
				v.setStateLocked(m, journal.Draining, m.reason)
			}
		}
	}
	for _, m := range v.devs() {
		if m.state == journal.Draining && !slices.ContainsFunc(v.jobs.list, func(j *job) bool { return !j.over() && j.empties() && j.about(m.id) }) {
			v.setStateLocked(m, journal.Online, "")
		}
	}
}

// Rebuild begins a rebuild without waiting for missing devices.
func (v *Volume) Rebuild(ctx context.Context, o JobOptions) (string, error) {
	if err := v.conflicts(journal.JobRebuild); err != nil {
		return "", err
	}
	var gone []uint16
	for _, m := range v.devs() {
		if s, _ := v.stateOf(m); s == journal.Missing || s == journal.Failed {
			gone = append(gone, uint16(m.id))
		}
	}
	if err := v.Flush(ctx); err != nil {
		return "", err
	}
	chunks, bytes, err := v.sizeMoves(ctx, v.rebuildRule(true))
	if err != nil {
		return "", err
	}
	if chunks == 0 {
		return "", fmt.Errorf("there is nothing that could be rebuilt: %w", ErrNoJob)
	}
	if o.Reason == "" {
		o.Reason = fmt.Sprintf("%d chunks have fewer good copies than asked for", chunks)
	}
	j, err := v.addJob(ctx, journal.Job{Kind: journal.JobRebuild, Devices: gone, Total: uint64(bytes), Reason: o.Reason})
	if err != nil {
		return "", err
	}
	return j.id(), nil
}

// conflicts refuses a second job of a kind.
func (v *Volume) conflicts(kind journal.JobKind) error {
	t := &v.jobs
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.list {
		if j.rec.Kind == kind && !j.over() && !j.tidies() {
			return fmt.Errorf("%s is under way: %w", j.id(), ErrConflict)
		}
	}
	return nil
}

// holds is what the journal has on a device.
func (v *Volume) holds(ctx context.Context, id devices.ID) (DataError, error) {
	var h DataError
	err := v.scanChunks(ctx, func(_ chunkKey, rec *journal.Chunk, places []place) {
		i := slices.IndexFunc(places, func(p place) bool { return p.dev == id })
		if i < 0 {
			return
		}
		h.Chunks++
		h.Bytes += int64(rec.Slot) * blockSize
		if v.goodCopies(slices.Delete(places, i, i+1)) == 0 {
			h.Only++
		}
	})
	return h, err
}

// RemoveDevice takes an empty device out of the volume for good.
func (v *Volume) RemoveDevice(ctx context.Context, id devices.ID) error {
	m, err := v.member(id)
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, o := range v.devs() {
		if o != m {
			left[o.domain()] = true
		}
	}
	if len(left) < int(v.info.Copies) {
		return fmt.Errorf("device %v: %d copies need that many devices in failure domains of their own: %w", id, v.info.Copies, ErrNeeded)
	}
	if err := v.Flush(ctx); err != nil {
		return err
	}
	if h, err := v.holds(ctx, id); err != nil || h.Chunks > 0 {
		if err == nil {
			err = fmt.Errorf("device %v: %w", id, &h)
		}
		return err
	}
	v.mu.Lock()
	s, reason := m.state, m.reason
	m.removing = true
	v.setStateLocked(m, journal.Drained, reason) // nothing new from here on
	v.mu.Unlock()
	err = v.Flush(ctx)
	var h DataError
	if err == nil {
		h, err = v.holds(ctx, id)
	}
	if err == nil && h.Chunks > 0 {
		err = fmt.Errorf("device %v: %w", id, &h)
	}
	if err == nil {
		b := &journal.Batch{}
		b.Delete(journal.DeviceKey(uint16(id)))
		v.recordLock.Lock()
		v.mu.Lock()
		m.record.gone = true
		epoch := v.epochLocked() + 1
		for _, o := range v.devs() {
			if o != m {
				o.record.now.Epoch = epoch
				key := journal.DeviceKey(o.record.now.ID)
				b.Put(key, o.record.now.Pack(key))
			}
		}
		v.mu.Unlock()
		err = v.commitVolume(ctx, b)
		v.recordLock.Unlock()
	}
	v.mu.Lock()
	if err != nil {
		m.record.gone, m.removing = false, false
		v.setStateLocked(m, s, reason)
	} else {
		v.dropMember(id)
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	v.bal.Remove(id)
	v.eventAlways(0, "DEVICE_REMOVED", id, "it is no device of the volume any more")
	return nil
}

// NewDeviceID returns an ID that no device of the volume has had, and the epoch that begins when it joins.
func (v *Volume) NewDeviceID() (devices.ID, uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range v.devs() {
		v.info.NextDevice = max(v.info.NextDevice, uint16(m.id)+1)
	}
	v.info.NextDevice++
	return devices.ID(v.info.NextDevice - 1), v.epochLocked() + 1
}

// Epoch returns the number of the last change of the volume's membership.
func (v *Volume) Epoch() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.epochLocked()
}

func (v *Volume) epochLocked() (epoch uint64) {
	for _, m := range v.devs() {
		epoch = max(epoch, m.record.now.Epoch)
	}
	return epoch
}

// AddDevice takes a device into the volume, under the ID of NewDeviceID; it takes part at once.
func (v *Volume) AddDevice(ctx context.Context, in Member) error {
	m := v.newMember(in)
	m.Record.State, m.Record.Since = journal.Online, time.Now().UTC()
	m.record.now, m.record.saved = m.Record, m.Record
	if old := v.dev(m.id); old != nil {
		return &StateError{fmt.Sprintf("device %v is part of the volume already", m.id)}
	}
	if len(v.devs()) >= 64 {
		return &StateError{"a volume has 64 devices at most"}
	}
	b := &journal.Batch{}
	key := journal.DeviceKey(m.Record.ID)
	b.Put(key, m.Record.Pack(key))
	if err := v.commitVolume(ctx, b); err != nil {
		return err
	}
	v.join(m, journal.Online, "")
	v.eventAlways(0, "DEVICE_ADDED", m.id, m.Record.Path)
	v.recount()
	return nil
}

// newMember makes a member of what Open and AddDevice are given.
func (v *Volume) newMember(in Member) *member {
	m := &member{Member: in, id: devices.ID(in.Record.ID), hung: map[int64]*hungOp{}}
	m.alloc = newAllocator(in.DataOff, in.DataSize, int64(v.info.ChunkSize))
	return m
}

// join puts m to use, in the place of the member of its ID if there is one.
func (v *Volume) join(m *member, s journal.DeviceState, reason string) {
	v.mu.Lock()
	v.putMember(m)
	v.mu.Unlock()
	v.bal.Add(balanceMember(m))
	v.mu.Lock()
	v.setStateLocked(m, s, reason)
	v.mu.Unlock()
	if m.Device.Rotational() {
		v.rotates.Store(true)
	}
}

// Offline stops using a device, so that its disk can be taken away. It is refused while the device
// holds the only good copy of something, unless force is set.
func (v *Volume) Offline(ctx context.Context, id devices.ID, force bool) error {
	m, err := v.member(id)
	if err != nil {
		return err
	}
	if m.Device == nil {
		return &StateError{fmt.Sprintf("device %v is not there", id)}
	}
	if err := v.Flush(ctx); err != nil && !force {
		return err
	}
	h, err := v.holds(ctx, id)
	if err != nil {
		return err
	}
	if h.Only > 0 && !force {
		return fmt.Errorf("device %v has the only good copy of %d chunks: %w", id, h.Only, ErrNeeded)
	}
	v.changeState(m, journal.Missing, byOperator, 1, "DEVICE_OFFLINE")
	if err := v.Flush(ctx); err != nil && !force { // what it had not synced is written down as missed
		return err
	}
	m.Device.Fail(errors.New("taken offline"))
	v.mu.Lock()
	v.putMember(m.without())
	v.mu.Unlock()
	v.bal.Remove(id)
	v.recount()
	return nil
}

// without is m without its disk.
func (m *member) without() *member {
	n := m.twin(m.Member)
	n.Device, n.WriteLabel, n.Foreign = nil, nil, nil
	n.out.Store(true)
	n.away.Store(true)
	n.barred.Store(true)
	return n
}

// twin is a member that takes the place of m, with another handle on the disk. Called with the
// device out of use: nothing is written to it.
func (m *member) twin(in Member) *member {
	n := &member{Member: in, id: m.id, alloc: m.alloc, hung: m.hung, state: m.state, reason: m.reason, since: m.since, record: m.record}
	n.writes.Store(m.writes.Load())
	n.synced.Store(m.synced.Load())
	n.errors.Store(m.errors.Load())
	n.copies.Store(m.copies.Load())
	return n
}

// ReturnDevice puts a device to use whose disk is back. What it missed is copied to it.
func (v *Volume) ReturnDevice(ctx context.Context, in Member) error {
	old, err := v.member(devices.ID(in.Record.ID))
	if err != nil {
		return err
	}
	if old.Device != nil && old.Device.Failed() == nil {
		if s, _ := v.stateOf(old); s != journal.Missing && s != journal.Failed {
			return &StateError{fmt.Sprintf("device %v is in use", old.id)}
		}
	}
	v.mu.Lock()
	v.setStateLocked(old, journal.Missing, old.reason)
	v.mu.Unlock()
	if err := v.Flush(ctx); err != nil {
		return err
	}
	path := in.Record.Path // it may be elsewhere now
	in.Record = old.Record
	in.Record.Path = path
	m := old.twin(in)
	m.record.now.Path = path
	v.join(m, journal.Rebuilding, "it is back")
	v.changeState(m, journal.Rebuilding, "it is back", 0, "DEVICE_RETURNED")
	return nil
}
