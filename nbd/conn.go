package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/nbd/wire"

	"golang.org/x/sys/unix"
)

// conn is one client.
//
// Its reader goroutine (serve) parses requests, serves what it can inline, hands the rest to
// workers and holds or writes replies. Its workers are started on demand, call the export and
// write replies. A timer watches that the peer keeps up. serve ends when the peer is gone, says
// goodbye or is thrown out, waits for everything under way, and only then gives the export back.
type conn struct {
	s     *Server
	id    uint64
	nc    net.Conn
	raw   syscall.RawConn // nil if replies go out by nc.Write
	log   *slog.Logger
	peer  string
	begin time.Time

	ctx    context.Context // for reads: ends when no reply can be delivered any more
	cancel context.CancelFunc
	wg     sync.WaitGroup // workers and writers

	// Set by the handshake, then constant.
	export      Export
	inliner     Inliner
	receiver    Receiver
	zeroer      Zeroer
	trimmer     Trimmer
	mapper      Mapper
	prefetcher  Prefetcher
	info        Info
	state       *exportState
	endSeq      uint64 // guarded by s.mu: order of breaking off with requests under way; 0: not
	closeExport func()
	structured  bool
	allocation  bool // base:allocation was selected

	// Of the reader alone.
	in        input
	now       time.Time // when the last bytes arrived
	held      []*request
	heldBytes int64
	current   *request // admitted, but neither held nor queued

	// Of the writer alone: whoever set writing.
	batch     []*request
	vec       [][]byte
	vecLeft   [][]byte
	iov       []unix.Iovec
	mayWait   bool
	sendErr   error
	writeFunc func(fd uintptr) bool

	pending atomic.Int64  // requests begun whose replies are not out
	used    atomic.Int64  // of the budget, in bytes
	waiting atomic.Bool   // the reader waits on room
	room    chan struct{} // a batch was settled

	transmitting atomic.Bool // the handshake is over

	sending  atomic.Bool // a batch is being sent
	sendSeq  atomic.Uint64
	sendSize atomic.Int64
	watch    watch

	stopOnce sync.Once
	stopping chan struct{} // no more is to be read
	dead     atomic.Bool   // no more can be written
	gone     chan struct{} // closed with dead
	ending   atomic.Bool   // nothing is read any more
	done     chan struct{} // everything is over

	mu      sync.Mutex
	out     []*request // INVARIANT: not empty only if writing
	writing bool
	stats   commandStats
	why     error // why it ended, the first reason

	jobs workers
}

func newConn(s *Server, nc net.Conn, id uint64) *conn {
	c := &conn{
		s:        s,
		id:       id,
		nc:       nc,
		begin:    time.Now(),
		room:     make(chan struct{}, 1),
		stopping: make(chan struct{}),
		gone:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	c.peer = peerName(nc)
	c.log = s.opts.Logger.With("client", id, "peer", c.peer)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.in = input{conn: nc, mid: &c.watch.mid}
	c.writeFunc = c.writev
	c.jobs.wake.L = &c.jobs.mu
	c.jobs.max = s.opts.Workers
	switch nc := nc.(type) {
	case *net.TCPConn:
		_ = nc.SetNoDelay(true)
		_ = nc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6})
		c.raw, _ = nc.SyscallConn()
	case *net.UnixConn:
		_ = nc.SetReadBuffer(socketBuffer)
		_ = nc.SetWriteBuffer(socketBuffer)
		c.raw, _ = nc.SyscallConn()
	}
	return c
}

// Of a unix socket, in bytes; the kernel cuts it to its own limit.
const socketBuffer = 1 << 20

// kill ends the connection at once; what is under way in the export goes on to its end.
func (c *conn) kill(why error) {
	c.mu.Lock()
	if c.why == nil {
		c.why = why
	}
	first := !c.dead.Swap(true)
	c.mu.Unlock()
	if first {
		close(c.gone)
		c.cancel()
		_ = c.nc.Close()
	}
}

// stop makes the reader stop; what it has taken is still answered.
func (c *conn) stop() {
	c.stopOnce.Do(func() {
		close(c.stopping)
		if err := c.nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
			c.kill(ErrServerClosed)
		}
	})
}

func (c *conn) stopped() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// serve is the life of the connection.
func (c *conn) serve() {
	c.in.buf = inputs.Get().(*[inputSize]byte)[:]
	c.watch.start(c)
	err := c.protect(c.handshake)
	if err == nil && c.export != nil {
		c.transmitting.Store(true)
		c.log = c.log.With("export", c.info.Name)
		c.log.Info("client connected", "read_only", c.info.ReadOnly, "structured", c.structured)
		err = c.protect(c.transmission)
	}
	c.end(err)
}

// protect calls f and makes an error of a panic, so that one client cannot take the others down.
func (c *conn) protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = c.panicked(v)
		}
	}()
	return f()
}

func (c *conn) panicked(v any) error {
	c.s.panics.Add(1)
	c.log.Error("panic while serving a client", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return fmt.Errorf("%w: %v", errPanic, v)
}

// end waits for everything under way and gives back what the connection has.
func (c *conn) end(err error) {
	c.ending.Store(true)
	if errors.Is(err, errPanic) || errors.Is(err, errProtocol) {
		c.kill(err)
	}
	if r := c.current; r != nil { // its export panicked
		c.unadmit(r.cost)
		r.recycle()
	}
	c.flushHeld()
	if c.export != nil && err != nil && !c.stopped() && c.pending.Load() > 0 {
		c.s.lose(c)
	}
	c.waiting.Store(true)
	for c.pending.Load() > 0 {
		<-c.room
	}
	c.jobs.close()
	c.wg.Wait()
	c.watch.stop()
	if c.closeExport != nil {
		c.closeExport()
	}
	c.s.detach(c)
	close(c.done)
	c.mu.Lock()
	if c.why != nil {
		err = c.why
	}
	c.mu.Unlock()
	if err == nil || c.stopped() {
		c.linger()
	}
	c.kill(err)
	inputs.Put((*[inputSize]byte)(c.in.buf))
	c.in.buf = nil
	c.logEnd(err)
	c.s.remove(c)
}

// linger reads what the peer still sends until it has seen that we are through. Closing a socket
// with unread input would take back replies that the peer has not read yet.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	for n := 0; n < lingerBytes; {
		k, err := c.nc.Read(c.in.buf)
		if err != nil {
			return
		}
		n += k
	}
}

func (c *conn) logEnd(err error) {
	level, msg := slog.LevelInfo, "client gone"
	switch {
	case err == nil || errors.Is(err, io.EOF) || c.stopped():
		err = nil
	case errors.Is(err, errProtocol) || errors.Is(err, errTooSlow):
		level, msg = slog.LevelWarn, "client thrown out"
	}
	if !c.transmitting.Load() {
		level, msg = slog.LevelDebug, "handshake ended"
	}
	attrs := []any{"after", time.Since(c.begin).Round(time.Millisecond)}
	if err != nil {
		attrs = append(attrs, "reason", err.Error())
	}
	c.log.Log(context.Background(), level, msg, attrs...)
}

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
