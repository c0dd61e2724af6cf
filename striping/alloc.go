package striping

import (
	"fmt"
	"math/bits"
	"sync"
)

// allocator hands out slots of one device. The data area is cut into regions of one chunk; a
// slot never crosses a region, so a region is free, full or partly used, and only partly used
// ones have a bitmap. That is two bytes per region and 1/32768 of the partly used space.
//
// Nothing of it is on disk: the slots in use stand in the chunks' records and are marked at open.
type allocator struct {
	base   int64 // device offset of region 0
	blocks int   // of a region

	mu        sync.Mutex
	free      []uint16         // free blocks of each region
	partial   map[int32]bitmap // used blocks of partly used regions
	empty     bitmap           // bit set: region wholly free
	emptySum  bitmap           // bit set: that word of empty is not zero
	next      int              // where the search for a free region goes on
	freeCount int64            // wholly free regions
	used      int64            // blocks
	byFree    [][]int32        // partly used regions by free blocks; may hold old entries
	byFreeSum bitmap           // bit set: that list of byFree is not empty
	listed    int              // entries of byFree
}

func newAllocator(base, size int64, chunkSize int64) *allocator {
	n := int(size / chunkSize)
	a := &allocator{base: base, blocks: int(chunkSize / blockSize),
		free: make([]uint16, n), partial: map[int32]bitmap{}, empty: newBitmap(n)}
	a.byFree, a.byFreeSum = make([][]int32, a.blocks), newBitmap(a.blocks)
	a.emptySum = newBitmap(len(a.empty))
	for i := range a.free {
		a.free[i] = uint16(a.blocks)
		a.setEmpty(i)
	}
	return a
}

func (a *allocator) setEmpty(r int) {
	a.freeCount++
	a.empty.set(r)
	a.emptySum.set(r >> 6)
}

func (a *allocator) clearEmpty(r int) {
	a.freeCount--
	a.empty.clear(r)
	if a.empty[r>>6] == 0 {
		a.emptySum.clear(r >> 6)
	}
}

// capacity is called with mu.
func (a *allocator) capacity() int64 { return int64(len(a.free)) * int64(a.blocks) * blockSize }

func (a *allocator) usage() (used, capacity int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used * blockSize, a.capacity()
}

// freeRegions counts the wholly free regions.
func (a *allocator) freeRegions() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.freeCount
}

// fits reports whether a slot of size bytes can be taken, from a partly used region or a free one.
func (a *allocator) fits(size int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.freeCount > 0 {
		return true
	}
	n := int(size / blockSize)
	if n >= a.blocks {
		return false
	}
	_, _, ok := a.findPartial(n)
	return ok
}

// reserve takes a slot of size bytes.
func (a *allocator) reserve(size int64) (off int64, ok bool) {
	n := int(size / blockSize)
	if n <= 0 || n > a.blocks {
		panic(fmt.Sprintf("striping: slot of %d bytes", size))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n < a.blocks {
		if r, b, ok := a.findPartial(n); ok {
			a.take(r, b, n)
			return a.offset(r, b), true
		}
	}
	r := a.findEmpty()
	if r < 0 {
		return 0, false
	}
	a.take(r, 0, n)
	return a.offset(r, 0), true
}

func (a *allocator) offset(r, b int) int64 {
	return a.base + (int64(r)*int64(a.blocks)+int64(b))*blockSize
}

// grow has the data area be size bytes from now on, and returns by how much that is more.
func (a *allocator) grow(size int64) (added int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.capacity()
	n := int(size / (int64(a.blocks) * blockSize))
	for i := len(a.free); i < n; i++ {
		if i>>6 == len(a.empty) {
			if a.empty = append(a.empty, 0); (len(a.empty)-1)>>6 == len(a.emptySum) {
				a.emptySum = append(a.emptySum, 0)
			}
		}
		a.free = append(a.free, uint16(a.blocks))
		a.setEmpty(i)
	}
	return a.capacity() - before
}

// findEmpty returns the first wholly free region from next on, or -1.
func (a *allocator) findEmpty() int {
	if a.next >= len(a.free) {
		a.next = 0
	}
	if w := a.next >> 6; w < len(a.empty) {
		if x := a.empty[w] &^ (1<<(a.next&63) - 1); x != 0 {
			return w<<6 + bits.TrailingZeros64(x)
		}
		for pass, from := range [2]int{w + 1, 0} {
			for s := from >> 6; s < len(a.emptySum); s++ {
				x := a.emptySum[s]
				if s == from>>6 {
					x &^= 1<<(from&63) - 1
				}
				if x != 0 {
					w := s<<6 + bits.TrailingZeros64(x)
					return w<<6 + bits.TrailingZeros64(a.empty[w])
				}
			}
			_ = pass
		}
	}
	return -1
}

// findPartial returns a place for n blocks in the fullest partly used regions.
func (a *allocator) findPartial(n int) (r, b int, ok bool) {
	for f := a.byFreeSum.next(n); f < a.blocks; f = a.byFreeSum.next(f + 1) {
		list := a.byFree[f]
		for len(list) > 0 {
			r := list[len(list)-1]
			used, isPartial := a.partial[r]
			if !isPartial || int(a.free[r]) != f {
				list = list[:len(list)-1] // moved on since it was listed
				continue
			}
			if b, ok := findRun(used, n, a.blocks); ok {
				a.byFree[f] = list
				return int(r), b, true
			}
			break // fragmented: look at regions with more room
		}
		if a.byFree[f] = list; len(list) == 0 {
			a.byFreeSum.clear(f)
		}
	}
	return 0, 0, false
}

func findRun(used bitmap, n, limit int) (int, bool) {
	for i := 0; i+n <= limit; {
		run, v := used.run(i, limit)
		if !v && run >= n {
			return i, true
		}
		i += run
	}
	return 0, false
}

// take marks blocks [b, b+n) of region r used.
func (a *allocator) take(r, b, n int) {
	if int(a.free[r]) == a.blocks {
		a.clearEmpty(r)
	}
	if n == a.blocks {
		if a.free[r] != uint16(n) {
			panic(fmt.Sprintf("striping: region %d given out twice", r))
		}
	} else {
		used := a.partial[int32(r)]
		if used == nil {
			used = newBitmap(a.blocks)
			a.partial[int32(r)] = used
		}
		for i := b; i < b+n; i++ {
			if used.has(i) {
				panic(fmt.Sprintf("striping: block %d of region %d given out twice", i, r))
			}
			used.set(i)
		}
	}
	a.free[r] -= uint16(n)
	a.used += int64(n)
	if n == a.blocks {
		a.next = r + 1
	}
	a.settle(r)
}

// settle keeps partial, byFree and empty in step with free[r].
func (a *allocator) settle(r int) {
	switch f := a.free[r]; {
	case f == 0:
		delete(a.partial, int32(r))
	case int(f) == a.blocks:
		delete(a.partial, int32(r))
		a.setEmpty(r)
	default:
		a.list(int32(r))
		if a.listed++; a.listed > 4*len(a.partial)+1024 {
			a.relist()
		}
	}
}

// list notes how much is free of a partly used region.
func (a *allocator) list(r int32) {
	f := a.free[r]
	a.byFree[f] = append(a.byFree[f], r)
	a.byFreeSum.set(int(f))
}

// relist drops the entries of byFree that are no longer true.
func (a *allocator) relist() {
	clear(a.byFree)
	clear(a.byFreeSum)
	for r := range a.partial {
		a.list(r)
	}
	a.listed = len(a.partial)
}

func (a *allocator) locate(off, size int64) (r, b, n int, err error) {
	rel := off - a.base
	if rel < 0 || rel%blockSize != 0 || size <= 0 || size%blockSize != 0 {
		return 0, 0, 0, fmt.Errorf("slot at %#x of %d bytes lies outside the data area", off, size)
	}
	r = int(rel / blockSize / int64(a.blocks))
	b = int(rel / blockSize % int64(a.blocks))
	n = int(size / blockSize)
	if r >= len(a.free) || b+n > a.blocks {
		return 0, 0, 0, fmt.Errorf("slot at %#x of %d bytes lies outside the data area", off, size)
	}
	return r, b, n, nil
}

// mark records at open that a slot is in use. An error means that the journal contradicts itself. It is
// called with mu.
func (a *allocator) mark(off, size int64) error {
	r, b, n, err := a.locate(off, size)
	if err != nil {
		return err
	}
	if n == a.blocks && int(a.free[r]) != n || int(a.free[r]) < n {
		return fmt.Errorf("slot at %#x is used twice", off)
	}
	if n == a.blocks { // of a volume's slots nearly all, and there are millions
		a.clearEmpty(r)
		a.free[r] = 0
		a.used += int64(n)
		return nil
	}
	for i := b; i < b+n; i++ {
		if used := a.partial[int32(r)]; used != nil && used.has(i) {
			return fmt.Errorf("slot at %#x is used twice", off)
		}
	}
	next := a.next
	a.take(r, b, n)
	a.next = next
	return nil
}

// release gives a slot back.
func (a *allocator) release(off, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, b, n, err := a.locate(off, size)
	if err != nil {
		panic("striping: " + err.Error())
	}
	if a.free[r] == 0 && n < a.blocks {
		used := newBitmap(a.blocks)
		used.setRange(0, a.blocks)
		a.partial[int32(r)] = used
	}
	if used := a.partial[int32(r)]; used != nil {
		for i := b; i < b+n; i++ {
			if !used.has(i) {
				panic(fmt.Sprintf("striping: block %d of region %d freed twice", i, r))
			}
		}
		used.clearRange(b, b+n)
	} else if int(a.free[r]) != 0 {
		panic(fmt.Sprintf("striping: region %d freed twice", r))
	}
	a.free[r] += uint16(n)
	a.used -= int64(n)
	a.settle(r)
}
