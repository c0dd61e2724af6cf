package names

// refs counts the references that were given out to each inode. The kernel has one to every inode
// that it caches, of which there may be many millions: numbers are given out one after the other,
// so the counts of 64 neighbours stand together, in a byte each, and go when all are zero.
type refs struct {
	pages map[uint64]*refPage
	large map[Ino]uint64 // counts that do not fit into a byte
}

const (
	refsInPage = 64
	refIsLarge = 255 // stands for a count in large
)

// refPage has the counts of refsInPage inodes.
//
// INVARIANT: used is how many of n are not zero, and not zero itself.
type refPage struct {
	used uint8
	n    [refsInPage]uint8
}

func newRefs() refs { return refs{pages: map[uint64]*refPage{}, large: map[Ino]uint64{}} }

func (r *refs) get(ino Ino) uint64 {
	p := r.pages[uint64(ino)/refsInPage]
	if p == nil {
		return 0
	}
	n := p.n[ino%refsInPage]
	if n == refIsLarge {
		return r.large[ino]
	}
	return uint64(n)
}

func (r *refs) add(ino Ino, n uint64) { r.set(ino, r.get(ino)+n) }

// sub takes n references back and returns how many are left.
func (r *refs) sub(ino Ino, n uint64) (left uint64) {
	old := r.get(ino)
	left = old - min(n, old)
	r.set(ino, left)
	return left
}

func (r *refs) set(ino Ino, n uint64) {
	at := uint64(ino) / refsInPage
	p := r.pages[at]
	if p == nil {
		if n == 0 {
			return
		}
		p = &refPage{}
		r.pages[at] = p
	}
	c := &p.n[ino%refsInPage]
	if *c == refIsLarge {
		delete(r.large, ino)
	}
	if *c == 0 && n > 0 {
		p.used++
	} else if *c > 0 && n == 0 {
		p.used--
	}
	if *c = uint8(min(n, refIsLarge)); *c == refIsLarge {
		r.large[ino] = n
	}
	if p.used == 0 {
		delete(r.pages, at)
	}
}
