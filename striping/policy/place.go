package policy

import (
	"math"
	"slices"
	"time"
)

const (
	// IdleDiscount divides the score of an idle device for independent writes: it is worth
	// waking although a faster one would be done a little sooner. More costs in-order streams
	// (simulated, 8 devices of 50..500 MB/s, queue depth 8: 1 / 2 / 4 give 79 / 91 / 96 % of the
	// bound out of order, 78 / 76 / 63 % in order).
	IdleDiscount = 2.0
	// QueueTime: a device with more expected work gets no new chunk; the chunk waits in the
	// daemon, where it can still go elsewhere. Anything from 20 to 200 ms does.
	QueueTime = 50 * time.Millisecond
	// fillBias weighs the deviation from the target fill against speed.
	fillBias = 30.0
	// maxSets bounds how many sets Place tries in order of score before it turns to those that
	// contain the emptiest domains.
	maxSets = 256
)

// Eta is the weight of the fill bias when a share busy of the devices has work: none under full
// load, where following speed is also best for filling, all of it when there is time.
func Eta(busy float64) float64 {
	idle := 1 - max(0, min(1, busy))
	return fillBias * idle * idle
}

// Candidate is a device as Place sees it.
type Candidate struct {
	Expect      time.Duration // E: when a write of this size would be done
	Backlog     time.Duration // W
	Pause       time.Duration // the device's usual pause
	Outstanding int
	Idle        bool
	Used, Free  int64   // bytes
	Target      float64 // share of all copies it should hold
	Domain      int     // small number; devices with the same one fail together
	Barred      bool    // takes no new chunk, and its space does not count
}

// Ready reports whether the device may get a chunk now.
func (c *Candidate) Ready() bool {
	return !c.Barred && (c.Outstanding < 2 || c.Backlog < QueueTime)
}

// Order is what is to be placed.
type Order struct {
	Size        int64
	Copies      int
	Independent bool
	Eta         float64
	// Promised is the data that the volume must still be able to take, this order included;
	// negative means all that fits.
	Promised int64
	// Taken are domains that hold a copy already, or were tried.
	Taken func(domain int) bool
	// Only, if set, restricts the choice, not the capacity.
	Only func(i int) bool
	// Tie breaks ties between equal scores: any number per candidate.
	Tie func(i int) uint64
}

// Verdict is the outcome of Place.
type Verdict uint8

// The verdicts.
const (
	Chosen   Verdict = iota
	Wait             // nothing suitable has room now, but it will
	NoSpace          // there are devices enough, but not enough space on them
	NoDevice         // there is no device left to take even one copy
)

// Place chooses a device in each of o.Copies distinct domains, fewer if the volume has not that
// many domains left. Candidates go by expected completion, weighed by how far a device is from
// the share of the data it should hold; the first set wins that leaves the rest of what was
// promised placeable. If the devices that have room now would strand space while others would
// not, it is worth waiting. If none can avoid it, the emptiest are taken.
func Place(cands []Candidate, o Order) ([]int, Verdict) {
	p := placement{cands: cands, order: o}
	return p.place()
}

type placement struct {
	cands []Candidate
	order Order

	score  []float64
	free   []int64 // by domain
	domain int     // domains in all
	need   int64   // Capacity(free after) must not be less
	k      int
	tries  int
}

func (p *placement) place() ([]int, Verdict) {
	o := &p.order
	for i := range p.cands {
		p.domain = max(p.domain, p.cands[i].Domain+1)
	}
	p.free = make([]int64, p.domain)
	healthy := make([]bool, p.domain) // may take a copy if it has space
	for i := range p.cands {
		c := &p.cands[i]
		if c.Barred {
			continue
		}
		p.free[c.Domain] += c.Free
		if !p.taken(c.Domain) {
			healthy[c.Domain] = true
		}
	}
	for _, h := range healthy {
		if h {
			p.k++
		}
	}
	if p.k == 0 {
		return nil, NoDevice
	}
	p.k = min(p.k, o.Copies)

	// What remains placeable, and what must.
	room := Capacity(p.free, p.k)
	promised := room
	if o.Promised >= 0 {
		promised = min(room, max(o.Promised, o.Size))
	}
	p.need = promised - o.Size

	ready := p.sorted(func(c *Candidate) bool { return c.Ready() })
	if set := p.search(ready); set != nil {
		return set, Chosen
	}
	all := p.sorted(func(c *Candidate) bool { return !c.Barred })
	if p.domains(all) < p.k {
		return nil, NoSpace
	}
	if p.search(all) != nil {
		return nil, Wait
	}
	// Space is stranded already, by other copies or by devices that left.
	return p.emptiest(all), Chosen
}

func (p *placement) taken(domain int) bool { return p.order.Taken != nil && p.order.Taken(domain) }

// sorted returns the candidates that fit, best first, one per domain.
func (p *placement) sorted(ok func(*Candidate) bool) []int {
	o := &p.order
	if p.score == nil {
		p.score = make([]float64, len(p.cands))
		var used, capacity float64
		for i := range p.cands {
			used += float64(p.cands[i].Used)
		}
		for i := range p.cands {
			c := &p.cands[i]
			s := c.Expect.Seconds()
			if capacity = float64(c.Used + c.Free); o.Eta > 0 && capacity > 0 {
				s *= math.Exp(o.Eta * (float64(c.Used) - c.Target*used) / capacity)
			}
			if c.Idle && o.Independent {
				s /= IdleDiscount
			}
			p.score[i] = s
		}
	}
	var list []int
	for i := range p.cands {
		c := &p.cands[i]
		if c.Free >= o.Size && ok(c) && !p.taken(c.Domain) && (o.Only == nil || o.Only(i)) {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b int) int {
		switch {
		case p.score[a] < p.score[b]:
			return -1
		case p.score[a] > p.score[b]:
			return 1
		case o.Tie != nil && o.Tie(a) < o.Tie(b):
			return -1
		case o.Tie != nil && o.Tie(a) > o.Tie(b):
			return 1
		}
		return a - b
	})
	seen := make([]bool, p.domain)
	return slices.DeleteFunc(list, func(i int) bool {
		d := p.cands[i].Domain
		drop := seen[d]
		seen[d] = true
		return drop
	})
}

func (p *placement) domains(list []int) int { return len(list) } // one per domain

// search returns the first k of list, in order of score, that pass the guard; nil if none do.
func (p *placement) search(list []int) []int {
	if len(list) < p.k {
		return nil
	}
	p.tries = 0
	set := make([]int, 0, p.k)
	if p.extend(list, &set, 0) {
		return set
	}
	if p.tries < maxSets {
		return nil // all were tried
	}
	// Too many sets. A set fails because the emptiest domains are not in it, so put in more and
	// more of them.
	byFree := slices.Clone(list)
	slices.SortStableFunc(byFree, func(a, b int) int {
		return compare(p.free[p.cands[b].Domain], p.free[p.cands[a].Domain])
	})
	for n := 1; n <= p.k; n++ {
		set = append(set[:0], byFree[:n]...)
		for _, i := range list {
			if len(set) == p.k {
				break
			}
			if !slices.Contains(set, i) {
				set = append(set, i)
			}
		}
		if p.passes(set) {
			return set
		}
	}
	return nil
}

// extend fills up set from list[from:], in lexicographic order.
func (p *placement) extend(list []int, set *[]int, from int) bool {
	if len(*set) == p.k {
		p.tries++
		return p.passes(*set)
	}
	for at := from; at <= len(list)-(p.k-len(*set)) && p.tries < maxSets; at++ {
		*set = append(*set, list[at])
		if p.extend(list, set, at+1) {
			return true
		}
		*set = (*set)[:len(*set)-1]
	}
	return false
}

// passes is the capacity guard.
func (p *placement) passes(set []int) bool {
	for _, i := range set {
		p.free[p.cands[i].Domain] -= p.order.Size
	}
	ok := Capacity(p.free, p.k) >= p.need
	for _, i := range set {
		p.free[p.cands[i].Domain] += p.order.Size
	}
	return ok
}

// emptiest returns the k domains with the most space.
func (p *placement) emptiest(list []int) []int {
	slices.SortStableFunc(list, func(a, b int) int {
		return compare(p.free[p.cands[b].Domain], p.free[p.cands[a].Domain])
	})
	return list[:p.k]
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Spare is the candidate that would soonest take one more copy of a chunk, -1 if there is none.
// The chunk holds slots in the domains kept and lost; the copy is to stand in for the latter.
// Unlike Place it does not wait for room. sound reports whether the capacity guard agrees; a
// candidate with which it does goes before all others.
func Spare(cands []Candidate, o Order, kept, lost []int) (best int, sound bool) {
	domains := 0
	for i := range cands {
		domains = max(domains, cands[i].Domain+1)
	}
	free, healthy := make([]int64, domains), make([]bool, domains)
	for i := range cands {
		if c := &cands[i]; !c.Barred {
			free[c.Domain] += c.Free
			healthy[c.Domain] = true
		}
	}
	k := 0
	for _, h := range healthy {
		if h {
			k++
		}
	}
	k = min(k, o.Copies)

	// As it was before the chunk, what may be left after it, and as it is without those lost.
	for _, d := range slices.Concat(kept, lost) {
		if healthy[d] {
			free[d] += o.Size
		}
	}
	need := Capacity(free, k)
	if o.Promised >= 0 {
		need = min(need, max(o.Promised, o.Size))
	}
	need -= o.Size
	for _, d := range kept {
		free[d] -= o.Size
	}
	best = -1
	for i := range cands {
		c := &cands[i]
		if c.Barred || c.Free < o.Size || slices.Contains(kept, c.Domain) || slices.Contains(lost, c.Domain) ||
			(o.Only != nil && !o.Only(i)) {
			continue
		}
		free[c.Domain] -= o.Size
		ok := Capacity(free, k) >= need
		free[c.Domain] += o.Size
		if best < 0 || (ok && !sound) || (ok == sound && c.Expect < cands[best].Expect) {
			best, sound = i, ok
		}
	}
	return best, sound
}
