package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// A flush makes what was written before it durable, in four steps: write out what is dirty, sync
// the devices that hold it, commit the placements that changed, answer. Flushes that arrive
// while a round is under way share the next one.
//
// Data that overwrote durable blocks in place needs no commit: its sums are in the journal since
// before the write (the intents). Everything else - new placements, blocks that held nothing,
// zeros, copies that missed writes - is found again only through a commit.
//
// While a chunk is in a commit no write-out of it starts, so that the record says exactly what
// the synced devices hold; new data for it waits in RAM.
type flusher struct {
	v *Volume

	mu    sync.Mutex
	queue []*flushRequest
	work  chan struct{}

	hurry bool // a background commit is queued

	quit, done chan struct{}
}

type flushRequest struct {
	o        *object // nil: all
	from, to uint64  // chunks
	settle   bool    // commit everything, not only what a flush needs
	commit   bool    // commit what is written, leave what is dirty
	done     chan error
}

func (f *flusher) init(v *Volume) {
	f.v = v
	f.work = make(chan struct{}, 1)
	f.quit, f.done = make(chan struct{}), make(chan struct{})
	go f.run()
}

// close ends the flusher after the round under way, which needs the write-back at work.
func (f *flusher) close() {
	close(f.quit)
	<-f.done
}

// Flush makes every write durable that returned before it was called.
func (v *Volume) Flush(ctx context.Context) error {
	return v.flushes.ask(ctx, &flushRequest{to: ^uint64(0), settle: true})
}

func (v *Volume) flushRange(ctx context.Context, o *object, from, to uint64) error {
	return v.flushes.ask(ctx, &flushRequest{o: o, from: from, to: to})
}

func (f *flusher) ask(ctx context.Context, r *flushRequest) error {
	r.done = make(chan error, 1)
	f.mu.Lock()
	f.queue = append(f.queue, r)
	f.mu.Unlock()
	poke(f.work)
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return devices.ErrClosed
	}
}

// soon asks for a background commit before its time.
func (f *flusher) soon() {
	f.mu.Lock()
	if !f.hurry {
		f.hurry = true
		f.queue = append(f.queue, &flushRequest{to: ^uint64(0), settle: true, commit: true, done: make(chan error, 1)})
	}
	f.mu.Unlock()
	poke(f.work)
}

// run carries out rounds, and one of its own every FlushInterval.
func (f *flusher) run() {
	defer close(f.done)
	timer := time.NewTicker(f.v.opts.FlushInterval)
	defer timer.Stop()
	for {
		select {
		case <-f.quit:
			return
		default:
		}
		f.mu.Lock()
		round := f.queue
		f.queue, f.hurry = nil, false
		f.mu.Unlock()
		if len(round) > 0 {
			f.round(round)
			continue
		}
		select {
		case <-f.quit:
			return
		case <-f.work:
		case <-timer.C:
			r := &flushRequest{to: ^uint64(0), settle: true, done: make(chan error, 1)}
			f.round([]*flushRequest{r})
			if err := <-r.done; err != nil && f.v.ctx.Err() == nil {
				f.v.log.Error("background commit", "err", err)
			}
		}
	}
}

// round serves requests together and tells each its own result.
func (f *flusher) round(requests []*flushRequest) {
	v := f.v
	v.stats.flushes.Add(int64(len(requests)))
	lists := make([][]*chunk, len(requests))
	var all, dirty []*chunk // dirty: those to be written out first
	seen := map[*chunk]bool{}
	settle := false
	for i, r := range requests {
		settle = settle || r.settle
		objects := []*object{r.o}
		if r.o == nil {
			objects = v.allObjects()
		}
		for _, o := range objects {
			lists[i] = append(lists[i], v.touchedList(o, r.from, r.to)...)
		}
		for _, c := range lists[i] {
			if !seen[c] {
				seen[c] = true
				all = append(all, c)
			}
			if !r.commit {
				dirty = append(dirty, c)
			}
		}
	}
	failed := v.writeAll(dirty)
	for c, err := range v.commit(all, settle) {
		if failed[c] == nil {
			failed[c] = err
		}
	}
	for i, r := range requests {
		var errs []error
		for _, c := range lists[i] {
			if err := failed[c]; err != nil && len(errs) < 4 {
				errs = append(errs, err)
			}
			v.cache.put(c)
		}
		err := errors.Join(errs...)
		if r.commit && err != nil && v.ctx.Err() == nil {
			v.log.Error("early commit", "err", err) // nobody waits for its result
		}
		r.done <- err
	}
}

func (v *Volume) allObjects() []*object {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]*object, 0, len(v.objects))
	for _, o := range v.objects {
		list = append(list, o)
	}
	return list
}

// writeAll writes out what is dirty in chunks now and waits for it.
func (v *Volume) writeAll(chunks []*chunk) map[*chunk]error {
	failed := map[*chunk]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var push []*chunk
	for _, c := range chunks {
		c.mu.Lock()
		id := uint64(0)
		if c.dirty != nil {
			id = c.dirty.id
			c.dirty.wanted = true
			if v.wb.enqueueLocked(c) {
				push = append(push, c)
			}
		} else if c.out != nil {
			id = c.out.id
		}
		if id > 0 {
			wg.Add(1)
			c.wait = append(c.wait, &waiter{id, func(err error) {
				if err != nil {
					mu.Lock()
					failed[c] = err
					mu.Unlock()
				}
				wg.Done()
			}})
		}
		c.mu.Unlock()
	}
	v.wb.mu.Lock()
	v.wb.ready = append(v.wb.ready, push...)
	v.wb.mu.Unlock()
	poke(v.wb.work)
	wg.Wait()
	return failed
}

// commitBytes is how many bytes of records go into one journal batch.
const commitBytes = journal.MaxBatchBytes / 4

// commit makes the placements of chunks durable: those a flush depends on, or all with settle.
// It returns what failed. Rounds do not overlap, so a chunk is in one commit at a time.
func (v *Volume) commit(chunks []*chunk, settle bool) map[*chunk]error {
	failed := map[*chunk]error{}
	for _, c := range chunks {
		v.holdForCommit(c)
	}
	v.syncFor(chunks)
	var batch []*chunk
	for _, c := range chunks {
		switch in, err := v.readyToCommit(c, settle); {
		case err != nil:
			failed[c] = err
			v.endCommit(c, nil, err)
		case in:
			batch = append(batch, c)
		default:
			v.endCommit(c, nil, nil)
		}
	}
	for len(batch) > 0 {
		n, err := v.commitSome(batch)
		for _, c := range batch[:n] {
			if err != nil {
				failed[c] = err
			}
		}
		batch = batch[n:]
	}
	return failed
}

// commitSome commits the first n chunks of list in one journal batch.
func (v *Volume) commitSome(list []*chunk) (n int, err error) {
	b := &journal.Batch{}
	var recs []*journal.Chunk
	size := 0
	for _, c := range list {
		c.mu.Lock()
		rec := c.recordLocked()
		hadIntents := len(c.intents) > 0
		intent := journal.Intent{Base: rec.Version, Candidates: c.keep}
		c.mu.Unlock()
		key := c.key.record()
		val := rec.Pack(key)
		if size += len(val) + 64; size > commitBytes && n > 0 {
			break
		}
		recs = append(recs, rec)
		b.Put(key, val)
		if len(intent.Candidates) > 0 {
			key := c.key.intent()
			b.Put(key, intent.Pack(key))
		} else if hadIntents {
			b.Delete(c.key.intent())
		}
		n++
	}
	if err = v.j.Commit(context.WithoutCancel(v.ctx), b); err != nil {
		err = fmt.Errorf("placement: %w", err)
	}
	v.stats.commits.Add(1)
	for i, c := range list[:n] {
		v.endCommit(c, recs[i], err)
	}
	return n, err
}

// holdForCommit keeps new write-outs of c from starting and waits for the one under way.
func (v *Volume) holdForCommit(c *chunk) {
	for {
		c.mu.Lock()
		c.inCommit = true
		if c.out == nil && !c.holder {
			c.mu.Unlock()
			return
		}
		ch := make(chan struct{})
		id := uint64(0)
		if c.out != nil {
			id = c.out.id
		}
		c.wait = append(c.wait, &waiter{id, func(error) { close(ch) }})
		c.mu.Unlock()
		<-ch
	}
}

// syncFor syncs, side by side, the devices that hold unsynced data of chunks.
func (v *Volume) syncFor(chunks []*chunk) {
	need := map[devices.ID]uint64{}
	for _, c := range chunks {
		c.mu.Lock()
		for _, p := range c.places {
			if !p.stale {
				need[p.dev] = max(need[p.dev], p.need)
			}
		}
		c.mu.Unlock()
	}
	var wg sync.WaitGroup
	for id, n := range need {
		m := v.dev(id)
		if m.synced.Load() >= n || !m.usable() {
			continue
		}
		wg.Add(1)
		upTo := m.writes.Load()
		timeout := time.Duration(0)
		if v.info.Copies > 1 {
			timeout = mirrorTimeout
		}
		m.Device.Submit(&devices.Request{Kind: devices.Sync, Timeout: timeout, Done: func(_ *devices.Request, err error) {
			defer wg.Done()
			if err != nil {
				v.deviceError(id, fmt.Errorf("sync: %w", err))
				return
			}
			for {
				old := m.synced.Load()
				if upTo <= old || m.synced.CompareAndSwap(old, upTo) {
					return
				}
			}
		}})
	}
	wg.Wait()
}

// readyToCommit looks at c after the syncs. Copies whose data is not on stable media become
// stale; when none is left the chunk's data is lost and every flush that covers it says so.
func (v *Volume) readyToCommit(c *chunk, settle bool) (in bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slot > 0 {
		good := 0
		places := slices.Clone(c.places)
		turned := 0
		for i := range places {
			p := &places[i]
			if p.stale {
				continue
			}
			if p.need > v.dev(p.dev).synced.Load() {
				p.stale = true
				turned++
				continue
			}
			good++
		}
		if good == 0 && turned > 0 {
			if !c.lost {
				c.lost = true
				v.event(2, "DATA_LOST", 0, fmt.Sprintf("%v: no device made its data durable", c.key))
			}
			return false, fmt.Errorf("%v: %w", c.key, ErrLost)
		}
		if turned > 0 {
			c.places = places
			c.pending, c.must = true, true
		}
	}
	if c.lost {
		return false, fmt.Errorf("%v: %w", c.key, ErrLost)
	}
	if !c.must && !settle {
		c.pruneIntentsLocked()
	}
	return c.pending && (c.must || settle), nil
}

// pruneIntentsLocked drops the sums that are on no medium any more: with everything synced only
// the newest of each block is left. It is marked as settled, for the journal's record is no version
// of the block any more either: should one copy have lost the write without a word and a power cut
// tear the next one on the others, recovery must not go back behind this flush.
//
// After a write-out that failed nobody knows what is on the media, and nothing is dropped.
func (c *chunk) pruneIntentsLocked() {
	if len(c.intents) == 0 || len(c.keep) > 0 || c.err != nil {
		return
	}
	newest := make(map[uint32]int, len(c.intents))
	settled := true
	for i, cand := range c.intents {
		newest[cand.Block] = i
		settled = settled && cand.Settled
	}
	if settled && len(newest) == len(c.intents) {
		return
	}
	kept := make([]journal.Candidate, 0, len(newest))
	for i, cand := range c.intents {
		if newest[cand.Block] == i {
			cand.Settled = true
			kept = append(kept, cand)
		}
	}
	c.intents = kept
}

// endCommit lets c's write-outs go on. rec is what was committed, if anything.
func (v *Volume) endCommit(c *chunk, rec *journal.Chunk, err error) {
	o := v.object(c.key.object)
	var free []slotRef
	c.mu.Lock()
	c.inCommit = false
	if rec != nil && err == nil {
		c.version = rec.Version
		c.durable = c.written
		c.pending, c.must, c.fresh = false, false, false
		c.intents = c.keep
		free, c.old = c.old, nil
		for _, s := range free {
			v.retired.Add(-s.size)
		}
		if now := v.rate(c.slot, c.places); now != c.rated {
			v.health.count(c.rated, -1)
			v.health.count(now, 1)
			c.rated = now
		}
	}
	if rec != nil && err != nil && !errors.Is(err, journal.ErrFull) {
		// Nobody knows whether the record will be found in the journal. Its slots are neither
		// freed nor, without an intent, overwritten.
		c.fresh = false
		c.durable = c.durable.union(c.written)
	}
	enqueue := v.wb.enqueueLocked(c)
	if o != nil {
		v.settle(o, c)
	}
	c.mu.Unlock()
	for _, s := range free {
		v.freeSlot(s)
	}
	if enqueue {
		v.wb.push(c)
	}
}
