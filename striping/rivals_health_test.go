package striping

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestRivalsHungDisk: of three disks with two copies one completes nothing for 60 s. From 2 s on the p99
// of reads is below 250 ms, no request fails, and what is written goes to the other two. There are no more
// operations in the hung disk than its depth limit allows. What it does late changes nothing.
func TestRivalsHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 128
		r := newRig(t, rigConfig{disks: 3, size: 32 << 20, copies: 2, timing: simdisk.SSD(50e6, 50e6), opts: Options{ReadAhead: -1, DirtyLimit: 8 << 20}})
		e := r.fillExport(chunks)
		r.requireStamped(e, chunks, 1)
		l := &openLoop{r: r, e: e, size: 16 << 10, writes: 0.3, rng: rand.New(rand.NewPCG(1, 1))}
		lasts := func(d time.Duration) func() bool {
			began := time.Now()
			return func() bool { return time.Since(began) > d }
		}
		l.make(t, 200, lasts(5*time.Second))
		hung := r.disks[1].HangAll(faultdisk.OnRead | faultdisk.OnWrite | faultdisk.OnSync)
		began := time.Now()
		most, stop := 0, make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-t.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
					most = max(most, r.devs[1].Stats().InFlight)
				}
			}
		})
		l.make(t, 200, lasts(2*time.Second))
		atFirst := l.reads[len(l.reads)-1]
		before := [2]int64{r.disks[0].Stats().WriteBytes, r.disks[2].Stats().WriteBytes}
		l.make(t, 200, func() bool { return time.Since(began) > time.Minute })
		close(stop)
		wg.Wait()
		p99 := l.reads[len(l.reads)*99/100]
		fmt.Printf("a disk hangs for 60 s: longest read of the first 2 s %v; then p99 %v, longest %v; longest write %v; %d operations in it at most\n",
			atFirst, p99, l.reads[len(l.reads)-1], l.wrote[len(l.wrote)-1], most)
		require.Less(t, atFirst, 2*time.Second)
		require.Less(t, p99, 250*time.Millisecond)
		require.LessOrEqual(t, most, 64, "threads that hang")
		require.NotZero(t, most)
		for i, at := range []int{0, 2} {
			require.Greater(t, r.disks[at].Stats().WriteBytes, before[i])
		}
		hung.Lift()
		until(t, 2*time.Minute, "back", r.stateIs(1, "online"))
		until(t, time.Minute, "whole", func() bool { return r.v.Status().Degraded == 0 })
		require.NoError(t, r.v.checkCopies(t.Context()))
		e.Close()
		require.NoError(t, r.close())
	})
}

// bursts is work of all kinds on a healthy mirror of unequal disks, in bursts with pauses between.
type bursts struct {
	r      *rig
	e      *Export
	rng    *rand.Rand
	ops    atomic.Int64
	n      int
	events uint64 // seen so far
	stop   chan struct{}
	gc     sync.WaitGroup
}

// verdicts are the events that no healthy disk may cause.
var verdicts = []string{"DEVICE_SLOW", "DEVICE_HUNG", "DEVICE_FAILED", "DEVICE_CONDEMNED", "HOST_SLOW"}

// newBursts is disks of 20, 10 and 5 MB/s and another of 10, a tenth of what disks do: with less, a chunk would
// be a stall where such a disk is slower. Their service times spread widely, and in one second of every ten
// each is five times slower, as one that collects its garbage. (More of these seconds in a row, as chance has
// them now and then, are what a disk sits out for.)
func newBursts(t *testing.T, seed uint64) *bursts {
	r := newRig(t, rigConfig{disks: 4, size: 16 << 20, copies: 2, seed: seed, opts: Options{DirtyLimit: 2 << 20, CacheBytes: 1}})
	for i, rate := range []float64{20e6, 10e6, 5e6, 10e6} {
		r.disks[i].SetTiming(simdisk.Timing{ReadRate: 1.2 * rate, WriteRate: rate, PerOp: 200 * time.Microsecond, PerSync: 5 * time.Millisecond,
			Latency: time.Millisecond, Noise: 0.4})
		r.devs[i].StartProbes()
	}
	b := &bursts{r: r, e: r.fillExport(200), rng: rand.New(rand.NewPCG(seed, 11)), stop: make(chan struct{})}
	for i, d := range r.disks {
		rng := rand.New(rand.NewPCG(seed, uint64(13+i)))
		b.gc.Go(func() {
			for second, at := 0, 0; ; second++ {
				select {
				case <-b.stop:
					return
				case <-t.Context().Done():
					return
				case <-time.After(time.Second):
				}
				if second%10 == 0 {
					at = rng.IntN(10)
				}
				d.SetSlow(1)
				if second%10 == at {
					d.SetSlow(5)
				}
			}
		})
	}
	return b
}

// burst makes requests of one kind for so long, from 1 to 32 at a time.
func (b *bursts) burst(t *testing.T, lasts time.Duration) {
	t.Helper()
	b.n++
	size := []int{4 << 10, 16 << 10, 64 << 10, 256 << 10}[b.rng.IntN(4)]
	writes := []float64{0, 0, 0.3, 1, 1}[b.rng.IntN(5)]
	inOrder, sync1 := b.rng.IntN(2) == 0, b.rng.IntN(3) == 0
	began := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 1 << b.rng.IntN(6) {
		rng := rand.New(rand.NewPCG(b.rng.Uint64(), 12))
		wg.Go(func() {
			p := make([]byte, size)
			places := b.e.Size() / int64(size)
			for n := 0; time.Since(began) < lasts; n++ {
				at := rng.Int64N(places)
				if inOrder {
					at = next.Add(1) % places
				}
				var err error
				if rng.Float64() < writes {
					err = b.e.WriteAt(context.Background(), p, at*int64(size), false)
				} else {
					err = b.e.ReadAt(context.Background(), p, at*int64(size))
				}
				if err == nil && sync1 && n%20 == 19 {
					err = b.e.Sync(context.Background())
				}
				if err != nil {
					t.Error(err)
					return
				}
				b.ops.Add(1)
				time.Sleep(500 * time.Microsecond) // what is buffered takes no time
			}
		})
	}
	wg.Wait()
	b.noVerdict(t)
}

func (b *bursts) noVerdict(t *testing.T) {
	t.Helper()
	for _, e := range b.r.v.Events(b.events) {
		b.events = e.Number + 1
		require.NotContains(t, verdicts, e.Code, "a false verdict after %d bursts: %+v", b.n, e)
	}
}

// run makes bursts for so long, with pauses of up to pause.
func (b *bursts) run(t *testing.T, lasts, pause time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < lasts; {
		b.burst(t, time.Duration(2+b.rng.IntN(12))*time.Second)
		time.Sleep(time.Duration(b.rng.Float64() * float64(pause)))
	}
}

// rebuild takes a disk away for a while, or for good, under load.
func (b *bursts) rebuild(t *testing.T) {
	t.Helper()
	require.NoError(t, b.r.v.Offline(t.Context(), 3, false))
	id, err := b.r.v.Rebuild(t.Context(), JobOptions{}) // before a burst leaves nothing to rebuild
	require.NoError(t, err)
	for n := 0; !b.r.jobEnded(id)(); n++ {
		require.Less(t, n, 100)
		b.burst(t, 5*time.Second)
	}
	require.NoError(t, b.r.v.ReturnDevice(t.Context(), b.r.member(3, 0, b.r.disks[2])))
	b.r.devs[len(b.r.devs)-1].StartProbes()
	for n := 0; !b.r.stateIs(2, "online")(); n++ {
		require.Less(t, n, 100)
		b.burst(t, 5*time.Second)
	}
}

func (b *bursts) end(t *testing.T) {
	t.Helper()
	b.noVerdict(t)
	close(b.stop)
	b.gc.Wait()
	b.e.Close()
	require.NoError(t, b.r.v.checkCopies(t.Context()))
	require.NoError(t, b.r.close())
}

var burstHours = flag.Float64("bursts", 0, "hours of bursts on healthy disks; 0: two minutes")

// TestRivalsNoFalseVerdict: bursts of all kinds on healthy disks, a day of them in the long version, with a
// rebuild, the return of a disk and a long busy time. Nobody is called slow.
func TestRivalsNoFalseVerdict(t *testing.T) {
	t.Parallel() // see TestReturningDiskCatchesUp
	synctest.Test(t, func(t *testing.T) {
		half, pause, busy := 30*time.Second, 40*time.Second, 10*time.Second
		if *burstHours > 0 {
			half, pause, busy = time.Duration(*burstHours*float64(time.Hour)/2), 3*time.Minute, 30*time.Minute
		}
		began := time.Now()
		b := newBursts(t, 1)
		b.run(t, half, pause)
		b.rebuild(t)
		b.burst(t, busy)
		b.run(t, half, pause)
		fmt.Printf("%d bursts in %v of healthy disks, %d requests: no verdict\n", b.n, time.Since(began).Round(time.Second), b.ops.Load())
		b.end(t)
	})
}
