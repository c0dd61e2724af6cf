package balance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ballast/devices/simdisk"
	"ballast/striping/policy"
)

// The scenarios of the placement study: three SSDs of 50, 100 and 200 MB/s (A); the fast one 20
// times slower for 3 s of each 10 s (B), or stalling 0.3 s each 3 s (C); eight of 50..500 (D).
type scenario struct {
	name   string
	rates  []float64
	timing func(i int, t *simdisk.Timing)
	// ideal is the bound T* for k copies of 1 MiB: over phases where the client sees them, over
	// the mean rate where they are shorter than a queue.
	ideal func(k int, size int64) float64
}

func rates(size int64, mb ...float64) []float64 {
	b := make([]float64, len(mb))
	for i := range mb {
		b[i] = alone(mb[i], size)
	}
	return b
}

var abc = []float64{50, 100, 200}

var scenarios = map[string]*scenario{
	"A": {
		name: "A", rates: abc,
		ideal: func(k int, size int64) float64 { return policy.Bound(rates(size, abc...), k) },
	},
	"B": {
		name: "B", rates: abc,
		timing: func(i int, t *simdisk.Timing) {
			if i != 2 {
				return
			}
			for at := 5 * time.Second; at < 100*time.Second; at += 10 * time.Second {
				t.Phases = append(t.Phases, simdisk.SlowPhase{From: at, To: at + 3*time.Second, Factor: 20})
			}
		},
		ideal: func(k int, size int64) float64 {
			return 0.7*policy.Bound(rates(size, abc...), k) + 0.3*policy.Bound(rates(size, 50, 100, 10), k)
		},
	},
	"C": {
		name: "C", rates: abc,
		timing: func(i int, t *simdisk.Timing) {
			if i == 2 {
				t.StallEvery, t.StallTime = 3*time.Second, 300*time.Millisecond
			}
		},
		ideal: func(k int, size int64) float64 { return policy.Bound(rates(size, 50, 100, 180), k) },
	},
	"D": {
		name: "D", rates: []float64{50, 80, 100, 120, 200, 200, 400, 500},
		ideal: func(k int, size int64) float64 {
			return policy.Bound(rates(size, 50, 80, 100, 120, 200, 200, 400, 500), k)
		},
	},
}

const (
	warmUp  = 4 * time.Second
	measure = 20 * time.Second // two periods of B
)

func TestWriteScenarios(t *testing.T) {
	want := []struct {
		scenario string
		k        int
		inOrder  bool
		percent  [3]float64 // at queue depth 1, 8, 32; 0: not measured
	}{
		{"A", 1, false, [3]float64{56, 100, 100}},
		{"B", 1, false, [3]float64{56, 99, 100}},
		{"C", 1, false, [3]float64{56, 99, 99}},
		{"D", 1, false, [3]float64{29, 91, 100}},
		{"A", 1, true, [3]float64{0, 100, 100}},
		{"A", 2, false, [3]float64{66, 100, 100}},
		{"B", 2, false, [3]float64{67, 100, 100}},
		{"C", 2, false, [3]float64{62, 94, 94}},
		{"D", 2, false, [3]float64{46, 97, 100}},
		{"A", 2, true, [3]float64{0, 100, 100}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%% of the bound (p50/p99/p99.9 ms), 1 MiB chunk writes\n")
	for _, w := range want {
		s := scenarios[w.scenario]
		order := "out of order"
		if w.inOrder {
			order = "in order"
		}
		fmt.Fprintf(&table, "%s k=%d %-12s", s.name, w.k, order)
		for i, qd := range []int{1, 8, 32} {
			if w.percent[i] == 0 {
				fmt.Fprintf(&table, " | QD%-2d  -", qd)
				continue
			}
			name := fmt.Sprintf("%s/k%d/%s/QD%d", s.name, w.k, strings.ReplaceAll(order, " ", "-"), qd)
			t.Run(name, func(t *testing.T) {
				inFakeTime(t, func(t *testing.T) {
					r := newRig(t, rigOptions{rates: s.rates, timing: s.timing, copies: w.k})
					defer r.close()
					rate, lat := r.writes(qd, w.inOrder, warmUp, warmUp+measure)
					got := 100 * rate / s.ideal(w.k, chunk)
					st := r.b.Stats()
					fmt.Fprintf(&table, " | QD%-2d %5.1f (%d/%d/%d; %d again)", qd, got, quantile(lat, .5).Milliseconds(),
						quantile(lat, .99).Milliseconds(), quantile(lat, .999).Milliseconds(), st.Replacements)
					requireNear(t, w.percent[i], got, name)
				})
			})
		}
		table.WriteByte('\n')
	}
	t.Log(table.String())
}

func TestReadScenarios(t *testing.T) {
	want := []struct {
		scenario string
		size     int64
		percent  [2]float64 // at queue depth 8, 32
	}{
		{"A", 64 << 10, [2]float64{97, 100}},
		{"B", 64 << 10, [2]float64{97, 100}},
		{"C", 64 << 10, [2]float64{97, 100}},
		{"D", 64 << 10, [2]float64{74, 97}},
		{"A", mib, [2]float64{98, 100}},
		{"B", mib, [2]float64{97, 100}},
		{"C", mib, [2]float64{97, 98}},
		{"D", mib, [2]float64{82, 98}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%% of the bound (p50/p99/p99.9 ms), random reads, k=2\n")
	for _, w := range want {
		s := scenarios[w.scenario]
		fmt.Fprintf(&table, "%s %4d KiB", s.name, w.size>>10)
		for i, qd := range []int{8, 32} {
			name := fmt.Sprintf("%s/%dK/QD%d", s.name, w.size>>10, qd)
			t.Run(name, func(t *testing.T) {
				inFakeTime(t, func(t *testing.T) {
					r := newRig(t, rigOptions{rates: s.rates, timing: s.timing, copies: 2})
					defer r.close()
					end := warmUp + measure
					if w.size < mib {
						// Three periods of C, one of B; D has the most operations.
						end = warmUp + map[string]time.Duration{"C": 9, "D": 4}[s.name]*time.Second
						if end == warmUp {
							end += 10 * time.Second
						}
					}
					rate, lat := r.readLoop(qd, 2, w.size, warmUp, end)
					got := 100 * rate / s.ideal(1, w.size)
					st := r.b.Stats()
					ms := func(q float64) float64 { return quantile(lat, q).Seconds() * 1e3 }
					fmt.Fprintf(&table, " | QD%-2d %5.1f (%.1f/%.1f/%.1f; %d hedges of %d)", qd, got,
						ms(.5), ms(.99), ms(.999), st.Hedges, len(lat))
					requireNear(t, w.percent[i], got, name)
				})
			})
		}
		table.WriteByte('\n')
	}
	t.Log(table.String())
}
