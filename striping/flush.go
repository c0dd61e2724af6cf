package striping

import (
	"context"
	"errors"
	"sync"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// A flush makes what was written before it durable, in four steps: write out what is dirty, sync
// the devices that hold it, commit the placements that changed, answer.
//
// Flushes of one object that arrive while a round of it is under way share the next one. Rounds of
// different objects, and those of the whole volume, run side by side, and within a round chunks are
// synced and committed by the devices that hold them: nobody waits for a slow disk that holds
// nothing of his. What comes together shares disk syncs (package devices) and journal transactions
// (package journal) nevertheless.
//
// Data that overwrote durable blocks in place needs no commit: its sums are in the journal since
// before the write (the intents). Everything else - new placements, blocks that held nothing,
// zeros, copies that missed writes - is found again only through a commit.
type flusher struct {
	v *Volume

	mu     sync.Mutex
	lanes  map[laneKey]*lane // those at work
	hurry  bool              // a background commit is queued
	closed bool

	rounds sync.WaitGroup
	quit   chan struct{}
	done   chan struct{}
}

// laneKey names a lane: an object's, or, with nil, the whole volume's. Lists of objects have one of
// their own, so have those whose commit others join, and so have early commits: a flush of everything may
// be waiting for the space that they give back. Chunks that jobs have moved are committed apart from flushes,
// which may have much to write out.
type laneKey struct {
	o     *object
	list  bool
	early bool
	parts bool
	joint bool
}

// lane are the rounds of one object, one at a time.
type lane struct {
	queue []*flushRequest // guarded by flusher.mu
}

type flushRequest struct {
	objects  []*object             // nil: all
	from, to uint64                // chunks
	settle   bool                  // commit everything, not only what a flush needs
	commit   bool                  // commit what is written, leave what is dirty
	early    bool                  // nobody waits for it: the one that hurry speaks of
	before   time.Time             // leave what was first written after that, unless zero
	with     func() *journal.Batch // see SyncFilesWith
	done     chan flushResult
}

// flushResult is what a request is answered.
type flushResult struct {
	err    error
	failed map[uint64]error // what of it is whose, by number of the object
	joined bool             // what with returned is committed
}

// lane is where the request waits for its turn.
func (r *flushRequest) lane() laneKey {
	if r.with != nil {
		return laneKey{joint: true}
	}
	switch len(r.objects) {
	case 0:
		return laneKey{early: r.early}
	case 1:
		if r.commit {
			return laneKey{parts: true}
		}
		return laneKey{o: r.objects[0]}
	}
	return laneKey{list: true}
}

func (f *flusher) init(v *Volume) {
	f.v = v
	f.lanes = map[laneKey]*lane{}
	f.quit, f.done = make(chan struct{}), make(chan struct{})
	go f.run()
}

// close ends the flusher after the rounds under way, which need the write-back at work.
func (f *flusher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	close(f.quit)
	<-f.done
	f.rounds.Wait()
}

// Flush makes every write durable that returned before it was called.
func (v *Volume) Flush(ctx context.Context) error {
	return v.flushes.ask(ctx, &flushRequest{to: ^uint64(0), settle: true}).err
}

// commitWritten makes durable what is on devices, and leaves what is still in RAM: after it the journal
// knows of every copy.
func (v *Volume) commitWritten(ctx context.Context) error {
	return v.flushes.ask(ctx, &flushRequest{to: ^uint64(0), settle: true, commit: true}).err
}

func (v *Volume) flushRange(ctx context.Context, o *object, from, to uint64) error {
	return v.flushes.ask(ctx, &flushRequest{objects: []*object{o}, from: from, to: to}).err
}

func (f *flusher) ask(ctx context.Context, r *flushRequest) flushResult {
	r.done = make(chan flushResult, 1)
	if !f.add(r) {
		return flushResult{err: devices.ErrClosed}
	}
	select {
	case result := <-r.done:
		return result
	case <-ctx.Done():
		return flushResult{err: ctx.Err()}
	}
}

// add puts r into its lane; false after close.
func (f *flusher) add(r *flushRequest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || r.early && f.hurry {
		return false
	}
	f.hurry = f.hurry || r.early
	key := r.lane()
	l := f.lanes[key]
	if l == nil {
		l = &lane{}
		f.lanes[key] = l
		f.rounds.Go(func() { f.work(key, l) })
	}
	l.queue = append(l.queue, r)
	return true
}

// work carries out the rounds of a lane until nobody asks for more.
func (f *flusher) work(key laneKey, l *lane) {
	for {
		f.mu.Lock()
		round := l.queue
		if key.joint && len(round) > 1 { // each has a batch of its own
			round = round[:1]
		}
		l.queue = l.queue[len(round):]
		if len(round) == 0 {
			delete(f.lanes, key)
			f.mu.Unlock()
			return
		}
		for _, r := range round {
			f.hurry = f.hurry && !r.early
		}
		f.mu.Unlock()
		f.round(round)
	}
}

// soon asks for a background commit before its time.
func (f *flusher) soon() {
	f.add(&flushRequest{to: ^uint64(0), settle: true, commit: true, early: true, done: make(chan flushResult, 1)})
}

// run has everything committed within FlushInterval: twice in that time what is on devices, and what
// was written before the last time. The younger rest is about to flow out by itself (see writeback),
// and would fill the disks' queues all at once.
func (f *flusher) run() {
	defer close(f.done)
	timer := time.NewTicker(f.v.opts.FlushInterval / 2)
	defer timer.Stop()
	for {
		select {
		case <-f.quit:
			return
		case <-timer.C:
		}
		f.v.sizeBudget()
		before := time.Now().Add(-f.v.opts.FlushInterval / 2)
		err := f.ask(f.v.ctx, &flushRequest{to: ^uint64(0), settle: true, before: before}).err
		if err != nil && !errors.Is(err, devices.ErrClosed) && f.v.ctx.Err() == nil {
			f.v.log.Error("background commit", "err", err)
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
		objects := r.objects
		if objects == nil {
			objects = v.allObjects()
		}
		for _, o := range objects {
			lists[i] = append(lists[i], v.touchedList(o, r.from, r.to)...)
		}
		for _, c := range lists[i] {
			write, commit := c.due(r)
			if write {
				dirty = append(dirty, c)
			}
			if !write && !commit {
				continue
			}
			if len(requests) > 1 { // no chunk twice
				if seen[c] {
					continue
				}
				seen[c] = true
			}
			all = append(all, c)
		}
	}
	failed := v.writeAll(dirty)
	with := requests[0].with // who has one is alone
	if len(failed) > 0 {
		with = nil
	}
	missed, joined := v.commit(all, settle, with)
	for c, err := range missed {
		if failed[c] == nil {
			failed[c] = err
		}
	}
	for i, r := range requests {
		v.answer(r, lists[i], failed, joined)
	}
}

// due tells what a request wants of a chunk: to have it written out, and to have it committed. With thousands
// of files that are new, most chunks are young and wait for neither.
func (c *chunk) due(r *flushRequest) (write, commit bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ov := c.out
	if ov == nil {
		ov = c.dirty
	}
	write = !r.commit && (r.before.IsZero() || ov != nil && ov.born.Before(r.before))
	return write, c.out != nil || c.pending || c.must || c.lost || c.inCommit || c.holder || len(c.intents) > 0
}

// answer tells a request what became of its chunks, and gives their references back.
func (v *Volume) answer(r *flushRequest, chunks []*chunk, failed map[*chunk]error, joined bool) {
	var errs []error
	result := flushResult{joined: joined}
	for _, c := range chunks {
		if err := failed[c]; err != nil {
			if result.failed == nil {
				result.failed = map[uint64]error{}
			}
			result.failed[c.key.object] = err
			if len(errs) < 4 {
				errs = append(errs, err)
			}
		}
		v.cache.put(c)
	}
	result.err = errors.Join(errs...)
	if r.early && result.err != nil && v.ctx.Err() == nil {
		v.log.Error("early commit", "err", result.err)
	}
	r.done <- result
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
			v.wb.wantLocked(c)
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
