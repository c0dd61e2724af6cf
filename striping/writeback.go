package striping

import (
	"sync"
	"time"
)

// writeback decides when dirty chunks go to devices, and its workers take them there.
//
// Whole chunks go at once. Partly written and small ones wait for WriteAge, and then their turn in a
// flow that leaves most of the budget to those who write; for a flush; or until they fill half of
// the dirty budget, when the oldest go. A worker seals the dirty overlays of a batch
// of chunks; what takes new slots or blocks that never held data goes straight to the balancer or the
// devices; what overwrites blocks in place first needs its intents durable, and those of one batch
// share one journal commit. Everything after that happens in the devices' callbacks, so a slow
// device holds up no worker.
type writeback struct {
	v *Volume

	mu    sync.Mutex
	ready []*chunk
	aging []aged
	work  chan struct{} // has one element when ready may have work
	tick  chan struct{} // has one element when aging got its first entry
}

type aged struct {
	c  *chunk
	id uint64 // of the overlay
	at time.Time
}

const (
	writebackWorkers = 2
	writebackBatch   = 256
	sizeEvery        = 100 * time.Millisecond // of the budget, while it is short: the disks may be known better by now
)

func (w *writeback) init(v *Volume) {
	w.v = v
	w.work = make(chan struct{}, 1)
	w.tick = make(chan struct{}, 1)
	for range writebackWorkers {
		v.wg.Go(w.worker)
	}
	v.wg.Go(w.ager)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// want asks for c's dirty overlay to be written out as soon as may be.
func (w *writeback) want(c *chunk) {
	c.mu.Lock()
	if c.dirty == nil {
		c.mu.Unlock()
		return
	}
	w.wantLocked(c)
	enqueue := w.enqueueLocked(c)
	c.mu.Unlock()
	if enqueue {
		w.push(c)
	}
}

// now writes c's dirty overlay out at once if it can, which wakes nobody but the devices.
func (w *writeback) now(c *chunk) {
	c.mu.Lock()
	if c.dirty == nil {
		c.mu.Unlock()
		return
	}
	w.wantLocked(c)
	enqueue := w.enqueueLocked(c)
	c.mu.Unlock()
	if !enqueue {
		return
	}
	switch p, start := w.v.seal(c); {
	case p == nil:
		w.v.cache.put(c)
	case len(p.candidates) > 0: // a commit to wait for
		w.v.wg.Go(func() { w.v.commitIntents([]*plan{p}) })
	default:
		start()
	}
}

// wantLocked marks c's dirty overlay. Called with c.mu.
func (w *writeback) wantLocked(c *chunk) {
	d := c.dirty
	d.wanted = true
	w.v.dirty.send(d.budget - d.sent)
	d.sent = d.budget
}

// enqueueLocked reports whether c is to be pushed to the ready queue; it then holds a reference
// for the queue. Called with c.mu.
func (w *writeback) enqueueLocked(c *chunk) bool {
	if c.queued || c.dirty == nil || !c.dirty.wanted || c.out != nil || c.inCommit || c.holder {
		return false
	}
	c.queued = true
	c.refs.Add(1)
	return true
}

func (w *writeback) push(c *chunk) {
	w.mu.Lock()
	w.ready = append(w.ready, c)
	w.mu.Unlock()
	poke(w.work)
}

// age notes that c has a new dirty overlay, to be written out when it is old enough.
func (w *writeback) age(c *chunk, id uint64) {
	c.refs.Add(1)
	w.mu.Lock()
	w.aging = append(w.aging, aged{c, id, time.Now().Add(w.v.opts.WriteAge)})
	first := len(w.aging) == 1
	w.mu.Unlock()
	if first {
		poke(w.tick)
	}
}

// ager moves overlays that are old enough to the ready queue.
//
// Under pressure the oldest go before their time. Whole chunks on their way to the disks are no
// pressure: a client that writes in order would have each chunk written in pieces otherwise, most
// of them in place, with intents, where the chunk was before, however busy that device is.
func (w *writeback) ager() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var sized time.Time
	for {
		next := time.Hour
		for {
			w.mu.Lock()
			if len(w.aging) == 0 {
				w.aging = nil
				w.mu.Unlock()
				break
			}
			a := w.aging[0]
			w.mu.Unlock()
			a.c.mu.Lock()
			current := a.c.dirty != nil && a.c.dirty.id == a.id && !a.c.dirty.wanted
			a.c.mu.Unlock()
			pressed := w.v.dirty.pressure()
			if pressed && time.Since(sized) > sizeEvery {
				w.v.sizeBudget()
				sized = time.Now()
				continue
			}
			if d := time.Until(a.at); current && !pressed && (d > 0 || !w.v.dirty.flows()) {
				if d > 0 {
					next = d
				}
				break
			}
			w.mu.Lock()
			w.aging = w.aging[1:] // nobody else takes any out
			w.mu.Unlock()
			if current {
				w.want(a.c)
			}
			w.v.cache.put(a.c)
		}
		timer.Reset(next)
		select {
		case <-w.v.ctx.Done():
			w.drop()
			return
		case <-w.tick:
		case <-w.v.dirty.changed:
		case <-timer.C:
		}
	}
}

// drop releases what the queues hold, when the volume closes.
func (w *writeback) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.aging {
		w.v.cache.put(a.c)
	}
	w.aging = nil
}

func (w *writeback) worker() {
	for {
		w.mu.Lock()
		n := min(len(w.ready), writebackBatch)
		batch := append([]*chunk(nil), w.ready[:n]...)
		if w.ready = w.ready[n:]; len(w.ready) == 0 {
			w.ready = nil
		} else {
			poke(w.work)
		}
		w.mu.Unlock()
		if n > 0 {
			w.v.writeOut(batch)
			continue
		}
		select {
		case <-w.v.ctx.Done():
			return
		case <-w.work:
		}
	}
}
