package balance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices/simdisk"
)

// Two further sets of the placement study: two spinning disks of 160 MB/s beside a solid-state one of
// 450 (E), and three spinning ones of 200, 120 and 160 (F).
var spinning = map[string]struct {
	rates []float64
	spins func(i int) bool
}{
	"E": {[]float64{160, 160, 450}, func(i int) bool { return i < 2 }},
	"F": {[]float64{200, 120, 160}, func(int) bool { return true }},
}

// TestReadScenariosSpinning: random reads where copies lie on spinning disks get what these can do,
// seeks included.
func TestReadScenariosSpinning(t *testing.T) {
	want := []struct {
		scenario string
		size     int64
		percent  [2]float64 // at queue depth 8, 32
	}{
		{"E", 64 << 10, [2]float64{93, 99}},
		{"F", 64 << 10, [2]float64{92, 96}},
		{"E", mib, [2]float64{98, 100}},
		{"F", mib, [2]float64{98, 99}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%% of the bound (p50/p99/p99.9 ms), random reads, k=2\n")
	for _, w := range want {
		s := spinning[w.scenario]
		ideal := 0.0
		for i, rate := range s.rates {
			if s.spins(i) {
				ideal += float64(w.size) / (9e-3 + 20e-6 + float64(w.size)/(rate*1e6))
			} else {
				ideal += alone(rate, w.size)
			}
		}
		fmt.Fprintf(&table, "%s %4d KiB", w.scenario, w.size>>10)
		for i, qd := range []int{8, 32} {
			name := fmt.Sprintf("%s/%dK/QD%d", w.scenario, w.size>>10, qd)
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, rigOptions{rates: s.rates, copies: 2, spins: s.spins, timing: func(i int, tm *simdisk.Timing) {
						if s.spins(i) {
							*tm = simdisk.HDD(s.rates[i] * 1e6)
						}
					}})
					defer r.close()
					rate, lat := r.readLoop(qd, 2, w.size, warmUp, warmUp+10*time.Second)
					got := 100 * rate / ideal
					ms := func(q float64) float64 { return quantile(lat, q).Seconds() * 1e3 }
					fmt.Fprintf(&table, " | QD%-2d %5.1f (%.1f/%.1f/%.1f; %d hedges of %d)", qd, got, ms(.5), ms(.99), ms(.999), r.b.Stats().Hedges, len(lat))
					requireNear(t, w.percent[i], got, name)
				})
			})
		}
		table.WriteByte('\n')
	}
	t.Log(table.String())
}

// mixed runs a closed loop of which 70 % are random reads of 256 KiB and 30 % rewrites of chunks, and
// returns the operations per second and their latencies.
func (r *rig) mixed(queue, copies int, begin, end time.Duration) (rate float64, reads, writes []time.Duration) {
	const size = 256 << 10
	start := time.Now()
	rng := rand.New(rand.NewPCG(8, 8))
	draw := r.drawReplicas(copies)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var issue func()
	ended := func(list *[]time.Duration, issued time.Time) {
		mu.Lock()
		if since := time.Since(start); since >= begin && since < end {
			*list = append(*list, time.Since(issued))
		}
		mu.Unlock()
		issue()
	}
	issue = func() {
		issued := time.Now()
		if issued.Sub(start) >= end {
			return
		}
		wg.Add(1)
		mu.Lock()
		if rng.IntN(10) >= 7 {
			mu.Unlock()
			r.b.Write(&Write{
				Slot: chunk, Runs: []Run{{Bufs: [][]byte{r.buf}}}, Independent: true,
				Done: func(_ *Write, placed []Placed, err error) {
					if err != nil {
						r.t.Errorf("write: %v", err)
					}
					for _, p := range placed {
						r.space.Release(p.Device, p.Off, chunk)
					}
					ended(&writes, issued)
				},
				Returned: func(*Write) { wg.Done() },
			})
			return
		}
		rd := &Read{Size: size, Bufs: [][]byte{r.buf[:size]}}
		for _, i := range draw(rng) {
			rd.Copies = append(rd.Copies, Copy{r.devs[i].ID(), rng.Int64N(1<<18) * mib})
		}
		mu.Unlock()
		rd.NewBufs = func() [][]byte { wg.Add(1); return [][]byte{r.buf[:size]} }
		rd.Returned = func([][]byte) { wg.Done() }
		rd.Done = func(_ *Read, _ int, _ [][]byte, err error) {
			if err != nil {
				r.t.Errorf("read: %v", err)
			}
			ended(&reads, issued)
		}
		r.b.Read(rd)
	}
	for range queue {
		issue()
	}
	time.Sleep(end)
	wg.Wait()
	slices.Sort(reads)
	slices.Sort(writes)
	return float64(len(reads)+len(writes)) / (end - begin).Seconds(), reads, writes
}

// TestMixedScenarios: reads and rewrites together use all of the devices, and reads do not wait
// behind the writes that have no room yet.
func TestMixedScenarios(t *testing.T) {
	sum := func(rates ...float64) (bytes float64) {
		for _, r := range rates {
			bytes += r * 1e6
		}
		return bytes
	}
	want := []struct {
		scenario string
		ideal    float64    // bytes per second on the devices
		percent  [2]float64 // at queue depth 8, 32
		read     [2]float64 // p99 of the reads, ms
	}{
		{"A", sum(50, 100, 200), [2]float64{99, 100}, [2]float64{28, 63}},
		{"B", 0.7*sum(50, 100, 200) + 0.3*sum(50, 100, 10), [2]float64{96, 96}, [2]float64{69, 75}},
		{"C", sum(50, 100, 180), [2]float64{98, 98}, [2]float64{56, 148}},
	}
	const perOp = 0.7*(256<<10) + 0.3*2*chunk
	var table strings.Builder
	fmt.Fprintf(&table, "%% of the bound (p99/p99.9 ms), 70 %% reads of 256 KiB, 30 %% chunk rewrites, k=2\n")
	for _, w := range want {
		s := scenarios[w.scenario]
		fmt.Fprintf(&table, "%s", s.name)
		for i, qd := range []int{8, 32} {
			name := fmt.Sprintf("%s/QD%d", s.name, qd)
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, rigOptions{rates: s.rates, timing: s.timing, copies: 2})
					defer r.close()
					rate, reads, writes := r.mixed(qd, 2, warmUp, warmUp+measure)
					got := 100 * rate * perOp / w.ideal
					ms := func(lat []time.Duration, q float64) float64 { return quantile(lat, q).Seconds() * 1e3 }
					fmt.Fprintf(&table, " | QD%-2d %5.1f (r %.0f/%.0f w %.0f/%.0f)", qd, got, ms(reads, .99), ms(reads, .999), ms(writes, .99), ms(writes, .999))
					requireNear(t, w.percent[i], got, name)
					require.Less(t, ms(reads, .99), 1.5*w.read[i], "p99 of the reads")
				})
			})
		}
		table.WriteByte('\n')
	}
	t.Log(table.String())
}

// openLoop has chunk writes arrive at random at the given rate, whatever becomes of them.
func (r *rig) openLoop(perSecond float64, begin, end time.Duration) (lat []time.Duration) {
	rng := rand.New(rand.NewPCG(9, 9))
	start := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for time.Since(start) < end {
		time.Sleep(time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second)))
		issued := time.Now()
		wg.Add(1)
		r.b.Write(&Write{
			Slot: chunk, Runs: []Run{{Bufs: [][]byte{r.buf}}}, Independent: true,
			Done: func(_ *Write, placed []Placed, err error) {
				if err != nil {
					r.t.Errorf("write: %v", err)
				}
				for _, p := range placed {
					r.space.Release(p.Device, p.Off, chunk)
				}
				if issued.Sub(start) < begin {
					return
				}
				mu.Lock()
				lat = append(lat, time.Since(issued))
				mu.Unlock()
			},
			Returned: func(*Write) { wg.Done() },
		})
	}
	wg.Wait()
	slices.Sort(lat)
	return lat
}

// TestOpenLoopScenarios: chunk writes that arrive at random at half and at four fifths of what the
// devices can do wait about as long as in the placement study.
func TestOpenLoopScenarios(t *testing.T) {
	want := []struct {
		scenario string
		k        int
		ideal    float64    // bytes per second
		p99      [2]float64 // at 50 %, 80 %: ms
	}{
		{"A", 1, scenarios["A"].ideal(1, chunk), [2]float64{24, 38}},
		{"A", 2, scenarios["A"].ideal(2, chunk), [2]float64{38, 79}},
		{"B", 1, 150e6, [2]float64{30, 50}},
		{"B", 2, 58e6, [2]float64{114, 184}},
		{"D", 1, scenarios["D"].ideal(1, chunk), [2]float64{10, 14}},
		{"D", 2, scenarios["D"].ideal(2, chunk), [2]float64{14, 22}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "p50/p99/p99.9 ms, 1 MiB chunk writes arriving at random\n")
	for _, w := range want {
		s := scenarios[w.scenario]
		fmt.Fprintf(&table, "%s k=%d", s.name, w.k)
		for i, load := range []float64{.5, .8} {
			name := fmt.Sprintf("%s/k%d/%.0f", s.name, w.k, 100*load)
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, rigOptions{rates: s.rates, timing: s.timing, copies: w.k})
					defer r.close()
					lat := r.openLoop(load*w.ideal/chunk, warmUp, warmUp+measure)
					ms := func(q float64) float64 { return quantile(lat, q).Seconds() * 1e3 }
					fmt.Fprintf(&table, " | %.0f %% %.0f/%.0f/%.0f", 100*load, ms(.5), ms(.99), ms(.999))
					require.Less(t, ms(.99), 1.5*w.p99[i], "p99")
				})
			})
		}
		table.WriteByte('\n')
	}
	t.Log(table.String())
}
