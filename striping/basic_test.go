package striping

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWriteReadReopen(t *testing.T) {
	for _, copies := range []uint8{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{copies: copies})
			ctx := context.Background()
			require.NoError(t, r.v.CreateExport(ctx, "a", 1<<20))
			e, err := r.v.OpenExport("a")
			require.NoError(t, err)
			rng := rand.New(rand.NewPCG(1, 2))
			want := make([]byte, 1<<20)
			got := make([]byte, len(want))
			for range 200 {
				off := rng.IntN(len(want))
				n := min(1+rng.IntN(200_000), len(want)-off)
				for i := range n {
					want[off+i] = byte(rng.Uint32())
				}
				require.NoError(t, e.WriteAt(ctx, want[off:off+n], int64(off), rng.IntN(4) == 0))
				off = rng.IntN(len(want))
				n = min(1+rng.IntN(200_000), len(want)-off)
				require.NoError(t, e.ReadAt(ctx, got[off:off+n], int64(off)))
				require.Equal(t, want[off:off+n], got[off:off+n])
			}
			require.NoError(t, e.Sync(ctx))
			require.NoError(t, e.ReadAt(ctx, got, 0))
			require.Equal(t, want, got)
			e.Close()
			require.NoError(t, r.close())
			r.open()
			e, err = r.v.OpenExport("a")
			require.NoError(t, err)
			clear(got)
			require.NoError(t, e.ReadAt(ctx, got, 0))
			require.Equal(t, want, got)
			e.Close()
			require.NoError(t, r.close())
		})
	}
}
