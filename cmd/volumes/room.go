package volumes

import (
	"cmp"
	"slices"

	"ballast/journal"
)

// A copy of the journal says where every chunk of the volume is, so with many devices it needs more of
// one than the share that is set aside anywhere. Only three devices have copies at a time; so as many
// again get an area that holds the journal of a volume full of whole chunks, and the others the usual.

// roomyDevices is how many devices get a journal area for all of the volume.
const roomyDevices = 6

// journalRoom returns how large the journal areas should be at least of devices of these sizes, which
// are in these failure domains ("": one of its own).
func journalRoom(sizes []int64, domains []string, chunk int64, copies int) []int64 {
	least := roomFor(sizes, chunk, copies)
	room := make([]int64, len(sizes))
	inDomain := map[string]int{}
	rank := make([]int, len(sizes)) // how many larger ones there are in its domain
	order := make([]int, len(sizes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sizes[b], sizes[a]) })
	for _, i := range order {
		if d := domains[i]; d != "" {
			rank[i] = inDomain[d]
			inDomain[d]++
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank[a], rank[b]) })
	for _, i := range order[:min(roomyDevices, len(order))] {
		room[i] = least
	}
	return room
}

// besideRing is more than an area holds beside its ring.
const besideRing = 320 << 10

// roomFor is the area in which a copy of the journal has room when devices of these sizes are full of
// whole chunks.
func roomFor(sizes []int64, chunk int64, copies int) int64 {
	total := int64(0)
	for _, n := range sizes {
		total += n
	}
	// Full, it takes half of the area: nobody is warned of it, and little is written again and again.
	return besideRing + 2*(total/int64(copies)/chunk)*journal.FullChunkBytes(chunk, copies)
}

func sizesOf(list []ConfigDevice) (sizes []int64) {
	for _, d := range list {
		sizes = append(sizes, d.Size)
	}
	return sizes
}
