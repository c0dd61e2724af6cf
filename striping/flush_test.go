package striping

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestFlushWithManyIntents overwrites one chunk in place so often that its intents reach their
// bound, with a flush, or the end of the volume, waiting for the last of these writes.
func TestFlushWithManyIntents(t *testing.T) {
	for _, last := range []string{"flush", "close"} {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			r := newRig(t, rigConfig{disks: 2, copies: 2, opts: Options{FlushInterval: time.Hour, WriteAge: time.Microsecond}})
			require.NoError(t, r.v.CreateExport(ctx, "e", 64<<10))
			e := r.export("e")
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, true))
			require.NoError(t, r.v.Flush(ctx))
			ver := uint32(2)
			c, err := r.v.acquire(chunkKey{1, 0})
			require.NoError(t, err)
			intents := func() int {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.intents)
			}
			for intents() <= r.v.maxIntents() {
				require.NoError(t, e.WriteAt(ctx, stamped(0, 4, ver), 0, false))
				ver++
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			r.v.cache.put(c)
			r.v.opts.WriteAge = time.Hour // it stays dirty until the flush
			require.NoError(t, e.WriteAt(ctx, stamped(4, 4, ver), 4*blockSize, false))
			within, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if last == "flush" {
				require.NoError(t, e.Sync(within))
			}
			e.Close()
			done := make(chan error, 1)
			go func() { done <- r.close() }()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-within.Done():
				t.Fatal("the volume does not end")
			}
			r.open()
			e = r.export("e")
			p := make([]byte, blockSize)
			require.NoError(t, e.ReadAt(ctx, p, 5*blockSize))
			got, err := versionOf(p, 5)
			require.NoError(t, err)
			require.Equal(t, ver, got)
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestFlushBesideSlowDisk: of four disks one takes 2 s to empty its cache. Flushes of objects that
// have nothing there are answered as if it were not, while those that have wait for it, and while the
// background commits what lies on all.
func TestFlushBesideSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		timing := simdisk.SSD(200e6, 200e6)
		timing.PerSync = 5 * time.Millisecond
		r := newRig(t, rigConfig{disks: 4, timing: timing, latency: time.Millisecond, opts: Options{FlushInterval: time.Second}})
		var files []*Export // none on the slow disk
		var slow *Export
		for i := 0; len(files) < 8 || slow == nil; i++ {
			name := fmt.Sprint(i)
			require.NoError(t, r.v.CreateExport(ctx, name, 64<<10))
			e := r.export(name)
			defer e.Close()
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, true))
			c, err := r.v.acquire(chunkKey{e.o.number, 0})
			require.NoError(t, err)
			if c.places[0].dev == 4 {
				slow = e
			} else {
				files = append(files, e)
			}
			r.v.cache.put(c)
		}
		// overwrites has every file but the slow one overwritten and flushed, n times each, and returns
		// how long 99 % of the flushes took at most.
		overwrites := func(n int) time.Duration {
			var mu sync.Mutex
			var took []time.Duration
			var wg sync.WaitGroup
			for _, e := range files {
				wg.Go(func() {
					for i := range n {
						if err := e.WriteAt(ctx, stamped(3, 1, uint32(i+2)), 3*blockSize, false); err != nil {
							t.Error(err)
						}
						began := time.Now()
						if err := e.Sync(ctx); err != nil {
							t.Error(err)
						}
						mu.Lock()
						took = append(took, time.Since(began))
						mu.Unlock()
						time.Sleep(7 * time.Millisecond)
					}
				})
			}
			wg.Wait()
			slices.Sort(took)
			return took[len(took)*99/100]
		}
		base := overwrites(200)
		timing.PerSync = 2 * time.Second
		r.disks[3].SetTiming(timing)
		var stop atomic.Bool
		var wg sync.WaitGroup
		flushes := 0
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := slow.WriteAt(ctx, stamped(3, 1, uint32(i+2)), 3*blockSize, true); err != nil {
					t.Error(err)
					return
				}
				flushes++
			}
		})
		beside := overwrites(1000)
		stop.Store(true)
		wg.Wait()
		t.Logf("flushes: p99 %v, beside %d of a slow disk %v", base, flushes, beside)
		require.GreaterOrEqual(t, flushes, 5)
		require.Less(t, beside, 3*base)
		require.NoError(t, r.close())
	})
}
