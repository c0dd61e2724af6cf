package striping

import (
	"testing"
	"testing/synctest"
	"time"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// chunkGets counts the look-ups of chunks.
type chunkGets struct {
	journal.Journal
	n int
}

func (j *chunkGets) Get(key journal.Key) ([]byte, error) {
	if key.Space() == journal.SpaceChunk {
		j.n++
	}
	return j.Journal.Get(key)
}

// TestBlankFile: the journal is not asked where the chunks of a file are that is new, and is once it may know.
func TestBlankFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gets := &chunkGets{}
		r := newRig(t, rigConfig{opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour},
			wrapJ: func(j journal.Journal) journal.Journal { gets.Journal = j; return gets }})
		forget := func() {
			for i := range r.v.cache.shards {
				s := &r.v.cache.shards[i]
				clear(s.chunks)
				s.ring = nil
			}
		}
		number, err := r.v.NewFileNumber(t.Context())
		require.NoError(t, err)
		f := r.v.OpenFile(number, 0, 0)
		f.Grow(3 * int64(r.cfg.chunk))
		require.NoError(t, f.WriteAt(t.Context(), stamped(0, 1, 5), 0))
		require.NoError(t, f.ReadAt(t.Context(), make([]byte, blockSize), 2*int64(r.cfg.chunk)))
		require.Zero(t, gets.n)
		require.NoError(t, f.Sync(t.Context()))
		forget()
		b := make([]byte, blockSize)
		require.NoError(t, f.ReadAt(t.Context(), b, 0))
		require.Equal(t, stamped(0, 1, 5), b)
		require.Equal(t, 1, gets.n, "the record that is there now")
		f.Close()
		forget()
		f = r.v.OpenFile(number, 3*int64(r.cfg.chunk), blockSize)
		require.NoError(t, f.ReadAt(t.Context(), b, 0))
		require.Equal(t, stamped(0, 1, 5), b)
		require.Equal(t, 2, gets.n)
		f.Close()

		// The number of a file that was made long ago, or is open already, tells nothing.
		old, err := r.v.NewFileNumber(t.Context())
		require.NoError(t, err)
		for range newborns {
			_, err := r.v.NewFileNumber(t.Context())
			require.NoError(t, err)
		}
		f = r.v.OpenFile(old, 0, 0)
		f.Grow(blockSize)
		require.NoError(t, f.WriteAt(t.Context(), stamped(0, 1, 6), 0))
		require.Equal(t, 3, gets.n)
		f.Close()
		r.close()
	})
}
