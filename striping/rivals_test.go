package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// writers rewrite the chunks of an export in order, over and over, some at a time.
type writers struct {
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	took  []time.Duration // by every write since the last look
	bytes int64
	err   error
}

func startWriters(e *Export, n, chunk int) *writers {
	w := &writers{stop: make(chan struct{})}
	var next atomic.Int64
	for range n {
		w.wg.Go(func() {
			p := make([]byte, chunk)
			for {
				select {
				case <-w.stop:
					return
				case <-time.After(10 * time.Microsecond): // what is buffered already takes no time
				}
				off := next.Add(int64(chunk))
				began := time.Now()
				err := e.WriteAt(context.Background(), p, off%e.Size(), false)
				w.mu.Lock()
				w.took = append(w.took, time.Since(began))
				w.bytes += int64(chunk)
				if err != nil {
					w.err = err
				}
				w.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return w
}

// look returns the bytes written since the last look, and the times that the writes took, in order.
func (w *writers) look() (bytes int64, took []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	bytes, took = w.bytes, w.took
	w.bytes, w.took = 0, nil
	slices.Sort(took)
	return bytes, took
}

func (w *writers) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	require.NoError(t, w.err)
}

// unequalRig is a volume over disks of these rates, with writers on all of an export. As much is buffered
// as by default: what the disks write in a second, or half of it.
func unequalRig(t *testing.T, copies uint8, size, dirty int64, rates ...float64) (*rig, *Export, *writers) {
	t.Helper()
	const chunk = 256 << 10
	r := newRig(t, rigConfig{disks: len(rates), size: size, chunk: chunk, copies: copies, opts: Options{DirtyLimit: dirty}})
	for i, rate := range rates {
		r.disks[i].SetTiming(simdisk.SSD(rate, rate))
	}
	e := r.fillExport(int(size / 2 / chunk))
	return r, e, startWriters(e, 32, chunk)
}

// TestRivalsPlacementBySpeed: disks of 250, 120 and 40 MB/s, at a fifth of that, are written at 90 % of
// what all of them can do together. They are large enough for what is written from one commit to the next:
// the slots that it replaces are free after that.
func TestRivalsPlacementBySpeed(t *testing.T) {
	for copies, bound := range map[uint8]float64{1: 410e6 / 5, 2: 160e6 / 5} {
		synctest.Test(t, func(t *testing.T) {
			r, e, w := unequalRig(t, copies, 256<<20, 40<<20, 250e6/5, 120e6/5, 40e6/5)
			time.Sleep(3 * time.Second)
			w.look()
			time.Sleep(5 * time.Second) // with one background commit
			n, _ := w.look()
			w.end(t)
			share := float64(n) / 5 / bound
			fmt.Printf("written with %d copies: %.1f %% of what the disks can do\n", copies, 100*share)
			require.GreaterOrEqual(t, share, 0.9)
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestRivalsDiskFallsOffACliff: one of three disks falls from 200 to 30 MB/s (a tenth of that here), as
// one does whose fast cache is full. Within 5 s it gets no more than it can take, and no writer stood
// still for a second. A rebalance in a quiet time then brings each disk within two points of its share.
func TestRivalsDiskFallsOffACliff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, e, w := unequalRig(t, 1, 64<<20, 13<<20, 20e6, 12e6, 10e6)
		time.Sleep(10 * time.Second)
		_, took := w.look()
		require.Less(t, took[len(took)-1], time.Second)
		before := r.disks[0].Stats().WriteBytes
		r.disks[0].SetTiming(simdisk.SSD(3e6, 3e6))
		time.Sleep(5 * time.Second)
		_, took = w.look()
		longest := took[len(took)-1]
		at := r.disks[0].Stats().WriteBytes
		time.Sleep(5 * time.Second)
		n, took := w.look()
		longest = max(longest, took[len(took)-1])
		share := float64(r.disks[0].Stats().WriteBytes-at) / float64(n)
		fmt.Printf("a disk that fell from 20 to 3 MB/s got %.1f MB/s in the first 5 s and %.1f %% of all later, %.1f %% of what the disks can do is written; longest write %v\n",
			float64(at-before)/5e6, 100*share, 100*float64(n)/5/25e6, longest)
		w.end(t)
		require.LessOrEqual(t, share, 1.2*3/25)
		require.GreaterOrEqual(t, float64(n)/5, 0.85*25e6)
		require.Less(t, longest, time.Second)
		require.NoError(t, r.v.Flush(t.Context()))
		require.NoError(t, r.v.SetOnline(t.Context(), 1, true))
		until(t, time.Minute, "online", r.stateIs(0, "online"))
		id, err := r.v.Rebalance(t.Context(), JobOptions{})
		if err == nil {
			until(t, 10*time.Minute, "rebalanced", r.jobEnded(id))
		}
		for _, s := range r.v.shares() {
			fmt.Printf("%v holds %.3f of its space, its share is %.3f\n", s.m.id, float64(s.have)/float64(s.capacity), float64(s.want)/float64(s.capacity))
			require.InDelta(t, float64(s.want)/float64(s.capacity), float64(s.have)/float64(s.capacity), 0.02)
		}
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestRivalsStallIsNotFelt: one of three disks of a mirror answers nothing for 5 s. Writers do not feel
// it (p99 below 50 ms) while there is room to buffer what goes to it; when there is none they get slower,
// and what is buffered stays within its limit. A flush waits until what it covers has all its copies, or is
// written down as missing one.
func TestRivalsStallIsNotFelt(t *testing.T) {
	for _, c := range []struct {
		limit int64
		rate  float64 // requests per second
		p99   time.Duration
	}{{32 << 20, 300, 50 * time.Millisecond}, {2 << 20, 2000, 10 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{disks: 3, size: 128 << 20, chunk: 256 << 10, copies: 2, timing: simdisk.SSD(50e6, 50e6), opts: Options{DirtyLimit: c.limit}})
			e := r.fillExport(200)
			l := &openLoop{r: r, e: e, size: 16 << 10, writes: 1, rng: rand.New(rand.NewPCG(1, 1))}
			stall := time.Now().Add(3 * time.Second)
			var most int64
			var flushed time.Duration
			stop := make(chan struct{})
			var wg sync.WaitGroup
			every := func(d time.Duration, do func()) {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-t.Context().Done():
							return
						case <-time.After(d):
							do()
						}
					}
				})
			}
			every(time.Millisecond, func() { most = max(most, r.v.dirty.inUse()) })
			every(500*time.Millisecond, func() {
				began := time.Now()
				if err := e.Sync(context.Background()); err != nil {
					t.Errorf("flush: %v", err)
				}
				flushed = max(flushed, time.Since(began))
			})
			wg.Go(func() {
				time.Sleep(time.Until(stall))
				hang := r.disks[1].Faults.HangAll(faultdisk.OnRead | faultdisk.OnWrite | faultdisk.OnSync)
				time.Sleep(5 * time.Second)
				hang.Lift()
			})
			l.make(t, c.rate, func() bool { return time.Since(stall) > 8*time.Second })
			close(stop)
			wg.Wait()
			n := len(l.wrote)
			fmt.Printf("%d writes beside a disk that stalls for 5 s: p99 %v, longest %v; buffered %.1f of %.1f MB at most; longest flush %v; %d chunks miss a copy\n",
				n, l.wrote[n*99/100], l.wrote[n-1], float64(most)/1e6, float64(c.limit)/1e6, flushed, r.v.Status().Degraded)
			require.Less(t, l.wrote[n*99/100], c.p99)
			require.LessOrEqual(t, most, c.limit)
			e.Close()
			until(t, 2*time.Minute, "whole", func() bool { return r.v.Status().Degraded == 0 })
			require.NoError(t, r.v.checkCopies(t.Context()))
			require.NoError(t, r.close())
		})
	}
}

// TestRivalsPowerFailsInAStall: the power fails at any time during such a stall and after it, and the disk
// that stalled does not come back. What a flush covered is there.
func TestRivalsPowerFailsInAStall(t *testing.T) {
	for i := range 40 {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(i), 8))
			r := newRig(t, rigConfig{disks: 3, copies: 2, seed: uint64(i), timing: gentle, opts: Options{DirtyLimit: 256 << 10}})
			const size = 16 * 64 << 10
			require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
			m := newModel(size)
			l := startLoad(r, m, rng, 3, 2*time.Millisecond)
			time.Sleep(200 * time.Millisecond)
			hang := r.disks[1].Faults.HangAll(faultdisk.OnRead | faultdisk.OnWrite | faultdisk.OnSync)
			at := time.Duration(i) * 200 * time.Millisecond
			time.Sleep(min(at, 5*time.Second))
			if at >= 5*time.Second {
				hang.Lift()
				time.Sleep(at - 5*time.Second)
			}
			synctest.Wait()
			l.stop.Store(true)
			r.crash(rng, simdisk.Random)
			l.wg.Wait()
			require.Empty(t, l.errs)
			r.disks[1] = nil
			r.open()
			verifyReopened(t, r, m, true)
			require.NoError(t, r.close())
		})
	}
}
