package striping

import (
	"runtime"
	"testing"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestMemoryOfCachedChunks fills the cache with chunks of 1 MiB, wholly written, on two devices each:
// it takes what it was given, and at most 64 bytes more for each of them.
func TestMemoryOfCachedChunks(t *testing.T) {
	const blocks = 256
	rec := &journal.Chunk{Generation: 1, Version: 1, Slot: blocks, Copies: []journal.Copy{{Device: 1}, {Device: 2}}}
	for range blocks / 64 {
		rec.Written = append(rec.Written, ^uint64(0))
	}
	rec.Sums = make([]uint32, blocks)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const size = 32 << 20
	before := heap()
	c := newCache(size, blocks)
	for i := range uint64(100_000) {
		ch := c.get(chunkKey{1, i})
		ch.setLocked(rec)
		c.put(ch)
	}
	took, n := heap()-before, int64(c.len())
	t.Logf("%d chunks take %d bytes each; counted are %d", n, took/n, c.perChunk)
	require.Greater(t, n, int64(10_000))
	require.LessOrEqual(t, took, int64(size)+64*n)
	runtime.KeepAlive(c)
}
