package balance

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/simdisk"
	"ballast/striping/policy"
)

const (
	mib   = 1 << 20
	chunk = mib
)

// rig is a set of simulated devices under a balancer, in fake time.
type rig struct {
	t     *testing.T
	disks []*simdisk.Disk
	devs  []*devices.Device
	space *testSpace
	b     *Balancer
	buf   []byte
}

type rigOptions struct {
	rates  []float64 // MB/s of solid-state disks
	timing func(i int, t *simdisk.Timing)
	copies int
	sizes  []int64 // capacity for slots; default: without bound
	opts   Options
	device devices.Options
	domain func(i int) string
	spins  func(i int) bool
}

const (
	diskSize = 1 << 40
	scratch  = mib // at the begin of each disk
)

func newRig(t *testing.T, o rigOptions) *rig {
	r := &rig{t: t, buf: make([]byte, chunk), space: newTestSpace(t)}
	var members []Member
	for i, rate := range o.rates {
		timing := simdisk.SSD(rate*1e6, rate*1e6)
		if o.timing != nil {
			o.timing(i, &timing)
		}
		disk := simdisk.New(simdisk.Options{Size: diskSize, Seed: uint64(i + 1), Timing: timing, NoData: true})
		do := o.device
		do.ID = devices.ID(i + 1)
		do.ScratchSize = scratch
		do.Rotational = do.Rotational || o.spins != nil && o.spins(i)
		dev := devices.NewDevice(disk, do)
		dev.StartProbes()
		size := int64(diskSize - scratch)
		if o.sizes != nil {
			size = o.sizes[i]
		}
		r.space.add(do.ID, size)
		m := Member{Device: dev}
		if o.domain != nil {
			m.Domain = o.domain(i)
		}
		members = append(members, m)
		diskRates.Store(disk, rate)
		r.disks = append(r.disks, disk)
		r.devs = append(r.devs, dev)
	}
	o.opts.Copies = o.copies
	o.opts.Space = r.space
	r.b = New(members, o.opts)
	return r
}

func (r *rig) close() {
	r.b.Close()
	for _, d := range r.devs {
		_ = d.Close() // a hung disk may say so
	}
}

// testSpace gives out slots one after another, round and round, and checks the rules.
type testSpace struct {
	t  *testing.T
	mu sync.Mutex
	by map[devices.ID]*deviceSpace
}

type deviceSpace struct {
	used, capacity, next int64
	taken                map[int64]int64 // slots by offset
}

func newTestSpace(t *testing.T) *testSpace {
	return &testSpace{t: t, by: map[devices.ID]*deviceSpace{}}
}

func (s *testSpace) add(id devices.ID, capacity int64) {
	s.by[id] = &deviceSpace{capacity: capacity, taken: map[int64]int64{}}
}

func (s *testSpace) Reserve(id devices.ID, size int64) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.by[id]
	if d.used+size > d.capacity {
		return 0, false
	}
	for {
		off := d.next
		if off+size > d.capacity {
			off = 0
		}
		d.next = off + size
		if _, ok := d.taken[off]; !ok {
			d.taken[off] = size
			d.used += size
			return off + scratch, true
		}
	}
}

func (s *testSpace) Release(id devices.ID, off, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.by[id]
	if d.taken[off-scratch] != size {
		s.t.Errorf("%v: release of %d bytes at %#x, which are not taken", id, size, off)
		return
	}
	delete(d.taken, off-scratch)
	d.used -= size
}

func (s *testSpace) Usage(id devices.ID) (used, capacity int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.by[id]
	return d.used, d.capacity
}

// writes runs a closed loop of chunk writes until end, starting at begin (both from now), and
// returns the bytes per second and the latencies of those that ended between. With inOrder the
// queue is a window that moves on only when its first write is done. Slots are given back at
// once: the volume never fills.
func (r *rig) writes(queue int, inOrder bool, begin, end time.Duration) (float64, []time.Duration) {
	start := time.Now()
	var mu sync.Mutex
	var done int64
	var lat []time.Duration
	var order []bool // writes of the window, in order: is it done?
	oldest := 0
	var wg sync.WaitGroup
	var issue func()
	issue = func() {
		if time.Since(start) >= end {
			return
		}
		mu.Lock()
		n := oldest + len(order)
		order = append(order, false)
		mu.Unlock()
		issued := time.Now()
		wg.Add(1)
		r.b.Write(&Write{
			Slot: chunk, Runs: []Run{{Bufs: [][]byte{r.buf}}}, Independent: true,
			Done: func(w *Write, placed []Placed, err error) {
				if err != nil {
					r.t.Errorf("write: %v", err)
				}
				next := 1
				mu.Lock()
				if since := time.Since(start); since >= begin && since < end {
					done += chunk
					lat = append(lat, time.Since(issued))
				}
				order[n-oldest] = true
				if inOrder {
					next = 0
				}
				for len(order) > 0 && order[0] {
					order = order[1:]
					oldest++
					if inOrder {
						next++
					}
				}
				mu.Unlock()
				for _, p := range placed {
					r.space.Release(p.Device, p.Off, chunk)
				}
				for range next {
					issue()
				}
			},
			Returned: func(*Write) { wg.Done() },
		})
	}
	for range queue {
		issue()
	}
	time.Sleep(end)
	wg.Wait()
	slices.Sort(lat)
	return float64(done) / (end - begin).Seconds(), lat
}

// readLoop runs a closed loop of reads of random places that lie on copies devices.
func (r *rig) readLoop(queue, copies int, size int64, begin, end time.Duration) (float64, []time.Duration) {
	start := time.Now()
	rng := rand.New(rand.NewPCG(7, 7))
	var mu sync.Mutex
	var done int64
	var lat []time.Duration
	var wg sync.WaitGroup
	// Chunks lie where placement puts them: in proportion to the speeds, as far as distinct
	// devices allow.
	draw := r.drawReplicas(copies)
	buf := r.buf[:size]
	var issue func()
	issue = func() {
		if time.Since(start) >= end {
			return
		}
		mu.Lock()
		rd := &Read{Size: size, Bufs: [][]byte{buf}}
		for _, i := range draw(rng) {
			rd.Copies = append(rd.Copies, Copy{r.devs[i].ID(), rng.Int64N(1<<18) * mib})
		}
		mu.Unlock()
		issued := time.Now()
		wg.Add(1)
		rd.NewBufs = func() [][]byte { wg.Add(1); return [][]byte{buf} }
		rd.Returned = func([][]byte) { wg.Done() }
		rd.Done = func(_ *Read, _ int, _ [][]byte, err error) {
			if err != nil {
				r.t.Errorf("read: %v", err)
			}
			mu.Lock()
			if since := time.Since(start); since >= begin && since < end {
				done += size
				lat = append(lat, time.Since(issued))
			}
			mu.Unlock()
			issue()
		}
		r.b.Read(rd)
	}
	for range queue {
		issue()
	}
	time.Sleep(end)
	wg.Wait()
	slices.Sort(lat)
	return float64(done) / (end - begin).Seconds(), lat
}

// drawReplicas returns a source of replica sets whose members appear in the shares that
// placement aims at: systematic sampling, which never takes one device twice.
func (r *rig) drawReplicas(k int) func(rng *rand.Rand) []int {
	rates := make([]float64, len(r.devs))
	full := make([]float64, len(r.devs))
	for i, d := range r.disks {
		rates[i] = diskRate(d)
		full[i] = 1e9
	}
	p := policy.Targets(rates, full, 1e6, k)
	return func(rng *rand.Rand) []int {
		var set []int
		order := rng.Perm(len(p))
		at := rng.Float64()
		var sum float64
		for _, i := range order {
			sum += p[i] * float64(k)
			if sum > at+1e-9 {
				set = append(set, i)
				at++
			}
		}
		for _, i := range order { // rounding
			if len(set) < k && !slices.Contains(set, i) {
				set = append(set, i)
			}
		}
		return set
	}
}

var diskRates sync.Map // *simdisk.Disk -> float64

func diskRate(d *simdisk.Disk) float64 {
	v, _ := diskRates.Load(d)
	return v.(float64)
}

// alone is the throughput of one device of rate MB/s at saturation.
func alone(rate float64, size int64) float64 {
	return float64(size) / (20e-6 + float64(size)/(rate*1e6))
}

func quantile(lat []time.Duration, q float64) time.Duration {
	if len(lat) == 0 {
		return 0
	}
	return lat[min(len(lat)-1, int(q*float64(len(lat))))]
}

// inFakeTime runs f in a bubble and requires that nothing stays behind.
func inFakeTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func requireNear(t *testing.T, want, got float64, name string) {
	t.Helper()
	require.GreaterOrEqual(t, got, want-3, "%s: percent of the bound", name)
}
