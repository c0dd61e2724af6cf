package striping

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBitmapRuns compares run and next with a look at each bit.
func TestBitmapRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 63, 64, 65, 130, 256} {
		for _, density := range []int{0, 1, 40, 50, 99, 100} {
			b := newBitmap(size)
			for i := range size {
				if rng.IntN(100) < density {
					b.set(i)
				}
			}
			for i := range size + 2 {
				next := i
				for next>>6 < len(b) && !b.has(next) {
					next++
				}
				require.Equal(t, next, b.next(i), "size %d, density %d, from %d", size, density, i)
				for _, limit := range []int{i, i + 1, size, size + 100} { // behind its end all is clear
					n := 0
					for i+n < limit && b.has(i+n) == b.has(i) {
						n++
					}
					run, v := b.run(i, limit)
					require.Equal(t, b.has(i), v)
					require.Equal(t, n, run, "size %d, density %d, from %d to %d", size, density, i, limit)
				}
			}
		}
	}
}
