package striping

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// A block's sum is the low half of xxHash64 over its data, with a seed that says where the block
// belongs: volume, object, chunk, generation and block number. A block that belongs elsewhere, or
// to an older placement of the same chunk, so fails its check.
//
// It is not a CRC, though that would be faster: the CRC of data that ends in its own CRC is one
// constant, and what volumes hold often ends so (directory blocks of ext4, log records). All
// versions of such a block would have one sum, and neither lost writes nor which of two copies is
// the newer after a crash would show.

// sumSeed is the part of the seed that is the same for all blocks of one placement.
func sumSeed(volume [16]byte, object, chunk, generation uint64) uint64 {
	var b [40]byte
	copy(b[:16], volume[:])
	binary.LittleEndian.PutUint64(b[16:], object)
	binary.LittleEndian.PutUint64(b[24:], chunk)
	binary.LittleEndian.PutUint64(b[32:], generation)
	return xxhash.Sum64(b[:])
}

// blockSum is the sum of one block's data at block number block of a chunk.
func blockSum(seed uint64, block int, data []byte) uint32 {
	var d xxhash.Digest
	d.ResetWithSeed(seed + uint64(block))
	d.Write(data) // never fails
	return uint32(d.Sum64())
}
