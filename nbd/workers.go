package nbd

import (
	"errors"
	"fmt"
	"sync"

	"ballast/nbd/wire"
)

// workers is the pool that calls the export. Its queue is bounded by the budget.
type workers struct {
	max int

	mu      sync.Mutex
	wake    sync.Cond
	first   *request
	last    *request
	idle    int // waiting and not yet meant by a Signal
	running int
	closed  bool
}

// push queues r and sees to it that somebody takes it.
func (w *workers) push(c *conn, r *request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.first = r
	} else {
		w.last.next = r
	}
	w.last = r
	switch {
	case w.idle > 0:
		w.idle--
		w.wake.Signal()
	case w.running < w.max:
		w.running++
		c.wg.Go(func() { w.work(c) })
	}
}

func (w *workers) work(c *conn) {
	for {
		w.mu.Lock()
		for w.first == nil {
			if w.closed {
				w.mu.Unlock()
				return
			}
			w.idle++
			w.wake.Wait()
		}
		r := w.first
		if w.first = r.next; w.first == nil {
			w.last = nil
		}
		r.next = nil
		w.mu.Unlock()
		c.run(r)
	}
}

func (w *workers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wake.Broadcast()
}

// run does r in the export. It is called by workers.
func (c *conn) run(r *request) {
	if err := c.protect(func() error { return c.call(r) }); err != nil {
		if r.err = err; errors.Is(err, errPanic) {
			c.kill(err)
		}
	}
	if r.Type == wire.CmdRead {
		r.checkData()
	}
	r.dropPayload()
	c.finish(r)
}

// call does r in the export. Modifications run to their end even when the client is gone.
func (c *conn) call(r *request) error {
	off, ctx := int64(r.Offset), c.s.ctx
	fua := r.CommandFlags&wire.CmdFlagFUA != 0
	switch r.Type {
	case wire.CmdWrite, wire.CmdTrim, wire.CmdWriteZeroes:
		c.waitForLost()
	}
	switch r.Type {
	case wire.CmdRead:
		return c.export.Read(c.ctx, off, r.size, &r.data)
	case wire.CmdWrite:
		switch {
		case r.large != nil:
			p := r.large
			r.large = nil // it is the export's now, whatever happens
			return c.receiver.WriteBuffer(ctx, p, off, fua)
		case r.own != nil:
			return c.export.WriteAt(ctx, *r.own, off, fua)
		}
		return c.export.WriteAt(ctx, r.small, off, fua)
	case wire.CmdFlush:
		return c.export.Sync(ctx)
	case wire.CmdTrim:
		return c.trimmer.Trim(ctx, off, r.size, fua)
	case wire.CmdWriteZeroes:
		noHole := r.CommandFlags&wire.CmdFlagNoHole != 0
		return c.zeroer.WriteZeroes(ctx, off, r.size, noHole, fua, r.CommandFlags&wire.CmdFlagFastZero != 0)
	case wire.CmdCache:
		return c.prefetcher.Prefetch(c.ctx, off, r.size)
	case wire.CmdBlockStatus:
		return c.blockStatus(r)
	}
	panic(fmt.Sprintf("command %d was let through", r.Type))
}

// blockStatus asks for extents and cuts them to what the protocol can say.
func (c *conn) blockStatus(r *request) error {
	limit := maxExtents
	one := r.CommandFlags&wire.CmdFlagReqOne != 0
	if one {
		limit = 1
	}
	ext, err := c.mapper.Extents(c.ctx, r.extents[:0], int64(r.Offset), r.size, limit)
	r.extents = ext
	if err != nil {
		return err
	}
	end := c.export.Size() - int64(r.Offset)
	covered, kept := int64(0), ext[:0]
	for _, e := range ext {
		if covered >= r.size || len(kept) == limit {
			break
		}
		whole := e.Size
		e.Size = min(e.Size, end-covered)
		if one {
			e.Size = min(e.Size, r.size)
		}
		if e.Size <= 0 {
			continue
		}
		cut := e.Size > maxExtentSize
		e.Size = min(e.Size, maxExtentSize)
		covered += e.Size
		if last := len(kept) - 1; last >= 0 && kept[last].Hole == e.Hole && kept[last].Zero == e.Zero && kept[last].Size+e.Size <= maxExtentSize {
			kept[last].Size += e.Size
		} else {
			kept = append(kept, e)
		}
		if cut || e.Size < whole {
			break
		}
	}
	r.extents = kept
	if len(kept) == 0 {
		return errBadExtents
	}
	return nil
}
