package striping

import (
	"math/bits"
	"sync"
)

// spares keeps slices that were used up for those who need some as long, by power of two of their
// capacity. Each small write adds to several that live until its chunk is written out: left to the
// garbage collector they would be most of what it has to do, and fresh memory each time.
type spares[T any] struct {
	mu    sync.Mutex
	lists [12][][]T
}

// sparesMax is how many of one size are kept, as many as chunks are on their way to the disks.
const sparesMax = 1024

// leastSpare is the shortest slice.
const leastSpare = 4

// get returns an empty slice that n elements fit into.
func (s *spares[T]) get(n int) []T {
	n = max(n, leastSpare)
	class := bits.Len(uint(n - 1))
	if class >= len(s.lists) {
		return make([]T, 0, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.lists[class]
	k := len(list) - 1
	if k < 0 {
		return make([]T, 0, 1<<class)
	}
	p := list[k]
	list[k] = nil
	s.lists[class] = list[:k]
	return p
}

// put takes p, of which nobody uses anything any more.
func (s *spares[T]) put(p []T) {
	if cap(p) < leastSpare {
		return
	}
	class := bits.Len(uint(cap(p))) - 1
	if class >= len(s.lists) {
		return
	}
	clear(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lists[class]) < sparesMax {
		s.lists[class] = append(s.lists[class], p[:0])
	}
}

// add appends x to p, which it may give up for a longer one.
func (s *spares[T]) add(p []T, x ...T) []T {
	if len(p)+len(x) > cap(p) {
		old := p
		p = append(s.get(max(len(p)+len(x), 2*len(p))), p...)
		s.put(old)
	}
	return append(p, x...)
}
