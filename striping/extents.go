package striping

import (
	"context"
	"errors"
	"slices"

	"ballast/journal"
)

// extents walks the chunks from off on. Chunks that the journal does not know and nobody touched
// are holes; runs of them are skipped without looking at each.
func (v *Volume) extents(ctx context.Context, o *object, ext []Extent, off, size int64, limit int) ([]Extent, error) {
	cs := int64(v.info.ChunkSize)
	end := off + size
	add := func(n int64, hole, zero bool) bool {
		if k := len(ext); k > 0 && ext[k-1].Hole == hole && ext[k-1].Zero == zero {
			ext[k-1].Size += n
			return true
		}
		if len(ext) >= limit {
			return false
		}
		ext = append(ext, Extent{n, hole, zero})
		return true
	}
	for off < end {
		if err := ctx.Err(); err != nil {
			return ext, err
		}
		indexes, more, err := v.placedFrom(o, uint64(off/cs), uint64((end+cs-1)/cs), 1024)
		if err != nil {
			return ext, err
		}
		for _, index := range indexes {
			if start := int64(index) * cs; start > off {
				if !add(start-off, true, true) {
					return ext, nil
				}
				off = start
			}
			full, err := v.chunkExtents(o, index, off, min(end, (int64(index)+1)*cs), add)
			if err != nil || full {
				return ext, err
			}
			off = min(end, (int64(index)+1)*cs)
		}
		if !more && off < end {
			add(end-off, true, true)
			off = end
		}
	}
	return ext, nil
}

// placedFrom lists up to about limit chunks in [from, to) that may hold something, in order. more
// tells that there may be others behind the last.
func (v *Volume) placedFrom(o *object, from, to uint64, limit int) (list []uint64, more bool, err error) {
	// In this order: what a commit moves from the one list to the other meanwhile is in both.
	touched := v.touchedList(o, from, to)
	err = v.j.ScanFrom(journal.MakeKey(journal.SpaceChunk, o.number, from), func(k journal.Key, _ []byte) error {
		_, num, index := k.Parts()
		if num != o.number || index >= to {
			return errStop
		}
		if len(list) == limit {
			more = true
			return errStop
		}
		list = append(list, index)
		return nil
	})
	last := to
	if more {
		last = list[len(list)-1] + 1
	}
	for _, c := range touched {
		if c.key.index < last {
			list = append(list, c.key.index)
		}
		v.cache.put(c)
	}
	if err != nil && !errors.Is(err, errStop) {
		return nil, false, err
	}
	slices.Sort(list)
	return slices.Compact(list), more, nil
}

// chunkExtents adds the extents of one chunk in [off, end); full tells that no more fit.
func (v *Volume) chunkExtents(o *object, index uint64, off, end int64, add func(n int64, hole, zero bool) bool) (full bool, err error) {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return false, err
	}
	defer v.cache.put(c)
	base := int64(index) * int64(v.info.ChunkSize)
	c.mu.Lock()
	defer c.mu.Unlock()
	last := int((end - base + blockSize - 1) / blockSize)
	for i := int((off - base) / blockSize); i < last; {
		n, hole, zero := c.stateLocked(i, last)
		lo, hi := base+int64(i)*blockSize, base+int64(i+n)*blockSize
		if !add(min(hi, end)-max(lo, off), hole, zero) {
			return true, nil
		}
		i += n
	}
	return false, nil
}

// stateLocked tells how many blocks from i on, at most to limit, are in the same state, and which.
// Called with c.mu.
func (c *chunk) stateLocked(i, limit int) (n int, hole, zero bool) {
	allocated := c.slot > 0
	gap := limit - i
	for _, ov := range []*overlay{c.dirty, c.out} {
		if ov == nil {
			continue
		}
		allocated = allocated && !ov.drop || ov.keep
		e, g := ov.lookup(i, i+gap)
		if e != nil {
			n = min(e.end(), i+gap) - i
			return n, e.buf == nil && !allocated, e.buf == nil
		}
		gap = g
	}
	if i >= c.slot {
		return gap, !allocated, true
	}
	n, data := c.written.run(i, min(i+gap, c.slot))
	return n, !allocated, !data
}
