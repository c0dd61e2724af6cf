package names

// fresh knows the names in directories that were made since the tree was opened, as hashes: what is not
// among them is not in the journal either. Whoever fills a directory looks for each name first, and whoever
// removes it asks whether it is empty: neither needs to ask the journal then. When there are too many
// names, the directories that were made first are forgotten.
//
// INVARIANT: dirs[ino] has the hashes of all records of entries that the directory has, if it is there.
type fresh struct {
	limit int // names; a directory counts for some
	names int
	dirs  map[uint64]map[uint64]struct{}
	order []uint64 // of dirs, by age; some may be gone
}

// freshNames bounds the names that are kept, at 10 to 20 bytes each; freshDir is what a directory counts for.
const (
	freshNames = 1 << 17
	freshDir   = 8
)

func newFresh(limit int) fresh { return fresh{limit: limit, dirs: map[uint64]map[uint64]struct{}{}} }

// add notes a directory that has just been made.
func (f *fresh) add(dir uint64) {
	if len(f.order) > 2*len(f.dirs)+64 {
		kept := f.order[:0]
		for _, d := range f.order {
			if _, ok := f.dirs[d]; ok {
				kept = append(kept, d)
			}
		}
		f.order = kept
	}
	f.dirs[dir] = map[uint64]struct{}{}
	f.order = append(f.order, dir)
	f.names += freshDir
	f.trim()
}

// remove forgets a directory.
func (f *fresh) remove(dir uint64) {
	if set, ok := f.dirs[dir]; ok {
		f.names -= freshDir + len(set)
		delete(f.dirs, dir)
	}
}

func (f *fresh) trim() {
	for f.names > f.limit {
		f.remove(f.order[0])
		f.order = f.order[1:]
	}
}

// set notes that a record of entries is there now, or is not.
func (f *fresh) set(dir, hash uint64, there bool) {
	set, ok := f.dirs[dir]
	if !ok {
		return
	}
	f.names -= len(set)
	if there {
		set[hash] = struct{}{}
	} else {
		delete(set, hash)
	}
	f.names += len(set)
	f.trim()
}

// lacks tells whether a directory is known to have no record of entries with that hash.
func (f *fresh) lacks(dir, hash uint64) bool {
	set, ok := f.dirs[dir]
	if ok {
		_, ok = set[hash]
		return !ok
	}
	return false
}

// empty tells whether a directory is known to have no entries; known is false if the journal has to be asked.
func (f *fresh) empty(dir uint64) (empty, known bool) {
	set, known := f.dirs[dir]
	return known && len(set) == 0, known
}
