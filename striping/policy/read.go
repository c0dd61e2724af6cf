package policy

import "time"

const (
	// WriteSlack and the read slacks are the least delays beyond the expected completion before
	// a second attempt is considered.
	WriteSlack          = 20 * time.Millisecond
	ReadSlack           = 2 * time.Millisecond
	RotationalReadSlack = 10 * time.Millisecond

	tokenCap     = 50.0
	tokenEarned  = 0.05 // per operation: a budget of 5 %
	tokenTrickle = 1.0  // per second: clients that are stuck earn nothing by operations
)

// Source is a copy as Replica sees it.
type Source struct {
	Expect   time.Duration // E of this read on its device
	Idle     bool          // the device has nothing to do
	Readable bool          // the device serves reads
	Gone     bool          // the device has failed: not even as a last resort
	Tried    bool          // this read has been there
}

// score is the order in which copies are tried: an idle device is worth waking although a busy
// one would be done a little sooner, as in Place.
func (s *Source) score() time.Duration {
	if s.Idle {
		return time.Duration(float64(s.Expect) / IdleDiscount)
	}
	return s.Expect
}

// Replica is the copy that is expected to be read first, -1 if there is none left. Copies on
// devices that should not serve reads are used when no other is left.
func Replica(sources []Source) int {
	best := -1
	for i := range sources {
		s := &sources[i]
		if s.Tried || s.Gone {
			continue
		}
		if best < 0 || (s.Readable && !sources[best].Readable) ||
			(s.Readable == sources[best].Readable && s.score() < sources[best].score()) {
			best = i
		}
	}
	return best
}

// HedgeAt is the time after the start of an operation at which a second attempt is first
// considered: when it takes twice as long as expected, and noticeably longer, and longer than the
// device usually pauses.
func HedgeAt(expect, slack, pause time.Duration) time.Duration {
	return max(2*expect, expect+slack, expect+pause+pause/4)
}

// HedgePays reports whether a second attempt that is expected to take other pays: the first is
// late by as much. It is the ski-rental rule, at most twice the best delay.
func HedgePays(elapsed, expect, other time.Duration) bool { return elapsed-expect >= other }

// CommonCause reports whether so many devices are overdue that the cause lies elsewhere, and a
// second attempt would only add load.
func CommonCause(overdue, devices int) bool { return 2*overdue > devices }

// Tokens bound second attempts to 5 % of the operations, with a reserve for bad moments.
type Tokens struct {
	spent float64 // below the cap, so that the zero value is full
	last  time.Duration
}

// Earn accounts for one operation.
func (t *Tokens) Earn() { t.spent = max(0, t.spent-tokenEarned) }

// Take takes a token at the given time (counted from any fixed moment), if there is one.
func (t *Tokens) Take(now time.Duration) bool {
	t.trickle(now)
	if tokenCap-t.spent < 1-1e-9 { // twenty times a twentieth
		return false
	}
	t.spent++
	return true
}

// Left is the number of tokens at the given time.
func (t *Tokens) Left(now time.Duration) float64 {
	t.trickle(now)
	return tokenCap - t.spent
}

func (t *Tokens) trickle(now time.Duration) {
	if now > t.last {
		t.spent = max(0, t.spent-tokenTrickle*(now-t.last).Seconds())
		t.last = now
	}
}
