package balance

import (
	"errors"
	"flag"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
)

var seed = flag.Uint64("seed", 0, "run only this seed")

// TestEverythingAtOnce throws random work at random devices under random faults, and checks what
// must hold whatever happens: everything is answered once and returned once, in this order; a
// write has distinct domains; and in the end the slots taken are just those that were published.
func TestEverythingAtOnce(t *testing.T) {
	first, last := uint64(1), uint64(60)
	if testing.Short() {
		last = 10
	}
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		if !t.Run("", func(t *testing.T) { inFakeTime(t, func(t *testing.T) { chaos(t, s) }) }) {
			t.Fatalf("repeat: go test ./striping/balance -run TestEverythingAtOnce -seed %d", s)
		}
	}
}

func chaos(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	n := 1 + rng.IntN(6)
	o := rigOptions{copies: 1 + rng.IntN(3)}
	for range n {
		o.rates = append(o.rates, []float64{20, 100, 300, 1000}[rng.IntN(4)])
		o.sizes = append(o.sizes, int64(8+rng.IntN(200))*chunk)
	}
	o.device = devices.Options{
		Timeout:    time.Duration(50+rng.IntN(500)) * time.Millisecond,
		MaxWorkers: 2 + rng.IntN(16),
	}
	if rng.IntN(3) == 0 {
		o.domain = func(i int) string { return []string{"a", "b", ""}[i%3] }
	}
	r := newRig(t, o)
	defer r.close()
	defer func() {
		for _, d := range r.disks {
			d.Faults.Clear()
		}
	}()

	var mu sync.Mutex
	var writes, reads, answered, returned, destinations int
	published := map[Placed]bool{}
	pending := map[*Write]int{}
	write := func() {
		runs := []Run{{Off: 0, Bufs: [][]byte{r.buf[:4096]}}}
		for len(runs) < 1+rng.IntN(3) {
			runs = append(runs, Run{Off: int64(len(runs)) * (64 << 10), Bufs: [][]byte{r.buf[:4096*(1+rng.IntN(8))]}})
		}
		w := &Write{Slot: chunk, Runs: runs, Independent: rng.IntN(2) == 0}
		if rng.IntN(5) == 0 {
			w.Class = devices.Background
		}
		if rng.IntN(4) == 0 {
			w.Prefer = []devices.ID{devices.ID(1 + rng.IntN(n)), devices.ID(1 + rng.IntN(n))}
		}
		w.Done = func(w *Write, placed []Placed, err error) {
			mu.Lock()
			defer mu.Unlock()
			answered++
			pending[w]++
			if (err == nil) != (len(placed) > 0) || len(placed) > o.copies || pending[w] != 1 {
				t.Errorf("answer %d: placed %v, error %v", pending[w], placed, err)
			}
			domains := map[int]bool{}
			for _, p := range placed {
				if published[p] {
					t.Errorf("slot %v was given out twice", p)
				}
				published[p] = true
				if d := r.b.dev(p.Device).domain; domains[d] {
					t.Errorf("two copies in one domain: %v", placed)
				} else {
					domains[d] = true
				}
			}
		}
		w.Returned = func(w *Write) {
			mu.Lock()
			defer mu.Unlock()
			returned++
			if pending[w] != 1 {
				t.Errorf("Returned after %d calls of Done", pending[w])
			}
			pending[w] = -1
		}
		writes++
		r.b.Write(w)
	}
	read := func() {
		size := int64(4096 * (1 + rng.IntN(64)))
		rd := &Read{Size: size, Bufs: [][]byte{r.buf[:size]}}
		if rng.IntN(5) == 0 {
			rd.Class = devices.Background
		}
		for _, i := range rng.Perm(n)[:1+rng.IntN(min(3, n))] {
			rd.Copies = append(rd.Copies, Copy{devices.ID(i + 1), rng.Int64N(64) * mib})
		}
		given, back, done := 1, 0, 0
		if rng.IntN(2) == 0 {
			rd.NewBufs = func() [][]byte {
				mu.Lock()
				defer mu.Unlock()
				given++
				destinations++
				return [][]byte{r.buf[:size]}
			}
		}
		rd.Done = func(_ *Read, i int, bufs [][]byte, err error) {
			mu.Lock()
			defer mu.Unlock()
			done++
			answered++
			if done != 1 || (err == nil) != (i >= 0 && bufs != nil) {
				t.Errorf("answer %d of a read: copy %d, error %v", done, i, err)
			}
		}
		rd.Returned = func([][]byte) {
			mu.Lock()
			defer mu.Unlock()
			back++
			returned++
			if back > given {
				t.Errorf("%d of %d destinations returned", back, given)
			}
		}
		reads++
		mu.Lock()
		destinations++
		mu.Unlock()
		r.b.Read(rd)
	}
	for range 400 {
		i := rng.IntN(n)
		faults := &r.disks[i].Faults
		switch rng.IntN(40) {
		case 0:
			faults.HangAll(faultdisk.Ops(1 + rng.IntN(int(faultdisk.OnAll))))
		case 1:
			faults.Add(faultdisk.Fault{On: faultdisk.OnAll, Rate: 0.3, Sticky: true, Effect: faultdisk.Fail, Err: syscall.EIO})
		case 2:
			faults.Clear() // slow upon slow would be too slow to wait for
			faults.Add(faultdisk.Fault{On: faultdisk.OnAll, Sticky: true, Effect: faultdisk.Slow, Factor: 50})
		case 3, 4, 5:
			faults.Clear()
		case 6:
			if rng.IntN(8) == 0 {
				r.devs[i].Fail(errors.New("pulled out"))
			}
		case 7:
			r.b.SetPlaceable(devices.ID(i+1), rng.IntN(3) > 0)
		case 8:
			r.b.SetReadable(devices.ID(i+1), rng.IntN(3) > 0)
		}
		for range rng.IntN(4) {
			write()
		}
		for range rng.IntN(4) {
			read()
		}
		if rng.IntN(2) == 0 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(5*time.Millisecond)))
		}
	}
	if rng.IntN(4) == 0 {
		r.b.Close()
	}
	time.Sleep(time.Minute)
	// What hangs for so long has failed; until somebody says so, writes wait for it.
	for i, d := range r.devs {
		r.b.SetPlaceable(devices.ID(i+1), true)
		if d.Load().Stalled > 30*time.Second {
			d.Fail(devices.ErrTimeout)
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	mu.Lock()
	early := answered
	mu.Unlock()
	require.Equal(t, writes+reads, early, "answered, though disks still hang")
	for _, d := range r.disks {
		d.Faults.Clear()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, writes+reads, answered)
	require.Equal(t, writes+destinations, returned)
	require.Equal(t, len(published), r.takenInAll())
	require.Zero(t, r.b.Stats().Waiting)
	for i, d := range r.devs {
		requireAtRest(t, d, "device %d", i+1)
	}
}

// requireAtRest checks that nothing is left on a device. Now and then a probe of its own is in
// the disk, for some milliseconds of a second; what was forgotten there would stay.
func requireAtRest(t *testing.T, d *devices.Device, what ...any) {
	t.Helper()
	for range 100 {
		if d.Load().Outstanding == 0 {
			break
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
	}
	l := d.Load()
	require.Zero(t, l.Outstanding, what...)
	require.Zero(t, l.Backlog, what...)
	require.Zero(t, d.Stats().InFlight, what...)
}

func (r *rig) takenInAll() int {
	n := 0
	for _, d := range r.devs {
		n += r.taken(d.ID())
	}
	return n
}

// TestRecoveredDeviceIsUsedAgain: at queue depth 1 nothing but probes can find out that the
// fast device is well again.
func TestRecoveredDeviceIsUsedAgain(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 1}, func(t *testing.T, r *rig) {
		fast := r.devs[2]
		share := func(d time.Duration) float64 {
			before := fast.Stats().Write.Bytes
			rate, _ := r.writes(1, false, 0, d)
			return float64(fast.Stats().Write.Bytes-before) / (rate * d.Seconds())
		}
		require.Greater(t, share(3*time.Second), 0.9)
		r.disks[2].SetSlow(20)
		share(time.Second)
		require.Less(t, share(5*time.Second), 0.1)
		r.disks[2].SetSlow(1)
		share(5 * time.Second)
		require.Greater(t, share(time.Second), 0.9)
	})
}

// TestHedgesHalveTheTail compares scenario C with and without second attempts.
func TestHedgesHalveTheTail(t *testing.T) {
	s := scenarios["C"]
	tail := func(qd int, reads, hedges bool) (p999 time.Duration) {
		inFakeTime(t, func(t *testing.T) {
			o := rigOptions{rates: s.rates, timing: s.timing, copies: 1, opts: Options{NoHedges: !hedges}}
			r := newRig(t, o)
			defer r.close()
			var lat []time.Duration
			if reads {
				_, lat = r.readLoop(qd, 2, 64<<10, warmUp, warmUp+measure/2)
			} else {
				_, lat = r.writes(qd, false, warmUp, warmUp+2*measure)
			}
			p999 = quantile(lat, 0.999)
		})
		return p999
	}
	for _, c := range []struct {
		qd    int
		reads bool
	}{{8, false}, {32, true}} {
		without, with := tail(c.qd, c.reads, false), tail(c.qd, c.reads, true)
		t.Logf("QD%d, reads %v: p99.9 %v without second attempts, %v with", c.qd, c.reads, without, with)
		require.LessOrEqual(t, with, without/2)
	}
}

// TestForeignLoadIsNotCountedTwice: another process uses half of the fast disk. That halves its
// service, and must halve its share, not more.
func TestForeignLoadIsNotCountedTwice(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 1}, func(t *testing.T, r *rig) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // 100 MB/s, straight to the disk
			buf := make([]byte, chunk)
			tick := time.NewTicker(chunk * time.Second / 100e6)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					wg.Go(func() { _, _ = r.disks[2].WriteAt(buf, 0) })
				}
			}
		})
		rate, _ := r.writes(32, false, warmUp, warmUp+10*time.Second)
		close(stop)
		wg.Wait()
		ideal := alone(50, chunk) + alone(100, chunk) + alone(200, chunk) - 100e6
		t.Logf("%.1f %% of what the other process leaves", 100*rate/ideal)
		require.Greater(t, rate, 0.97*ideal)
	})
}

// TestTimingOfTheSimulatedDisk guards the bounds that all percentages here are of.
func TestTimingOfTheSimulatedDisk(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{200}, copies: 1}, func(t *testing.T, r *rig) {
		rate, _ := r.writes(8, false, time.Second, 11*time.Second)
		require.InEpsilon(t, alone(200, chunk), rate, 0.01)
		var _ *simdisk.Disk = r.disks[0]
	})
}
