package policy

import (
	"math"
	"time"
)

// Health judges whether a device is so slow that the volume is better off without it for a while.
// Routing by expected completion takes most of the damage out of a slow device within milliseconds
// and needs no state, so this may be, and is, slow to condemn. It knows a device by its own history,
// which works with two devices; what others do at the time only ever acquits.
//
// Once per second the caller passes in what was seen; a second with fewer than minHealthOps
// operations is added to the next. Points are given for how far service times are above the
// baseline, and one for time lost in stalls; a second that is well takes one away. Nobody is judged
// while half of the others are slow too (the cause is not the device) or while other processes use
// the disk.
//
// The constants were found in a simulation of eight conditions (healthy, garbage collection, foreign
// load, slowdowns of 2.5x, 5x and 20x, steady and periodic, and short stalls); TestHealthTable is that
// table.
const (
	SlowScore     = 20 // points from which a device sits out
	maxScore      = 30 // with 40 a device that is well again stays out for 45 s, with this as long as backCalm
	backScore     = 4
	backCalm      = 30 * time.Second // without a bad second before a device is back
	firstCalm     = 8 * time.Second  // the same when it sits out for the first time within condemnWithin
	condemnAfter  = 10 * time.Minute // of sitting out, still bad: its data is moved away
	condemnCount  = 6                // or so many times of sitting out within
	condemnWithin = time.Hour
	minHealthOps  = 8
	minProbes     = 1               // while it sits out there are only probes
	maxGather     = 5 * time.Second // evidence older than this is dropped
	commonRatio   = 3.0
	foreignShare  = 0.3
	lostMemory    = 30 * time.Second
	lostShare     = 0.05
	// steadyRatio counts as more than 4 where it lasts: what is 5x slower for good measures as 3.9
	// where the sizes of operations are mixed.
	steadyRatio  = 3.5
	steadyMemory = 1.5 // seconds
	// RatioNoticed is the ratio from which a second counts as neither good nor bad.
	RatioNoticed = 2.0
)

// Vitals are what was seen of a device in a second.
type Vitals struct {
	Ops     int           // completed, probes included
	Ratio   float64       // service time over its baseline; 1 where the difference is too small to matter
	Stalled time.Duration // time without any progress while operations were in the device
	Foreign float64       // share of the time for which other processes kept the disk busy
	Common  bool          // CommonSlow
}

// Health is what is remembered of one device. The zero value is a device that is well.
type Health struct {
	Score   int
	Slow    bool
	Since   time.Duration // of Slow
	Lost    float64       // share of the time lost in stalls, over lostMemory
	calm    time.Duration // since the last bad second
	lnRatio float64       // over steadyMemory
	entries []time.Duration
	gather  Vitals
	gatherT time.Duration
}

// HealthVerdict is what follows from a second.
type HealthVerdict uint8

// The verdicts.
const (
	HealthSame    HealthVerdict = iota
	HealthSlow                  // the device should sit out from now on
	HealthBack                  // it is as it was
	HealthCondemn               // its data should be moved away
)

// Step takes in one second that ended at now. allowed says whether the redundancy permits the device
// to sit out; a device that would have to, but must not, is asked for again every second.
func (h *Health) Step(now, second time.Duration, v Vitals, allowed bool) HealthVerdict {
	f := 1 - math.Exp(-second.Seconds()/lostMemory.Seconds())
	h.Lost += f * (min(1, v.Stalled.Seconds()/second.Seconds()) - h.Lost)
	h.gatherT += second
	h.gather.Ops += v.Ops
	h.gather.Ratio = max(h.gather.Ratio, v.Ratio)
	need := minHealthOps
	if h.Slow {
		need = minProbes
	}
	d := 0
	if h.gather.Ops >= need || v.Stalled > second/2 {
		h.lnRatio += (1 - math.Exp(-h.gatherT.Seconds()/steadyMemory)) * (math.Log(max(1, h.gather.Ratio)) - h.lnRatio)
		if d = h.points(); d > 0 && (v.Common || v.Foreign > foreignShare) {
			d = 0 // a second that is well counts whatever others do
		}
		h.gather, h.gatherT = Vitals{}, 0
	} else if h.gatherT >= maxGather {
		h.gather, h.gatherT = Vitals{}, 0
	}
	h.Score = max(0, min(maxScore, h.Score+d))
	if d > 0 {
		h.calm = 0
	} else {
		h.calm += second
	}
	switch {
	case !h.Slow && h.Score >= SlowScore && allowed:
		h.enter(now)
		return HealthSlow
	case h.Slow && h.isWell():
		h.Slow, h.Score = false, min(h.Score, backScore)
		return HealthBack
	case h.Slow && (now-h.Since >= condemnAfter && h.Score >= SlowScore || len(h.entries) >= condemnCount):
		h.entries = nil
		return HealthCondemn
	}
	return HealthSame
}

// isWell tells whether a device that sits out may be back. The first time it soon is: most that are slow
// once are not slow again, and while it is away others do its work. One that comes and goes has to show more.
func (h *Health) isWell() bool {
	if len(h.entries) == 1 {
		return h.calm >= firstCalm
	}
	return h.calm >= backCalm && h.Score <= backScore
}

// enter notes that the device begins to sit out, for whatever reason.
func (h *Health) enter(now time.Duration) {
	h.Slow, h.Since, h.calm = true, now, 0
	kept := h.entries[:0]
	for _, t := range h.entries {
		if now-t < condemnWithin {
			kept = append(kept, t)
		}
	}
	h.entries = append(kept, now)
}

// SitOut makes the device sit out at once, as one that hangs must. It is back by the same rules as
// any other, and counts as often.
func (h *Health) SitOut(now time.Duration) {
	if !h.Slow {
		h.enter(now)
	}
	h.Score = max(h.Score, SlowScore)
}

// Entries is how often the device has begun to sit out within the last hour.
func (h *Health) Entries() int { return len(h.entries) }

func (h *Health) points() int {
	r := h.gather.Ratio
	switch {
	case r > 16:
		return 4
	case r > 8:
		return 3
	case r > 4, math.Exp(h.lnRatio) > steadyRatio:
		return 2
	case h.Lost > lostShare:
		return 1
	case r > RatioNoticed:
		return 0
	}
	return -1
}

// CommonSlow reports whether at least half of the devices other than i are slow now.
func CommonSlow(ratios []float64, i int) bool {
	slow, others := 0, 0
	for j, r := range ratios {
		if j == i {
			continue
		}
		others++
		if r > commonRatio {
			slow++
		}
	}
	return others > 0 && 2*slow >= others
}
