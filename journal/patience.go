package journal

import "time"

const patienceSteps = 20

// patience runs out when a copy got nowhere for so long. The time is taken in steps: however long this
// process or its machine stood still, in which no copy can have answered, that is one of them. Otherwise
// a pause would have all copies given up at once, and a crash soon after would find none that is new.
type patience struct {
	C     <-chan time.Time // after each step
	timer *time.Timer
	step  time.Duration
	left  int // steps
}

func newPatience(d time.Duration) *patience {
	p := &patience{step: d / patienceSteps, left: patienceSteps}
	p.timer = time.NewTimer(p.step)
	p.C = p.timer.C
	return p
}

// over takes a step, when C says so, and reports whether it was the last.
func (p *patience) over() bool {
	if p.left--; p.left <= 0 {
		return true
	}
	p.timer.Reset(p.step)
	return false
}

// again begins anew.
func (p *patience) again() {
	p.left = patienceSteps
	p.timer.Reset(p.step)
}

func (p *patience) stop() { p.timer.Stop() }
