package nbd

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Server serves exports to any number of clients on any number of listeners.
type Server struct {
	exportSet Exports
	opts      Options
	total     budget
	panics    atomic.Uint64
	ctx       context.Context // of modifications: ends with Close
	cancel    context.CancelFunc
	closing   chan struct{} // closed by the first Shutdown or Close
	slotFree  chan struct{} // a handshake ended
	wg        sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	listeners  map[net.Listener]struct{}
	conns      map[*conn]struct{}
	handshakes map[*conn]struct{} // those that count for MaxHandshakes
	exports    map[string]*exportState
	nextID     uint64
	lastEnd    uint64 // the highest conn.endSeq
	accepted   uint64
	displaced  uint64
}

// exportState is what the server knows about an export that was used.
type exportState struct {
	conns map[*conn]struct{} // attached or about to be
	past  commandStats       // of connections that ended
	lost  atomic.Int32       // connections that broke off and have requests under way
}

// NewServer returns a server for exports. It serves nobody until Serve or ServeConn is called.
func NewServer(exports Exports, opts Options) *Server {
	opts.setDefaults()
	s := &Server{
		exportSet:  exports,
		opts:       opts,
		total:      budget{limit: opts.MaxTotalInFlight},
		closing:    make(chan struct{}),
		slotFree:   make(chan struct{}, 1),
		listeners:  make(map[net.Listener]struct{}),
		conns:      make(map[*conn]struct{}),
		handshakes: make(map[*conn]struct{}),
		exports:    make(map[string]*exportState),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts clients on l until Shutdown or Close, and then returns ErrServerClosed; or until
// l fails, and then returns its error. It closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
	}()
	delay := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err != nil {
			switch {
			case s.isClosing():
				return ErrServerClosed
			case !isTemporary(err):
				return err
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.opts.Logger.Warn("cannot accept clients for now", "error", err, "again_in", delay)
			if !s.pause(delay) {
				return ErrServerClosed
			}
			continue
		}
		delay = 0
		if !s.handshakeSlot() {
			nc.Close()
			return ErrServerClosed
		}
		c, err := s.newConn(nc)
		if err != nil {
			nc.Close()
			return err
		}
		go c.serve()
	}
}

func isTemporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause is false if the server closes before d is over.
func (s *Server) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// ServeConn serves one client over any connection and returns when it is gone. When ctx ends, what
// the client has asked for is answered and no more is read. It closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	c, err := s.newConn(nc)
	if err != nil {
		nc.Close()
		return err
	}
	defer context.AfterFunc(ctx, c.stop)()
	c.serve()
	if s.isClosing() {
		return ErrServerClosed
	}
	return ctx.Err()
}

func (s *Server) newConn(nc net.Conn) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrServerClosed
	}
	s.nextID++
	s.accepted++
	c := newConn(s, nc, s.nextID)
	s.conns[c] = struct{}{}
	s.handshakes[c] = struct{}{}
	s.wg.Add(1)
	return c, nil
}

// handshakeSlot waits until one more connection may begin its handshake. If too many are at it
// and the oldest has had some time, it is thrown out. It is false if the server closes.
func (s *Server) handshakeSlot() bool {
	for {
		s.mu.Lock()
		var oldest *conn
		n := len(s.handshakes)
		for c := range s.handshakes {
			if oldest == nil || c.begin.Before(oldest.begin) {
				oldest = c
			}
		}
		wait := time.Duration(0)
		if n >= s.opts.MaxHandshakes {
			if wait = displaceAfter - time.Since(oldest.begin); wait <= 0 {
				s.displaced++
				delete(s.handshakes, oldest)
			}
		}
		s.mu.Unlock()
		switch {
		case n < s.opts.MaxHandshakes:
			return true
		case wait <= 0:
			oldest.kill(errDisplaced)
			return true
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.slotFree:
		case <-s.closing:
			t.Stop()
			return false
		}
		t.Stop()
	}
}

// handshaken takes c off the list of handshakes. It may be called more than once.
func (s *Server) handshaken(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handshakes, c)
	select {
	case s.slotFree <- struct{}{}:
	default:
	}
}

// attach makes c a connection of the export of that name.
//
// A client that lost its connection sends again what was not answered, over a new one. If the
// old requests were still under way then, an old write could land after a newer one that was
// acknowledged. So before c may go on, all connections whose peer is gone are waited for: those
// that the server knows to be ending, and those whose socket says that the peer has closed it,
// though their reader may not have come across that yet. The latter still read and do what was
// sent before the close.
func (s *Server) attach(c *conn, name string) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	es := s.exports[name]
	if es == nil {
		es = &exportState{conns: make(map[*conn]struct{})}
		s.exports[name] = es
	}
	var leaving []*conn
	for other := range es.conns {
		if other.ending.Load() || other.hungUp() {
			leaving = append(leaving, other)
		}
	}
	if len(es.conns)-len(leaving) >= s.opts.MaxConnections {
		s.mu.Unlock()
		return errNoCapacity
	}
	es.conns[c] = struct{}{}
	c.state = es
	s.mu.Unlock()
	if err := c.waitFor(leaving); err != nil {
		s.detach(c)
		return err
	}
	return nil
}

// waitFor waits until all of others have ended.
func (c *conn) waitFor(others []*conn) error {
	if len(others) == 0 {
		return nil
	}
	t := time.NewTimer(c.s.opts.DrainTimeout)
	defer t.Stop()
	for _, other := range others {
		select {
		case <-other.done:
		case <-t.C:
			return errDraining
		case <-c.stopping:
			return ErrServerClosed
		case <-c.gone:
			return net.ErrClosed
		}
	}
	return nil
}

// lose notes that c broke off with requests under way. A client with several connections may send
// them again on another one, so modifications there wait for c; see waitForLost.
func (s *Server) lose(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastEnd++
	c.endSeq = s.lastEnd
	c.state.lost.Add(1)
}

// waitForLost is called before a modification. It waits for the connections of the export that
// broke off; one that is broken off itself waits only for those that did before, so that no two
// wait for each other.
func (c *conn) waitForLost() {
	if c.state.lost.Load() == 0 {
		return
	}
	c.s.mu.Lock()
	var lost []*conn
	for other := range c.state.conns {
		if other.endSeq > 0 && (c.endSeq == 0 || other.endSeq < c.endSeq) {
			lost = append(lost, other)
		}
	}
	c.s.mu.Unlock()
	for _, other := range lost {
		<-other.done
	}
}

// hungUp tells whether the peer has closed its side, even if there is still something to read.
func (c *conn) hungUp() bool {
	if c.raw == nil {
		return false
	}
	up := false
	err := c.raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		up = err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return up || err != nil
}

// detach is the end of attach.
func (s *Server) detach(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.state == nil {
		return
	}
	c.mu.Lock()
	c.state.past.add(&c.stats)
	c.mu.Unlock()
	delete(c.state.conns, c)
	if c.endSeq > 0 {
		c.state.lost.Add(-1)
	}
	c.state = nil
}

// remove forgets c.
func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// Shutdown stops accepting clients and reading requests, answers all that were read, and closes
// the connections. It never answers with ESHUTDOWN, which a kernel client would pass on to its
// file system; requests that were not read are sent again by clients that reconnect. It returns
// when all is over, or with ctx's error when that ends before; then Close is still to be called.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginClose()
	s.mu.Lock()
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()
	return s.wait(ctx)
}

// Close closes all connections at once, cancels what is under way in the exports, and waits for
// it to return.
func (s *Server) Close() error {
	s.beginClose()
	s.cancel()
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.stop()
		c.kill(ErrServerClosed)
	}
	return s.wait(context.Background())
}

func (s *Server) beginClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for l := range s.listeners {
		_ = l.Close()
	}
}

func (s *Server) wait(ctx context.Context) error {
	over := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(over)
	}()
	select {
	case <-over:
		s.cancel()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
