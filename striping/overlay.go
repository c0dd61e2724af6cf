package striping

import (
	"slices"
	"time"
)

// extent is a run of blocks of one chunk that is buffered: data in buf, or zeros when buf is nil.
type extent struct {
	first, n int
	buf      *Buffer
	off      int  // of the run's first byte in buf
	grow     bool // the rest of buf is free for what follows
}

func (e *extent) end() int { return e.first + e.n }

func (e *extent) bytes() []byte { return e.buf.mem[e.off : e.off+e.n*blockSize] }

var (
	spareExtents spares[extent]
	spareBuffers spares[*Buffer]
)

// overlay holds the blocks of one chunk that were written but not yet put on devices. Newer
// overlays hide older ones and the placement. An overlay that is being written out is not
// changed any more.
//
// INVARIANT: extents are sorted, not empty, and do not overlap.
type overlay struct {
	id   uint64    // grows with each overlay of the chunk
	born time.Time // when its first block was written
	ext  []extent
	keep bool // zeros keep their space (WRITE_ZEROES with NO_HOLE)
	drop bool // the whole chunk was zeroed: a slot that was kept before goes

	budget int64 // bytes of the dirty budget that it holds
	sent   int64 // of these, how many the budget knows to be on their way to devices
	wanted bool  // is to be written out as soon as may be
}

// end is behind the last block for which the overlay needs space.
func (o *overlay) end() int {
	for i := len(o.ext) - 1; i >= 0; i-- {
		if o.ext[i].buf != nil || o.keep {
			return o.ext[i].end()
		}
	}
	return 0
}

// cut removes blocks [i, j) from the overlay.
func (o *overlay) cut(i, j int) {
	lo := o.search(i)
	hi := lo
	var left, right *extent
	for ; hi < len(o.ext) && o.ext[hi].first < j; hi++ {
		e := o.ext[hi]
		if e.first < i {
			l := extent{first: e.first, n: i - e.first, buf: e.buf, off: e.off}
			if l.buf != nil {
				l.buf.Retain()
			}
			left = &l
		}
		if e.end() > j {
			r := extent{first: j, n: e.end() - j, buf: e.buf, off: e.off + (j-e.first)*blockSize, grow: e.grow}
			if r.buf != nil {
				r.buf.Retain()
			}
			right = &r
		}
		if e.buf != nil {
			e.buf.Release()
		}
	}
	if lo == hi {
		return
	}
	var put []extent
	if left != nil {
		put = append(put, *left)
	}
	if right != nil {
		put = append(put, *right)
	}
	o.ext = slices.Replace(o.ext, lo, hi, put...)
}

// put sets blocks [first, first+n) to buf from off on, taking over the caller's reference; a nil
// buf means zeros.
func (o *overlay) put(first, n int, buf *Buffer, off int) {
	if k := len(o.ext); k == 0 || o.ext[k-1].end() <= first { // the common case: appending
		if k > 0 && buf == nil && o.ext[k-1].buf == nil && o.ext[k-1].end() == first {
			o.ext[k-1].n += n
			return
		}
		o.ext = spareExtents.add(o.ext, extent{first: first, n: n, buf: buf, off: off})
		return
	}
	i := o.search(first)
	if o.ext[i].first < first+n {
		o.cut(first, first+n)
		i = o.search(first)
	}
	o.ext = spareExtents.add(o.ext, extent{})
	copy(o.ext[i+1:], o.ext[i:])
	o.ext[i] = extent{first: first, n: n, buf: buf, off: off}
}

// search returns the index of the first extent that ends behind block i.
func (o *overlay) search(i int) int {
	lo, hi := 0, len(o.ext)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); o.ext[mid].end() <= i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// find returns the index of the extent that holds block i, or of the next one after it.
func (o *overlay) find(i int) (at int, hit bool) {
	if o == nil {
		return 0, false
	}
	at = o.search(i)
	return at, at < len(o.ext) && o.ext[at].first <= i
}

// overwrite replaces blocks [first, first+len(p)/blockSize) in the memory that holds them already,
// and reports whether it could: it must be one extent's, and nobody but the overlay's.
func (o *overlay) overwrite(first int, p []byte) bool {
	at, hit := o.find(first)
	if !hit {
		return false
	}
	e := &o.ext[at]
	n := len(p) / blockSize
	if e.buf == nil || e.end() < first+n || e.buf.refs.Load() != 1 {
		return false
	}
	off := e.off + (first-e.first)*blockSize
	copy(e.buf.mem[off:], p)
	e.buf.sum(off, n)
	return true
}

// lookup returns the extent that holds block i, or how many blocks from i on, at most to limit,
// the overlay does not hold.
func (o *overlay) lookup(i, limit int) (e *extent, gap int) {
	at, hit := o.find(i)
	if hit {
		return &o.ext[at], 0
	}
	if o != nil && at < len(o.ext) {
		limit = min(limit, o.ext[at].first)
	}
	return nil, limit - i
}

// covers reports whether the overlay holds all blocks [0, n).
func (o *overlay) covers(n int) bool {
	next := 0
	for i := range o.ext {
		if o.ext[i].first != next {
			return false
		}
		next = o.ext[i].end()
	}
	return next >= n
}

// cost is the memory that the overlay keeps from being used, in bytes.
func (o *overlay) cost() int64 {
	n := int64(0)
	for i := range o.ext {
		if o.ext[i].buf != nil {
			n += int64(o.ext[i].n) * blockSize
		}
	}
	return n
}

// under puts the extents of older beneath o: where o holds a block, o's stays.
func (o *overlay) under(older *overlay) {
	for _, e := range older.ext {
		for i := e.first; i < e.end(); {
			hit, gap := o.lookup(i, e.end())
			if hit != nil {
				i = hit.end()
				continue
			}
			buf := e.buf
			if buf != nil {
				buf.Retain()
			}
			o.put(i, gap, buf, e.off+(i-e.first)*blockSize)
			i += gap
		}
	}
	older.release()
}

// dataBlocks is how many blocks of data the overlay holds.
func (o *overlay) dataBlocks() int { return int(o.cost() / blockSize) }

// retainAll adds a reference to each buffer and returns them, for releaseAll.
func (o *overlay) retainAll() []*Buffer {
	list := spareBuffers.get(len(o.ext))
	for i := range o.ext {
		if b := o.ext[i].buf; b != nil {
			list = append(list, b.Retain())
		}
	}
	return list
}

// release gives all buffers back.
func (o *overlay) release() {
	list := spareBuffers.get(len(o.ext))
	for i := range o.ext {
		if b := o.ext[i].buf; b != nil {
			list = append(list, b)
		}
	}
	releaseAll(list)
	spareExtents.put(o.ext)
	o.ext = nil
}
