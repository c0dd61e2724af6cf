package fusefs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBlocksTold: the kernel knows how many blocks a file has if that is the one number it was told since
// it was last made to forget.
func TestBlocksTold(t *testing.T) {
	var h handles
	fh := h.add(&handle{ino: 7, writes: true})
	tell := func(blocks int64) (told int64, writable bool) {
		writable = h.tell(7, &blocks)
		return blocks, writable
	}
	require.False(t, h.knows(7, 8), "nothing was told")
	told, writable := tell(0)
	require.True(t, writable)
	require.EqualValues(t, 8, told, "not a file of holes")
	require.True(t, h.knows(7, 8))
	tell(8)
	require.True(t, h.knows(7, 8))
	require.False(t, h.knows(7, 16), "it has grown")
	require.False(t, h.knows(7, 8), "it was made to forget")
	tell(16)
	require.True(t, h.knows(7, 16))
	tell(8) // which of the two came last there is not known here
	require.False(t, h.knows(7, 8))
	tell(16)
	tell(8)
	require.False(t, h.knows(7, 16))
	h.remove(fh)
	require.False(t, h.knows(7, 16))
	_, writable = tell(16)
	require.False(t, writable)
}
