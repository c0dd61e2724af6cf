package striping

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumSeed is the CRC32C state over (volume, object, chunk, generation): the part of a block's
// sum that is the same for all blocks of one placement. It makes a block that belongs
// elsewhere, or to an older placement of the same chunk, fail its check.
func sumSeed(volume [16]byte, object, chunk, generation uint64) uint32 {
	var b [40]byte
	copy(b[:16], volume[:])
	binary.LittleEndian.PutUint64(b[16:], object)
	binary.LittleEndian.PutUint64(b[24:], chunk)
	binary.LittleEndian.PutUint64(b[32:], generation)
	return crc32.Checksum(b[:], castagnoli)
}

// blockSum is the sum of one block's data at block number block of a chunk.
func blockSum(seed uint32, block int, data []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(block))
	return crc32.Update(crc32.Update(seed, castagnoli, b[:]), castagnoli, data)
}
