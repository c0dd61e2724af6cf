package journal

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// The seeds of the two halves of a record's hash. Part of the format.
const (
	digestSeedLow  = 0x62616c6c61737431
	digestSeedHigh = 0x6a6f75726e616c32
)

// RecordDigest returns the digest of a journal with this one record: xxHash64 of key and value
// under two seeds. Digests of disjoint sets add up. It finds what chance does to a store (lost,
// doubled, stale, returned or mixed records); it is no defence against somebody who forges them.
func RecordDigest(key Key, value []byte) (d Digest) {
	var h xxhash.Digest
	h.ResetWithSeed(digestSeedLow)
	h.Write(key[:])
	h.Write(value)
	le.PutUint64(d[:8], h.Sum64())
	h.ResetWithSeed(digestSeedHigh)
	h.Write(key[:])
	h.Write(value)
	le.PutUint64(d[8:], h.Sum64())
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
