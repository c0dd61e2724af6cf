package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
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
	mu   sync.Mutex
	ops  int
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
				case x < 65:
					err = e.WriteAt(context.Background(), p[:n], off, false)
				case x < 70:
					err = e.Sync(context.Background())
				default:
					err = e.ReadAt(context.Background(), p[:n], off)
				}
				c.mu.Lock()
				c.ops++
				if err != nil {
					c.err = err
				}
				c.mu.Unlock()
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

// TestReturningDiskCatchesUp: a disk that sat out gets what it missed, although clients leave no disk
// a pause.
func TestReturningDiskCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 160
		r := newRig(t, rigConfig{disks: 3, size: 64 << 20, chunk: 256 << 10, copies: 2, timing: simdisk.SSD(25e6, 25e6),
			latency: 2 * time.Millisecond, opts: Options{DirtyLimit: 8 << 20}})
		e := r.fillExport(chunks)
		defer func() { require.NoError(t, r.close()) }()
		defer e.Close()
		c := startCrowd(e, 16)
		time.Sleep(3 * time.Second)
		require.NoError(t, r.v.SetSlow(t.Context(), 3))
		time.Sleep(10 * time.Second)
		require.NoError(t, r.v.SetOnline(t.Context(), 3, true))
		missed := r.v.Status().Degraded
		began := time.Now()
		n := c.ops
		for r.v.Status().Degraded > 0 || !r.stateIs(2, "online")() {
			time.Sleep(100 * time.Millisecond)
			if s := time.Since(began).Seconds(); s > 120 {
				break
			}
		}
		took := time.Since(began)
		fmt.Printf("%d chunks missed, back after %v: %.1f chunks/s; %.0f ops/s\n", missed, took, float64(missed)/took.Seconds(), float64(c.ops-n)/took.Seconds())
		for _, s := range r.v.Jobs() {
			fmt.Printf("%+v\n", s)
		}
		c.end(t)
	})
}
