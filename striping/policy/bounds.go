package policy

import (
	"math"
	"slices"
)

// Bound is the largest T with sum min(x_i, T) >= k·T. With throughputs x it is the rate at which
// k copies on distinct devices can be written, with free bytes the data that still fits (the
// feasibility rule of Redundant Share, ICDCS 2007). With fewer than k positive values it is 0.
// Devices that share a failure domain are summed before.
func Bound(x []float64, k int) float64 {
	if k < 1 || len(x) < k {
		return 0
	}
	var buf [64]float64
	desc := append(buf[:0], x...)
	slices.SortFunc(desc, func(a, b float64) int {
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	var rest float64
	for _, v := range desc {
		rest += max(v, 0)
	}
	// With the j largest saturated at T, the others carry k-j copies of everything.
	best := math.Inf(1)
	for j := range k {
		best = min(best, rest/float64(k-j))
		rest -= max(desc[j], 0)
	}
	return max(best, 0)
}

// Capacity is Bound for bytes: how much data k copies of which fit into the free space of each
// failure domain.
func Capacity(free []int64, k int) int64 {
	if k < 1 || len(free) < k {
		return 0
	}
	// The k-1 largest in descending order; there is nothing to sort for k = 1.
	var top [8]int64
	if k-1 > len(top) {
		panic("policy: more copies than supported")
	}
	var rest int64
	for _, f := range free {
		f = max(f, 0)
		rest += f
		for j := range k - 1 {
			if f > top[j] {
				f, top[j] = top[j], f
			}
		}
	}
	best := rest / int64(k)
	for j := 1; j < k; j++ {
		rest -= top[j-1]
		best = min(best, rest/int64(k-j))
	}
	return best
}

// Targets is the share of all copies each device should hold when volume bytes are stored k
// times: as its speed demands, as far as its capacity allows (water-filling). T is the largest
// with sum min(b_i, T, T·c_i/volume) >= k·T, the share of i is that minimum over k·T. Shares sum
// to 1; a share times k·volume is never more than the capacity. If the volume does not fit,
// shares are those of the largest that does.
func Targets(speed, capacity []float64, volume float64, k int) []float64 {
	p := make([]float64, len(speed))
	volume = min(volume, Bound(capacity, k))
	if volume <= 0 {
		return p
	}
	carried := func(t float64) (sum float64) {
		for i := range speed {
			sum += min(speed[i], t, t*capacity[i]/volume)
		}
		return sum
	}
	// carried(t)/t falls with t, from what the capacities allow (>= k) to 0.
	hi := 1.0
	for _, b := range speed {
		hi += b
	}
	lo := 0.0
	for range 100 {
		if mid := (lo + hi) / 2; carried(mid) >= float64(k)*mid*(1-1e-12) {
			lo = mid
		} else {
			hi = mid
		}
	}
	sum := carried(lo)
	if sum <= 0 {
		return p
	}
	for i := range p {
		p[i] = min(speed[i], lo, lo*capacity[i]/volume) / sum
	}
	return p
}
