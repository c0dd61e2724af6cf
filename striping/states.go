package striping

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/policy"
)

// States of devices. What a state does is the table in effectsOf; who sets it:
//
//	online, slow   the watch, every second, by policy.Health; slow is also what hangs
//	failed         errors that are final, an operation that hangs for hangLimit, the operator
//	missing        not there at open, or taken offline by the operator
//	rebuilding     back after it was out, until its copies have what they missed
//	draining, drained   jobs
//
// A state that the operator set stays until the operator sets another.

// maxWriteErrors is how many failed writes a device may have before it is given up.
const maxWriteErrors = 3

// hangLimit is how long an operation may hang before the device counts as failed, and what is on it is
// copied elsewhere.
const hangLimit = 30 * time.Second

// byOperator begins the reason of a state that the watch leaves alone.
const byOperator = "by the operator"

// effects are what a state means for the use of a device.
type effects struct {
	place bool // takes new chunks
	read  bool // is read while other copies can be
	write bool // takes writes to the chunks that are on it; else its copies miss them
	good  bool // its copies count
}

func (v *Volume) effectsOf(s journal.DeviceState) effects {
	switch s {
	case journal.Slow:
		// With one copy what is there can only be written there.
		return effects{write: v.info.Copies == 1, good: true}
	case journal.Draining, journal.Drained:
		return effects{read: true, write: true, good: true}
	case journal.Failed, journal.Missing:
		return effects{}
	}
	return effects{place: true, read: true, write: true, good: true}
}

// setStateLocked gives m a state and puts it into effect. Called with v.mu.
func (v *Volume) setStateLocked(m *member, s journal.DeviceState, reason string) {
	m.state, m.reason, m.since = s, reason, time.Now()
	e := v.effectsOf(s)
	m.out.Store(!e.write || m.Device == nil)
	m.away.Store(!e.good || m.Device == nil)
	m.barred.Store(!e.place || m.Device == nil)
	if v.bal != nil {
		v.bal.SetPlaceable(m.id, e.place)
		v.bal.SetReadable(m.id, e.read)
	}
}

// changeState is setStateLocked with all that follows: event, journal, count of redundancy, jobs.
func (v *Volume) changeState(m *member, s journal.DeviceState, reason string, severity uint8, code string) {
	v.mu.Lock()
	v.setStateLocked(m, s, reason)
	v.mu.Unlock()
	v.eventAlways(severity, code, m.id, reason)
	v.goBackground(func() { v.journalState(m) })
	v.recount()
}

// stateOf returns m's state and the reason for it.
func (v *Volume) stateOf(m *member) (journal.DeviceState, string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return m.state, m.reason
}

// journalState writes the state of m down.
func (v *Volume) journalState(m *member) {
	err := v.saveRecord(v.ctx, m, func(r *journal.Device) {
		r.State, r.Reason, r.Since = m.state, m.reason, m.since.UTC() // saveRecord holds v.mu
	})
	if err != nil && v.ctx.Err() == nil {
		v.log.Error("journal", "op", "device state", "err", err)
	}
}

// loadState gives a device at open the state that the journal has of it.
func (v *Volume) loadState(m *member) {
	s, reason := m.Record.State, m.Record.Reason
	switch {
	case m.Device == nil:
		if s != journal.Missing || m.Why != "" {
			s, reason = journal.Missing, cmp.Or(m.Why, "it was not found when the volume was opened")
		}
	case s == journal.Missing && !strings.HasPrefix(reason, byOperator):
		s, reason = journal.Rebuilding, "it is back"
	case s == journal.Slow:
		m.health.SitOut(0)
	}
	v.setStateLocked(m, s, reason)
	if s == m.Record.State {
		m.since = m.Record.Since
	}
}

// deviceError decides what an error of a device means for it. Errors of reads are healed; a
// device that cannot sync, is gone, hangs, or keeps failing writes is taken out.
func (v *Volume) deviceError(id devices.ID, err error) {
	m := v.dev(id)
	m.errors.Add(1)
	op, _ := errors.AsType[*devices.OpError](err)
	isWrite := op != nil && op.Op != devices.Read
	isSync := op != nil && op.Op == devices.Sync
	switch {
	case errors.Is(err, devices.ErrClosed):
	case errors.Is(err, devices.ErrTimeout):
		v.hangs(m)
	case isSync, errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV), errors.Is(err, devices.ErrFailed):
		v.takeOut(m, err.Error())
	case isWrite && m.writeErrors.Add(1) >= maxWriteErrors:
		v.takeOut(m, fmt.Sprintf("%d writes failed, last: %v", maxWriteErrors, err))
	default:
		v.log.Warn("device error", "device", id.String(), "err", err)
	}
}

// takeOut gives a device up: nothing new is placed there, reads go there only when no other
// copy is left.
func (v *Volume) takeOut(m *member, reason string) {
	if len(reason) > 200 {
		reason = reason[:200]
	}
	v.mu.Lock()
	known := m.state == journal.Failed || m.state == journal.Missing
	v.mu.Unlock()
	if !known {
		v.changeState(m, journal.Failed, reason, 2, "DEVICE_FAILED")
	}
}

// hangs takes a device out of use until it answers again.
func (v *Volume) hangs(m *member) {
	v.mu.Lock()
	known := m.hanging || m.state == journal.Failed || m.state == journal.Missing
	if !known {
		m.hanging = true
		m.before = m.state
		m.health.SitOut(v.uptime())
		v.setStateLocked(m, journal.Slow, "an operation hangs")
		m.out.Store(true) // whatever the number of copies
		m.away.Store(true)
		m.silent.Store(true)
	}
	entries := m.health.Entries()
	v.mu.Unlock()
	if known {
		return
	}
	v.eventAlways(2, "DEVICE_HUNG", m.id, "an operation hangs")
	v.goBackground(func() { v.journalState(m) })
	v.goBackground(func() { v.awaitReturn(m, entries) })
	v.recount()
}

// awaitReturn takes a device that hung back into use once the disk has answered everything and has
// been calm for a while, the longer the more often that happened. The copies that missed writes
// meanwhile are marked stale; the rest of it is as good as before.
func (v *Volume) awaitReturn(m *member, entries int) {
	const tick = 500 * time.Millisecond
	settled := min(2*time.Second<<min(max(entries-1, 0), 8), policy.SlowScore*30*time.Second)
	t := time.NewTicker(tick)
	defer t.Stop()
	began, calm := time.Now(), time.Duration(0)
	gaveUp := false
	for calm < settled {
		select {
		case <-v.ctx.Done():
			return
		case <-t.C:
		}
		if m.Device.Failed() != nil || v.dev(m.id) != m {
			return
		}
		if calm += tick; m.Device.Load().Outstanding > 0 {
			calm = 0
		}
		v.mu.Lock()
		mine := m.hanging
		v.mu.Unlock()
		if !mine {
			return // the operator decided otherwise
		}
		if calm == 0 && !gaveUp && time.Since(began) >= hangLimit {
			gaveUp = true
			v.changeState(m, journal.Failed, fmt.Sprintf("no answer for %v", hangLimit), 2, "DEVICE_FAILED")
		}
	}
	v.mu.Lock()
	m.hanging = false
	before := m.before
	m.health = policy.Health{}
	v.mu.Unlock()
	m.silent.Store(false)
	message := "the disk answers again"
	if n := v.forgetAwaited(m); n > 0 {
		message += fmt.Sprintf("; %d ranges that could not be read are tried anew", n)
	}
	v.bringBack(m, before, message)
}

// bringBack puts a device to use that was out. What it missed is copied to it.
func (v *Volume) bringBack(m *member, s journal.DeviceState, why string) {
	if s != journal.Draining && s != journal.Drained {
		s = journal.Rebuilding
	}
	v.changeState(m, s, why, 0, "DEVICE_RETURNED")
}

// uptime is the time since the volume was opened.
func (v *Volume) uptime() time.Duration { return time.Since(v.opened) }

// watchInterval is how often devices are judged.
const watchInterval = time.Second

// watch judges the devices, every second.
func (v *Volume) watch() {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	last := map[*member]devices.Vitals{}
	host := hostWatch{v: v}
	at := v.uptime()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-t.C:
		}
		now := v.uptime()
		v.judgeAll(now, now-at, last, &host)
		v.lookForQuiet(now - at)
		at = now
	}
}

// judgeAll takes in what the devices did since the last call.
func (v *Volume) judgeAll(now, passed time.Duration, last map[*member]devices.Vitals, host *hostWatch) {
	type seen struct {
		m *member
		v policy.Vitals
	}
	var list []seen
	var ratios []float64
	for _, m := range v.devs() {
		if m.Device == nil {
			continue
		}
		n, before := m.Device.Vitals(), last[m]
		last[m] = n
		s := seen{m: m, v: policy.Vitals{Ratio: 1, Stalled: max(0, n.Stalled-before.Stalled)}}
		for dir, ops := range n.Ops {
			if d := ops - before.Ops[dir]; d > 0 {
				s.v.Ops += int(d)
				s.v.Ratio = max(s.v.Ratio, n.Ratio[dir])
			}
		}
		if m.Foreign != nil {
			s.v.Foreign = m.Foreign()
		}
		list = append(list, s)
		ratios = append(ratios, s.v.Ratio)
	}
	host.look(ratios)
	for i := range list {
		list[i].v.Common = policy.CommonSlow(ratios, i)
		v.judgeDevice(list[i].m, now, passed, list[i].v)
	}
}

// judgeDevice takes in one second of one device.
func (v *Volume) judgeDevice(m *member, now, passed time.Duration, vit policy.Vitals) {
	allowed := v.maySitOut(m)
	v.mu.Lock()
	pinned := strings.HasPrefix(m.reason, byOperator)
	if m.hanging || pinned || m.state != journal.Online && m.state != journal.Rebuilding && m.state != journal.Slow {
		v.mu.Unlock()
		return
	}
	verdict := m.health.Step(now, passed, vit, allowed)
	lost := m.health.Lost
	v.mu.Unlock()
	switch verdict {
	case policy.HealthSlow:
		v.changeState(m, journal.Slow, slowReason(vit, lost), 1, "DEVICE_SLOW")
	case policy.HealthBack:
		v.bringBack(m, journal.Rebuilding, "its service times are as usual again")
	case policy.HealthCondemn:
		v.condemn(m)
	}
}

func slowReason(vit policy.Vitals, lost float64) string {
	if vit.Ratio > policy.RatioNoticed {
		return fmt.Sprintf("it takes %.1f times as long as it usually does", vit.Ratio)
	}
	return fmt.Sprintf("it stalls: it made no progress for %.0f %% of the last half minute", 100*lost)
}

// condemn begins to move away what is on a device that stays slow. Where that cannot be, it goes on
// sitting out.
func (v *Volume) condemn(m *member) {
	v.event(2, "DEVICE_CONDEMNED", m.id, "it has been slow for too long, or too often")
	if _, err := v.Drain(v.ctx, []devices.ID{m.id}, JobOptions{}); err != nil && v.ctx.Err() == nil {
		v.log.Warn("a slow device cannot be drained", "device", m.id.String(), "err", err)
	}
}

// maySitOut reports whether the volume can do without m for a while: no more than copies-1 failure
// domains are out then, or have yet to get what they missed, and what may be written fits on the
// others.
func (v *Volume) maySitOut(m *member) bool {
	out := map[string]bool{m.domain(): true}
	others := map[string]bool{}
	var free int64
	for _, o := range v.devs() {
		switch {
		case o == m || o.domain() == m.domain():
		case o.out.Load(), v.catchesUp(o):
			out[o.domain()] = true
		case !o.barred.Load():
			others[o.domain()] = true
			free += o.alloc.freeRegions()
		}
	}
	if free < 16 || len(others) == 0 {
		return false
	}
	return v.info.Copies == 1 || len(out) <= int(v.info.Copies)-1
}

// catchesUp reports whether a device misses some of what was written while it was out.
func (v *Volume) catchesUp(m *member) bool {
	s, _ := v.stateOf(m)
	return s == journal.Rebuilding
}

// hostWatch tells, once, that the devices are slow together: that is not for them to answer for.
type hostWatch struct {
	v    *Volume
	bad  int // seconds in a row
	told bool
	well int
}

func (h *hostWatch) look(ratios []float64) {
	slow := 0
	for _, r := range ratios {
		if r > 3 {
			slow++
		}
	}
	if slow < 2 || 2*slow < len(ratios) {
		h.bad = 0
		if h.well++; h.well >= 60 {
			h.told = false
		}
		return
	}
	h.well = 0
	if h.bad++; h.bad >= 5 && !h.told {
		h.told = true
		h.v.event(1, "HOST_SLOW", 0, fmt.Sprintf("%d of %d devices are slow at once: the cause is not one of them", slow, len(ratios)))
	}
}

var (
	// ErrNoDevice is returned for devices that the volume does not have.
	ErrNoDevice = errors.New("no such device")
	// ErrNeeded is returned for what would take away the only copy of something.
	ErrNeeded = errors.New("it would leave data without a copy")
)

// SetOnline has the operator's word that a device is to be used whatever it looks like; auto leaves
// it to the volume again. A device that is drained is taken back: it has missed nothing.
func (v *Volume) SetOnline(_ context.Context, id devices.ID, auto bool) error {
	m := v.dev(id)
	switch {
	case m == nil || m.left:
		return fmt.Errorf("device %v: %w", id, ErrNoDevice)
	case m.Device == nil || m.Device.Failed() != nil:
		return fmt.Errorf("device %v: its disk is not there", id)
	}
	to, reason := journal.Rebuilding, byOperator
	if auto {
		reason = "left to the volume"
	}
	v.mu.Lock()
	switch {
	case m.state == journal.Draining, m.removing:
		v.mu.Unlock()
		return &StateError{fmt.Sprintf("device %v is %s", id, stateName(journal.Draining))}
	case m.state == journal.Drained:
		to = journal.Online
	}
	m.hanging = false
	m.health = policy.Health{}
	v.setStateLocked(m, to, reason) // here, for a removal may begin now
	v.mu.Unlock()
	v.changeState(m, to, reason, 0, "DEVICE_ONLINE")
	return nil
}

// SetSlow has a device sit out by the operator's word.
func (v *Volume) SetSlow(_ context.Context, id devices.ID) error {
	m := v.dev(id)
	switch {
	case m == nil || m.left:
		return fmt.Errorf("device %v: %w", id, ErrNoDevice)
	case !v.maySitOut(m):
		return fmt.Errorf("device %v cannot sit out: %w", id, ErrNeeded)
	}
	v.mu.Lock()
	m.health.SitOut(v.uptime())
	v.mu.Unlock()
	v.changeState(m, journal.Slow, byOperator, 1, "DEVICE_SLOW")
	return nil
}

// stateName is a state as people see it.
func stateName(s journal.DeviceState) string {
	switch s {
	case journal.Slow:
		return "slow"
	case journal.Draining:
		return "draining"
	case journal.Drained:
		return "drained"
	case journal.Failed:
		return "failed"
	case journal.Missing:
		return "missing"
	case journal.Rebuilding:
		return "rebuilding"
	}
	return "online"
}
