package balance

import (
	"math"
	"slices"
	"time"

	"ballast/devices"
	"ballast/striping/policy"
)

// place gives waiting writes to devices, as far as these have room. Only one goroutine does so at
// a time; whoever comes meanwhile makes it look again. So decisions see each other's effect,
// and none is made under a lock that Space or a callback might need.
func (b *Balancer) place() {
	if b.waiting.Load() == 0 {
		return
	}
	b.mu.Lock()
	if b.placing {
		b.again = true
		b.mu.Unlock()
		return
	}
	b.placing = true
	for {
		queue := &b.queues[devices.Foreground]
		if len(*queue) == 0 {
			queue = &b.queues[devices.Background]
		}
		if len(*queue) == 0 {
			break
		}
		wr := (*queue)[0]
		closed := b.closed
		b.again = false
		b.mu.Unlock()
		placed := true
		if closed {
			wr.refuse(ErrClosed)
		} else {
			placed = b.placeOne(wr)
		}
		b.mu.Lock()
		if placed {
			(*queue)[0] = nil
			if *queue = (*queue)[1:]; len(*queue) == 0 {
				*queue = nil
			}
			b.waiting.Add(-1)
		} else if !b.again {
			break
		}
	}
	b.placing = false
	b.mu.Unlock()
}

// placeOne chooses the devices of wr and starts its copies; false: it has to wait.
func (b *Balancer) placeOne(wr *write) bool {
	now := b.now()
	w := wr.w
	cands := b.candidates(wr.size, wr.w.Class)
	b.updateBusy(now)
	b.updateTargets(now, cands)
	o := policy.Order{
		Size:        w.Slot,
		Copies:      wr.k,
		Independent: w.Independent,
		Eta:         policy.Eta(b.busyShare),
		Promised:    b.promised(),
		Tie:         b.tie(),
	}
	members := b.devs()
	for i := range cands {
		cands[i].Target = members[i].target
	}
	for {
		set, verdict := b.choose(cands, o, w)
		switch verdict {
		case policy.Wait:
			return false
		case policy.NoSpace:
			wr.refuse(ErrNoSpace)
			return true
		case policy.NoDevice:
			wr.refuse(ErrNoDevice)
			return true
		}
		offs := make([]int64, len(set))
		full := -1
		for j, i := range set {
			var ok bool
			if offs[j], ok = b.opts.Space.Reserve(b.devs()[i].id, w.Slot); !ok {
				full = j
				break
			}
		}
		if full < 0 {
			if w.Beside != nil {
				w.Beside.devices = w.Beside.devices[:0]
				for _, i := range set {
					w.Beside.devices = append(w.Beside.devices, b.devs()[i].id)
				}
			}
			b.begin(wr, set, offs, cands, now)
			return true
		}
		// The allocator knows better, say for lack of a hole of that size.
		for j := range full {
			b.opts.Space.Release(b.devs()[set[j]].id, offs[j], w.Slot)
		}
		cands[set[full]].Free = 0
	}
}

// choose places beside the chunk before, if that is possible now, else anywhere.
func (b *Balancer) choose(cands []policy.Candidate, o policy.Order, w *Write) ([]int, policy.Verdict) {
	beside := cands
	prefer := w.Prefer
	if w.Beside != nil && len(w.Beside.devices) > 0 {
		prefer = w.Beside.devices
		beside = slices.Clone(cands)
		for i := range beside {
			c := &beside[i]
			c.Backlog = max(0, c.Backlog-maxRun*(c.Expect-c.Backlog))
		}
	}
	if len(prefer) > 0 {
		o.Only = func(i int) bool { return slices.Contains(prefer, b.devs()[i].id) }
		if set, verdict := policy.Place(beside, o); verdict == policy.Chosen {
			return set, verdict
		}
		o.Only = nil
	}
	return policy.Place(cands, o)
}

// begin starts the copies of a placed write.
func (b *Balancer) begin(wr *write, set []int, offs []int64, cands []policy.Candidate, now time.Duration) {
	copies := make([]*writeCopy, len(set))
	b.mu.Lock()
	b.counts.Placements++
	b.writes.Earn()
	if len(set) < wr.k {
		b.counts.Short++
	}
	wr.want = len(set)
	for j, i := range set {
		m := b.devs()[i]
		m.next.Store(offs[j] + wr.w.Slot)
		copies[j] = wr.addLocked(m, offs[j], &cands[i], now)
	}
	b.mu.Unlock()
	for _, c := range copies {
		c.submit()
	}
}

// promised is the data that must stay placeable, -1 for all that fits.
func (b *Balancer) promised() int64 {
	if b.opts.Reserved == nil {
		return -1
	}
	return b.opts.Reserved()
}

// updateBusy follows the share of the devices that has work, over half a second.
func (b *Balancer) updateBusy(now time.Duration) {
	dt := now - b.busyAt
	if dt < 5*time.Millisecond {
		return
	}
	var sum float64
	n := 0
	for _, m := range b.devs() {
		if m.gone.Load() {
			continue
		}
		n++
		busy := m.dev.Load().Busy
		sum += (busy - m.busy).Seconds() / dt.Seconds()
		m.busy = busy
	}
	share := sum / float64(max(n, 1))
	b.busyShare += (1 - math.Exp(-dt.Seconds()/0.5)) * (share - b.busyShare)
	b.busyAt = now
}

// updateTargets computes, every 10 s, which share of the data each device should hold.
func (b *Balancer) updateTargets(now time.Duration, cands []policy.Candidate) {
	if b.targetsAt >= 0 && now-b.targetsAt < 10*time.Second {
		return
	}
	b.targetsAt = now
	members := b.devs()[:len(cands)]
	n := len(members) // domain numbers are less
	speed, capacity, free := make([]float64, n), make([]float64, n), make([]int64, n)
	rate := make([]float64, len(members))
	var used int64
	for i, m := range members {
		c := &cands[i]
		used += c.Used
		if c.Barred {
			continue
		}
		rate[i] = m.dev.Rate(devices.Write)
		speed[m.domain] += rate[i]
		capacity[m.domain] += float64(c.Used + c.Free)
		free[m.domain] += c.Free
	}
	k := b.opts.Copies
	promised := policy.Capacity(free, k)
	if b.opts.Reserved != nil {
		promised = min(promised, b.opts.Reserved())
	}
	p := policy.Targets(speed, capacity, float64(used)/float64(k)+float64(promised), k)
	for i, m := range members {
		m.target = 0
		if speed[m.domain] > 0 {
			m.target = p[m.domain] * rate[i] / speed[m.domain]
		}
	}
}

// tie returns numbers to break ties with, new ones for each decision.
func (b *Balancer) tie() func(i int) uint64 {
	b.ties++
	seed := b.ties
	return func(i int) uint64 { // splitmix64
		z := seed*0x9e3779b97f4a7c15 + uint64(i+1)*0xbf58476d1ce4e5b9
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
}
