package striping

import (
	"maps"
	"slices"

	"ballast/devices"
)

// memberSet is the devices of the volume at one moment; it is replaced, never changed. What a
// reader finds in the one it took stays usable: a device that leaves, or is replaced by a new handle
// on the same disk, answers with errors.
type memberSet struct {
	list []*member              // by ID
	byID map[devices.ID]*member // also those that left
}

// devs returns the devices by ID order.
func (v *Volume) devs() []*member { return v.set.Load().list }

// dev returns the device of that ID, nil if the volume has none.
func (v *Volume) dev(id devices.ID) *member { return v.set.Load().byID[id] }

func (s *volumeSpace) dev(id devices.ID) *member { return (*Volume)(s).dev(id) }

// putMember adds m, or puts it in the place of the member of that ID. Called with v.mu, or while
// the volume is being opened.
func (v *Volume) putMember(m *member) {
	old := v.set.Load()
	n := &memberSet{byID: maps.Clone(old.byID)}
	if n.byID == nil {
		n.byID = map[devices.ID]*member{}
	}
	n.byID[m.id] = m
	v.setMembers(n)
}

// dropMember takes the device of that ID out. It stays findable, without a disk, for those who
// still look at a placement from before. Called with v.mu.
func (v *Volume) dropMember(id devices.ID) {
	n := &memberSet{byID: maps.Clone(v.set.Load().byID)}
	gone := &member{id: id, left: true, hung: map[int64]*hungOp{}}
	gone.out.Store(true)
	gone.alloc = newAllocator(0, 0, int64(v.info.ChunkSize))
	n.byID[id] = gone
	v.setMembers(n)
}

func (v *Volume) setMembers(n *memberSet) {
	for _, m := range n.byID {
		if !m.left {
			n.list = append(n.list, m)
		}
	}
	slices.SortFunc(n.list, func(a, b *member) int { return int(a.id) - int(b.id) })
	v.set.Store(n)
}
