package striping

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

var forecastSeeds = flag.Int("forecasts", 6, "drains whose forecasts are compared with what they do")

// TestForecasts compares, for random volumes of unequal disks, what a drain was to copy and to take
// with what it does: the bytes within 2 %, the time within 20 % in nine of ten, and what the loss of
// two disks was to cost with what it costs.
func TestForecasts(t *testing.T) {
	var good atomic.Int64
	campaign(t, *forecastSeeds, 1, func(t *testing.T, seed uint64) {
		ratio := forecastDrain(t, seed-1)
		t.Logf("took %.2f of what was told", ratio)
		if math.Abs(ratio-1) <= 0.2 {
			good.Add(1)
		}
	})
	require.GreaterOrEqual(t, good.Load(), int64(*forecastSeeds*9/10), "of %d within 20 %%", *forecastSeeds)
}

// written is how many bytes the disks were given so far.
func (r *rig) written() (n int64) {
	for _, d := range r.disks {
		n += d.Stats().WriteBytes
	}
	return n
}

func forecastDrain(t *testing.T, seed uint64) float64 {
	rng := rand.New(rand.NewPCG(seed, 31))
	disks := 4 + rng.IntN(3)
	copies := uint8(1 + rng.IntN(2))
	cfg := rigConfig{copies: copies, chunk: 256 << 10, seed: seed, latency: time.Millisecond, opts: Options{ReadAhead: -1}}
	for range disks {
		cfg.sizes = append(cfg.sizes, int64(64+rng.IntN(96))<<20)
	}
	r := newRig(t, cfg)
	for _, d := range r.disks {
		rate := 20e6 + 100e6*rng.Float64()
		d.SetTiming(simdisk.Timing{ReadRate: rate, WriteRate: rate * (0.5 + 0.5*rng.Float64()), PerOp: 50 * time.Microsecond})
	}
	chunks := 400 / int(copies)
	s := r.fillExport(chunks)
	for range 3 { // until the disks are known
		r.requireStamped(s, chunks, 1)
	}
	leaving := []devices.ID{devices.ID(1 + rng.IntN(disks))}
	f, err := r.v.ForecastDrain(t.Context(), leaving)
	require.NoError(t, err)
	before := r.written()
	id, err := r.v.Drain(t.Context(), leaving, JobOptions{})
	require.NoError(t, err)
	until(t, 10*time.Minute, "drained", r.jobEnded(id))
	j := r.job(id)
	took, done := j.Ended.Sub(j.Started).Seconds(), j.BytesDone
	require.InDelta(t, f.Bytes, done, 0.02*float64(f.Bytes), "bytes")
	require.LessOrEqual(t, float64(r.written()-before), 1.02*float64(f.Bytes), "nothing is written twice")

	lost := []devices.ID{}
	for _, m := range r.v.devs() {
		if m.id != leaving[0] && len(lost) < 2 {
			lost = append(lost, m.id)
		}
	}
	l, err := r.v.IfLost(t.Context(), lost)
	require.NoError(t, err)
	for _, dev := range lost {
		require.NoError(t, r.v.Offline(t.Context(), dev, true))
	}
	unreadable := int64(0)
	p := make([]byte, r.cfg.chunk)
	for i := range chunks {
		if s.ReadAt(t.Context(), p, int64(i)*int64(r.cfg.chunk)) != nil {
			unreadable++
		}
	}
	require.Equal(t, l.Chunks, unreadable, "chunks that were to be lost")
	s.Close()
	require.NoError(t, r.close())
	return took / f.Seconds
}

// TestRebalanceMovesTheDeficit: a disk that joins a volume gets its share, and nothing else moves.
func TestRebalanceMovesTheDeficit(t *testing.T) {
	for _, copies := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: copies, timing: gentle})
				chunks := 240 / int(copies)
				s := r.fillExport(chunks)
				id := r.addDisk(8<<20, gentle)
				f, err := r.v.ForecastRebalance(t.Context())
				require.NoError(t, err)
				require.InDelta(t, 60*64<<10, f.Bytes, 3*64<<10, "a quarter of what there is")
				job, err := r.v.Rebalance(t.Context(), JobOptions{})
				require.NoError(t, err)
				until(t, time.Minute, "even", r.jobEnded(job))
				require.LessOrEqual(t, float64(r.job(job).BytesDone), 1.05*float64(f.Bytes))
				worst, _ := imbalance(r.v.shares())
				require.LessOrEqual(t, worst, 0.02)
				used, _ := r.v.dev(id).alloc.usage()
				require.InDelta(t, 60*64<<10, used, 3*64<<10)
				_, err = r.v.Rebalance(t.Context(), JobOptions{})
				require.ErrorIs(t, err, ErrNoJob)
				r.requireStamped(s, chunks, 1)
				s.Close()
				require.NoError(t, r.v.checkCopies(t.Context()))
				require.NoError(t, r.close())
			})
		})
	}
}
