package torture

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// persistent is a client that connects anew and sends again what was not answered, as kernels and
// libraries do that survive the restart of a server.
type persistent struct {
	path string
	mu   sync.Mutex // not held while a request is under way
	c    *nbdclient.Client
	lost int // connections
}

func (p *persistent) do(f func(c *nbdclient.Client) error) error {
	for deadline := time.Now().Add(harness.Patience); ; {
		c, err := p.connection()
		if err == nil {
			if err = f(c); !errors.Is(err, nbdclient.ErrLost) {
				return err
			}
			p.drop(c)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not come back: %w", err)
		}
		<-time.After(5 * time.Millisecond) // between two looks for the socket
	}
}

func (p *persistent) connection() (*nbdclient.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c != nil {
		return p.c, nil
	}
	c, err := nbdclient.Dial("unix", p.path, "e")
	if err == nil {
		p.c = c
	}
	return c, err
}

func (p *persistent) drop(c *nbdclient.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c == c {
		p.c = nil
		p.lost++
	}
	c.Close()
}

func (p *persistent) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c != nil {
		p.c.Close()
	}
}

func (p *persistent) Read(b []byte, off int64) error {
	return p.do(func(c *nbdclient.Client) error { return c.Read(b, off) })
}

func (p *persistent) Write(b []byte, off int64, flags uint16) error {
	return p.do(func(c *nbdclient.Client) error { return c.Write(b, off, flags) })
}

func (p *persistent) Flush() error { return p.do((*nbdclient.Client).Flush) }

func (p *persistent) Trim(off int64, size int, flags uint16) error {
	return p.do(func(c *nbdclient.Client) error { return c.Trim(off, size, flags) })
}

func (p *persistent) WriteZeroes(off int64, size int, flags uint16) error {
	return p.do(func(c *nbdclient.Client) error { return c.WriteZeroes(off, size, flags) })
}

// TestStopUnderLoad: SIGTERM answers what it has read, with success, and loses nothing of what it
// answered, flushed or not.
func TestStopUnderLoad(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: copies})
			for range 3 {
				r.start()
				require.True(t, r.verify())
				l := startLoad(r.m, rng, 8, r.connect(3)...)
				l.awaitOps(t, int64(50+rng.IntN(500)))
				r.stop()
				l.ended.Wait()
				require.NoError(t, l.err())
				require.Positive(t, l.acked.Load())
				r.m.flushed(r.m.now())
			}
			r.start()
			require.True(t, r.verify())
			r.stop()
			require.Equal(t, "sound", r.check().Verdict)
		})
	}
}

// TestRestartUnderReconnectingClients: clients that send again what was not answered notice
// nothing of restarts but the time they take.
func TestRestartUnderReconnectingClients(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: copies})
			r.start()
			var clients []client
			for range 3 {
				p := &persistent{path: r.d.NBD}
				defer p.close()
				clients = append(clients, p)
			}
			l := startLoad(r.m, rng, 6, clients...)
			for range 3 {
				l.awaitOps(t, int64(100+rng.IntN(300)))
				r.stop()
				r.start()
			}
			l.awaitOps(t, 10) // more than can have been answered before the restart and not been counted
			l.finish()
			require.NoError(t, l.err())
			lost := 0
			for _, c := range clients {
				lost += c.(*persistent).lost
			}
			require.GreaterOrEqual(t, lost, 3, "connections")
			require.NoError(t, clients[0].Flush())
			r.m.flushed(r.m.now())
			r.kill()
			r.start()
			require.True(t, r.verify())
			r.stop()
			require.Equal(t, "sound", r.check().Verdict)
		})
	}
}

// TestPauses stops the process and lets it go on, for moments and for longer than disks may take
// to answer: no client sees more of it than a delay, no disk is blamed for good, and no copy of the
// journal at all.
func TestPauses(t *testing.T) {
	rng := newRand(t)
	w := newWard(t)
	for i, rate := range wellRates { // something is always under way in the disks, whatever is below them
		w.sick[i].Set(harness.Illness{Rate: rate, Flush: 20 * time.Millisecond})
	}
	r := w.rig
	l := startLoad(r.m, rng, 6, r.connect(3)...)
	for _, pause := range []time.Duration{50 * time.Millisecond, time.Millisecond, 300 * time.Millisecond, 7 * time.Second} {
		r.d.Signal(syscall.SIGSTOP)
		<-time.After(pause)
		r.d.Signal(syscall.SIGCONT)
		l.awaitOps(t, 100)
	}
	l.finish()
	require.NoError(t, l.err())
	require.NotContains(t, r.d.Log(), "a copy of the journal is given up")
	for deadline := time.Now().Add(harness.Patience); r.status().State != "ok"; {
		require.True(t, time.Now().Before(deadline), "%+v", r.status())
		<-time.After(100 * time.Millisecond)
	}
	require.NoError(t, r.connect(1)[0].Flush())
	r.m.flushed(r.m.now())
	r.kill()
	r.start()
	require.True(t, r.verify())
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}
