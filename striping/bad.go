package striping

import (
	"fmt"
	"slices"
	"time"
)

// badRange is a range that could not be read.
type badRange struct {
	BadRange
	awaits deviceSet // that did not answer: one of them may have it
}

// awaiting returns the devices of vw that did not answer, when that was why it could not be read.
func awaiting(vw *view, err error) (set deviceSet) {
	if err == nil || !awaited(err) {
		return set
	}
	for i, pl := range vw.places {
		if !pl.stale {
			set[i] = pl.dev
		}
	}
	return set
}

// unreadable notes a range that no copy can serve, and returns the error for it. awaits are the
// devices with whose return it goes off the list.
func (v *Volume) unreadable(o *object, vw *view, first, n int, awaits deviceSet, cause error) error {
	v.stats.unreadable.Add(1)
	name, file := "?", uint64(0)
	if o != nil {
		name = o.name()
		if o.isFile {
			file = o.number
		}
	}
	off := int64(vw.c.key.index)*int64(v.info.ChunkSize) + int64(first)*blockSize
	v.mu.Lock()
	known := false
	for i := range v.bad {
		if b := &v.bad[i]; b.Export == name && b.Off == off && b.Size == int64(n)*blockSize {
			known = true
			b.awaits = awaits
		}
	}
	if !known && len(v.bad) < 1000 {
		v.hasBad.Store(true)
		v.bad = append(v.bad, badRange{BadRange{Export: name, File: file, Off: off, Size: int64(n) * blockSize, Since: time.Now().UTC()}, awaits})
	}
	v.mu.Unlock()
	if !known {
		v.event(2, "DATA_UNREADABLE", 0, fmt.Sprintf("%s: %d bytes at %d: %v", name, n*blockSize, off, cause))
	}
	return fmt.Errorf("%w: %s: %d bytes at %d: %w", ErrUnreadable, name, n*blockSize, off, cause)
}

// forgetBad takes what p has written anew off the list of unreadable ranges.
func (v *Volume) forgetBad(p *plan) {
	if !v.hasBad.Load() {
		return
	}
	name := p.o.name()
	base := int64(p.c.key.index) * int64(v.info.ChunkSize)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad = slices.DeleteFunc(v.bad, func(r badRange) bool {
		first, last := int((r.Off-base)/blockSize), int((r.Off+r.Size-base)/blockSize)
		if r.Export != name || first < 0 || last > v.blocks {
			return false
		}
		_, gap := p.ov.lookup(first, last)
		for i := first; i < last && gap == 0; {
			e, _ := p.ov.lookup(i, last)
			if e == nil {
				return false
			}
			i = e.end()
		}
		return gap == 0
	})
	v.hasBad.Store(len(v.bad) > 0)
}

// forgetAwaited takes off the list what could not be read because a device, which answers again,
// did not. Should it still be unreadable, the next read says so.
func (v *Volume) forgetAwaited(m *member) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n = len(v.bad)
	v.bad = slices.DeleteFunc(v.bad, func(r badRange) bool { return slices.Contains(r.awaits[:], m.id) })
	v.hasBad.Store(len(v.bad) > 0)
	return n - len(v.bad)
}
