package striping

import (
	"context"
	"fmt"
	"slices"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/policy"
)

// A rebalance moves copies from devices that hold more than their share to those that hold less,
// and nothing else: what is moved is the sum of the deficits. Shares are those of policy.Targets, by
// speed as far as capacities allow. Devices within the dead band count as right.
//
// A device that joins takes new chunks at once, so nothing is stranded and nothing is slower than before.
// What is old is moved when the operator says so, or clients are quiet (evening.go).
const (
	rebalanceStart = 0.05 // of its capacity a device is off before a rebalance begins by itself
	rebalanceStop  = 0.01
)

// shares is how many bytes of copies each device should hold, and holds.
type share struct {
	m          *member
	want, have int64
	capacity   int64
}

func (v *Volume) shares() []share {
	var list []share
	speed := map[string]float64{}
	capacity := map[string]float64{}
	var used int64
	for _, m := range v.devs() {
		if !m.takes() {
			continue
		}
		have, size := m.alloc.usage()
		list = append(list, share{m: m, have: have, capacity: size})
		used += have
		speed[m.domain()] += m.Device.Rate(devices.Write)
		capacity[m.domain()] += float64(size)
	}
	var names []string
	var s, c []float64
	at := map[string]int{}
	for i := range list {
		d := list[i].m.domain()
		if _, ok := at[d]; !ok {
			at[d] = len(names)
			names = append(names, d)
			s, c = append(s, speed[d]), append(c, capacity[d])
		}
	}
	k := min(int(v.info.Copies), len(names))
	if k == 0 {
		return nil
	}
	// The room that is left for what comes must stay usable: shares are of a full volume.
	p := policy.Targets(s, c, policy.Bound(c, k), k)
	for i := range list {
		d := list[i].m.domain()
		part := p[at[d]] * float64(list[i].capacity) / capacity[d]
		list[i].want = int64(part * float64(used))
	}
	return list
}

// sharesOf is shares for a job. One about certain devices, whose drain was reversed, moves to them what
// they lack of their share, as far as the drain had moved it away, and changes nothing else.
func (v *Volume) sharesOf(j *job) []share {
	list := v.shares()
	v.jobs.mu.Lock()
	defer v.jobs.mu.Unlock()
	if len(j.rec.Devices) == 0 {
		return list
	}
	left := max(int64(j.rec.Total)-int64(j.rec.Done), 0)
	for i := range list {
		s := &list[i]
		switch {
		case !j.about(s.m.id):
			s.want = min(s.want, s.have)
		case s.want <= s.have:
			s.want = s.have
		default:
			s.want = min(s.want, s.have+left)
			left -= s.want - s.have
		}
	}
	return list
}

// imbalance is the largest deviation, as a share of a device's capacity, and the bytes to move.
func imbalance(list []share) (worst float64, move int64) {
	for _, s := range list {
		if d := float64(s.have-s.want) / float64(max(s.capacity, 1)); d > worst {
			worst = d
		} else if -d > worst {
			worst = -d
		}
		move += max(0, s.want-s.have)
	}
	return worst, move
}

// Rebalance begins to even out what the devices hold. One that began by itself goes on as asked for.
func (v *Volume) Rebalance(ctx context.Context, o JobOptions) (string, error) {
	if o.Reason == "" {
		o.Reason = "asked for"
	}
	if id, err := v.takeOver(ctx, o); id != "" || err != nil {
		return id, err
	}
	if err := v.conflicts(journal.JobRebalance); err != nil {
		return "", err
	}
	worst, move := imbalance(v.shares())
	if worst <= rebalanceStop {
		return "", fmt.Errorf("every device holds its share already: %w", ErrNoJob)
	}
	j, err := v.addJob(ctx, journal.Job{Kind: journal.JobRebalance, Total: uint64(move), Pace: uint64(max(o.Pace, 0)), Reason: o.Reason})
	if err != nil {
		return "", err
	}
	return j.id(), nil
}

// takeOver makes a rebalance that began by itself one that was asked for; it returns "" if there is none.
func (v *Volume) takeOver(ctx context.Context, o JobOptions) (string, error) {
	t := &v.jobs
	t.mu.Lock()
	i := slices.IndexFunc(t.list, func(j *job) bool { return !j.over() && j.tidies() })
	if i < 0 {
		t.mu.Unlock()
		return "", nil
	}
	j := t.list[i]
	j.rec.State, j.rec.Reason, j.rec.Pace, j.blocked = journal.JobRunning, o.Reason, uint64(max(o.Pace, 0)), ""
	t.mu.Unlock()
	defer t.wake()
	return j.id(), v.saveJob(ctx, j)
}

// runRebalance moves the surplus. The sources and targets are chosen anew for each batch.
func (v *Volume) runRebalance(ctx context.Context, j *job) error {
	for {
		if err := v.mayGoOn(j); err != nil {
			return err
		}
		if err := v.commitWritten(ctx); err != nil {
			return err
		}
		worst, move := imbalance(v.sharesOf(j))
		v.jobs.mu.Lock()
		j.rec.Total, j.sized = j.rec.Done+uint64(move), true
		even := worst <= rebalanceStop && len(j.rec.Devices) == 0
		v.jobs.mu.Unlock()
		if even || move < int64(v.info.ChunkSize) {
			v.finishMoves(j)
			return nil
		}
		moved, why, err := v.rebalanceSome(ctx, j)
		if err != nil {
			return err
		}
		if err := v.mayGoOn(j); err != nil {
			return err
		}
		if moved == 0 && why == nil {
			v.finishMoves(j) // what is left cannot be evened out: domains stand against it
			return nil
		}
		if moved == 0 {
			return why
		}
	}
}

// rebalanceSome moves a batch.
func (v *Volume) rebalanceSome(ctx context.Context, j *job) (int64, error, error) {
	surplus, deficit := map[devices.ID]int64{}, map[devices.ID]int64{}
	for _, s := range v.sharesOf(j) {
		if d := s.have - s.want; d > 0 {
			surplus[s.m.id] = d
		} else {
			deficit[s.m.id] = -d
		}
	}
	var batch []pendingMove
	from := map[chunkKey]devices.ID{}
	err := v.scanChunksFrom(ctx, journal.MakeKey(journal.SpaceChunk, 0, 0), func(key chunkKey, rec *journal.Chunk, places []place) bool {
		size := int64(rec.Slot) * blockSize
		best := -1
		for i := range places {
			if places[i].stale {
				return true
			}
			if s := surplus[places[i].dev]; s >= size && (best < 0 || s > surplus[places[best].dev]) {
				best = i
			}
		}
		if best < 0 {
			return true
		}
		for id, d := range deficit { // is there somewhere to go
			if d >= size && v.fitsBeside(places, best, id) {
				deficit[id] -= size
				surplus[places[best].dev] -= size
				from[key] = places[best].dev
				batch = append(batch, pendingMove{key: key, bytes: size, dev: places[best].dev, off: places[best].off})
				break
			}
		}
		return len(batch) < moveBatch
	})
	if err != nil {
		return 0, nil, err
	}
	v.setUrgency(j, false)
	short := map[devices.ID]bool{}
	for _, s := range v.sharesOf(j) {
		short[s.m.id] = s.want-s.have >= int64(v.info.ChunkSize)/2
	}
	moved, why := v.moveEach(ctx, j, batch, func(key chunkKey) *moveRule {
		src, done := from[key], false
		return &moveRule{among: func(id devices.ID) bool { return short[id] }, next: func(places []place) *action {
			if done {
				return nil
			}
			for i := range places {
				if places[i].dev == src && !places[i].stale {
					done = true
					return &action{actMove, i}
				}
			}
			return nil
		}}
	})
	return moved, why, nil
}

// fitsBeside reports whether the copy at index i may go to device id.
func (v *Volume) fitsBeside(places []place, i int, id devices.ID) bool {
	d := v.dev(id).domain()
	for at := range places {
		if at != i && v.dev(places[at].dev).domain() == d {
			return false
		}
	}
	return true
}
