package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// openLoop makes requests at a rate, whether the former ones are answered or not.
type openLoop struct {
	r      *rig
	e      *Export
	size   int     // of a request
	writes float64 // share of them
	rng    *rand.Rand
	wg     sync.WaitGroup

	mu    sync.Mutex
	reads []time.Duration
	wrote []time.Duration
	err   error
}

// run makes requests for so long, so many per second, a tenth of them writes, and returns the p99 of
// the reads.
func (l *openLoop) run(t *testing.T, rate float64, stop func() bool) (p50, p99 time.Duration) {
	t.Helper()
	l.make(t, rate, stop)
	return l.reads[len(l.reads)/2], l.reads[len(l.reads)*99/100]
}

// make makes requests until stop, so many per second; how long they took is in reads and wrote, in order.
func (l *openLoop) make(t *testing.T, rate float64, stop func() bool) {
	t.Helper()
	l.reads, l.wrote = nil, nil
	for !stop() {
		time.Sleep(time.Duration(l.rng.ExpFloat64() / rate * float64(time.Second)))
		off := l.rng.Int64N(l.e.Size()/int64(l.size)) * int64(l.size)
		write := l.rng.Float64() < l.writes
		l.wg.Go(func() {
			p := make([]byte, l.size)
			began := time.Now()
			var err error
			if write {
				err = l.e.WriteAt(context.Background(), p, off, false)
			} else {
				err = l.e.ReadAt(context.Background(), p, off)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if err != nil {
				l.err = err
			}
			if write {
				l.wrote = append(l.wrote, time.Since(began))
			} else {
				l.reads = append(l.reads, time.Since(began))
			}
		})
	}
	l.wg.Wait()
	require.NoError(t, l.err)
	slices.Sort(l.reads)
	slices.Sort(l.wrote)
}

// busy is how long the disks i were occupied, in seconds, with what they did so far.
func (r *rig) busy(timing simdisk.Timing, disks ...int) (s []float64) {
	for _, i := range disks {
		st := r.disks[i].Stats()
		s = append(s, float64(st.Reads+st.Writes)*timing.PerOp.Seconds()+float64(st.ReadBytes)/timing.ReadRate+float64(st.WriteBytes)/timing.WriteRate)
	}
	return s
}

// TestRebuildBesideClients: what a rebuild gets of the time that clients leave, and what they feel of
// it. The bound: each byte is a read and a write, on two of the disks that are left.
func TestRebuildBesideClients(t *testing.T) {
	for _, c := range []struct{ load, writes, least float64 }{{0.3, 0, 0.85}, {0.6, 0, 0.85}, {0.3, 0.1, 0.85}, {0.6, 0.1, 0.85}} {
		load := c.load
		t.Run(fmt.Sprintf("load=%.1f writes=%.1f", c.load, c.writes), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const request, chunks = 16 << 10, 300
				timing := simdisk.SSD(50e6, 50e6)
				r := newRig(t, rigConfig{disks: 4, size: 64 << 20, chunk: 256 << 10, copies: 2, timing: timing,
					opts: Options{ReadAhead: -1, DirtyLimit: 8 << 20}})
				e := r.fillExport(chunks)
				defer func() { require.NoError(t, r.close()) }()
				defer e.Close()
				l := &openLoop{r: r, e: e, size: request, writes: c.writes, rng: rand.New(rand.NewPCG(1, 1))}
				perRead := float64(request)/50e6 + 20e-6
				rate := load * 3 / (perRead * (1 + c.writes)) // of three disks
				for_ := func(d time.Duration) func() bool {
					began := time.Now()
					return func() bool { return time.Since(began) > d }
				}
				l.run(t, rate, for_(2*time.Second)) // until the disks are known
				require.NoError(t, r.v.Offline(t.Context(), 4, false))
				before := r.busy(timing, 0, 1, 2)
				began := time.Now()
				_, base := l.run(t, rate, for_(3*time.Second))
				took := time.Since(began).Seconds()
				left := 0.0
				for i, b := range r.busy(timing, 0, 1, 2) {
					left += 50e6 * (1 - (b-before[i])/took)
				}
				id, err := r.v.Rebuild(t.Context(), JobOptions{})
				require.NoError(t, err)
				began = time.Now()
				over := r.jobEnded(id)
				p50, p99 := l.run(t, rate, over)
				done := float64(r.job(id).BytesDone)
				speed := done / time.Since(began).Seconds()
				share, times := speed/(left/2), p99.Seconds()/base.Seconds()
				fmt.Printf("rebuild at load %.1f, writes %.1f: %.1f MB/s = %.0f %% of the bound %.1f; reads p99 %v, %.1f times the %v without (p50 %v)\n",
					load, c.writes, speed/1e6, 100*share, left/2e6, p99, times, base, p50)
				require.LessOrEqual(t, times, 3.0)
				require.GreaterOrEqual(t, share, c.least)
			})
		})
	}
}
