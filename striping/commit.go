package striping

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// A commit is the part of a flush that makes placements durable: the devices concerned are synced, and then the
// records go to the journal.
//
// While a chunk is in a commit no write-out of it starts, so that the record says exactly what
// the synced devices hold; new data for it waits in RAM.

// commitBytes is how many bytes of records go into one journal batch.
const commitBytes = journal.MaxBatchBytes / 4

// commit makes the placements of chunks durable: those a flush depends on, or all with settle.
// It returns what failed, and whether what with returned, if it is not nil, was committed with the last
// of them.
//
// A chunk is claimed for the commit at once, so that no new write-out of it starts. Chunks that
// are not being written now go on together with those that lie on the same devices; the others
// follow as they come free. A claimed chunk so never waits for another one, whatever rounds meet; only
// the last ones of a commit that others join wait for the commits of those before.
func (v *Volume) commit(chunks []*chunk, settle bool, with func() *journal.Batch) (failed map[*chunk]error, joined bool) {
	var mu sync.Mutex
	failed = map[*chunk]error{}
	finish := func(group []*chunk, with func() *journal.Batch) (joined bool) {
		missed, joined := v.commitGroup(group, settle, with)
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(failed, missed)
		return joined
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	freed := make(chan *held, len(chunks))
	busy := 0
	var free []*chunk
	holds := make([]held, len(chunks))
	for i, c := range chunks {
		holds[i] = held{c: c, freed: freed}
		if holds[i].hold() {
			free = append(free, c)
		} else {
			busy++
		}
	}
	for {
		if busy == 0 && with != nil {
			if wg.Wait(); len(failed) > 0 {
				with = nil
			}
			return failed, finish(free, with)
		}
		groups := v.byDevices(free)
		for i, group := range groups {
			if busy == 0 && i == len(groups)-1 { // the last one needs no goroutine
				finish(group, nil)
			} else {
				wg.Go(func() { finish(group, nil) })
			}
		}
		if busy == 0 {
			return failed, false
		}
		free = free[:0]
		for more := true; more && busy > 0; {
			if h := <-freed; h.hold() {
				free = append(free, h.c)
				busy--
			}
			more = len(freed) > 0
		}
	}
}

// byDevices groups chunks by the devices that are to be synced for them.
func (v *Volume) byDevices(chunks []*chunk) (groups [][]*chunk) {
	index := map[deviceSet]int{}
	for _, c := range chunks {
		var set deviceSet
		c.mu.Lock()
		for i, p := range c.places {
			if m := v.dev(p.dev); !p.stale && m.synced.Load() < p.need && m.usable() {
				set[i] = p.dev
			}
		}
		c.mu.Unlock()
		slices.Sort(set[:])
		i, ok := index[set]
		if !ok {
			i = len(groups)
			index[set] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	return groups
}

// commitGroup syncs the devices of chunks that are held for it, and commits them, together with what
// with returns, if all of them are sound and it goes into one batch.
func (v *Volume) commitGroup(chunks []*chunk, settle bool, with func() *journal.Batch) (failed map[*chunk]error, joined bool) {
	failed = map[*chunk]error{}
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
	var beside *journal.Batch
	if with != nil && len(failed) == 0 && len(batch) > 0 {
		beside = with()
	}
	for len(batch) > 0 {
		n, err := v.commitSome(batch, beside)
		if beside != nil {
			joined = err == nil && n > 0
			beside = nil
		}
		for _, c := range batch[:n] {
			if err != nil {
				failed[c] = err
			}
		}
		batch = batch[n:]
	}
	return failed, joined
}

// commitSome commits the first n chunks of list in one journal batch. With beside, that is all of
// them and what stands there, or none, if that is too much or there is no room for it.
func (v *Volume) commitSome(list []*chunk, beside *journal.Batch) (n int, err error) {
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
		if rec.Slot == 0 && v.isDropped(c.key.object) { // no tombstone: the number is never used again
			b.Delete(key)
		} else {
			b.Put(key, val)
		}
		if len(intent.Candidates) > 0 {
			key := c.key.intent()
			b.Put(key, intent.Pack(key))
		} else if hadIntents {
			b.Delete(c.key.intent())
		}
		n++
	}
	if beside != nil {
		b.Ops = append(b.Ops, beside.Ops...)
		if n < len(list) || b.Check() != nil {
			return 0, nil
		}
	}
	v.noBlanks(list[:n])
	if err = v.j.Commit(context.WithoutCancel(v.ctx), b); err != nil {
		if beside != nil && errors.Is(err, journal.ErrFull) { // there may be for one of the two
			return 0, nil
		}
		err = fmt.Errorf("placement: %w", err)
	}
	v.stats.commits.Add(1)
	for i, c := range list[:n] {
		v.endCommit(c, recs[i], err)
	}
	return n, err
}

// held is a chunk that is to be held for a commit.
type held struct {
	c     *chunk
	mine  bool // no write-out of it starts any more
	freed chan<- *held
}

// hold keeps new write-outs of the chunk from starting. It returns false when one is under way, or
// another commit: h is sent to freed when it is worth another try.
func (h *held) hold() bool {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	id := uint64(0)
	if h.mine || !c.inCommit {
		c.inCommit, h.mine = true, true
		if c.out == nil && !c.holder {
			return true
		}
		if c.out != nil {
			id = c.out.id
		}
	}
	c.wait = append(c.wait, &waiter{id, func(error) { h.freed <- h }})
	return false
}

// syncFor syncs, side by side, the devices that hold unsynced data of chunks. Nobody waits for one
// that sits out, unless it has the only good copy of one of them.
func (v *Volume) syncFor(chunks []*chunk) {
	v.syncDevices(chunks, (*member).usable, func([]place) bool { return true })
	v.syncDevices(chunks, func(m *member) bool { return m.Device != nil && !m.silent.Load() }, func(places []place) bool {
		return !slices.ContainsFunc(places, func(p place) bool { return !p.stale && p.need <= v.dev(p.dev).synced.Load() })
	})
}

// syncDevices syncs those devices that may be asked, for the copies of the chunks that want it.
func (v *Volume) syncDevices(chunks []*chunk, may func(*member) bool, wants func([]place) bool) {
	need := map[devices.ID]uint64{}
	for _, c := range chunks {
		c.mu.Lock()
		if wants(c.places) {
			for _, p := range c.places {
				if !p.stale {
					need[p.dev] = max(need[p.dev], p.need)
				}
			}
		}
		c.mu.Unlock()
	}
	var wg sync.WaitGroup
	for id, n := range need {
		m := v.dev(id)
		if m.synced.Load() >= n || !may(m) {
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
			m.raiseSynced(upTo)
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
	c.mu.Lock()
	c.inCommit = false
	if rec != nil && err == nil {
		c.version = rec.Version
		c.durable = c.written
		c.pending, c.must, c.fresh = false, false, false
		c.intents = c.keep
		for _, s := range c.old { // before a flush can find the chunk settled: who was told that it is over has the space
			v.freeSlot(s)
			v.retired.Add(-s.size)
		}
		c.old = nil
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
	told := c.wakeHoldersLocked()
	enqueue := v.wb.enqueueLocked(c)
	if o != nil {
		v.settle(o, c)
	}
	c.mu.Unlock()
	for _, w := range told {
		w.done(nil)
	}
	if enqueue {
		v.wb.push(c)
	}
}
