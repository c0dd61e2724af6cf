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

	"ballast/devices"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// withCopies counts the chunks of which the journal has that many good copies.
func (r *rig) withCopies(n int) (chunks int) {
	require.NoError(r.t, r.v.scanChunks(context.Background(), func(_ chunkKey, _ *journal.Chunk, places []place) {
		if r.v.goodCopies(places) == n {
			chunks++
		}
	}))
	return chunks
}

// TestRivalsRebuildByRisk: of six disks with three copies two are lost. All chunks have two copies again
// before anything has its third, and the four disks that are left are kept at 80 % of what they can do:
// each byte is a read on one and a write on another.
func TestRivalsRebuildByRisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, chunks = 50e6, 240
		r := newRig(t, rigConfig{disks: 6, size: 64 << 20, chunk: 256 << 10, copies: 3, timing: simdisk.SSD(rate, rate), opts: Options{ReadAhead: -1}})
		s := r.fillExport(chunks)
		r.requireStamped(s, chunks, 1)
		for _, id := range []devices.ID{2, 5} {
			require.NoError(t, r.v.Offline(t.Context(), id, false))
		}
		three, one := r.withCopies(3), r.withCopies(1)
		require.Greater(t, one, chunks/10)
		began := time.Now()
		id, err := r.v.Rebuild(t.Context(), JobOptions{})
		require.NoError(t, err)
		var atRisk time.Duration
		for r.withCopies(1) > 0 {
			require.LessOrEqual(t, r.withCopies(3), three, "a third copy before every second")
			time.Sleep(5 * time.Millisecond)
			atRisk = time.Since(began)
		}
		until(t, time.Minute, "rebuilt", r.jobEnded(id))
		j := r.job(id)
		share := float64(j.BytesDone) / j.Ended.Sub(began).Seconds() / (4 * rate / 2)
		fmt.Printf("two of six disks lost, three copies: %d chunks with one copy for %v; all rebuilt at %.0f %% of what four disks can do\n", one, atRisk, 100*share)
		require.GreaterOrEqual(t, share, 0.8)
		require.Equal(t, chunks, r.withCopies(3))
		s.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestRivalsDiskAwayForAMinute: what a disk that was away for 60 s gets is no more than 1.05 times what
// clients wrote meanwhile, whatever they wrote: whole chunks, blocks here and there, or both.
func TestRivalsDiskAwayForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 192
		r := newRig(t, rigConfig{disks: 3, size: 16 << 20, copies: 2, timing: gentle, opts: Options{ReadAhead: -1}})
		e := r.fillExport(chunks)
		require.NoError(t, r.v.Offline(t.Context(), 2, false))
		rng := rand.New(rand.NewPCG(6, 6))
		ver := map[int]uint32{}
		written := int64(0)
		n := int(r.cfg.chunk) / blockSize
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) {
			first, blocks := rng.IntN(chunks*n), 1+rng.IntN(4)
			if rng.IntN(4) == 0 {
				first, blocks = first/n*n, n
			}
			blocks = min(blocks, chunks*n-first)
			v := 2 + uint32(time.Since(began).Seconds())
			require.NoError(t, e.WriteAt(t.Context(), stamped(first, blocks, v), int64(first)*blockSize, false))
			for b := range blocks {
				ver[first+b] = v
			}
			written += int64(blocks) * blockSize
		}
		require.NoError(t, e.Sync(t.Context()))
		before := r.disks[1].Stats().WriteBytes
		require.NoError(t, r.v.ReturnDevice(t.Context(), r.member(2, 0, r.disks[1])))
		until(t, time.Minute, "whole", func() bool { return r.v.Status().Degraded == 0 && r.stateIs(1, "online")() })
		copied := r.disks[1].Stats().WriteBytes - before
		fmt.Printf("a disk that was away for 60 s got %.2f MB of the %.2f MB written meanwhile, of %.0f MB that it holds\n", float64(copied)/1e6, float64(written)/1e6, float64(r.v.Status().Devices[1].UsedBytes)/1e6)
		require.NotZero(t, copied)
		require.LessOrEqual(t, float64(copied), 1.05*float64(written))
		p := make([]byte, blockSize)
		for b := range chunks * n {
			require.NoError(t, e.ReadAt(t.Context(), p, int64(b)*blockSize))
			require.Equal(t, stamped(b, 1, max(ver[b], 1)), p)
		}
		e.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// closedLoop is clients that each make the next request when the last one is answered.
type closedLoop struct {
	stop atomic.Bool
	wg   sync.WaitGroup
	mu   sync.Mutex
	took []time.Duration
	err  error
}

// startReaders has clients read at random places.
func startReaders(e *Export, clients, size int) *closedLoop {
	l := &closedLoop{}
	for i := range clients {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		l.wg.Go(func() {
			p := make([]byte, size)
			for !l.stop.Load() {
				began := time.Now()
				err := e.ReadAt(context.Background(), p, rng.Int64N(e.Size()/int64(size))*int64(size))
				l.mu.Lock()
				l.took = append(l.took, time.Since(began))
				if err != nil {
					l.err = err
				}
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return l
}

// during is how many requests were answered within that time, per second, and their p99.
func (l *closedLoop) during(d time.Duration) (rate float64, p99 time.Duration) {
	l.mu.Lock()
	l.took = nil
	l.mu.Unlock()
	time.Sleep(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	return float64(len(l.took)) / d.Seconds(), l.took[len(l.took)*99/100]
}

func (l *closedLoop) end(t *testing.T) {
	t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	require.NoError(t, l.err)
}

// TestRivalsRebuildMakesWay: beside clients that keep the disks busy a rebuild gets its floor. They keep
// 90 % of their throughput and a p99 of 1.5 times what it was; when they stop, the rebuild has 80 % of what
// the disks can do within 2 s. With one copy left it has more beside them, a tenth of the disks' time.
// Clients that are few, and leave half of the disks' time to the rebuild, keep as much: it waits for a moment
// whether they come back at once.
func TestRivalsRebuildMakesWay(t *testing.T) {
	for _, c := range []struct {
		copies  uint8
		clients int
		chunks  int
		floor   float64 // what the rebuild has at least
		kept    float64 // what the clients keep
		times   float64 // their p99 is longer
		asked   float64 // is the floor of the volume's options
		window  time.Duration
	}{
		{3, 16, 160, floorUsual, 0.9, 1.5, 0, time.Second},
		// The p99s of 1 s and of 0.4 s before give a quotient of 1.3 with a standard deviation of 0.065; these, half of that.
		{2, 16, 240, floorUrgent, 0.85, 1.5, 0, 2 * time.Second},
		{3, 2, 320, 0.4, 0.9, 1.5, 0, time.Second},
		{3, 16, 320, 0.3, 0.6, 3, 0.3, time.Second},
	} {
		copies, floor := c.copies, c.floor
		synctest.Test(t, func(t *testing.T) {
			const rate = 25e6
			const bound = 3 * rate / 2 // each byte is a read and a write, on two of three disks
			r := newRig(t, rigConfig{disks: 4, size: 96 << 20, chunk: 256 << 10, copies: copies, timing: simdisk.SSD(rate, rate),
				opts: Options{ReadAhead: -1, BackgroundFloor: c.asked}})
			s := r.fillExport(c.chunks)
			r.requireStamped(s, c.chunks, 1)
			require.NoError(t, r.v.Offline(t.Context(), 4, false))
			l := startReaders(s, c.clients, 16<<10)
			time.Sleep(100 * time.Millisecond)
			base, baseP99 := l.during(c.window * 2 / 5)
			id, err := r.v.Rebuild(t.Context(), JobOptions{})
			require.NoError(t, err)
			time.Sleep(time.Second) // each copy begins with reads
			before := r.written()
			beside, p99 := l.during(c.window)
			share := float64(r.written()-before) / c.window.Seconds() / bound
			l.end(t)
			require.False(t, r.jobEnded(id)(), "the rebuild is over too early")
			time.Sleep(100 * time.Millisecond)
			before = r.written()
			time.Sleep(200 * time.Millisecond)
			alone := float64(r.written()-before) / 0.2 / bound
			require.False(t, r.jobEnded(id)(), "the rebuild is over too early")
			until(t, time.Minute, "rebuilt", r.jobEnded(id))
			fmt.Printf("%d copies, %d clients, beside a rebuild: %.0f %% of the throughput without, p99 %v (%.2f times); it has %.1f %% of what the disks can do, and %.0f %% 0.1 s after the clients stopped\n",
				copies, c.clients, 100*beside/base, p99, p99.Seconds()/baseP99.Seconds(), 100*share, 100*alone)
			require.GreaterOrEqual(t, share, 0.5*floor)
			require.GreaterOrEqual(t, alone, 0.8)
			require.GreaterOrEqual(t, beside, c.kept*base)
			require.LessOrEqual(t, p99.Seconds(), c.times*baseP99.Seconds())
			s.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestRivalsDrainWithoutSpace: a drain whose targets are full says so and sleeps; cancelled, it leaves
// nothing to do and the disk that was to leave takes part again, also after a restart.
func TestRivalsDrainWithoutSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 1, timing: gentle})
		s := r.fillExport(200)
		id, err := r.v.Drain(ctx, []devices.ID{1}, JobOptions{Pace: 64 << 10})
		require.NoError(t, err)
		require.NoError(t, r.v.CreateExport(ctx, "x", 60*64<<10))
		x := r.export("x")
		for i := int64(0); i < 60; i++ { // until there is no more
			if err := x.WriteAt(ctx, make([]byte, 64<<10), i*64<<10, false); err != nil {
				break
			}
		}
		_ = x.Sync(ctx)
		until(t, 5*time.Minute, "blocked", func() bool { return r.job(id).BlockedReason != nil })
		require.Contains(t, *r.job(id).BlockedReason, "no device in another failure domain has space")
		var ops [3]int64
		for i, d := range r.disks {
			st := d.Stats()
			ops[i] = st.Reads + st.Writes + st.Syncs
		}
		commits, busy := r.v.stats.commits.Load(), r.disks[0].Busy()
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, r.v.stats.commits.Load()-commits, int64(20), "it does not sleep")
		for i, d := range r.disks {
			st := d.Stats()
			require.LessOrEqual(t, st.Reads+st.Writes+st.Syncs-ops[i], int64(50), "disk %d is kept busy for nothing", i+1)
		}
		require.Less(t, r.disks[0].Busy()-busy, time.Second)
		require.NotNil(t, r.job(id).BlockedReason)

		require.NoError(t, r.v.CancelJob(ctx, id, ""))
		require.True(t, r.stateIs(0, "online")())
		pending := func() {
			t.Helper()
			for _, j := range r.v.Jobs() {
				require.NotNil(t, j.Ended, "%+v", j)
			}
			n, _, err := r.v.sizeMoves(ctx, r.v.rebuildRule(true))
			require.NoError(t, err)
			require.Zero(t, n)
			for _, m := range r.v.devs() {
				require.Zero(t, m.coming.Load())
			}
			require.Zero(t, r.v.Status().Degraded)
		}
		pending()
		x.Close()
		s.Close()
		require.NoError(t, r.close())
		r.open()
		require.True(t, r.stateIs(0, "online")())
		pending()
		s = r.export("s")
		r.requireStamped(s, 200, 1)
		s.Close()
		require.NoError(t, r.v.checkCopies(ctx))
		require.NoError(t, r.close())
	})
}

// TestRivalsDrainRedoesLittle: a drain of two of six disks through power cuts, with no client beside it, writes
// what is on them once, and for each cut no more again than was under way: on average, a third of what may be.
func TestRivalsDrainRedoesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cuts, chunks = 20, 480
		rng := rand.New(rand.NewPCG(5, 5))
		timing := simdisk.Timing{ReadRate: 20e6, WriteRate: 10e6, PerOp: 50 * time.Microsecond, Latency: 200 * time.Microsecond}
		r := newRig(t, rigConfig{disks: 6, size: 16 << 20, copies: 2, timing: timing, latency: time.Millisecond, opts: Options{ReadAhead: -1}})
		e := r.fillExport(chunks)
		e.Close()
		require.NoError(t, r.v.Flush(t.Context()))
		leaving := []devices.ID{2, 5}
		f, err := r.v.ForecastDrain(t.Context(), leaving)
		require.NoError(t, err)
		before, total := r.written(), int64(0)
		id, err := r.v.Drain(t.Context(), leaving, JobOptions{})
		require.NoError(t, err)
		within := 0
		for range cuts {
			time.Sleep(time.Duration(20+rng.IntN(40)) * time.Millisecond)
			synctest.Wait()
			if !r.jobEnded(id)() {
				within++
			}
			total += r.written() - before
			r.crash(rng, simdisk.Random)
			before = r.written()
			r.open()
			require.Zero(t, r.v.Status().Degraded, "fewer copies than asked for")
		}
		until(t, time.Minute, "drained", r.jobEnded(id))
		total += r.written() - before
		fmt.Printf("a drain through %d power cuts wrote %.1f MB, of %.1f MB to be moved: %.0f KB again for each cut\n",
			within, float64(total)/1e6, float64(f.Bytes)/1e6, float64(total-f.Bytes)/1e3/float64(within))
		require.Greater(t, within, cuts/2)
		const window = 2 * movesPerDevice * 64 << 10 // what may be under way at once
		require.LessOrEqual(t, float64(total), 1.02*float64(f.Bytes)+float64(within*window/3))
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}
