package journal_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// A journal that grows beyond its copy's area is told of when it takes half of it. What CopyRoom says
// fits does, under writes of all sizes; only beyond it is the copy given up.
func TestRoomOfCopiesIsToldAhead(t *testing.T) {
	const area = 4 << 20
	var mu sync.Mutex
	var told []string
	heard := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(told)
	}
	s := openCopied(t, create(t), places(journaltest.NewArea(area)), journal.CopyOptions{Retry: 20 * time.Millisecond,
		Tell: func(device, text string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, device+": "+text)
		}})
	requireGood(t, s, 1)
	rng := rand.New(rand.NewPCG(1, *seed))
	record := make([]byte, journal.FullChunkBytes(1<<20, 1)-20) // of a chunk
	fill := func(bytes int64, from int) (n int) {
		for n = from; int64(n)*int64(len(record)+20) < bytes; n += 10 {
			b := &journal.Batch{}
			for i := range 10 {
				b.Put(job(n+i), record)
			}
			require.NoError(t, s.Commit(context.Background(), b))
		}
		return n
	}
	n := fill(area/100*45, 0)
	require.Eventually(t, func() bool { return s.Copies().Live > area/100*40 }, patience, time.Millisecond)
	require.Zero(t, heard())
	n = fill(area/100*55, n)
	require.Eventually(t, func() bool { return heard() == 1 }, patience, time.Millisecond)
	require.Regexp(t, `^d1: the journal takes \d+ KiB; a copy there is given up when it takes some 3066 KiB$`, told[0])

	n = fill(journal.CopyRoom(area)-50*int64(len(record)), n)
	for range 200 {
		b := &journal.Batch{}
		for range 1 + rng.IntN(1+rng.IntN(300)) {
			rng.Uint64()
			v := append([]byte(nil), record...)
			v[0], v[1] = byte(rng.Uint32()), byte(rng.Uint32())
			b.Put(job(rng.IntN(n)), v)
		}
		require.NoError(t, s.Commit(context.Background(), b))
	}
	require.Equal(t, 1, s.Copies().Good, "%+v", s.Copies())
	fill(area/100*110, n)
	require.Zero(t, s.Copies().Good)
}
