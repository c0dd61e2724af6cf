package devices

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// gateDisk is a disk whose operations end when, and as, the test says.
type gateDisk struct {
	mu    sync.Mutex
	calls []*gateCall
	size  int64
	open  atomic.Bool // operations end at once
	ends  atomic.Bool
}

type gateCall struct {
	kind Kind
	off  int64
	end  chan error
}

func (g *gateDisk) op(kind Kind, off int64, n int) (int, error) {
	if g.open.Load() {
		return n, nil
	}
	c := &gateCall{kind: kind, off: off, end: make(chan error, 1)}
	g.mu.Lock()
	g.calls = append(g.calls, c)
	g.mu.Unlock()
	if err := <-c.end; err != nil {
		return 0, err
	}
	return n, nil
}

func (g *gateDisk) ReadAt(p []byte, off int64) (int, error)  { return g.op(Read, off, len(p)) }
func (g *gateDisk) WriteAt(p []byte, off int64) (int, error) { return g.op(Write, off, len(p)) }
func (g *gateDisk) Sync() error                              { _, err := g.op(Sync, 0, 0); return err }
func (g *gateDisk) Size() int64                              { return g.size }
func (g *gateDisk) Close() error                             { g.ends.Store(true); return nil }

// inDisk waits until everything that can run has, and returns what the disk holds.
func (g *gateDisk) inDisk() []*gateCall {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*gateCall(nil), g.calls...)
}

// end lets call i return.
func (g *gateDisk) end(i int, err error) {
	g.mu.Lock()
	c := g.calls[i]
	g.calls = append(g.calls[:i:i], g.calls[i+1:]...)
	g.mu.Unlock()
	c.end <- err
	synctest.Wait()
}

// outcome records what a request was told.
type outcome struct {
	r        Request
	mu       sync.Mutex
	done     int
	returned int
	err      error
	held     bool
}

func (o *outcome) submit(d *Device) *outcome {
	o.r.Done = func(r *Request, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.err, o.held = err, r.Held()
		o.done++
	}
	o.r.Returned = func(*Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.done != 1 {
			panic("Returned before Done")
		}
		o.returned++
	}
	d.Submit(&o.r)
	return o
}

func (o *outcome) require(t *testing.T, done, returned int, err error) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Equal(t, done, o.done, "calls of Done")
	require.Equal(t, returned, o.returned, "calls of Returned")
	if err == nil {
		require.NoError(t, o.err)
	} else {
		require.ErrorIs(t, o.err, err)
	}
}

func request(kind Kind, off, size int64) *outcome {
	o := &outcome{r: Request{Kind: kind, Off: off}}
	if kind != Sync {
		o.r.Bufs = [][]byte{make([]byte, size)}
	}
	return o
}

func withDevice(t *testing.T, opts Options, f func(t *testing.T, g *gateDisk, d *Device)) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateDisk{size: 1 << 30}
		if opts.Name == "" {
			opts.Name = "sda"
		}
		d := NewDevice(g, opts)
		defer func() {
			g.open.Store(true)
			for len(g.inDisk()) > 0 {
				g.end(0, nil)
			}
			if err := d.Close(); err != nil {
				require.ErrorIs(t, err, ErrClosed)
			}
			require.True(t, g.ends.Load(), "disk was closed")
		}()
		f(t, g, d)
	})
}

func TestDepthLimit(t *testing.T) {
	// 10 ms an operation: two are always let in, a third only while less than 20 ms are in.
	withDevice(t, Options{Learned: learned(10e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for i := range 5 {
			request(Write, int64(i)*mib, mib).submit(d)
		}
		require.Len(t, g.inDisk(), 2)
		require.Equal(t, 3, d.Stats().Waiting)
		require.Equal(t, 5, d.Load().Outstanding)
		require.InDelta(t, 50*time.Millisecond, d.Load().Backlog, float64(time.Millisecond))
		time.Sleep(10 * time.Millisecond)
		g.end(0, nil)
		require.Len(t, g.inDisk(), 2)
	})
	withDevice(t, Options{Learned: learned(5e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for i := range 9 {
			request(Write, int64(i)*mib, mib).submit(d)
		}
		require.Len(t, g.inDisk(), 4, "20 ms of work")
	})
	withDevice(t, Options{MaxWorkers: 3, Learned: learned(1e-6 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 9 {
			request(Read, 0, 4096).submit(d)
		}
		request(Sync, 0, 0).submit(d)
		require.Len(t, g.inDisk(), 3, "thread cap")
	})
	withDevice(t, Options{Rotational: true, Learned: learned(1e-6 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 40 {
			request(Read, 0, 4096).submit(d)
		}
		require.Len(t, g.inDisk(), 16)
	})
}

func TestReadsGoFirstAndWritesDoNotStarve(t *testing.T) {
	withDevice(t, Options{Learned: learned(20e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 4 {
			request(Write, 0, mib).submit(d)
		}
		require.Len(t, g.inDisk(), 2)
		for range 12 {
			request(Read, 0, mib).submit(d)
		}
		var kinds []Kind
		for range 14 {
			time.Sleep(20 * time.Millisecond)
			g.end(0, nil)
			calls := g.inDisk()
			if len(calls) == 2 {
				kinds = append(kinds, calls[1].kind)
			}
		}
		require.Equal(t, []Kind{Read, Read, Read, Read, Write, Read, Read, Read, Read, Write, Read, Read, Read, Read}, kinds)
	})
}

func TestBackgroundYields(t *testing.T) {
	withDevice(t, Options{Learned: learned(10e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		background := func() *outcome {
			o := request(Write, 64*mib, 256<<10)
			o.r.Class = Background
			return o.submit(d)
		}
		background()
		background()
		require.Len(t, g.inDisk(), 1, "one at a time")
		require.Equal(t, 1, d.Load().Outstanding, "those that wait are in nobody's way")

		// Foreground requests come. The next background one starts only by the floor: 2.5 ms of
		// work each 125 ms.
		request(Read, 0, mib).submit(d)
		require.Len(t, g.inDisk(), 2)
		time.Sleep(10 * time.Millisecond)
		g.end(0, nil) // the background one
		began, at := time.Now(), time.Duration(0)
		for range 40 {
			request(Read, 0, mib).submit(d)
			time.Sleep(10 * time.Millisecond)
			g.end(0, nil)
			for _, c := range g.inDisk() {
				if c.kind == Write && at == 0 {
					at = time.Since(began)
				}
			}
		}
		require.InDelta(t, 125*time.Millisecond, at, float64(20*time.Millisecond))
	})
	withDevice(t, Options{BackgroundFloor: -1}, func(t *testing.T, g *gateDisk, d *Device) {
		request(Read, 0, mib).submit(d)
		o := request(Read, 0, mib)
		o.r.Class = Background
		o.submit(d)
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			request(Read, 0, mib).submit(d)
			require.Len(t, g.inDisk(), 2)
			g.end(0, nil)
		}
		o.require(t, 0, 0, nil)
		g.end(0, nil)
		require.Len(t, g.inDisk(), 1)
		g.end(0, nil)
		o.require(t, 1, 1, nil)
	})
}

// TestBackgroundGetsItsFloor: background requests have their share of the disk's time although each of
// them waits in it behind many of the foreground.
func TestBackgroundGetsItsFloor(t *testing.T) {
	for _, floor := range []float64{0.02, 0.1, 0.25} {
		withDevice(t, Options{Learned: learned(10e-3 / mib), TargetLatency: 50 * time.Millisecond, BackgroundFloor: floor}, func(t *testing.T, g *gateDisk, d *Device) {
			for range 20 {
				request(Read, 0, mib).submit(d)
			}
			for range 40 {
				o := request(Write, 0, 256<<10)
				o.r.Class = Background
				o.submit(d)
			}
			var shares [2]time.Duration // of the foreground and of the background
			for began := time.Now(); time.Since(began) < 10*time.Second; {
				if g.inDisk()[0].kind == Read {
					shares[0] += 10 * time.Millisecond
					time.Sleep(10 * time.Millisecond)
					request(Read, 0, mib).submit(d)
				} else {
					shares[1] += 2500 * time.Microsecond
					time.Sleep(2500 * time.Microsecond)
					o := request(Write, 0, 256<<10)
					o.r.Class = Background
					o.submit(d)
				}
				g.end(0, nil)
			}
			share := shares[1].Seconds() / (shares[0] + shares[1]).Seconds()
			require.InDelta(t, floor, share, 0.15*floor)
		})
	}
}

func TestTimeoutIsAnsweredOnceAndReturnedLate(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second}, func(t *testing.T, g *gateDisk, d *Device) {
		o := request(Write, 0, mib).submit(d)
		short := request(Read, 0, 4096)
		short.r.Timeout = 100 * time.Millisecond
		short.submit(d)
		time.Sleep(99 * time.Millisecond)
		short.require(t, 0, 0, nil)
		time.Sleep(2 * time.Millisecond)
		short.require(t, 1, 0, ErrTimeout)
		require.True(t, short.held)
		require.ErrorContains(t, short.err, "device sda: read 4096 bytes at 0x0: operation timed out")
		time.Sleep(time.Second)
		o.require(t, 1, 0, ErrTimeout)

		time.Sleep(time.Hour)
		require.Equal(t, 2, d.Stats().InFlight, "hung operations keep their threads")
		require.True(t, d.Load().Overdue)
		require.Greater(t, d.Load().Stalled, time.Hour)
		g.end(0, nil)
		g.end(0, errors.New("too late"))
		o.require(t, 1, 1, ErrTimeout)
		short.require(t, 1, 1, ErrTimeout)
		require.EqualValues(t, 2, d.Stats().Timeouts)

		// The device goes on.
		o = request(Read, 0, 4096).submit(d)
		require.Len(t, g.inDisk(), 1)
		g.end(0, nil)
		o.require(t, 1, 1, nil)
		require.False(t, o.held)
	})
}

func TestQueueOfAHungDiskTimesOut(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second, Learned: learned(20e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 2 {
			request(Write, 0, mib).submit(d)
		}
		queued := request(Write, 0, mib).submit(d)
		time.Sleep(900 * time.Millisecond)
		g.end(0, nil) // progress: the queued one starts
		require.Len(t, g.inDisk(), 2)
		last := request(Write, 0, mib).submit(d)
		time.Sleep(950 * time.Millisecond)
		last.require(t, 0, 0, nil)
		time.Sleep(100 * time.Millisecond)
		last.require(t, 1, 1, ErrTimeout)
		queued.require(t, 1, 0, ErrTimeout)
	})
}

func TestThreadCapCountsHungOperations(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second, MaxWorkers: 4}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 10 {
			request(Read, 0, 4096).submit(d)
			time.Sleep(2 * time.Second)
		}
		require.Len(t, g.inDisk(), 4)
		require.Equal(t, 4, d.Stats().InFlight)
	})
}

func TestFail(t *testing.T) {
	withDevice(t, Options{Learned: learned(20e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		var left atomic.Int32
		d.OnComplete(func() { left.Add(1) })
		inDisk := request(Write, 0, mib).submit(d)
		second := request(Write, 0, mib).submit(d)
		queued := request(Write, 0, mib).submit(d)
		syncing := request(Sync, 0, 0).submit(d)
		background := request(Read, 0, mib)
		background.r.Class = Background
		background.submit(d)
		require.Len(t, g.inDisk(), 3)

		cause := errors.New("pulled out")
		require.NoError(t, d.Failed())
		d.Fail(cause)
		d.Fail(errors.New("again"))
		require.ErrorIs(t, d.Failed(), cause)
		require.Positive(t, left.Load())
		inDisk.require(t, 1, 0, ErrFailed)
		require.True(t, inDisk.held)
		second.require(t, 1, 0, cause)
		syncing.require(t, 1, 0, ErrFailed)
		queued.require(t, 1, 1, ErrFailed)
		require.False(t, queued.held)
		background.require(t, 1, 1, ErrFailed)
		request(Read, 0, 4096).submit(d).require(t, 1, 1, ErrFailed)
		request(Sync, 0, 0).submit(d).require(t, 1, 1, ErrFailed)
		require.ErrorIs(t, d.Do(&Request{Kind: Read, Bufs: [][]byte{make([]byte, 4096)}}), ErrFailed)

		for range 3 {
			g.end(0, nil)
		}
		require.Empty(t, g.inDisk(), "nothing more is dispatched")
		inDisk.require(t, 1, 1, ErrFailed)
		syncing.require(t, 1, 1, ErrFailed)
	})
}

func TestCancel(t *testing.T) {
	withDevice(t, Options{Learned: learned(20e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		first := request(Write, 0, mib).submit(d)
		request(Write, 0, mib).submit(d)
		queued := request(Write, 0, mib).submit(d)
		require.Len(t, g.inDisk(), 2)
		require.False(t, d.Cancel(&first.r))
		require.True(t, d.Cancel(&queued.r))
		require.False(t, d.Cancel(&queued.r))
		require.Equal(t, 2, d.Load().Outstanding)

		syncing := request(Sync, 0, 0).submit(d)
		require.Len(t, g.inDisk(), 3)
		g.end(0, nil) // a write: the next sync may not share the one in the disk
		waiting := request(Sync, 0, 0).submit(d)
		require.False(t, d.Cancel(&syncing.r))
		require.True(t, d.Cancel(&waiting.r))
		for range 2 {
			g.end(0, nil)
		}
		queued.require(t, 0, 0, nil)
		waiting.require(t, 0, 0, nil)
		queued.submit(d) // it may be used again
		require.Len(t, g.inDisk(), 1)
		g.end(0, nil)
		queued.require(t, 1, 1, nil)
	})
}

func TestSyncsAreShared(t *testing.T) {
	withDevice(t, Options{}, func(t *testing.T, g *gateDisk, d *Device) {
		syncs := func() (n int) {
			for _, c := range g.inDisk() {
				if c.kind == Sync {
					n++
				}
			}
			return n
		}
		a := request(Sync, 0, 0).submit(d)
		b := request(Sync, 0, 0).submit(d) // no write since a began
		require.Equal(t, 1, syncs())

		write := request(Write, 0, 4096).submit(d)
		require.Len(t, g.inDisk(), 2, "beside the sync")
		g.end(1, nil)
		write.require(t, 1, 1, nil)
		c := request(Sync, 0, 0).submit(d)
		e := request(Sync, 0, 0).submit(d)
		require.Equal(t, 1, syncs(), "one at a time")
		g.end(0, nil)
		a.require(t, 1, 1, nil)
		b.require(t, 1, 1, nil)
		c.require(t, 0, 0, nil)
		require.Equal(t, 1, syncs())
		g.end(0, nil)
		c.require(t, 1, 1, nil)
		e.require(t, 1, 1, nil)
		require.EqualValues(t, 2, d.Stats().Sync.Ops)
	})
}

func TestSyncWaitsForAThread(t *testing.T) {
	withDevice(t, Options{MaxWorkers: 2}, func(t *testing.T, g *gateDisk, d *Device) {
		for range 2 {
			request(Write, 0, 4096).submit(d)
		}
		require.Len(t, g.inDisk(), 2, "no thread is left")
		sync := request(Sync, 0, 0).submit(d)
		require.Len(t, g.inDisk(), 2)
		g.end(0, nil)
		calls := g.inDisk()
		require.Equal(t, Sync, calls[len(calls)-1].kind, "begins when an operation returns")
		g.end(len(calls)-1, nil)
		sync.require(t, 1, 1, nil)
	})
}

func TestFailedSyncIsFinal(t *testing.T) {
	withDevice(t, Options{}, func(t *testing.T, g *gateDisk, d *Device) {
		a := request(Sync, 0, 0).submit(d)
		require.Len(t, g.inDisk(), 1)
		w := request(Write, 0, 4096).submit(d)
		require.Len(t, g.inDisk(), 2)
		g.end(1, nil)
		w.require(t, 1, 1, nil)
		waiting := request(Sync, 0, 0).submit(d)
		eio := errors.New("input/output error")
		g.end(0, eio)
		a.require(t, 1, 1, eio)
		waiting.require(t, 1, 1, eio)
		request(Sync, 0, 0).submit(d).require(t, 1, 1, eio)
		require.Empty(t, g.inDisk(), "the disk was not asked again")
	})
}

func TestHungSyncDoesNotHoldOthersForever(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second}, func(t *testing.T, g *gateDisk, d *Device) {
		a := request(Sync, 0, 0).submit(d)
		require.Len(t, g.inDisk(), 1)
		w := request(Write, 0, 4096).submit(d)
		require.Len(t, g.inDisk(), 2)
		g.end(1, nil)
		w.require(t, 1, 1, nil)
		b := request(Sync, 0, 0).submit(d)
		for range 8 { // other operations go on
			time.Sleep(200 * time.Millisecond)
			o := request(Read, 0, 4096).submit(d)
			require.Len(t, g.inDisk(), 2)
			g.end(1, nil)
			o.require(t, 1, 1, nil)
		}
		a.require(t, 1, 0, ErrTimeout)
		b.require(t, 1, 1, ErrTimeout)
	})
}

func TestDoRunsInlineOnAHealthyDeviceOnly(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second}, func(t *testing.T, g *gateDisk, d *Device) {
		g.open.Store(true)
		var returned int
		r := &Request{Kind: Read, Bufs: [][]byte{make([]byte, 4096)}, Returned: func(*Request) { returned++ }}
		for range 100 {
			require.NoError(t, d.Do(r))
		}
		require.Equal(t, 100, returned)
		require.False(t, d.watching && len(d.idle) > 0, "no worker was needed")
		require.Nil(t, r.Done)

		// With a hung operation in the disk, Do keeps its deadline.
		g.open.Store(false)
		request(Read, 0, 4096).submit(d)
		require.Len(t, g.inDisk(), 1)
		time.Sleep(5 * time.Second)
		began := time.Now()
		require.ErrorIs(t, d.Do(r), ErrTimeout)
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, 100, returned)
		require.Len(t, g.inDisk(), 2)
		g.end(1, nil)
		require.Equal(t, 101, returned)
	})
}

func TestErrorsNameTheOperation(t *testing.T) {
	withDevice(t, Options{Name: "sdb"}, func(t *testing.T, g *gateDisk, d *Device) {
		o := request(Write, 0x5100000, 64<<10).submit(d)
		require.Len(t, g.inDisk(), 1)
		g.end(0, errors.New("no space left on device"))
		require.EqualError(t, o.err, "device sdb: write 65536 bytes at 0x5100000: no space left on device")
		require.EqualValues(t, 1, d.Stats().Write.Errors)
		require.Zero(t, d.Stats().Write.Bytes)
	})
}

func TestCloseAnswersEverything(t *testing.T) {
	withDevice(t, Options{Timeout: time.Second, Learned: learned(20e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
		hung := request(Write, 0, mib).submit(d)
		require.Len(t, g.inDisk(), 1)
		slow := request(Write, 0, mib).submit(d)
		queued := request(Write, 0, mib).submit(d)
		require.Len(t, g.inDisk(), 2)
		closed := make(chan error, 1)
		began := time.Now()
		go func() { closed <- d.Close() }()
		synctest.Wait()
		queued.require(t, 1, 1, ErrClosed)
		g.end(1, nil)
		slow.require(t, 1, 1, nil)
		require.NoError(t, <-closed)
		require.Equal(t, time.Second, time.Since(began))
		hung.require(t, 1, 0, ErrTimeout)
		request(Read, 0, 4096).submit(d).require(t, 1, 1, ErrClosed)
		g.end(0, nil)
		hung.require(t, 1, 1, ErrTimeout)
	})
}

// TestCloseWaitsForNoDiskThatHangs: one that gets on is waited for.
func TestCloseWaitsForNoDiskThatHangs(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		withDevice(t, Options{Timeout: 30 * time.Second, Learned: learned(1e-3 / mib)}, func(t *testing.T, g *gateDisk, d *Device) {
			var list []*outcome
			for i := range int64(4) {
				list = append(list, request(Write, i*mib, mib).submit(d))
			}
			began := time.Now()
			closed := make(chan error, 1)
			go func() { closed <- d.Close() }()
			for range 3 {
				time.Sleep(closeStuck - time.Millisecond)
				g.end(0, nil)
			}
			if !hangs {
				time.Sleep(closeStuck - time.Millisecond)
				g.end(0, nil)
			}
			require.NoError(t, <-closed)
			took, left := 4*(closeStuck-time.Millisecond), 0
			if hangs {
				took, left = 4*closeStuck-3*time.Millisecond, 1
			}
			require.Equal(t, took, time.Since(began))
			for _, o := range list { // the disk got them in any order
				if synctest.Wait(); o.returned == 0 {
					o.require(t, 1, 0, ErrTimeout)
					left--
					continue
				}
				o.require(t, 1, 1, nil)
			}
			require.Zero(t, left)
		})
	}
}

func TestProbesFindARecoveredDevice(t *testing.T) {
	for _, scratch := range []int64{0, mib} {
		withDevice(t, Options{ScratchOff: 512 * mib, ScratchSize: scratch, Learned: learned(10e-3 / mib)},
			func(t *testing.T, g *gateDisk, d *Device) {
				d.StartProbes()
				d.StartProbes()
				for range 20 { // 20 times too slow
					request(Write, 0, mib).submit(d)
					time.Sleep(200 * time.Millisecond)
					g.end(0, nil)
				}
				require.Greater(t, d.Stats().WriteSigma, 10.0)
				writes, reads := 0, 0
				next := 250 * time.Millisecond
				for range 20 {
					time.Sleep(next) // a tick of the prober
					next = 250 * time.Millisecond
					for range g.inDisk() {
						c := g.inDisk()[0]
						switch c.kind {
						case Write:
							writes++
							require.GreaterOrEqual(t, c.off, int64(512*mib))
							require.LessOrEqual(t, c.off+probeSize, int64(512*mib)+scratch)
						case Read:
							reads++
						}
						time.Sleep(2500 * time.Microsecond)
						next -= 2500 * time.Microsecond
						g.end(0, nil)
					}
				}
				require.Less(t, d.Stats().WriteSigma, probeSigma)
				require.Equal(t, scratch == 0, writes == 0)
				require.Positive(t, writes+reads)
				require.EqualValues(t, writes+reads, d.Stats().Probes)
				require.Zero(t, d.Stats().Read.Ops, "probes are not counted as work")
			})
	}
}

// TestWellDevicesAreProbedGently: never by writes, and a spinning disk only while it is in use, so
// that it may go to sleep.
func TestWellDevicesAreProbedGently(t *testing.T) {
	for _, rotational := range []bool{false, true} {
		opts := Options{Rotational: rotational, ScratchOff: 512 * mib, ScratchSize: mib, Learned: learned(10e-3 / mib)}
		withDevice(t, opts, func(t *testing.T, g *gateDisk, d *Device) {
			g.open.Store(true)
			probes := func(during time.Duration) uint64 {
				before := d.Stats().Probes
				time.Sleep(during)
				return d.Stats().Probes - before
			}
			slow := func(ln float64) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.model.setSigma(writeSeq.direction(), ln)
			}
			written := func() uint64 {
				d.mu.Lock()
				defer d.mu.Unlock()
				return d.syncs.written
			}
			d.StartProbes()
			for range 2 {
				require.NoError(t, d.Do(&Request{Kind: Read, Bufs: [][]byte{AlignedBytes(4096)}}))
				require.Greater(t, probes(probeRest), uint64(40))
				if rotational {
					require.LessOrEqual(t, probes(time.Hour), uint64(1))
				} else {
					require.Greater(t, probes(time.Hour), uint64(2000))
				}
			}
			require.Zero(t, written())
			slow(2) // it has to be found out whether that is so still
			require.Positive(t, probes(10*time.Second))
			require.Positive(t, written())
			require.Less(t, d.Stats().WriteSigma, probeSigma)
			well := written()
			probes(time.Hour)
			require.Equal(t, well, written())
		})
	}
}

func TestDiscardAndVectors(t *testing.T) {
	disk := &vectorDisk{}
	d := NewDevice(disk, Options{})
	bufs := [][]byte{make([]byte, 4096), make([]byte, 8192)}
	require.NoError(t, d.Do(&Request{Kind: Write, Off: 4096, Bufs: bufs}))
	require.NoError(t, d.Do(&Request{Kind: Read, Off: 4096, Bufs: bufs}))
	require.Equal(t, 2, disk.vectors)
	require.NoError(t, d.Do(&Request{Kind: Discard, Off: 8192, Bufs: bufs[:1]}))
	require.Equal(t, []int64{8192, 4096}, disk.discarded)
	require.NoError(t, d.Close())
	require.ErrorIs(t, d.Close(), ErrClosed)
}

type vectorDisk struct {
	gateDisk
	vectors   int
	discarded []int64
}

func (v *vectorDisk) ReadVec(bufs [][]byte, off int64) (int, error) {
	v.vectors++
	return len(bufs[0]) + len(bufs[1]), nil
}

func (v *vectorDisk) WriteVec(bufs [][]byte, off int64) (int, error) { return v.ReadVec(bufs, off) }

func (v *vectorDisk) Discard(off, size int64) error {
	v.discarded = []int64{off, size}
	return nil
}

func BenchmarkDoRead4K(b *testing.B) {
	g := &gateDisk{size: 1 << 30}
	g.open.Store(true)
	d := NewDevice(g, Options{})
	r := &Request{Kind: Read, Bufs: [][]byte{make([]byte, 4096)}}
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Do(r); err != nil {
			b.Fatal(err)
		}
	}
	_ = d.Close()
}

func BenchmarkSubmitRead4K(b *testing.B) {
	g := &gateDisk{size: 1 << 30}
	g.open.Store(true)
	d := NewDevice(g, Options{})
	done := make(chan error, 1)
	r := &Request{Kind: Read, Bufs: [][]byte{make([]byte, 4096)}, Done: func(_ *Request, err error) { done <- err }}
	b.ReportAllocs()
	for b.Loop() {
		d.Submit(r)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	_ = d.Close()
}
