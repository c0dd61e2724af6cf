package striping

import "math/bits"

// bitmap has one bit for each block of a chunk.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) has(i int) bool { return i>>6 < len(b) && b[i>>6]&(1<<(i&63)) != 0 }
func (b bitmap) set(i int)      { b[i>>6] |= 1 << (i & 63) }
func (b bitmap) clear(i int)    { b[i>>6] &^= 1 << (i & 63) }

func (b bitmap) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

func (b bitmap) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// setRange and clearRange change bits [i, j).
func (b bitmap) setRange(i, j int) {
	for ; i < j && i&63 != 0; i++ {
		b.set(i)
	}
	for ; i+64 <= j; i += 64 {
		b[i>>6] = ^uint64(0)
	}
	for ; i < j; i++ {
		b.set(i)
	}
}

func (b bitmap) clearRange(i, j int) {
	for ; i < j && i&63 != 0; i++ {
		b.clear(i)
	}
	for ; i+64 <= j; i += 64 {
		b[i>>6] = 0
	}
	for ; i < j; i++ {
		b.clear(i)
	}
}

// run returns the length of the run of equal bits from i on, at most to limit, and their value.
func (b bitmap) run(i, limit int) (n int, v bool) {
	v = b.has(i)
	for j := i; j < limit; j = j&^63 + 64 {
		var w uint64 // the bits from j on that are not v
		if j>>6 < len(b) {
			w = b[j>>6]
		}
		if v {
			w = ^w
		}
		if w >>= j & 63; w != 0 {
			return min(j+bits.TrailingZeros64(w), limit) - i, v
		}
	}
	return max(limit-i, 0), v
}

// next returns the first bit set from i on, or one behind the bitmap.
func (b bitmap) next(i int) int {
	for ; i>>6 < len(b); i = i&^63 + 64 {
		if w := b[i>>6] >> (i & 63); w != 0 {
			return i + bits.TrailingZeros64(w)
		}
	}
	return i
}

// union returns the bits that are in b or in other.
func (b bitmap) union(other bitmap) bitmap {
	if len(b) < len(other) {
		b, other = other, b
	}
	u := b.clone()
	for i, w := range other {
		u[i] |= w
	}
	return u
}

func (b bitmap) clone() bitmap { return append(bitmap(nil), b...) }
