package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// crowd is clients without a pause between their requests: half of them writes, some flushes.
type crowd struct {
	stop chan struct{}
	wg   sync.WaitGroup
	ops  atomic.Int64
	mu   sync.Mutex
	err  error
}

func startCrowd(e *Export, clients int) *crowd {
	c := &crowd{stop: make(chan struct{})}
	for i := range clients {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		c.wg.Go(func() {
			p := make([]byte, 256*blockSize)
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				n := (1 + rng.IntN(1<<rng.IntN(7))) * blockSize
				off := rng.Int64N((e.Size()-int64(n))/blockSize) * blockSize
				var err error
				switch x := rng.IntN(100); {
				case x < 45:
					err = e.WriteAt(context.Background(), p[:n], off, false)
				case x < 47:
					err = e.Sync(context.Background())
				default:
					err = e.ReadAt(context.Background(), p[:n], off)
				}
				c.ops.Add(1)
				if err != nil {
					c.mu.Lock()
					c.err = err
					c.mu.Unlock()
					return
				}
			}
		})
	}
	return c
}

func (c *crowd) end(t *testing.T) {
	t.Helper()
	close(c.stop)
	c.wg.Wait()
	require.NoError(t, c.err)
}

// TestReturningDiskCatchesUp: a disk that sat out gets what it missed at a twentieth of its rate at least,
// although clients leave no disk a pause and write to the same chunks.
func TestReturningDiskCatchesUp(t *testing.T) {
	t.Parallel() // as all that is long and busies one processor
	synctest.Test(t, func(t *testing.T) {
		const rate, chunks, chunk = 50e6, 160, 256 << 10
		r := newRig(t, rigConfig{disks: 3, size: 64 << 20, chunk: chunk, copies: 2, timing: simdisk.SSD(rate, rate),
			latency: 2 * time.Millisecond, opts: Options{DirtyLimit: 8 << 20}})
		e := r.fillExport(chunks)
		defer func() { require.NoError(t, r.close()) }()
		defer e.Close()
		c := startCrowd(e, 128)
		time.Sleep(3 * time.Second)
		require.NoError(t, r.v.SetSlow(t.Context(), 3))
		time.Sleep(10 * time.Second)
		missed := r.v.Status().Degraded
		require.Greater(t, missed, int64(chunks/2))
		require.NoError(t, r.v.SetOnline(t.Context(), 3, true))
		took := until(t, time.Minute, "back", r.stateIs(2, "online")).Seconds()
		share := float64(missed) * chunk / took / rate
		fmt.Printf("a disk that came back got %d chunks in %.1f s: %.1f %% of its rate, beside %d operations\n", missed, took, 100*share, c.ops.Load())
		c.end(t)
		require.GreaterOrEqual(t, share, 0.05)
		require.NoError(t, r.v.checkCopies(t.Context()))
	})
}
