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
	payload   receiver
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
	c.in = input{conn: nc, rest: nc, mid: &c.watch.mid}
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
		if c.raw, _ = nc.SyscallConn(); c.raw != nil {
			c.payload.init(c.raw)
			c.in.rest = &c.payload
		}
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
