package striping

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/balance"
)

var (
	spareRuns     spares[balance.Run]
	spareBytes    spares[[]byte]
	spareRequests spares[devices.Request]
)

// plan is how one sealed overlay gets to the devices.
type plan struct {
	o    *object
	c    *chunk
	ov   *overlay
	gen  uint64
	slot int   // blocks of the slot it needs
	good []int // copies to write in place
	runs []balance.Run
	bufs [][]byte            // of runs
	sums []journal.Candidate // of all data blocks
	// candidates are those of sums that overwrite durable blocks.
	candidates []journal.Candidate
	intents    []journal.Candidate // the chunk's intents once candidates are durable
	started    time.Time
	lost       []int // blocks that move as unreadable ones
	claim      int64 // bytes taken by spare
	transit    int64 // bytes of Volume.transit
	tries      int   // placements that found no space
}

// writeOut seals and starts the dirty overlays of chunks, whose references it takes over.
func (v *Volume) writeOut(chunks []*chunk) {
	var withIntent []*plan
	for _, c := range chunks {
		p, start := v.seal(c)
		switch {
		case p == nil:
			v.cache.put(c)
		case len(p.candidates) > 0:
			withIntent = append(withIntent, p)
		default:
			start()
		}
	}
	for len(withIntent) > 0 {
		n := v.commitIntents(withIntent)
		withIntent = withIntent[n:]
	}
}

// commitIntents makes the intents of the first n plans durable in one journal batch, and starts
// those plans.
func (v *Volume) commitIntents(plans []*plan) (n int) {
	b := &journal.Batch{}
	size := 0
	for _, p := range plans {
		p.c.mu.Lock()
		p.intents = append(p.c.intents[:len(p.c.intents):len(p.c.intents)], p.candidates...)
		rec := journal.Intent{Base: p.c.version, Candidates: p.intents}
		p.c.mu.Unlock()
		key := p.c.key.intent()
		val := rec.Pack(key)
		if size += len(val) + 64; size > commitBytes && n > 0 {
			break
		}
		b.Put(key, val)
		n++
	}
	if err := v.j.Commit(v.ctx, b); err != nil {
		for _, p := range plans[:n] {
			v.finish(p, fmt.Errorf("intent: %w", err))
		}
		return n
	}
	for _, p := range plans[:n] {
		p.c.mu.Lock()
		p.c.intents = p.intents
		p.c.mu.Unlock()
		v.writeInPlace(p)
	}
	return n
}

// maxIntents bounds the sums that a chunk has in its intent before its placement is committed.
func (v *Volume) maxIntents() int { return 2*v.blocks + 1024 }

// seal moves c's dirty overlay to out and decides how it is written. It returns nil when there
// is nothing to do now. start begins plans that need no intents.
func (v *Volume) seal(c *chunk) (p *plan, start func()) {
	o := v.object(c.key.object)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued = false
	if c.dirty == nil || c.out != nil || c.inCommit || c.holder || o == nil {
		return nil, nil
	}
	if len(c.intents) > v.maxIntents() && c.pending && len(c.wait) == 0 {
		// Confirm what was overwritten before more is; the end of the commit comes back here. A
		// round of flushes that waits for this write-out is the one which would have to do that:
		// it goes first, and its commit, or its syncs, make room.
		v.goBackground(func() {
			err := v.flushes.ask(v.ctx, &flushRequest{objects: []*object{o}, from: c.key.index, to: c.key.index + 1, settle: true, commit: true}).err
			if err != nil && v.ctx.Err() == nil {
				v.log.Error("early commit", "chunk", c.key.String(), "err", err)
			}
		})
		return nil, nil
	}
	v.wb.wantLocked(c)
	c.out, c.dirty = c.dirty, nil
	p = &plan{o: o, c: c, ov: c.out, gen: c.gen, started: time.Now()}
	v.inTransit(p, v.regionShare(c.claim))

	last, data := 0, 0
	for _, e := range p.ov.ext {
		if e.buf != nil {
			data += e.n
			last = e.end()
		}
	}
	p.slot = max(c.slot, last)
	if last > c.slot || c.slot == 0 {
		p.slot = max(p.slot, v.slotWanted(o, c, p.ov.end()))
	}
	if n := len(p.ov.ext); p.slot == 0 && n > 0 { // space for zeros behind the end of what shrank meanwhile
		p.slot = p.ov.ext[n-1].end()
	}
	good, _ := v.pickPlaces(c.places)
	kept := v.keeps(c, p.ov)
	whole := data*2 >= c.slot || len(good) < len(c.places)
	switch {
	case data == 0 && (!p.ov.keep || c.slot > 0):
		return p, func() { v.finish(p, nil) }
	case c.slot == 0, !kept && (last > c.slot || len(good) == 0), !kept && whole && v.spare(p):
		v.prepare(p, v.newGeneration())
		return p, func() { v.placeNew(p) }
	case last > c.slot || len(good) == 0:
		return p, func() { v.wg.Go(func() { v.relocate(p) }) }
	}
	v.planInPlace(p, good)
	return p, func() { v.writeInPlace(p) }
}

// spare takes the space for a rewrite to new slots, if there is more than what new chunks have
// been promised; otherwise the rewrite goes to the chunk's present slots.
func (v *Volume) spare(p *plan) bool {
	size := int64(p.slot) * blockSize
	if v.capacityLeft() < v.claimed.Add(size) {
		v.claimed.Add(-size)
		return false
	}
	p.claim = size
	v.inTransit(p, size)
	return true
}

// inTransit notes that so much of what is claimed may have its slots from now on, until p is finished.
func (v *Volume) inTransit(p *plan, size int64) {
	p.transit += size
	v.transit.Add(size)
}

// keeps reports whether written blocks of c stay that ov does not replace. Called with c.mu.
func (v *Volume) keeps(c *chunk, ov *overlay) bool {
	if c.slot == 0 {
		return false
	}
	next := 0
	for _, e := range ov.ext {
		for i := next; i < min(e.first, c.slot); i++ {
			if c.written.has(i) {
				return true
			}
		}
		next = e.end()
	}
	for i := next; i < c.slot; i++ {
		if c.written.has(i) {
			return true
		}
	}
	return false
}

// prepare fills in the runs and sums of p's data for a placement of that generation.
func (v *Volume) prepare(p *plan, gen uint64) {
	p.gen = gen
	p.runs = spareRuns.get(0)
	p.sums = make([]journal.Candidate, 0, p.ov.dataBlocks())
	p.bufs = spareBytes.get(len(p.ov.ext))
	start := 0 // of the last run's in bufs
	seed := sumSeed(v.info.UUID, p.c.key.object, p.c.key.index, gen)
	for i := range p.ov.ext {
		e := &p.ov.ext[i]
		if e.buf == nil {
			continue
		}
		if i == 0 || p.ov.ext[i-1].buf == nil || p.ov.ext[i-1].end() != e.first {
			p.runs = spareRuns.add(p.runs, balance.Run{Off: int64(e.first) * blockSize})
			start = len(p.bufs)
		}
		p.bufs = append(p.bufs, e.bytes())
		p.runs[len(p.runs)-1].Bufs = p.bufs[start:len(p.bufs):len(p.bufs)]
		for b := range e.n {
			p.sums = append(p.sums, journal.Candidate{Block: uint32(e.first + b),
				Sum: bindSum(seed, e.first+b, e.buf.sums[e.off/blockSize+b])})
		}
	}
	for _, b := range p.lost {
		p.runs = spareRuns.add(p.runs, balance.Run{Off: int64(b) * blockSize, Bufs: [][]byte{zeroPage[:blockSize]}})
		p.sums = append(p.sums, journal.Candidate{Block: uint32(b), Sum: lostSum(seed, b)})
	}
}

// planInPlace prepares p to overwrite the chunk's copies. Called with c.mu.
func (v *Volume) planInPlace(p *plan, good []int) {
	p.good, p.lost = good, nil
	v.prepare(p, p.c.gen)
	p.candidates = make([]journal.Candidate, 0, len(p.sums))
	for _, s := range p.sums {
		if p.c.durable.has(int(s.Block)) {
			p.candidates = append(p.candidates, s)
		}
	}
}

// placeNew writes p to new slots.
func (v *Volume) placeNew(p *plan) {
	v.stats.placed.Add(1)
	hold := p.ov.retainAll()
	var beside *balance.Neighbours
	if v.rotates.Load() && p.slot == v.blocks {
		beside = p.o.beside(p.c.key.index, int64(v.info.ChunkSize))
	}
	v.bal.Write(&balance.Write{
		Slot: int64(p.slot) * blockSize, Runs: p.runs, Copies: int(v.info.Copies), Independent: true, Beside: beside,
		Done: func(_ *balance.Write, placed []balance.Placed, err error) {
			if err != nil {
				v.placeFailed(p, err)
				return
			}
			v.placeDone(p, placed)
		},
		Returned: func(*balance.Write) { releaseAll(hold) },
	})
}

// placeDone makes the new slots the chunk's placement.
func (v *Volume) placeDone(p *plan, placed []balance.Placed) {
	places := make([]place, len(placed))
	for i, pl := range placed {
		m := v.dev(pl.Device)
		places[i] = place{dev: pl.Device, off: pl.Off, need: m.writes.Add(1)}
	}
	written := newBitmap(p.slot)
	sums := make([]uint32, p.slot)
	for _, s := range p.sums {
		written.set(int(s.Block))
		sums[s.Block] = s.Sum
	}
	c := p.c
	c.mu.Lock()
	freed := v.retireLocked(c)
	v.addSlots(p.o, int64(p.slot-c.slot)*blockSize)
	if c.slot == 0 {
		v.placedBy.Add(1)
	}
	c.gen, c.slot, c.places, c.written, c.sums = p.gen, p.slot, places, written, sums
	c.reserve = p.ov.keep
	c.keep, c.open = nil, nil
	c.fresh, c.must, c.pending, c.lost = true, true, true, false
	c.durable = nil // the journal's record speaks of slots that are not written any more
	c.mu.Unlock()
	for _, s := range freed {
		v.freeSlot(s)
	}
	v.finish(p, nil)
}

// addSlots counts bytes of slots that o got.
func (v *Volume) addSlots(o *object, n int64) {
	o.slots.Add(n)
	if o.isFile {
		v.fileBytes.Add(n)
	}
}

// retireLocked takes the chunk's present slots out of use: those that the journal knows stay
// untouched until the next commit, others are returned and may be freed at once.
func (v *Volume) retireLocked(c *chunk) (free []slotRef) {
	var refs []slotRef
	for _, pl := range c.places {
		refs = append(refs, slotRef{pl.dev, pl.off, int64(c.slot) * blockSize})
	}
	if c.fresh {
		return refs
	}
	c.old = append(c.old, refs...)
	if v.retired.Add(int64(len(refs)*c.slot)*blockSize) > v.freeRaw()/4 {
		v.flushes.soon() // or rewrites run out of slots while old ones wait for the commit
	}
	return nil
}

// freeRaw is the space of all free regions, in bytes.
func (v *Volume) freeRaw() (n int64) {
	for _, m := range v.devs() {
		if m.takes() {
			n += m.alloc.freeRegions() * int64(v.info.ChunkSize)
		}
	}
	return n
}

// freeSlot gives a slot back, or, while a hung operation still has it, leaves that to its return.
func (v *Volume) freeSlot(s slotRef) {
	m := v.dev(s.dev)
	m.hungMu.Lock()
	if n := m.hung[s.off]; n != nil {
		n.free = s.size
		m.hungMu.Unlock()
		return
	}
	m.hungMu.Unlock()
	(*volumeSpace)(v).Release(s.dev, s.off, s.size)
}

// placeFailed decides what happens when no device could take a new placement.
func (v *Volume) placeFailed(p *plan, err error) {
	c := p.c
	if errors.Is(err, balance.ErrNoSpace) {
		err = ErrNoSpace
		// A rewrite can still go to the chunk's present slots.
		c.mu.Lock()
		good, _ := v.pickPlaces(c.places)
		last := 0
		for _, s := range p.sums {
			last = max(last, int(s.Block)+1)
		}
		if len(good) > 0 && last <= c.slot && last > 0 {
			v.planInPlace(p, good)
			c.mu.Unlock()
			v.wg.Go(func() { v.writeWithIntent(p) })
			return
		}
		promised := c.claim > 0
		c.mu.Unlock()
		if p.tries++; promised && p.tries <= promisedTries {
			// The space was there when it was promised. Stand-ins for late copies may have it now,
			// until the late writes return.
			v.goBackground(func() { v.placeAgain(p) })
			return
		}
	}
	v.finish(p, err)
}

const (
	promisedTries = 50
	promisedWait  = 100 * time.Millisecond
)

// placeAgain is placeNew after a while.
func (v *Volume) placeAgain(p *plan) {
	t := time.NewTimer(promisedWait)
	defer t.Stop()
	select {
	case <-t.C:
		v.placeNew(p)
	case <-v.ctx.Done():
		v.finish(p, ErrNoSpace)
	}
}

// writeWithIntent is writeInPlace behind a journal commit of its own.
func (v *Volume) writeWithIntent(p *plan) {
	if len(p.candidates) > 0 {
		v.commitIntents([]*plan{p})
		return
	}
	v.writeInPlace(p)
}

// writeInPlace writes p's runs to the copies in p.good.
func (v *Volume) writeInPlace(p *plan) {
	v.stats.inPlace.Add(1)
	n := len(p.good) * len(p.runs)
	w := &inPlace{v: v, p: p, left: n, errs: make([]error, len(p.good)), hold: p.ov.retainAll(), copies: make([]inPlaceCopy, len(p.good))}
	w.runs, w.bufs = p.runs, p.bufs
	w.held.Store(int32(n))
	timeout := time.Duration(0)
	if len(p.good) > 1 {
		timeout = mirrorTimeout
	}
	for i, at := range p.good {
		pl := p.c.places[at] // places do not change while out is set
		c := &w.copies[i]
		c.w, c.i, c.m, c.off = w, i, v.dev(pl.dev), pl.off
		c.op = c.m.enter(pl.off, len(p.runs))
		done, returned := c.done, c.returned
		c.reqs = spareRequests.get(len(p.runs))
		for _, run := range p.runs {
			c.reqs = append(c.reqs, devices.Request{Kind: devices.Write, Off: pl.off + run.Off, Bufs: run.Bufs, Timeout: timeout, Done: done, Returned: returned})
		}
		c.m.Device.SubmitAll(c.reqs)
	}
}

// mirrorTimeout is how long a write in place or a sync may take on one of several copies before
// what it held there is given up as stale. A disk that spins up, remaps a sector or empties its
// cache answers sooner.
const mirrorTimeout = 5 * time.Second

// inPlace gathers the results of one write in place.
type inPlace struct {
	v      *Volume
	p      *plan
	copies []inPlaceCopy
	held   atomic.Int32 // requests that devices have not let go of
	// Until held is 0:
	hold []*Buffer
	runs []balance.Run
	bufs [][]byte

	mu   sync.Mutex
	left int
	errs []error
}

// inPlaceCopy is one copy of it.
type inPlaceCopy struct {
	w   *inPlace
	i   int
	m   *member
	off int64 // of the slot
	op  *hungOp

	reqs []devices.Request // until w.held is 0
}

func (c *inPlaceCopy) done(_ *devices.Request, err error) {
	w := c.w
	if err != nil {
		w.v.deviceError(c.m.id, err)
	}
	w.mu.Lock()
	if err != nil && w.errs[c.i] == nil {
		w.errs[c.i] = err
	}
	w.left--
	last := w.left == 0
	w.mu.Unlock()
	if last {
		w.v.inPlaceDone(w.p, w.errs)
	}
}

func (c *inPlaceCopy) returned(*devices.Request) {
	w := c.w
	w.v.leave(c.m, c.off, c.op)
	if w.held.Add(-1) > 0 {
		return
	}
	releaseAll(w.hold)
	spareRuns.put(w.runs)
	spareBytes.put(w.bufs)
	for i := range w.copies {
		spareRequests.put(w.copies[i].reqs)
	}
}

// inPlaceDone notes what was written in place, and which copies missed it.
func (v *Volume) inPlaceDone(p *plan, errs []error) {
	c := p.c
	var ok int
	places := append([]place(nil), c.places...)
	hit := make([]bool, len(places))
	for i, at := range p.good {
		if errs[i] == nil {
			ok++
			hit[at] = true
			places[at].need = v.dev(places[at].dev).writes.Add(1)
		}
	}
	if ok == 0 { // the data is in RAM still: put the whole chunk elsewhere
		v.wg.Go(func() { v.relocate(p) })
		return
	}
	c.mu.Lock()
	for i := range places {
		if !hit[i] && !places[i].stale {
			places[i].stale = true
			c.must = true
		}
	}
	written, sums := c.written.clone(), append([]uint32(nil), c.sums...)
	for _, s := range p.sums {
		b := int(s.Block)
		if !c.durable.has(b) {
			c.must = true
		}
		written.set(b)
		sums[b] = s.Sum
	}
	c.unkeepLocked(func(block int) bool { e, _ := p.ov.lookup(block, block+1); return e != nil })
	c.places, c.written, c.sums, c.pending = places, written, sums, true
	c.mu.Unlock()
	v.finish(p, nil)
}

// finish ends a write-out: on success the overlay is gone, else it becomes dirty again.
func (v *Volume) finish(p *plan, err error) {
	c, ov := p.c, p.ov
	c.mu.Lock()
	c.out = nil
	c.change++
	stuck := -c.stuck
	c.stuck = 0
	if err != nil {
		if c.dirty == nil {
			c.dirty = &overlay{id: c.nextID, born: ov.born}
			c.nextID++
		}
		c.dirty.budget += ov.budget
		c.dirty.sent += ov.sent
		c.dirty.keep = c.dirty.keep || ov.keep
		c.dirty.under(ov)
		c.stuck = c.dirty.budget
		stuck += c.stuck
	} else {
		for _, s := range v.zeroLocked(p) { // see endCommit
			v.freeSlot(s)
		}
		c.doneID = ov.id
		if c.claim > 0 && (c.dirty == nil || c.dirty.end() <= c.slot) {
			v.claimed.Add(-v.regionShare(c.claim))
			p.o.claimed.Add(-c.claim)
			c.claim = 0
		}
		v.stats.writeOuts.Add(1)
	}
	v.claimed.Add(-p.claim)
	v.transit.Add(-p.transit)
	c.err = err
	told := c.wait
	c.wait = nil
	var keep []*waiter
	for _, w := range told {
		if err == nil && w.id > c.doneID {
			keep = append(keep, w)
		}
	}
	c.wait = keep
	enqueue := err == nil && v.wb.enqueueLocked(c)
	v.settle(p.o, c)
	c.mu.Unlock()

	if err == nil {
		v.forgetBad(p)
		ov.release()
		v.dirty.giveSent(ov.budget, ov.sent)
	} else {
		v.log.Error("write-out failed", "chunk", c.key.String(), "err", err)
	}
	v.dirty.setStuck(stuck, err)
	for _, w := range told {
		if err != nil || w.id <= ov.id {
			w.done(err)
		}
	}
	if enqueue {
		v.wb.push(c)
	}
	v.cache.put(c)
}

// zeroLocked applies the zero extents of p to the placement, and gives the slots up when nothing
// is left that needs them. Called with c.mu at the end of a write-out.
func (v *Volume) zeroLocked(p *plan) (free []slotRef) {
	c := p.c
	if c.slot == 0 {
		return nil
	}
	changed := false
	var written bitmap
	for _, e := range p.ov.ext {
		if e.buf != nil {
			continue
		}
		for i := e.first; i < min(e.end(), c.slot); i++ {
			if !c.written.has(i) {
				continue
			}
			if !changed {
				written, changed = c.written.clone(), true
			}
			written.clear(i)
		}
	}
	if changed {
		c.written = written
		c.unkeepLocked(func(block int) bool { return !written.has(block) })
		c.pending, c.must = true, true
	}
	if p.ov.keep {
		c.reserve = true
	} else if p.ov.drop {
		c.reserve = false
	}
	if !c.written.empty() || c.reserve {
		return nil
	}
	free = v.retireLocked(c)
	v.addSlots(p.o, -int64(c.slot)*blockSize)
	v.placedBy.Add(-1)
	c.slot, c.places, c.written, c.sums, c.fresh = 0, nil, nil, nil, false
	c.pending, c.must, c.lost = true, true, false
	return free
}

// hungOp counts the operations that a device holds on a slot.
type hungOp struct {
	n    int
	free int64 // size to give back when the last one returns
}

// enter notes n operations on the slot at off that are handed to the device.
func (m *member) enter(off int64, n int) *hungOp {
	m.hungMu.Lock()
	defer m.hungMu.Unlock()
	h := m.hung[off]
	if h == nil {
		h = &hungOp{}
		m.hung[off] = h
	}
	h.n += n
	return h
}

// leave is enter's reverse: the device has let go of the operation.
func (v *Volume) leave(m *member, off int64, h *hungOp) {
	m.hungMu.Lock()
	h.n--
	free := int64(0)
	if h.n == 0 {
		delete(m.hung, off)
		free = h.free
	}
	m.hungMu.Unlock()
	if free > 0 {
		(*volumeSpace)(v).Release(m.id, off, free)
	}
}
