package striping

import (
	"context"
	"testing"
	"testing/synctest"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestOpenReadsEveryPart opens a volume whose chunks are read in several parts, and then one whose
// journal contradicts itself in one of them, wherever that is: it is refused, and nobody reads on.
func TestOpenReadsEveryPart(t *testing.T) {
	const chunks = 40
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 2, copies: 1, size: 8 << 20})
		e := r.fillExport(chunks)
		size, free := r.v.Space()
		e.Close()
		require.NoError(t, r.close())
		cuts, err := r.j.Cuts(journal.SpaceChunk)
		require.NoError(t, err)
		require.Len(t, cuts, 3)
		r.open()
		sizeNow, freeNow := r.v.Space()
		require.Equal(t, []int64{size, free}, []int64{sizeNow, freeNow})
		require.EqualValues(t, chunks, r.v.placedBy.Load())
		e = r.export("s")
		r.requireStamped(e, chunks, 1)
		number := e.o.number
		e.Close()
		require.NoError(t, r.close())

		key := func(i int) journal.Key { return journal.MakeKey(journal.SpaceChunk, number, uint64(i)) }
		for i := range chunks {
			val, err := r.j.Get(key(i))
			require.NoError(t, err)
			sound, err := journal.ParseChunk(key(i), val)
			require.NoError(t, err)
			other, err := r.j.Get(key((i + chunks/2) % chunks))
			require.NoError(t, err)
			twin, err := journal.ParseChunk(key((i+chunks/2)%chunks), other)
			require.NoError(t, err)
			for what, bad := range map[string]journal.Chunk{
				"used twice":          {Generation: sound.Generation, Version: sound.Version, Slot: sound.Slot, Copies: twin.Copies, Written: sound.Written, Sums: sound.Sums},
				"was never given out": {Generation: 1 << 60, Version: sound.Version, Slot: sound.Slot, Copies: sound.Copies, Written: sound.Written, Sums: sound.Sums},
				"does not have":       {Generation: sound.Generation, Version: sound.Version, Slot: sound.Slot, Copies: []journal.Copy{{Device: 9}}, Written: sound.Written, Sums: sound.Sums},
			} {
				b := &journal.Batch{}
				b.Put(key(i), bad.Pack(key(i)))
				require.NoError(t, r.j.Commit(context.Background(), b))
				err = r.tryOpen()
				require.ErrorIs(t, err, journal.ErrCorrupt, "chunk %d", i)
				require.ErrorContains(t, err, what)
			}
			b := &journal.Batch{}
			b.Put(key(i), val)
			require.NoError(t, r.j.Commit(context.Background(), b))
		}
		r.open()
		require.NoError(t, r.close())
	})
}
