package journal

import (
	"math/bits"

	"github.com/zeebo/xxh3"
)

// RecordDigest returns the digest of a journal with this one record: XXH3-128 of the key and of the
// XXH3-128 of the value. Digests of disjoint sets add up. It finds what chance does to a store (lost,
// doubled, stale, returned or mixed records); it is no defence against somebody who forges them.
func RecordDigest(key Key, value []byte) (d Digest) {
	var b [len(key) + len(d)]byte
	copy(b[:], key[:])
	h := xxh3.Hash128(value)
	le.PutUint64(b[len(key):], h.Lo)
	le.PutUint64(b[len(key)+8:], h.Hi)
	h = xxh3.Hash128(b[:])
	le.PutUint64(d[:8], h.Lo)
	le.PutUint64(d[8:], h.Hi)
	return d
}

// Add returns the digest of the union of two disjoint sets of records: the sum modulo 2^128.
func (d Digest) Add(other Digest) (sum Digest) {
	low, carry := bits.Add64(le.Uint64(d[:8]), le.Uint64(other[:8]), 0)
	high, _ := bits.Add64(le.Uint64(d[8:]), le.Uint64(other[8:]), carry)
	le.PutUint64(sum[:8], low)
	le.PutUint64(sum[8:], high)
	return sum
}

// Sub is the reverse of Add.
func (d Digest) Sub(other Digest) (diff Digest) {
	low, borrow := bits.Sub64(le.Uint64(d[:8]), le.Uint64(other[:8]), 0)
	high, _ := bits.Sub64(le.Uint64(d[8:]), le.Uint64(other[8:]), borrow)
	le.PutUint64(diff[:8], low)
	le.PutUint64(diff[8:], high)
	return diff
}
