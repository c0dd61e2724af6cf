package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// pipe serves one client over a pipe without a buffer, in fake time. After f the client closes,
// and the server must be done with it.
func pipe(t *testing.T, opts nbd.Options, e nbd.Export, f func(t *testing.T, s *nbd.Server, c *client)) {
	synctest.Test(t, func(t *testing.T) {
		set := &memexport.Set{}
		set.Add(e, nbd.Info{Name: "e"})
		opts.Logger = quiet()
		s := nbd.NewServer(set, opts)
		here, there := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(t.Context(), there) }()
		f(t, s, &client{Conn: here, t: t})
		here.Close()
		require.NoError(t, <-served)
		require.NoError(t, s.Close())
		require.Zero(t, set.Opens("e"))
		require.Zero(t, s.Stats().InFlightBytes)
	})
}

func (c *client) pipeGo() {
	c.greeting()
	c.send(be.AppendUint32(nil, 3))
	c.mustGo("e")
}

// dribble sends b at bytes per second until it fails or all is sent, and returns how long it took.
func (c *client) dribble(b []byte, bytes int) (time.Duration, error) {
	begin := time.Now()
	for len(b) > 0 {
		time.Sleep(time.Second)
		n := min(bytes, len(b))
		if _, err := c.Write(b[:n]); err != nil {
			return time.Since(begin), err
		}
		b = b[n:]
	}
	return time.Since(begin), nil
}

// TestSlowClients: slow loris in each phase.
func TestSlowClients(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, _ *nbd.Server, c *client) {
			begin := time.Now()
			c.greeting()
			c.requireClosed(1)
			require.Equal(t, 10*time.Second, time.Since(begin))
		})
	})
	t.Run("does not read the greeting", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, s *nbd.Server, c *client) {
			time.Sleep(10*time.Second + 1)
			synctest.Wait()
			require.Zero(t, s.Stats().Handshakes)
			c.requireClosed(1)
		})
	})
	t.Run("options", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, _ *nbd.Server, c *client) {
			c.greeting()
			c.send(be.AppendUint32(nil, 3))
			took, err := c.dribble(optionBytes(wire.OptGo, goData("e")), 1)
			require.Error(t, err)
			require.InDelta(t, 10, took.Seconds(), 1)
		})
	})
	t.Run("header", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, _ *nbd.Server, c *client) {
			c.pipeGo()
			took, err := c.dribble(requestBytes(wire.CmdRead, 0, 1, 0, 512), 1)
			require.Error(t, err)
			require.InDelta(t, 12, took.Seconds(), 2)
		})
	})
	for what, tc := range map[string]struct {
		length uint32
		off    uint64
		rate   int
		after  float64 // 0: in time
	}{
		"small payload":              {4096, 0, 1, 12},
		"large payload":              {1 << 20, 0, 100, 28},
		"payload to be skipped":      {1 << 20, 1 << 40, 100, 28},
		"payload barely fast enough": {1 << 20, 0, 64 << 10, 0},
	} {
		t.Run(what, func(t *testing.T) {
			pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, _ *nbd.Server, c *client) {
				c.pipeGo()
				c.send(requestBytes(wire.CmdWrite, 0, 1, tc.off, tc.length))
				took, err := c.dribble(make([]byte, tc.length), tc.rate)
				if tc.after == 0 {
					require.NoError(t, err)
					_, errno := c.simple()
					require.Equal(t, wire.OK, errno)
					return
				}
				require.Error(t, err)
				require.InDelta(t, tc.after, took.Seconds(), 2)
			})
		})
	}
	t.Run("replies", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, s *nbd.Server, c *client) {
			c.pipeGo()
			c.request(wire.CmdRead, 0, 0, 1<<20, nil)
			time.Sleep(70 * time.Second)
			synctest.Wait()
			require.Len(t, s.Stats().Clients, 1)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			require.Empty(t, s.Stats().Clients)
		})
	})
	t.Run("idle is not slow", func(t *testing.T) {
		pipe(t, nbd.Options{}, memexport.New(1<<20), func(t *testing.T, _ *nbd.Server, c *client) {
			c.pipeGo()
			for range 3 {
				time.Sleep(8 * time.Hour)
				c.requireAlive()
			}
		})
	})
	t.Run("a slow export is not a slow client", func(t *testing.T) {
		e := &plain{m: memexport.New(1 << 20), write: func(int64) error { time.Sleep(time.Hour); return nil }}
		pipe(t, nbd.Options{}, e, func(t *testing.T, _ *nbd.Server, c *client) {
			c.pipeGo()
			c.mustWrite(0, pattern(4096, 1))
		})
	})
}

// TestHungClient: one client never reads its replies; the memory it takes is bounded and the
// other client is as well off as without it.
func TestHungClient(t *testing.T) {
	for _, name := range []string{"e", "plain"} {
		t.Run(name, func(t *testing.T) {
			const limit = 16 << 20
			m := memexport.New(64 << 20)
			s := serve(t, nbd.Options{MaxInFlight: limit}, map[string]nbd.Export{"e": m, "plain": &plain{m: m}})
			hung, other := s.open(name), s.open(name)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					if _, err := hung.Write(requestBytes(wire.CmdRead, 0, 1, 0, 1<<20)); err != nil {
						return
					}
				}
			}()
			eventually(t, "the limit is reached", func() bool { return s.Stats().InFlightBytes >= limit })
			data := pattern(300<<10, 1)
			for i := range 100 {
				other.mustWrite(uint64(i)<<10, data)
				require.True(t, bytes.Equal(data, other.mustRead(uint64(i)<<10, len(data))))
				require.Less(t, s.Stats().InFlightBytes, int64(limit+2<<20))
			}
			for _, cl := range s.Stats().Clients {
				require.LessOrEqual(t, cl.InFlightBytes, int64(limit+1<<20+4096))
			}
			hung.Close()
			<-stopped
			other.requireAlive()
		})
	}
}

// TestTotalBudget: hung clients together have all there is, and yet everybody may have one
// request at a time.
func TestTotalBudget(t *testing.T) {
	const limit = 4 << 20
	s, _ := serveMem(t, nbd.Options{MaxTotalInFlight: limit}, 64<<20)
	var hung []*client
	for range 3 {
		c := s.open("e")
		hung = append(hung, c)
		go func() {
			for {
				if _, err := c.Write(requestBytes(wire.CmdRead, 0, 1, 0, 2<<20)); err != nil {
					return
				}
			}
		}()
	}
	eventually(t, "the limit is reached", func() bool { return s.Stats().InFlightBytes >= limit })
	other := s.open("e")
	for range 20 {
		other.mustWrite(0, pattern(1<<20, 1))
		other.mustRead(0, 1<<20)
	}
	require.Less(t, s.Stats().InFlightBytes, int64(limit+4*(2<<20+4096)))
	for _, c := range hung {
		c.Close()
	}
	other.requireAlive()
}

// TestManyInFlight: 100,000 requests are sent before any is answered; the server takes as many
// as the budget allows and leaves the rest in the socket.
func TestManyInFlight(t *testing.T) {
	const n = 100_000
	gate := make(chan struct{})
	e := &plain{m: memexport.New(1 << 20), read: func(int64, int64) error { <-gate; return nil }}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	release := releaser(t, gate)
	c := s.open("e")
	go func() {
		var b []byte
		for i := range uint64(n) {
			b = append(b, requestBytes(wire.CmdRead, 0, i, i, 1)...)
		}
		_, _ = c.Write(b)
	}()
	eventually(t, "the limit is reached", func() bool { return s.Stats().InFlightBytes >= 64<<20 })
	require.LessOrEqual(t, s.Stats().Clients[0].InFlight, int64(64<<20/4096+1))
	release()
	seen := make([]bool, n)
	for range n {
		b := c.read(wire.ReplySize + 1)
		r := wire.ParseReply(b)
		require.Zero(t, r.Error)
		require.False(t, seen[r.Handle])
		seen[r.Handle] = true
	}
}

// TestIdleSockets: CVE-2024-7409: hundreds of sockets that say nothing do not keep others out.
func TestIdleSockets(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{MaxHandshakes: 32}, 1<<20)
	for range 200 {
		s.dial()
	}
	c := s.open("e")
	c.requireAlive()
	st := s.Stats()
	require.LessOrEqual(t, st.Handshakes, 32)
	require.NotZero(t, st.Displaced)
	for range 100 {
		s.dial()
	}
	c.requireAlive() // who is through is not counted
}

func TestMaxConnections(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{MaxConnections: 2}, 1<<20)
	a, b := s.open("e"), s.open("e")
	c := s.hello()
	c.option(wire.OptInfo, goData("e"))
	c.exportInfo(wire.OptInfo)
	c.option(wire.OptGo, goData("e"))
	require.Equal(t, wire.RepErrPolicy, c.optReply(wire.OptGo).typ)
	d := s.hello()
	d.option(wire.OptExportName, []byte("e"))
	d.requireClosed(1)
	a.Close() // whoever is gone does not count, even if the server has not noticed yet
	c.mustGo("e")
	c.requireAlive()
	b.requireAlive()
}

// TestOldWriteCannotLandLate is the hazard of reconnecting: a client writes, loses patience and
// the connection, and sends newer data over a new one, while the old write still sits on a slow
// disk. The new connection must not get through until the old write is over.
func TestOldWriteCannotLandLate(t *testing.T) {
	for what, queued := range map[string]int{"one write": 1, "writes that were not even read": 100} {
		t.Run(what, func(t *testing.T) {
			gate, entered := make(chan struct{}), make(chan struct{}, 1000)
			var slow atomic.Bool
			slow.Store(true)
			e := &plain{m: memexport.New(1 << 20), write: func(int64) error {
				if slow.Load() {
					entered <- struct{}{}
					<-gate
				}
				return nil
			}}
			s := serve(t, nbd.Options{MaxInFlight: 8192, Workers: 2}, map[string]nbd.Export{"e": e})
			release := releaser(t, gate)
			old := s.open("e")
			for range queued {
				old.request(wire.CmdWrite, 0, 0, 512, pattern(512, 1))
			}
			<-entered
			old.Close()

			next := s.hello()
			next.option(wire.OptGo, goData("e"))
			eventually(t, "the new connection waits", func() bool { return s.Stats().Exports[0].Connections == 2 })
			require.NoError(t, next.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			_, err := next.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "let through while an old write is under way")
			require.NoError(t, next.SetReadDeadline(time.Now().Add(patience)))
			slow.Store(false)
			release()
			next.exportInfo(wire.OptGo)
			require.Equal(t, 1, s.Stats().Exports[0].Connections)
			next.mustWrite(0, pattern(512, 2))
			next.requireAlive()
			require.Equal(t, pattern(512, 2), next.mustRead(0, 512))
		})
	}
}

// TestResendOnAnotherConnection: the same hazard for a client that has several connections and
// sends again on one that it had all the time.
func TestResendOnAnotherConnection(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	m := memexport.New(1 << 20)
	block := func(int64) error {
		if first.CompareAndSwap(false, true) {
			close(entered)
			<-gate
		}
		return nil
	}
	e := slowWrites{m, &plain{m: m, write: block}}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	release := releaser(t, gate)
	a, b := s.open("e"), s.open("e")
	a.request(wire.CmdWrite, wire.CmdFlagFUA, 0, 512, pattern(512, 1)) // FUA: not inline
	<-entered
	a.Close()
	eventually(t, "the loss is noticed", func() bool {
		h := b.request(wire.CmdRead, 0, 0, 1, nil) // reads are not held up
		require.Equal(t, h, b.answerTo(wire.CmdRead, 0, 1).handle)
		return s.Lost("e") == 1
	})
	h := b.request(wire.CmdWrite, 0, 0, 512, pattern(512, 2))
	b.mustReadWhile(h)
	require.NoError(t, b.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := b.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "acknowledged while an old write is under way")
	require.NoError(t, b.SetReadDeadline(time.Now().Add(patience)))
	release()
	got, errno := b.simple()
	require.Equal(t, h, got)
	require.Equal(t, wire.OK, errno)
	require.Equal(t, pattern(512, 2), b.mustRead(0, 512))
}

// mustReadWhile reads a byte while request h is not to be answered.
func (c *client) mustReadWhile(h uint64) {
	c.t.Helper()
	r := c.request(wire.CmdRead, 0, 4096, 1, nil)
	a := c.answerTo(wire.CmdRead, 0, 1)
	require.Equal(c.t, r, a.handle, "request %d was answered", h)
}

// slowWrites serves inline, but its WriteAt goes through hooks.
type slowWrites struct {
	*memexport.Export
	p *plain
}

func (w slowWrites) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	return w.p.WriteAt(ctx, b, off, fua)
}

// TestDrainTimeout: a new connection does not wait for ever, and may try again.
func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		e := &plain{m: memexport.New(1 << 20), write: func(int64) error { <-gate; return nil }}
		set := &memexport.Set{}
		set.Add(e, nbd.Info{Name: "e"})
		s := nbd.NewServer(set, nbd.Options{Logger: quiet()})
		connect := func() *client {
			here, there := net.Pipe()
			go func() { _ = s.ServeConn(t.Context(), there) }()
			c := &client{Conn: here, t: t}
			c.greeting()
			c.send(be.AppendUint32(nil, 3))
			return c
		}
		old := connect()
		old.mustGo("e")
		old.request(wire.CmdWrite, 0, 0, 512, make([]byte, 512))
		synctest.Wait()
		old.Close()
		synctest.Wait()
		next, begin := connect(), time.Now()
		next.option(wire.OptGo, goData("e"))
		require.Equal(t, wire.RepErrPolicy, next.optReply(wire.OptGo).typ)
		require.Equal(t, 30*time.Second, time.Since(begin))
		next.option(wire.OptGo, goData("e"))
		time.Sleep(5 * time.Second)
		close(gate)
		next.exportInfo(wire.OptGo)
		require.NoError(t, s.Shutdown(t.Context()))
		next.requireClosed(1)
	})
}

// TestShutdown: what was read is answered, without ESHUTDOWN; the rest is left to be sent again.
func TestShutdown(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 100)
	e := &plain{m: memexport.New(1 << 20), write: func(int64) error { entered <- struct{}{}; <-gate; return nil }}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	release := releaser(t, gate)
	busy, idle, greeted, silent := s.open("e"), s.open("e"), s.hello(), s.dial()
	const n = 20
	for i := range n {
		busy.request(wire.CmdWrite, 0, uint64(i)*512, 512, pattern(512, 1))
	}
	for range n {
		<-entered
	}
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	idle.requireClosed(1)
	greeted.requireClosed(1)
	silent.requireClosed(wire.GreetingSize + 1)
	// Connections are told in no order, so that the others are closed says nothing of this one.
	eventually(t, "no more is read", func() bool { return s.Ending("e") == 1 })
	for range 50 { // not read any more
		_, _ = busy.Write(requestBytes(wire.CmdRead, 0, 99, 0, 512))
	}
	select {
	case <-done:
		require.Fail(t, "Shutdown did not wait for requests under way")
	default:
	}
	release()
	for range n {
		h, errno := busy.simple()
		require.Equal(t, wire.OK, errno)
		require.LessOrEqual(t, h, uint64(n))
	}
	_, err := io.Copy(io.Discard, busy)
	require.NoError(t, err, "closed properly, although there was unread input")
	busy.Close()
	require.NoError(t, <-done)
	require.ErrorIs(t, s.Serve(s.l), nbd.ErrServerClosed)
	_, there := net.Pipe()
	require.ErrorIs(t, s.ServeConn(t.Context(), there), nbd.ErrServerClosed)
	_, err = net.Dial("unix", s.path)
	require.Error(t, err)
}

// TestShutdownRunsOutOfTime: a hung export holds up Shutdown for as long as its context allows;
// Close cancels.
func TestShutdownRunsOutOfTime(t *testing.T) {
	set := &memexport.Set{}
	e := &hangs{Export: memexport.New(1 << 20), entered: make(chan struct{})}
	set.Add(e, nbd.Info{Name: "e"})
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	c := s.open("e")
	c.request(wire.CmdFlush, 0, 0, 0, nil)
	<-e.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	require.NoError(t, s.Close())
	require.True(t, e.canceled.Load())
}

type hangs struct {
	*memexport.Export
	entered  chan struct{}
	canceled atomic.Bool
}

func (h *hangs) Sync(ctx context.Context) error {
	close(h.entered)
	<-ctx.Done()
	h.canceled.Store(true)
	return ctx.Err()
}

// TestServeConnEndsWithItsContext: the client gets its answers, then the end.
func TestServeConnEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := &memexport.Set{}
		set.Add(memexport.New(1<<20), nbd.Info{Name: "e"})
		s := nbd.NewServer(set, nbd.Options{Logger: quiet()})
		here, there := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(ctx, there) }()
		c := &client{Conn: here, t: t}
		c.pipeGo()
		c.requireAlive()
		cancel()
		_, err := c.Read(make([]byte, 1))
		require.True(t, errors.Is(err, io.EOF), "%v", err)
		require.ErrorIs(t, <-served, context.Canceled)
		require.NoError(t, s.Close())
	})
}
