package striping

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/policy"
)

// healthCounts are what the status says of redundancy; recount brings them up to date after a
// device went.
type healthCounts struct {
	degraded, lost atomic.Int64 // chunks
	counting       atomic.Bool
}

// goBackground runs fn on a goroutine that Close waits for; it returns false after that has begun.
func (v *Volume) goBackground(fn func()) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.wg.Go(fn)
	}
	return !v.closed
}

// recount counts the chunks with too few good copies anew, in the background.
func (v *Volume) recount() {
	if v.health.counting.Swap(true) {
		return
	}
	v.goBackground(func() {
		var h healthCounts
		v.health.counting.Store(false)
		err := v.j.Scan(journal.SpaceChunk, func(k journal.Key, val []byte) error {
			rec, err := journal.ParseChunk(k, val)
			if err != nil {
				return err
			}
			h.count(v.rate(int(rec.Slot), placesOf(&rec)), 1)
			return v.ctx.Err()
		})
		if err != nil {
			v.log.Warn("counting copies", "err", err)
			return
		}
		v.health.degraded.Store(h.degraded.Load())
		v.health.lost.Store(h.lost.Load())
		v.rebuildDue.Store(true)
		v.makeWay()
		v.jobs.wake()
	})
}

// Status tells how the volume is.
func (v *Volume) Status() Status {
	s := Status{Volume: v.info.Name, UUID: formatUUID(v.info.UUID), State: "ok", Copies: int(v.info.Copies),
		Rebalances: v.opts.Rebalance, Floor: v.opts.BackgroundFloor, ChunkSize: int64(v.info.ChunkSize), Exports: v.Exports(),
		Degraded: v.health.degraded.Load(), Lost: v.health.lost.Load(), Healed: v.stats.healed.Load()}
	s.Dirty = v.dirty.inUse()
	st := v.j.State()
	s.Journal = JournalStatus{Seq: uint64(st.Seq), Records: st.Count}
	s.Devices = v.deviceStatus()
	s.SizeBytes, s.FreeBytes, s.RawBytes = v.space()
	s.FilesBytes = v.fileBytes.Load()
	s.UsedBytes = s.FilesBytes
	for _, e := range s.Exports {
		s.UsedBytes += e.UsedBytes
	}
	v.mu.Lock()
	for i := range v.bad {
		s.Bad = append(s.Bad, v.bad[i].BadRange)
	}
	v.mu.Unlock()
	v.judge(&s)
	return s
}

func formatUUID(u [16]byte) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// space returns what the devices can hold at the wanted number of copies, what of it is free, and
// the bytes of all data areas.
func (v *Volume) space() (size, free, raw int64) {
	all, rest := map[string]int64{}, map[string]int64{}
	for _, m := range v.devs() {
		_, capacity := m.alloc.usage()
		raw += capacity
		all[m.domain()] += capacity
		if m.takes() {
			rest[m.domain()] += m.alloc.freeRegions() * int64(v.info.ChunkSize)
		}
	}
	list := func(by map[string]int64) (l []int64) {
		for _, n := range by {
			l = append(l, n)
		}
		return l
	}
	k := int(v.info.Copies)
	if len(all) >= k {
		size = policy.Capacity(list(all), k)
	}
	if n := min(k, len(rest)); n > 0 {
		free = max(policy.Capacity(list(rest), n)-v.claimed.Load(), 0)
	}
	return size, free, raw
}

func (v *Volume) deviceStatus() []DeviceStatus {
	list := make([]DeviceStatus, 0, len(v.devs()))
	for _, m := range v.devs() {
		used, _ := m.alloc.usage()
		d := DeviceStatus{ID: m.id, Name: m.id.String(), Path: m.Record.Path,
			UsedBytes: used, Errors: m.errors.Load(), Domain: m.Record.Domain, older: m.Stale}
		v.mu.Lock()
		d.State, d.Reason, d.SizeBytes = stateName(m.state), m.reason, m.record.now.Size
		if !m.since.IsZero() {
			d.Since = m.since.UTC()
		}
		v.mu.Unlock()
		if m.Device != nil {
			fillDeviceStatus(&d, m.Device)
		}
		list = append(list, d)
	}
	return list
}

// judge sets the volume's state and names what wants attention.
func (v *Volume) judge(s *Status) {
	warn := func(severity, code, message, action string) {
		s.Health = append(s.Health, Health{code, severity, message, action})
		if severity == "critical" {
			s.State = "critical"
		} else if s.State == "ok" {
			s.State = "degraded"
		}
	}
	for _, d := range s.Devices {
		remove := fmt.Sprintf("ballast device remove %s %s", s.Volume, d.Name)
		switch {
		case d.State == "missing" && d.older:
			warn("warning", "DEVICE_MISSING", fmt.Sprintf("device %s (%s) is not used: %s", d.Name, d.Path, d.Reason),
				fmt.Sprintf("put back the disk that was in use last; or have all of this one compared: ballast device online %s %s --resync", s.Volume, d.Name))
		case d.State == "missing" && d.UsedBytes == 0:
			warn("warning", "DEVICE_MISSING", fmt.Sprintf("device %s (%s) is not there, and nothing is on it: %s", d.Name, d.Path, d.Reason),
				remove+fmt.Sprintf("; or attach it, then: ballast device online %s %s", s.Volume, d.Name))
		case d.State == "failed" && d.UsedBytes == 0:
			warn("warning", "DEVICE_FAILED", fmt.Sprintf("device %s (%s) is not used, and nothing is on it: %s", d.Name, d.Path, d.Reason),
				remove+fmt.Sprintf("; or, if it is well again: ballast device online %s %s", s.Volume, d.Name))
		case d.State == "missing":
			warn("warning", "DEVICE_MISSING", fmt.Sprintf("device %s (%s) is not there: %s", d.Name, d.Path, d.Reason),
				fmt.Sprintf("attach it, then: ballast device online %s %s; or, if it is gone for good: ballast rebuild start %s", s.Volume, d.Name, s.Volume))
		case d.State == "failed":
			warn("warning", "DEVICE_FAILED", fmt.Sprintf("device %s (%s) is not used: %s", d.Name, d.Path, d.Reason),
				fmt.Sprintf("replace the disk: ballast device replace %s %s NEW; or, if it is well again: ballast device online %s %s", s.Volume, d.Name, s.Volume, d.Name))
		case d.State == "slow":
			warn("warning", "DEVICE_SLOW", fmt.Sprintf("device %s (%s) sits out: %s", d.Name, d.Path, d.Reason),
				"none needed: it is back when it is well, and its data is moved away if it stays so")
		case d.State == "drained":
			warn("warning", "DEVICE_DRAINED", fmt.Sprintf("device %s (%s) is empty and gets nothing new", d.Name, d.Path),
				remove)
		}
	}
	if s.Degraded > 0 {
		warn("warning", "REDUNDANCY_REDUCED", fmt.Sprintf("%d chunks have fewer than %d good copies", s.Degraded, s.Copies), v.repairHint())
	}
	if s.Lost > 0 {
		warn("critical", "DATA_MISSING", fmt.Sprintf("%d chunks have no good copy", s.Lost), "bring the missing devices back")
	}
	if len(s.Bad) > 0 {
		warn("critical", "DATA_UNREADABLE", fmt.Sprintf("%d ranges could not be read", len(s.Bad)), "restore these ranges from elsewhere; writing them again clears the error")
	}
	if s.FreeBytes < int64(v.info.ChunkSize) {
		warn("warning", "VOLUME_FULL", "there is no space for new data", "trim or remove exports, or add a device")
	}
	if since := v.watched.fullSince(); !since.IsZero() {
		warn("critical", "JOURNAL_FULL", fmt.Sprintf("the journal's disk has had no space since %s: nothing new becomes durable",
			since.UTC().Format(time.DateTime)), "free space where the state directory is; the volume then goes on by itself")
	}
	if v.events.journalDead.Load() {
		s.Journal.Failed = true
		warn("critical", "JOURNAL_FAILED", "the journal cannot be written: nothing new becomes durable", "look at the journal's disk, then restart the volume")
	}
}

// eventLog keeps the newest events in memory and, best effort, in the journal.
type eventLog struct {
	mu          sync.Mutex
	next        uint64
	recent      []NumberedEvent
	quiet       map[string]*quietEvent // by code and device
	journalDead atomic.Bool
}

// quietEvent holds back repetitions of an event.
type quietEvent struct {
	since time.Time
	held  int
}

// repeatAfter is how long an event of the same code and device is held back after one.
const repeatAfter = 10 * time.Second

// NumberedEvent is an event and its number, which grows by one with each.
type NumberedEvent struct {
	Number uint64
	journal.Event
}

const keptEvents = 1000

// repairHint says what becomes of chunks with too few copies.
func (v *Volume) repairHint() string {
	for _, j := range v.Jobs() {
		if j.Kind != "rebuild" || j.Ended != nil {
			continue
		}
		switch {
		case j.State == "paused":
			return j.ID + " is paused: ballast job resume " + v.info.Name
		case j.BlockedReason != nil:
			return j.ID + " waits: " + *j.BlockedReason
		}
		return "none needed: " + j.ID + " makes them anew"
	}
	return "bring the missing devices back, or add one; copies are then made anew by themselves"
}

// event records what happened to the volume; severity as in journal.Event. Of what happens again and
// again to one device, most is held back.
func (v *Volume) event(severity uint8, code string, dev devices.ID, message string) {
	ev := journal.Event{Time: time.Now().UTC(), Severity: severity, Code: code, Device: uint16(dev), Message: message}
	if len(ev.Message) > 500 {
		ev.Message = ev.Message[:500]
	}
	v.events.mu.Lock()
	if held, ok := v.events.holdLocked(code, dev, ev.Time); !ok {
		v.events.mu.Unlock()
		return
	} else if held > 0 {
		ev.Message += fmt.Sprintf(" (and %d more like it)", held)
	}
	v.events.mu.Unlock()
	v.record(ev)
}

// Warn records an event that somebody beside the volume has noticed.
func (v *Volume) Warn(code, message string) { v.eventAlways(1, code, 0, message) }

// eventAlways is event for what must not be held back: it happens seldom, and each time counts.
func (v *Volume) eventAlways(severity uint8, code string, dev devices.ID, message string) {
	v.record(journal.Event{Time: time.Now().UTC(), Severity: severity, Code: code, Device: uint16(dev), Message: message[:min(len(message), 500)]})
}

func (v *Volume) record(ev journal.Event) {
	n, ev := v.events.add(ev)
	code, dev := ev.Code, devices.ID(ev.Device)
	v.log.Info("event", "code", code, "device", dev.String(), "message", ev.Message)
	v.goBackground(func() {
		_ = v.j.Commit(v.ctx, eventBatch(n, &ev)) // best effort; why not is noted there
	})
}

// add gives an event its number and keeps it in memory.
func (l *eventLog) add(ev journal.Event) (uint64, journal.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.next
	l.next++
	l.recent = append(l.recent, NumberedEvent{n, ev})
	if len(l.recent) > keptEvents {
		l.recent = slices.Clone(l.recent[len(l.recent)-keptEvents:])
	}
	return n, ev
}

// eventBatch journals event n and drops the oldest.
func eventBatch(n uint64, ev *journal.Event) *journal.Batch {
	b := &journal.Batch{}
	key := journal.MakeKey(journal.SpaceEvent, 0, n)
	b.Put(key, ev.Pack(key))
	if n >= keptEvents {
		b.Delete(journal.MakeKey(journal.SpaceEvent, 0, n-keptEvents))
	}
	return b
}

// holdLocked reports whether an event may pass now, and how many were held back before it.
func (l *eventLog) holdLocked(code string, dev devices.ID, now time.Time) (held int, ok bool) {
	key := code + dev.String()
	q := l.quiet[key]
	if q == nil {
		if l.quiet == nil {
			l.quiet = map[string]*quietEvent{}
		}
		q = &quietEvent{}
		l.quiet[key] = q
	}
	if now.Sub(q.since) < repeatAfter {
		q.held++
		return 0, false
	}
	held, q.held, q.since = q.held, 0, now
	return held, true
}

// Events returns the kept events from number since on.
func (v *Volume) Events(since uint64) []NumberedEvent {
	v.events.mu.Lock()
	defer v.events.mu.Unlock()
	i, _ := slices.BinarySearchFunc(v.events.recent, since, func(e NumberedEvent, n uint64) int {
		if e.Number < n {
			return -1
		}
		return 1
	})
	return slices.Clone(v.events.recent[i:])
}

func (v *Volume) loadEvents() error {
	err := v.j.ScanFrom(journal.MakeKey(journal.SpaceEvent, 0, 0), func(k journal.Key, val []byte) error {
		space, _, n := k.Parts()
		if space != journal.SpaceEvent {
			return errStop
		}
		ev, err := journal.ParseEvent(k, val)
		if err != nil {
			return err
		}
		v.events.recent = append(v.events.recent, NumberedEvent{n, ev})
		v.events.next = n + 1
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// anchorState is what the labels last said of the journal.
type anchorState struct {
	mu  sync.Mutex
	seq journal.Seq
	due chan struct{} // has room for one: the labels are to be written soon
}

const anchorInterval = 10 * time.Second

// anchorLoop writes the journal's position into the labels, so that a journal that was rolled
// back or replaced is noticed at the next open: at once, so that one from before this open is,
// however soon a crash comes, and then now and again.
func (v *Volume) anchorLoop() {
	t := time.NewTicker(anchorInterval)
	defer t.Stop()
	if err := v.writeAnchors(); err != nil {
		v.log.Warn("labels", "err", err)
	}
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.anchor.due:
			v.anchor.mu.Lock()
			v.anchor.seq = 0
			v.anchor.mu.Unlock()
			if err := v.writeAnchors(); err != nil {
				v.log.Warn("labels", "err", err)
			}
		case <-t.C:
			trimFree()
			if err := v.writeAnchors(); err != nil {
				v.log.Warn("labels", "err", err)
			}
		}
	}
}

// WriteLabels has the labels written soon, whatever the journal's position: they are to list other members,
// or one of them is of a disk that was put back. It does not wait for a disk.
func (v *Volume) WriteLabels() {
	select {
	case v.anchor.due <- struct{}{}:
	default:
	}
}

func (v *Volume) writeAnchors() error {
	v.anchor.mu.Lock()
	last := v.anchor.seq
	st := v.j.State()
	v.anchor.seq = st.Seq
	v.anchor.mu.Unlock()
	if st.Seq == last {
		return nil
	}
	var errs []error
	var written []*member
	for _, m := range v.devs() {
		if m.WriteLabel != nil && m.usable() {
			if err := m.WriteLabel(st); err != nil {
				errs = append(errs, fmt.Errorf("device %v: label: %w", m.id, err))
				continue
			}
			written = append(written, m)
		}
	}
	v.noteLabels(written, st.Seq)
	return errors.Join(errs...)
}

// noteLabels journals what labels have durably. It comes after their writing: a crash in between
// leaves a label newer than what is noted of it, so one that is older is of an older image of the disk.
// That it failed is told and does no harm: less is noted.
func (v *Volume) noteLabels(written []*member, seq journal.Seq) {
	err := v.saveRecords(context.WithoutCancel(v.ctx), written, func(r *journal.Device) { r.LabelSeq = seq })
	if err != nil {
		v.log.Info("what the labels have is not noted", "err", err)
		return
	}
	v.anchor.mu.Lock()
	defer v.anchor.mu.Unlock()
	if now := v.j.State().Seq; now == seq+1 { // a note alone is no reason to write labels again
		v.anchor.seq = now
	}
}

// fillDeviceStatus adds what the device measures of itself.
func fillDeviceStatus(d *DeviceStatus, dev *devices.Device) {
	st := dev.Stats()
	d.ReadBytes, d.WriteBytes = int64(st.Read.Bytes), int64(st.Write.Bytes)
	d.InFlight, d.Waiting, d.QueueLimit = st.InFlight, st.Waiting, st.Limit
	d.P50Seconds = max(st.ReadLatency.Quantile(0.5), st.WriteLatency.Quantile(0.5)).Seconds()
	d.P99Seconds = max(st.ReadLatency.Quantile(0.99), st.WriteLatency.Quantile(0.99)).Seconds()
	d.Slowdown = st.Slowdown
	d.Rotational = dev.Rotational()
}
