package striping

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSumsTellBlocksWithChecksumsApart: what is stored brings checksums of its own, often at its
// end (directory blocks of ext4, log records, a label of ours). A CRC over data and its own CRC is
// the same whatever the data, so a sum of that kind takes every version of such a block for every
// other: after a crash old and new cannot be told apart, and lost writes pass.
func TestSumsTellBlocksWithChecksumsApart(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	seed := sumSeed([16]byte{1}, 2, 3, 4)
	for _, table := range []*crc32.Table{crc32.MakeTable(crc32.Castagnoli), crc32.IEEETable} {
		for _, unit := range []int{512, blockSize} {
			for _, behind := range []int{0, 4, 12} {
				seen := map[uint32]bool{}
				for range 50 {
					p := make([]byte, blockSize)
					for u := 0; u < len(p); u += unit {
						q := p[u : u+unit-4-behind]
						for i := range q {
							q[i] = byte(rng.Uint32())
						}
						binary.LittleEndian.PutUint32(p[u+len(q):], crc32.Checksum(q, table))
					}
					sum := blockSum(seed, 5, p)
					require.False(t, seen[sum], "two blocks have one sum")
					seen[sum] = true
				}
			}
		}
	}
}

func TestSumsSeeEveryBit(t *testing.T) {
	p := make([]byte, blockSize)
	seed := sumSeed([16]byte{1}, 2, 3, 4)
	want := blockSum(seed, 5, p)
	for bit := range blockSize * 8 {
		p[bit/8] ^= 1 << (bit % 8)
		require.NotEqual(t, want, blockSum(seed, 5, p))
		p[bit/8] ^= 1 << (bit % 8)
	}
}
