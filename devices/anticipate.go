package devices

import "time"

// A client that makes its next read when the last one was answered leaves the disk idle in between, for a
// moment. A background request that starts in each such moment makes every read wait for the rest of one.
// So the device remembers how soon the next read came, and lets it come first for a moment where that helps
// (S. Iyer and P. Druschel, "Anticipatory scheduling", SOSP 2001; here it is the background that waits, not
// another client).
//
// It helps where a read is much more likely to come within this moment than within the next one. Those that
// come at random, however many, are as likely at any time: who would wait for them would always wait.
const (
	pauseShare  = 0.25             // the moment, as a part of what the background request takes
	pauseLimit  = time.Millisecond // and at most
	pauseLikely = 0.3              // of all pauses have to end within it
	pauseOften  = 2.0              // as often, at least, as those that did not end within the next one
	pauseMemory = 64               // pauses
)

// pauses are the times between the answer to a read that leaves a device without any, and the next read.
type pauses struct {
	moment time.Duration
	early  float64       // share of pauses that ended within a moment
	later  float64       // and of those that ended within the next
	since  time.Duration // of the one that is under way, if open
	open   bool

	awaitedUntil time.Duration // the background waits for a read until then
}

func (p *pauses) begin(now time.Duration) { p.since, p.open = now, true }

func (p *pauses) end(now time.Duration) {
	if !p.open {
		return
	}
	p.open = false
	early, later := 0.0, 0.0
	switch t := now - p.since; {
	case t <= p.moment:
		early = 1
	case t <= 2*p.moment:
		later = 1
	}
	p.early += (early - p.early) / pauseMemory
	p.later += (later - p.later) / pauseMemory
}

// awaiting tells whether it is worth waiting for the end of a pause.
func (p *pauses) awaiting() bool {
	return p.early >= pauseLikely && p.early*(1-p.early) >= pauseOften*p.later
}

// anticipateLocked tells whether b, which could start, should wait a moment for a read. The watchdog
// looks again when it is over.
func (d *Device) anticipateLocked(b *Request, now time.Duration) bool {
	p := &d.pauses
	p.moment = min(seconds(pauseShare*d.model.service(b.pattern, b.size)), pauseLimit)
	if !p.open || now >= p.since+p.moment || !p.awaiting() {
		return false
	}
	p.awaitedUntil = p.since + p.moment
	d.wakeLocked(p.awaitedUntil)
	return true
}
