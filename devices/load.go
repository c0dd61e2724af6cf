package devices

import "time"

// Expect is the time until a request of this kind and size at off, submitted now, would be done
// (E of the placement and replica formulas): the backlog plus the predicted service time.
func (d *Device) Expect(kind Kind, off, size int64) time.Duration {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return seconds(d.backlogLocked(now) + d.model.service(d.model.patternOf(kind, off), size))
}

// Load is what placement and replica choice look at, read in one go.
type Load struct {
	Backlog     time.Duration // W: expected time until the device is free
	Outstanding int           // own operations queued or dispatched
	Idle        bool          // nothing queued or dispatched
	Overdue     bool          // the oldest operation in flight takes longer than expected
	Background  time.Duration // expected time that background requests in the queue take, not in Backlog
	Waiting     int           // background requests in the queue, not in Outstanding
	Busy        time.Duration // time with own operations queued or dispatched, since NewDevice
	Stalled     time.Duration // time without any completion while operations were in the disk, up to now
}

// Load returns the device's load now.
func (d *Device) Load() Load {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loadLocked(now)
}

// Forecast is Load, Expect and Failed, read in one go.
type Forecast struct {
	Load
	Expect time.Duration
	Pause  time.Duration // the device may pause for that long between completions: it works in bursts
	Failed bool
}

// Forecast tells all that is to be known before a request of this kind is given to the device.
func (d *Device) Forecast(kind Kind, off, size int64) Forecast {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	f := Forecast{Load: d.loadLocked(now), Failed: d.failed != nil || d.closed}
	p := d.model.patternOf(kind, off)
	f.Expect = f.Backlog + seconds(d.model.service(p, size))
	f.Pause = seconds(d.model.gap[p.direction()])
	return f
}

// Awaited reports whether there were reads of the foreground within that time: somebody waits for the device.
func (d *Device) Awaited(within time.Duration) bool {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readAt > 0 && now-d.readAt < within
}

// Pause is Forecast.Pause alone.
func (d *Device) Pause(kind Kind) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return seconds(d.model.gap[d.model.patternOf(kind, 0).direction()])
}

func (d *Device) loadLocked(now time.Duration) Load {
	l := Load{
		Backlog:     seconds(d.backlogLocked(now)),
		Outstanding: d.outstanding,
		Idle:        d.outstanding == 0,
		Overdue:     d.overdueLocked(now),
		Background:  seconds(d.model.work(&d.backgroundOps, &d.backgroundBytes)),
		Waiting:     d.background.n,
		Busy:        d.busy,
	}
	if d.outstanding > 0 {
		l.Busy += now - d.busySince
	}
	since := now
	if r := d.flight.head; r != nil {
		since = r.dispatched
	}
	if run := d.syncs.running; run != nil {
		since = min(since, run.began)
	}
	l.Stalled = max(0, now-max(since, d.lastProgress))
	return l
}
