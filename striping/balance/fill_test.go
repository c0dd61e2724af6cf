package balance

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/striping/policy"
)

// TestFill follows volumes of 1 MiB chunks until they are full: how fast, how evenly, and
// whether the last byte that k copies can use is used.
func TestFill(t *testing.T) {
	const gib = 1 << 30
	equal := []int64{4 * gib, 4 * gib, 4 * gib}
	smallFast := []int64{6 * gib, 6 * gib, 2 * gib}
	cases := []struct {
		name     string
		copies   int
		capacity []int64
		load     float64    // of the sum of bandwidths; 0: saturated, 32 chunks at once
		percent  float64    // of the bound until half full, at least
		fill     [3]float64 // at half, within 5 points; 0: not looked at
	}{
		{"equal disks k=1, saturated", 1, equal, 0, 97, [3]float64{}},
		{"fast disk small k=1, saturated", 1, smallFast, 0, 97, [3]float64{}},
		{"equal disks k=1, 15 % load", 1, equal, 0.15, 0, [3]float64{.46, .50, .54}},
		{"mirror, equal disks, saturated", 2, equal, 0, 0, [3]float64{}},
		{"mirror, fast disk small, saturated", 2, smallFast, 0, 0, [3]float64{}},
		{"mirror, fast disk small, 15 % load", 2, smallFast, 0.15, 0, [3]float64{}},
		{"mirror, slow disk large, saturated", 2, []int64{8 * gib, 4 * gib, 2 * gib}, 0, 0, [3]float64{}},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "case: %% of the bound until half full; fill at half; chunks refused while k copies had space\n")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				r := newRig(t, rigOptions{rates: abc, copies: c.copies, sizes: c.capacity})
				defer r.close()
				usable := policy.Capacity(c.capacity, c.copies) / chunk
				began := time.Now()
				var half time.Duration
				var fill [3]float64
				room := make(chan struct{}, 32)
				results := make(chan error, 64)
				written, refused := int64(0), int64(0)
				full := false
				take := func(err error) {
					<-room
					if err != nil {
						require.ErrorIs(t, err, ErrNoSpace)
						full = true
						refused++
						return
					}
					require.False(t, full && policy.Capacity(r.free(), c.copies) >= chunk)
					if written++; written == usable/2 {
						half = time.Since(began)
						for i, d := range r.devs {
							used, capacity := r.space.Usage(d.ID())
							fill[i] = float64(used) / float64(capacity)
						}
					}
				}
				for sent := int64(0); sent < usable+3; {
					select {
					case err := <-results:
						take(err)
						continue
					case room <- struct{}{}:
					}
					sent++
					r.b.Write(&Write{
						Slot: chunk, Runs: []Run{{Bufs: [][]byte{r.buf}}}, Independent: true,
						Done: func(_ *Write, placed []Placed, err error) {
							if err == nil && len(placed) != c.copies {
								t.Errorf("%d copies", len(placed))
							}
							results <- err
						},
					})
					if c.load > 0 {
						time.Sleep(time.Duration(chunk * float64(c.copies) / (c.load * 350e6) * 1e9))
					}
				}
				for len(room) > 0 {
					take(<-results)
				}
				synctest.Wait()
				stranded := policy.Capacity(r.free(), c.copies) / chunk
				percent := 100 * fillTime(usable/2*chunk, c.capacity, c.copies).Seconds() / half.Seconds()
				fmt.Fprintf(&table, "%-36s %6.1f | %.2f/%.2f/%.2f | %d of %d\n", c.name, percent,
					fill[0], fill[1], fill[2], usable-written, usable)
				require.Equal(t, usable, written, "chunks written")
				require.EqualValues(t, 3, refused, "and those beyond the end")
				require.Zero(t, stranded)
				require.GreaterOrEqual(t, percent, c.percent)
				for i, f := range c.fill {
					if f > 0 {
						require.InDelta(t, f, fill[i], 0.05, "fill of device %d at half", i+1)
					}
				}
			})
		})
	}
	t.Log(table.String())
}

// fillTime is the least time in which size bytes can be written: for one copy the t with
// sum min(c_i, b_i·t) = size; for more, the bound that regards no capacity.
func fillTime(size int64, capacity []int64, k int) time.Duration {
	b := rates(chunk, abc...)
	if k > 1 {
		return time.Duration(float64(size) / policy.Bound(b, k) * 1e9)
	}
	lo, hi := 0.0, 1e6
	for range 100 {
		t := (lo + hi) / 2
		var sum float64
		for i := range b {
			sum += min(float64(capacity[i]), b[i]*t)
		}
		if sum < float64(size) {
			lo = t
		} else {
			hi = t
		}
	}
	return time.Duration(hi * 1e9)
}

func (r *rig) free() []int64 {
	var free []int64
	for _, d := range r.devs {
		used, capacity := r.space.Usage(d.ID())
		free = append(free, capacity-used)
	}
	return free
}
