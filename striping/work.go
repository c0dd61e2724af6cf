package striping

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// moveRule is what a job wants of the copies of a chunk.
type moveRule struct {
	// next is the first thing to do with a chunk that has these copies; nil: nothing.
	next  func(places []place) *action
	among func(devices.ID) bool
}

// missingGrace is how long a device may be missing before its copies are made anew elsewhere: one
// that comes back before that only gets what it missed.
const missingGrace = 10 * time.Minute

// ruleOf returns what j wants.
func (v *Volume) ruleOf(j *job) *moveRule {
	if j.rec.Kind == journal.JobRebuild {
		return v.rebuildRule(len(j.rec.Devices) > 0)
	}
	leaving := map[devices.ID]bool{}
	for _, d := range j.rec.Devices {
		leaving[devices.ID(d)] = true
	}
	r := &moveRule{next: func(places []place) *action {
		for i := range places {
			if leaving[places[i].dev] {
				return v.leave1(places, i)
			}
		}
		return nil
	}}
	if target := devices.ID(j.rec.Target); target != 0 {
		r.among = func(id devices.ID) bool { return id == target }
	}
	return r
}

// leave1 takes the copy at index i away from where it is.
func (v *Volume) leave1(places []place, i int) *action {
	good := v.goodCopies(places)
	if !places[i].stale && v.dev(places[i].dev).counts() {
		good--
	}
	if good >= int(v.info.Copies) {
		return &action{actDrop, i}
	}
	return &action{actMove, i}
}

func (v *Volume) goodCopies(places []place) (n int) {
	for i := range places {
		if !places[i].stale && v.dev(places[i].dev).counts() {
			n++
		}
	}
	return n
}

// rebuildRule makes stale copies good, and replaces those on devices that are gone. now says not to
// wait for missing devices.
func (v *Volume) rebuildRule(now bool) *moveRule {
	given := map[devices.ID]bool{} // up
	fixable, leaving := map[devices.ID]bool{}, map[devices.ID]bool{}
	takes := map[string]bool{}
	v.mu.Lock()
	for _, m := range v.devs() {
		switch {
		case m.state == journal.Failed, m.state == journal.Missing && (now || time.Since(m.since) >= missingGrace):
			given[m.id] = true
		case m.state == journal.Draining, m.state == journal.Drained:
			leaving[m.id] = true
		case m.usable():
			fixable[m.id] = true
		}
		if m.takes() {
			takes[m.domain()] = true
		}
	}
	v.mu.Unlock()
	elsewhere := func(places []place, but int) bool { // a domain that has none of the other copies
		free := len(takes)
		seen := map[string]bool{}
		for i := range places {
			if d := v.dev(places[i].dev).domain(); i != but && takes[d] && !seen[d] {
				seen[d] = true
				free--
			}
		}
		return free > 0
	}
	return &moveRule{next: func(places []place) *action {
		good := v.goodCopies(places)
		if good == 0 {
			return nil
		}
		for i := range places {
			switch p := &places[i]; {
			case p.stale && fixable[p.dev]:
				return &action{actFix, i}
			case p.stale && leaving[p.dev] && elsewhere(places, i):
				return &action{actMove, i}
			}
		}
		for i := range places {
			switch {
			case !given[places[i].dev]:
			case good >= int(v.info.Copies):
				return &action{actDrop, i}
			case elsewhere(places, i):
				return &action{actMove, i}
			}
		}
		if len(places) < int(v.info.Copies) && elsewhere(places, -1) {
			return &action{kind: actAdd}
		}
		return nil
	}}
}

// pending is a chunk that a scan found work in.
type pendingMove struct {
	key   chunkKey
	bytes int64
	dev   devices.ID // of the first copy, and where on it: the order of work
	off   int64
}

// moveBatch is how many chunks are worked on between two looks at what is more urgent.
const moveBatch = 512

// findMoves calls fn for the chunks from key on that r wants something of, as the journal has them,
// with the number of their good copies; fn returns false to end.
func (v *Volume) findMoves(ctx context.Context, from journal.Key, r *moveRule, fn func(p pendingMove, good int) bool) error {
	return v.scanChunksFrom(ctx, from, func(key chunkKey, rec *journal.Chunk, places []place) bool {
		if r.next(places) == nil {
			return true
		}
		p := pendingMove{key: key, bytes: int64(len(rec.Sums)) * blockSize}
		if i := slices.IndexFunc(places, func(p place) bool { return !p.stale }); i >= 0 {
			p.dev, p.off = places[i].dev, places[i].off
		}
		return fn(p, v.goodCopies(places))
	})
}

// sizeMoves is how much there is to do.
func (v *Volume) sizeMoves(ctx context.Context, r *moveRule) (chunks, bytes int64, err error) {
	err = v.findMoves(ctx, journal.MakeKey(journal.SpaceChunk, 0, 0), r, func(p pendingMove, _ int) bool {
		chunks++
		bytes += p.bytes
		return true
	})
	return chunks, bytes, err
}

// errYield is returned by a job that makes way for one that has become more urgent.
var errYield = fmt.Errorf("it makes way for what is more urgent: %w", context.Canceled)

// errNoProgress blocks a job whose passes leave as much to do as there was.
var errNoProgress = errors.New("what is moved has to be moved again; the log tells of errors, if there are any")

// fruitlessPasses is how many passes in a row may leave as many chunks to do as there were. One may:
// what clients write meanwhile counts too.
const fruitlessPasses = 4

// runMoves works on a job that moves copies until there is nothing left to move. A job that gets
// nowhere is blocked, whatever the reason: it must not keep the disks and the journal busy for nothing.
func (v *Volume) runMoves(ctx context.Context, j *job) error {
	least, fruitless := int64(math.MaxInt64), 0
	for {
		rebuilding := v.catchingUp()
		if err := v.commitWritten(ctx); err != nil { // what the journal does not know yet is found by no scan
			return err
		}
		r := v.ruleOf(j)
		chunks, bytes, err := v.sizeMoves(ctx, r)
		if err != nil {
			return err
		}
		if chunks == 0 {
			if j.rec.Kind == journal.JobRebuild {
				v.rebuilt(rebuilding)
			}
			v.finishMoves(j)
			return nil
		}
		if fruitless++; chunks < least {
			least, fruitless = chunks, 0
		}
		if fruitless >= fruitlessPasses {
			return fmt.Errorf("%d chunks: %w", chunks, errNoProgress)
		}
		v.jobs.mu.Lock()
		if !j.sized && j.rec.Total > uint64(bytes) { // what was done since the record was written last
			j.rec.Done = max(j.rec.Done, j.rec.Total-uint64(bytes))
		}
		j.rec.Total, j.sized = j.rec.Done+uint64(bytes), true
		v.jobs.mu.Unlock()
		moved, why, err := v.pass(ctx, j, r)
		if err != nil {
			return err
		}
		if moved == 0 && why != nil {
			return fmt.Errorf("%d chunks: %w", chunks, why)
		}
	}
}

// pass goes once over all chunks: first over those with one good copy, then over the others.
// It returns how many were dealt with, and why one of the others was not.
func (v *Volume) pass(ctx context.Context, j *job, r *moveRule) (moved int64, why error, err error) {
	for _, last := range []int{1, maxCopies} {
		v.setUrgency(j, last == 1)
		from := journal.MakeKey(journal.SpaceChunk, 0, 0)
		ranked := &moveRule{among: r.among, next: func(places []place) *action {
			if last == 1 && v.goodCopies(places) > 1 {
				return nil // its third copy can wait until all have a second
			}
			return r.next(places)
		}}
		for from != (journal.Key{}) {
			var batch []pendingMove
			next := journal.Key{}
			err := v.findMoves(ctx, from, r, func(p pendingMove, good int) bool {
				if good > last || last > 1 && good <= 1 {
					return true
				}
				if len(batch) == moveBatch {
					next = p.key.record()
					return false
				}
				batch = append(batch, p)
				return true
			})
			if err != nil {
				return moved, why, err
			}
			n, because := v.moveAll(ctx, j, ranked, batch)
			moved += n
			if because != nil {
				why = because
			}
			if err := ctx.Err(); err != nil {
				return moved, why, err
			}
			if j.rec.Kind != journal.JobRebuild && v.rebuildDue.Load() {
				return moved, why, errYield
			}
			from = next
		}
	}
	return moved, why, nil
}

// floors of the background: shares of a device's time that it gets although clients never pause.
const (
	floorUsual  = 0.02
	floorUrgent = 0.10
	floorLast   = 0.25 // of a device that is given up and holds the only copy
)

// setUrgency sets how much of the devices' time the background gets in any case.
func (v *Volume) setUrgency(j *job, lastCopy bool) {
	floor := v.opts.BackgroundFloor
	j.urgent = false
	switch {
	case j.rec.Kind == journal.JobRebalance:
		floor = -1 // none
	case !lastCopy:
	case v.info.Copies > 1:
		floor, j.urgent = max(floor, floorUrgent), true
	case j.rec.Kind != journal.JobRebuild && v.condemned(j):
		floor, j.urgent = max(floor, floorLast), true
	}
	for _, m := range v.devs() {
		if m.Device != nil {
			m.Device.SetBackgroundFloor(floor)
		}
	}
}

// condemned reports whether j empties a device that is not well.
func (v *Volume) condemned(j *job) bool {
	return slices.ContainsFunc(v.devs(), func(m *member) bool {
		return j.empties() && j.about(m.id) && (m.errors.Load() > 0 || m.health.Entries() > 0)
	})
}

// moveAll works on a batch, several chunks side by side, in the order in which they lie on their
// devices.
func (v *Volume) moveAll(ctx context.Context, j *job, r *moveRule, batch []pendingMove) (moved int64, why error) {
	return v.moveEach(ctx, j, batch, func(chunkKey) *moveRule { return r })
}

// moveEach is moveAll with a rule for each chunk.
func (v *Volume) moveEach(ctx context.Context, j *job, batch []pendingMove, rule func(chunkKey) *moveRule) (moved int64, why error) {
	slices.SortFunc(batch, func(a, b pendingMove) int {
		switch {
		case a.dev != b.dev:
			return int(a.dev) - int(b.dev)
		case a.off < b.off:
			return -1
		case a.off > b.off:
			return 1
		}
		return 0
	})
	// Neighbours on one device follow each other; different devices work side by side.
	by := map[devices.ID][]pendingMove{}
	for _, p := range batch {
		by[p.dev] = append(by[p.dev], p)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, list := range by {
		work := make(chan pendingMove, len(list))
		for _, p := range list {
			work <- p
		}
		close(work)
		for range min(movesPerDevice, len(list)) {
			wg.Go(func() {
				for p := range work {
					if v.mayGoOn(j) != nil || v.keepPace(ctx, j, p.bytes) != nil {
						return
					}
					r := rule(p.key)
					err := v.move(ctx, &moveTask{key: p.key, next: r.next, among: r.among,
						count: func(n int64) { v.countJob(j, n) },
						lost:  func(n int64) { v.jobErrors(j, n, 0) }, urgent: j.urgent})
					mu.Lock()
					if err == nil {
						moved++
					} else if why == nil || errors.Is(err, errNoTarget) {
						why = err
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if errors.Is(why, errLater) {
		why = errors.New("they are being written all the time, or a device that is needed does not answer")
	}
	return moved, why
}

// keepPace waits until j may do that many bytes more.
func (v *Volume) keepPace(ctx context.Context, j *job, bytes int64) error {
	t := &v.jobs
	t.mu.Lock()
	pace, before, took := j.rec.Pace, j.paced, time.Since(j.started)
	j.paced += bytes
	t.mu.Unlock()
	if pace == 0 {
		return ctx.Err()
	}
	return pause(ctx, max(0, time.Duration(float64(before)/float64(pace)*float64(time.Second))-took))
}

// movesPerDevice is how many chunks of one source are copied side by side.
const movesPerDevice = 8

// finishMoves draws the conclusions from a job that has nothing left to do.
func (v *Volume) finishMoves(j *job) {
	v.setUrgency(&job{}, false)
	if j.empties() {
		for _, d := range j.rec.Devices {
			if m := v.dev(devices.ID(d)); m != nil && !m.left {
				if s, _ := v.stateOf(m); s == journal.Draining {
					v.changeState(m, journal.Drained, "nothing is on it any more", 0, "DEVICE_DRAINED")
				}
			}
		}
	}
	v.endJob(j, journal.JobDone, "")
	v.recount()
}

// catchingUp returns the devices that are catching up, and since when.
func (v *Volume) catchingUp() map[*member]time.Time {
	list := map[*member]time.Time{}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range v.devs() {
		if m.state == journal.Rebuilding {
			list[m] = m.since
		}
	}
	return list
}

// rebuilt has devices that were catching up take part fully. The list is of before the scan that found
// nothing left to do: it says nothing of a device that came back since.
func (v *Volume) rebuilt(list map[*member]time.Time) {
	now := v.catchingUp()
	for m, since := range list {
		if at, is := now[m]; is && at.Equal(since) {
			_, reason := v.stateOf(m)
			if reason != byOperator {
				reason = ""
			}
			v.changeState(m, journal.Online, reason, 0, "DEVICE_ONLINE")
		}
	}
}

// startRebuild starts a rebuild if there is something to rebuild that can be, and reports whether
// it did.
func (v *Volume) startRebuild() bool {
	t := &v.jobs
	v.rebuildDue.Store(false)
	state := v.health.degraded.Load()
	rebuilding := v.catchingUp()
	v.mu.Lock()
	for _, m := range v.devs() {
		if m.state == journal.Failed || m.state == journal.Missing && time.Since(m.since) >= missingGrace {
			state += 1 << 40
		}
	}
	v.mu.Unlock()
	t.mu.Lock()
	known := t.looked == state
	busy := slices.ContainsFunc(t.list, func(j *job) bool { return j.rec.Kind == journal.JobRebuild && !j.over() })
	t.looked = state
	t.mu.Unlock()
	if busy || len(rebuilding) == 0 && (known || state == 0) {
		return false
	}
	if err := v.commitWritten(t.ctx); err != nil {
		return false
	}
	chunks, bytes, err := v.sizeMoves(t.ctx, v.rebuildRule(false))
	if err != nil {
		return false
	}
	if chunks == 0 {
		v.rebuilt(rebuilding)
		return false
	}
	_, err = v.addJob(t.ctx, journal.Job{Kind: journal.JobRebuild, Total: uint64(bytes), Reason: fmt.Sprintf("%d chunks have fewer good copies than asked for", chunks)})
	return err == nil
}

// graceRuns reports whether a missing device is waited for.
func (v *Volume) graceRuns() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.devs(), func(m *member) bool { return m.state == journal.Missing && time.Since(m.since) < missingGrace })
}
