package striping

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

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
