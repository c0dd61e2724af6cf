package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"ballast/nbd/wire"
)

// transmission reads requests until there are no more.
func (c *conn) transmission() error {
	c.now = time.Now()
	for {
		if c.in.buffered() < wire.RequestSize {
			c.flushHeld()
			c.in.middle(c.in.buffered() > 0, 0)
			if err := c.in.fill(wire.RequestSize); err != nil {
				return c.inputError(err)
			}
			c.now = time.Now()
		}
		r := requests.Get().(*request)
		r.Request = wire.ParseRequest(c.in.peek(wire.RequestSize))
		if r.RequestMagic != wire.MagicRequest {
			magic := r.RequestMagic
			r.recycle()
			return fmt.Errorf("%w: request magic %#x", errProtocol, magic)
		}
		c.in.skip(wire.RequestSize)
		if r.Type == wire.CmdDisc {
			r.recycle()
			return nil
		}
		r.size, r.begin, r.cost = int64(r.Length), c.now, requestCost
		r.err = c.check(r)
		if err := c.accept(r); err != nil {
			r.recycle()
			return err
		}
	}
}

// accept takes the payload of r, if it has one, and begins it. With an error r is the caller's.
func (c *conn) accept(r *request) error {
	write := r.Type == wire.CmdWrite
	switch {
	case r.err != nil && write:
		if r.Length > maxSkip {
			return fmt.Errorf("%w: write of %d bytes", errProtocol, r.Length)
		}
		if c.in.buffered() < int(r.size) {
			c.flushHeld()
			c.in.middle(true, r.size)
		}
		if err := c.in.discard(int(r.size)); err != nil {
			return c.inputError(err)
		}
	case r.err != nil:
	case write || r.Type == wire.CmdRead:
		r.cost += r.size
	}
	if err := c.admit(r.cost); err != nil {
		return err
	}
	c.pending.Add(1)
	c.current = r
	err := c.dispatch(r, write)
	c.current = nil
	if err != nil {
		c.unadmit(r.cost)
	}
	return err
}

// dispatch serves r inline or queues it. With an error r is the caller's.
func (c *conn) dispatch(r *request, write bool) error {
	if r.err != nil {
		c.hold(r)
		return nil
	}
	if write {
		return c.acceptWrite(r)
	}
	if r.Type == wire.CmdRead {
		done := r.size == 0
		if !done && c.inliner != nil {
			done, r.err = c.inliner.TryRead(int64(r.Offset), r.size, &r.data)
		}
		if done {
			r.checkData()
			c.hold(r)
			return nil
		}
	} else if r.size == 0 && r.Type != wire.CmdFlush {
		c.hold(r) // trim, zero or cache nothing
		return nil
	}
	c.jobs.push(c, r)
	return nil
}

// acceptWrite reads the payload of a write and begins it.
func (c *conn) acceptWrite(r *request) error {
	n := int(r.Length)
	if n < directPayload {
		if c.in.buffered() < n {
			c.flushHeld()
			c.in.middle(true, r.size)
			if err := c.in.fill(n); err != nil {
				return c.inputError(err)
			}
			c.now = time.Now()
		}
		p := c.in.peek(n)
		c.in.skip(n)
		done := n == 0
		if !done && c.inliner != nil && r.CommandFlags&wire.CmdFlagFUA == 0 && c.state.lost.Load() == 0 {
			done, r.err = c.inliner.TryWriteAt(p, int64(r.Offset))
		}
		if done {
			c.hold(r)
			return nil
		}
		r.keepSmall(p)
		c.jobs.push(c, r)
		return nil
	}
	var p []byte
	if c.receiver != nil {
		r.large = c.receiver.Buffer(n)
		p = r.large.Bytes()
	} else {
		r.own = getBuffer(n)
		p = *r.own
	}
	if c.in.buffered() < n {
		c.flushHeld()
		c.in.middle(true, r.size)
	}
	if err := c.in.readFull(p); err != nil {
		return c.inputError(err) // nothing of a payload that was cut off is applied
	}
	c.jobs.push(c, r)
	return nil
}

// inputError makes sense of an error of the input.
func (c *conn) inputError(err error) error {
	if c.stopped() {
		return ErrServerClosed
	}
	if errors.Is(err, io.EOF) && c.in.isMiddle() {
		return io.ErrUnexpectedEOF
	}
	return err
}

// admit waits until cost bytes fit the budgets. A connection with nothing under way is always
// admitted, so that hung clients cannot starve others.
func (c *conn) admit(cost int64) error {
	fits := func() bool {
		if c.pending.Load() > 0 && (c.used.Load() >= c.s.opts.MaxInFlight || c.s.total.used.Load() >= c.s.total.limit) {
			return false
		}
		c.used.Add(cost)
		c.s.total.used.Add(cost)
		return true
	}
	if fits() {
		return nil
	}
	c.flushHeld()
	c.waiting.Store(true)
	defer c.waiting.Store(false)
	for {
		changed := c.s.total.wait()
		if fits() {
			c.s.total.done()
			return nil
		}
		var err error
		select {
		case <-c.room:
		case <-changed:
		case <-c.gone:
			err = net.ErrClosed
		}
		c.s.total.done()
		if err != nil {
			return err
		}
	}
}

func (c *conn) unadmit(cost int64) {
	c.pending.Add(-1)
	c.used.Add(-cost)
	c.s.total.release(cost)
}

// checkData makes an error of a read that returned another number of bytes than asked for: the
// peer would lose track of the stream.
func (r *request) checkData() {
	if r.err != nil {
		r.data.Release()
		return
	}
	n := int64(0)
	for _, p := range r.data.Pieces {
		n += p.Size
	}
	if n != r.size {
		r.data.Release()
		r.err = errShortRead
	}
}
