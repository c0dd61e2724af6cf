package striping

import (
	"testing"
	"testing/synctest"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestDropFiles gives back every third of many files, some of them not settled yet, around one of many
// chunks: their space comes back, nobody else's data goes, and files that lie side by side share a scan.
func TestDropFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scans, ops := 0, 0
		r := newRig(t, rigConfig{disks: 1, size: 16 << 20, wrapJ: func(j journal.Journal) journal.Journal {
			return &hookJournal{Journal: j, afterScan: func(s journal.Space) {
				if s == journal.SpaceChunk {
					scans++
				}
			}, beforeCommit: func(b *journal.Batch) {
				for _, op := range b.Ops {
					if op.Key.Space() == journal.SpaceChunk {
						ops++
					}
				}
			}}
		}})
		const files, large = 60, 30
		var gone []uint64
		kept := map[*File][]byte{}
		for i := range files {
			data := stamped(0, 2, uint32(i+1))
			if i == large {
				data = stamped(0, 2*maxSkipped*16, uint32(i+1)) // chunks of 16 blocks
			}
			f := r.newFile(data)
			if i%3 == 1 {
				require.NoError(t, f.WriteAt(t.Context(), data[:blockSize], 0)) // dirty again
				gone = append(gone, f.Number())
				f.Close()
			} else {
				kept[f] = data
			}
		}
		gone = append(gone, 1<<40) // has never had any chunk
		gone[0], gone[5] = gone[5], gone[0]
		// One has a record already that nothing is placed, one not yet.
		hole := r.newFile(stamped(0, 1, 1))
		require.NoError(t, hole.Zero(t.Context(), 0, blockSize, false))
		require.NoError(t, hole.Sync(t.Context()))
		unborn := r.newFile(nil)
		unborn.Grow(blockSize)
		require.NoError(t, unborn.WriteAt(t.Context(), stamped(0, 1, 1), 0))
		gone = append(gone, hole.Number(), unborn.Number())
		hole.Close()
		unborn.Close()
		used := r.v.Status().UsedBytes
		scans, ops = 0, 0
		require.NoError(t, r.v.DropFiles(t.Context(), gone))
		require.LessOrEqual(t, ops, files/3+3, "one for each record that there was, or may have been")
		require.LessOrEqual(t, scans, 2, "one each before and behind the large file")
		require.NoError(t, r.v.Flush(t.Context()))
		require.EqualValues(t, used-int64(files/3)*2*blockSize, r.v.Status().UsedBytes)
		for _, n := range gone {
			require.NoError(t, r.j.Scan(journal.SpaceChunk, func(k journal.Key, _ []byte) error {
				_, num, _ := k.Parts()
				require.NotEqual(t, n, num)
				return nil
			}))
		}
		for f, data := range kept {
			p := make([]byte, len(data))
			require.NoError(t, f.ReadAt(t.Context(), p, 0))
			require.Equal(t, data, p)
			f.Close()
		}
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}
