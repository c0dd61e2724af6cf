package fusefs

import (
	"sync"
	"sync/atomic"

	"ballast/fusefs/names"
)

// handle is an open regular file.
type handle struct {
	file   *names.File
	ino    names.Ino
	writes bool

	touched atomic.Bool // the time of the last access has been seen to
}

// handles are the open files by the number the kernel has for each, and what is known of those
// that may be written to.
type handles struct {
	mu   sync.RWMutex
	next uint64
	open map[uint64]*handle
	// writable files, by inode. INVARIANT: n is how many handles of it have writes set.
	writable map[names.Ino]*writable
}

// writable is a file that is open for writing.
type writable struct {
	n      int
	noCaps bool // it has no file capabilities that a write would have to take away

	// The one number of blocks that the kernel was told since it was made to forget, or one of these.
	told atomic.Int64
}

const (
	toldNothing = -1
	toldSeveral = -2
)

func (t *handles) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open, t.writable = map[uint64]*handle{}, map[names.Ino]*writable{}
	}
	t.next++
	t.open[t.next] = h
	if h.writes {
		w := t.writable[h.ino]
		if w == nil {
			w = &writable{}
			w.told.Store(toldNothing)
			t.writable[h.ino] = w
		}
		w.n++
	}
	return t.next
}

// get returns an open file, nil if there is none of this number.
func (t *handles) get(fh uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[fh]
}

// remove takes a handle out; the caller closes its file.
func (t *handles) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[fh]
	if h == nil {
		return nil
	}
	delete(t.open, fh)
	if w := t.writable[h.ino]; h.writes {
		if w.n--; w.n == 0 {
			delete(t.writable, h.ino)
		}
	}
	return h
}

// removeAll takes all out.
func (t *handles) removeAll() []*handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*handle
	for _, h := range t.open {
		all = append(all, h)
	}
	t.open, t.writable = nil, nil
	return all
}

// mayBeDirty tells whether the kernel may hold data of the file that it has not written yet.
func (t *handles) mayBeDirty(ino names.Ino) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.writable[ino] != nil
}

// tell notes that the kernel is told that a file has so many blocks, and reports whether it is one that
// may be written to: that does not have none.
func (t *handles) tell(ino names.Ino, blocks *int64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	w := t.writable[ino]
	if w == nil {
		return false
	}
	*blocks = max(*blocks, blockSize/512)
	if !w.told.CompareAndSwap(toldNothing, *blocks) && w.told.Load() != *blocks {
		w.told.Store(toldSeveral)
	}
	return true
}

// knows tells whether the kernel has been told that a file has so many blocks, and nothing else. If not,
// it is taken to be made to forget now.
func (t *handles) knows(ino names.Ino, blocks int64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	w := t.writable[ino]
	if w == nil || w.told.Load() == blocks {
		return w != nil
	}
	w.told.Store(toldNothing)
	return false
}

// dirty are the files of which that is so.
func (t *handles) dirty() []names.Ino {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var list []names.Ino
	for ino := range t.writable {
		list = append(list, ino)
	}
	return list
}

// capsGone tells whether the file is known to have no capabilities; setCapsGone makes it so.
func (t *handles) capsGone(ino names.Ino) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	w := t.writable[ino]
	return w != nil && w.noCaps
}

func (t *handles) setCapsGone(ino names.Ino, gone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.writable[ino]; w != nil {
		w.noCaps = gone
	}
}

func (t *handles) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.open)
}
