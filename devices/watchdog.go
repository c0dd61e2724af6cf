package devices

import "time"

// The watchdog answers what is past its deadline. One goroutine per device sleeps until the
// earliest deadline it knows of. Deadlines mostly grow from one request to the next, so a
// request that is dispatched while the watchdog sleeps needs no more than a comparison; a wake
// that finds nothing late is rare and cheap.

// watchLocked makes sure that the watchdog looks when r may be late.
func (d *Device) watchLocked(r *Request, now time.Duration) { d.wakeLocked(now + r.timeout) }

// wakeLocked makes the watchdog look then, if not before.
func (d *Device) wakeLocked(at time.Duration) {
	if d.wakeAt != 0 && d.wakeAt <= at {
		return
	}
	d.wakeAt = at
	if !d.watching {
		d.watching = true
		d.routines.Add(1)
		go d.watch()
		return
	}
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// A watchdog that wakes long after the time it had set was kept from running, and so was everybody
// else: the process was stopped, or its machine paused. Deadlines have passed then that nobody
// could meet, on all devices at once. What the disks have done meanwhile gets a moment to be
// noticed before anything is called late.
const (
	pauseNoticed = 20 * time.Millisecond
	pauseGrace   = time.Second
)

func (d *Device) watch() {
	defer d.routines.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var at time.Duration // when to look again; 0: when told
	graced := false
	for {
		if at != 0 && !graced && d.now()-at > pauseNoticed {
			graced = true
			timer.Reset(pauseGrace)
		} else if at, graced = d.expire(false), false; at != 0 {
			timer.Reset(max(at-d.now(), time.Microsecond))
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-d.kick:
		case <-d.stop:
			return
		}
	}
}

// expire answers what is late, or all that is in the disk, and returns when to look again; 0
// means not before the next request.
func (d *Device) expire(all bool) time.Duration {
	now := d.now()
	var gone, held []*Request
	var at time.Duration
	soonest := func(t time.Duration) {
		if at == 0 || t < at {
			at = t
		}
	}
	d.mu.Lock()
	d.wakeAt = now        // it looks already
	d.dispatchLocked(now) // what waited for an operation that hangs, or for a read that did not come
	if t := d.pauses.awaitedUntil; d.background.n > 0 && t > now {
		soonest(t)
	}
	inDisk := func(l *requestList) {
		for r := l.head; r != nil; r = r.next {
			switch deadline := r.dispatched + r.timeout; {
			case r.answered || r.inline:
			case all || deadline <= now:
				held = append(held, r.hold())
			default:
				soonest(deadline)
			}
		}
	}
	inDisk(&d.flight)
	if d.syncs.running != nil {
		inDisk(&d.syncs.running.requests)
	}
	for _, l := range []*requestList{&d.reads, &d.writes, &d.background, &d.syncs.next} {
		for r := l.head; r != nil; {
			next := r.next
			deadline := r.submitted + r.timeout
			if l != &d.syncs.next { // those wait for a sync, not for any progress
				deadline = max(r.submitted, d.lastProgress) + r.timeout
			}
			if deadline <= now {
				d.unqueueLocked(r, now)
				r.state, r.answered = requestReturned, true
				gone = append(gone, r)
			} else {
				soonest(deadline)
			}
			r = next
		}
	}
	d.wakeAt = at
	d.mu.Unlock()
	if len(gone)+len(held) > 0 {
		d.stats.timeouts.Add(uint64(len(gone) + len(held)))
		d.answerAll(gone, held, ErrTimeout)
	}
	return at
}
