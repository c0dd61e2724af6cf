package names

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRefsCount compares the counts with those of a map.
func TestRefsCount(t *testing.T) {
	r, want := newRefs(), map[Ino]uint64{}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		ino := Ino(1 + rng.Uint64N(200))
		n := 1 + rng.Uint64N(3)
		if rng.IntN(20) == 0 {
			n = 1 + rng.Uint64N(600)
		}
		if rng.IntN(2) == 0 {
			r.add(ino, n)
			want[ino] += n
		} else {
			want[ino] -= min(n, want[ino]) // the kernel never gives back more, a handler may
			require.Equal(t, want[ino], r.sub(ino, n))
		}
		require.Equal(t, want[ino], r.get(ino), ino)
	}
	for ino, n := range want {
		r.sub(ino, n)
	}
	require.Empty(t, r.pages)
	require.Empty(t, r.large)
}

// TestRefsAreSmall: a million inodes that the kernel knows take a few megabytes, and what it has
// forgotten takes nothing.
func TestRefsAreSmall(t *testing.T) {
	const n = 1 << 20
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	r := newRefs()
	for i := range Ino(n) {
		r.add(i, 1)
	}
	require.Less(t, heap()-before, int64(4*n))
	for i := range Ino(n) {
		r.sub(i, 1)
	}
	require.Less(t, heap()-before, int64(n))
	runtime.KeepAlive(&r)
}
