package volumes

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/journal"
)

// TestFullVolumesNeverOutgrowTheirAreas: whatever devices a volume is created of, and in whatever
// domains, the records of a volume full of whole chunks take no more than half of a copy, on at least
// three devices, or on all if there are fewer; so nobody has to be told. The rest pays at most 0.8 % for it,
// or 1.6 % on small ones.
func TestFullVolumesNeverOutgrowTheirAreas(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	for n := 1; n <= MaxDevices; n++ {
		for try := range 20 {
			sizes, domains := make([]int64, n), make([]string, n)
			for i := range sizes {
				sizes[i] = 1 << 40
				if try > 0 { // unequal, up to ten times
					sizes[i] = (1 + rng.Int64N(10)) << 30 << (10 * (try % 2))
				}
				if try%3 == 2 {
					domains[i] = fmt.Sprint(rng.IntN(4))
				}
			}
			for _, copies := range []int{1, 2, 3} {
				for _, chunk := range []int64{64 << 10, 1 << 20, 16 << 20} {
					requireRoom(t, sizes, domains, chunk, copies)
				}
			}
		}
	}
}

func requireRoom(t *testing.T, sizes []int64, domains []string, chunk int64, copies int) {
	t.Helper()
	room := journalRoom(sizes, domains, chunk, copies)
	data, roomy, areas := int64(0), 0, []int64{}
	for i, size := range sizes {
		l, err := devices.NewLayoutFor(size, chunk, room[i])
		require.NoError(t, err)
		data += l.DataSize
		_, scratch := l.Scratch()
		areas = append(areas, l.JournalSize-scratch)
	}
	records := data / chunk / int64(copies) * journal.FullChunkBytes(chunk, copies)
	for i, area := range areas {
		if journal.CopyRoom(area)/3*2 >= records {
			roomy++
		} else {
			require.True(t, room[i] == 0 || area >= sizes[i]/4-1<<20, "%d devices, chunks of %d, %d copies: area of %d for %d", len(sizes), chunk, copies, area, records)
		}
		if room[i] == 0 {
			require.LessOrEqual(t, area, sizes[i]/64+1<<20)
		}
	}
	if chunk >= 1<<20 && sizes[0] == 1<<40 { // equal devices, the default
		require.GreaterOrEqual(t, roomy, min(len(sizes), 3))
	}
}
