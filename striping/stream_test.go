package striping

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestStreamOverSpinningMirrors: one sequential reader gets what all its spinning disks can do
// together, though each copy lies on two of them only: chunks are placed in runs and read in long
// segments. A head that passes over what it does not read gains nothing, so that without either
// it is about two thirds; which chunks then stand where, and so the last points, differs by run.
func TestStreamOverSpinningMirrors(t *testing.T) {
	// The simulated disks serve in order of arrival, which is that of submission only as long as no
	// goroutine overtakes another between being let in and arriving (the race detector has them do
	// so: writes then get 85 % instead of 99). Real disks sort.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const size = 256 << 20
	const edge = 48 << 20 // where one segment has no other beside it yet, or any more
	for _, c := range []struct {
		rates []float64
		want  float64 // percent of the sum of bandwidths
		gain  float64 // least that it must be above reading without runs and segments
	}{
		{[]float64{160e6, 160e6}, 90, 20},
		// Where goroutines overtake each other, chunks may happen to lie as if in runs: without is then
		// from 69 to 76, and says nothing. Two thirds and a good bit is what is asked for.
		{[]float64{160e6, 160e6, 160e6}, 72, 0},
	} {
		run := func(rotates bool) (percent float64) {
			synctest.Test(t, func(t *testing.T) {
				defer runtime.GC() // of a gigabyte of simulated disks
				ctx := context.Background()
				r := newRig(t, rigConfig{disks: len(c.rates), size: 320 << 20, chunk: 1 << 20, copies: 2, rotational: true, timing: simdisk.HDD(c.rates[0])})
				r.v.rotates.Store(rotates)
				require.NoError(t, r.v.CreateExport(ctx, "e", size))
				e := r.export("e")
				p := make([]byte, 1<<20)
				began := time.Now()
				for off := int64(0); off < size; off += int64(len(p)) {
					require.NoError(t, e.WriteAt(ctx, p, off, false))
				}
				require.NoError(t, e.Sync(ctx))
				wrote := time.Since(began)
				var took time.Duration
				for off := int64(0); off < size; off += 256 << 10 {
					switch off {
					case edge:
						began = time.Now()
					case size - edge:
						took = time.Since(began)
					}
					require.NoError(t, e.ReadAt(ctx, p[:256<<10], off))
				}
				sum := float64(len(c.rates)) * c.rates[0]
				percent = 100 * (size - 2*edge) / took.Seconds() / sum
				t.Logf("%d disks, runs and segments %v: written at %.0f %%, read at %.0f %%, mean run %.1f chunks", len(c.rates), rotates,
					100*2*size/wrote.Seconds()/sum, percent, r.meanRun())
				require.Greater(t, 100*2*size/wrote.Seconds()/sum, 70.0)
				if rotates {
					require.GreaterOrEqual(t, r.meanRun(), 3.5)
				}
				e.Close()
				require.NoError(t, r.close())
			})
			return percent
		}
		without, with := run(false), run(true)
		require.GreaterOrEqual(t, with, c.want)
		if c.gain > 0 {
			require.GreaterOrEqual(t, with-without, c.gain)
		}
	}
}

// meanRun is over how many chunks the same devices hold copies.
func (r *rig) meanRun() float64 {
	chunks, runs, last := 0, 0, ""
	err := r.j.Scan(journal.SpaceChunk, func(k journal.Key, value []byte) error {
		rec, err := journal.ParseChunk(k, value)
		if err != nil {
			return err
		}
		on := map[uint16]bool{}
		for _, c := range rec.Copies {
			on[c.Device] = true
		}
		if s := fmt.Sprint(on); s != last {
			last = s
			runs++
		}
		chunks++
		return nil
	})
	require.NoError(r.t, err)
	return float64(chunks) / float64(runs)
}
