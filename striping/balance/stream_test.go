package balance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/simdisk"
)

// TestStreamOverSpinningMirrors reads one long object, whose chunks lie one after another on each
// of its disks, in order and with a window of read-ahead. The simulated disk pays a full seek of
// 9 ms from each segment to its next, so segments of 16 MiB can reach (U/b)/(U/b + seek) = 92 %.
func TestStreamOverSpinningMirrors(t *testing.T) {
	const total = 2000
	var table strings.Builder
	fmt.Fprintf(&table, "%% of the sum of bandwidths, one sequential reader, 1 MiB reads: each on its own, in segments\n")
	for _, c := range []struct {
		rates  []float64
		window int
		want   float64
	}{
		{[]float64{160, 160}, 32, 90},
		{[]float64{160, 160}, 64, 90},
		{[]float64{200, 100}, 32, 88},
		{[]float64{200, 100}, 64, 88},
	} {
		run := func(stream *Stream) (percent float64) {
			inFakeTime(t, func(t *testing.T) {
				r := newRig(t, rigOptions{
					rates: c.rates, copies: 2, device: devices.Options{Rotational: true},
					timing: func(i int, tm *simdisk.Timing) { *tm = simdisk.HDD(c.rates[i] * 1e6) },
				})
				defer r.close()
				for range 4 { // so that the speeds are known
					for _, d := range r.devs {
						require.NoError(t, d.Do(&devices.Request{Kind: devices.Read, Off: 1 << 30, Bufs: [][]byte{r.buf}}))
					}
				}
				percent = 100 * r.stream(stream, total, c.window) / ((c.rates[0] + c.rates[1]) * 1e6)
			})
			return percent
		}
		alone, segments := run(nil), run(&Stream{})
		fmt.Fprintf(&table, "%v, window %d MiB: %.0f, %.0f\n", c.rates, c.window, alone, segments)
		require.GreaterOrEqual(t, segments, c.want)
		require.Greater(t, segments, alone+10)
	}
	t.Log(table.String())
}

// stream reads total chunks in order, window at once, and returns the bytes per second.
func (r *rig) stream(stream *Stream, total, window int) float64 {
	began := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, oldest := 0, 0
	done := make([]bool, total)
	var issue func()
	issue = func() {
		for {
			mu.Lock()
			if next == total || next >= oldest+window {
				mu.Unlock()
				return
			}
			n := next
			next++
			rd := &Read{Size: chunk, Bufs: [][]byte{r.buf}, Stream: stream}
			for _, d := range r.devs {
				rd.Copies = append(rd.Copies, Copy{d.ID(), int64(n+1) * chunk})
			}
			rd.Done = func(_ *Read, _ int, _ [][]byte, err error) {
				if err != nil {
					r.t.Errorf("read: %v", err)
				}
				mu.Lock()
				done[n] = true
				for oldest < total && done[oldest] {
					oldest++
				}
				mu.Unlock()
				issue()
				wg.Done()
			}
			wg.Add(1)
			r.b.Read(rd) // under the lock: in order
			mu.Unlock()
		}
	}
	issue()
	wg.Wait()
	return float64(total*chunk) / time.Since(began).Seconds()
}
