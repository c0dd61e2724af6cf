package striping

import (
	"sync"

	"ballast/devices"
)

// healer rewrites single blocks that failed their check on one device from a copy that passes.
// A heal changes no placement and needs no commit: torn or lost, the block fails its check again
// and is healed again.
type healer struct {
	v *Volume

	mu    sync.Mutex
	queue []heal
	known map[heal]bool
	work  chan struct{}
}

type heal struct {
	c     *chunk
	block int
	dev   devices.ID
}

// maxHeals bounds the queue; what does not fit is found by the next read.
const maxHeals = 4096

func (h *healer) init(v *Volume) {
	h.v = v
	h.known = map[heal]bool{}
	h.work = make(chan struct{}, 1)
	v.wg.Go(h.run)
}

func (h *healer) add(c *chunk, block int, dev devices.ID) {
	if h.work == nil { // the volume is still being opened
		return
	}
	item := heal{c, block, dev}
	h.mu.Lock()
	if h.known[item] || len(h.queue) >= maxHeals {
		h.mu.Unlock()
		return
	}
	h.known[item] = true
	c.refs.Add(1)
	h.queue = append(h.queue, item)
	h.mu.Unlock()
	poke(h.work)
}

func (h *healer) run() {
	for {
		h.mu.Lock()
		var item heal
		n := len(h.queue)
		if n > 0 {
			item = h.queue[0]
			h.queue = h.queue[1:]
		}
		h.mu.Unlock()
		if n > 0 {
			h.v.heal(item)
			h.mu.Lock()
			delete(h.known, item)
			h.mu.Unlock()
			h.v.cache.put(item.c)
			continue
		}
		select {
		case <-h.v.ctx.Done():
			return
		case <-h.work:
		}
	}
}

// heal rewrites one block. The chunk is held against write-outs and commits meanwhile.
func (v *Volume) heal(item heal) {
	c := item.c
	c.mu.Lock()
	if c.out != nil || c.inCommit || c.holder {
		c.mu.Unlock()
		return // it is being written; if it is still bad afterwards, the next read tells
	}
	at := -1
	for i := range c.places {
		if c.places[i].dev == item.dev && !c.places[i].stale {
			at = i
		}
	}
	if at < 0 || !c.written.has(item.block) || !v.dev(item.dev).usable() {
		c.mu.Unlock()
		return
	}
	c.holder = true
	vw := c.viewLocked()
	c.mu.Unlock()
	v.healBlock(&vw, at, item.block)
	v.releaseHolder(c)
}

// healBlock writes a checked copy of a block to the copy at index at.
func (v *Volume) healBlock(vw *view, at, block int) {
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	for i := range vw.places {
		if i == at || vw.places[i].stale {
			continue
		}
		buf, _, err := v.readCopies(vw, []int{i}, block, 1)
		if err != nil {
			continue
		}
		if blockSum(seed, block, buf.Bytes()) != vw.sums[block] {
			buf.Release()
			continue
		}
		pl := vw.places[at]
		m := v.dev(pl.dev)
		err = v.writeBlock(m, pl.off, block, buf, 0) // the chunk is held meanwhile: not for long, and not in the background
		buf.Release()
		if err != nil {
			v.deviceError(pl.dev, err)
			return
		}
		m.writes.Add(1)
		v.stats.healed.Add(1)
		v.event(1, "BLOCK_HEALED", pl.dev, vw.c.key.String()+": a block that failed its check was rewritten from another copy")
		return
	}
}

// releaseHolder lets write-outs and commits of c go on.
func (v *Volume) releaseHolder(c *chunk) {
	c.mu.Lock()
	c.holder = false
	told := c.wakeHoldersLocked()
	enqueue := v.wb.enqueueLocked(c)
	c.mu.Unlock()
	for _, w := range told {
		w.done(nil)
	}
	if enqueue {
		v.wb.push(c)
	}
}
