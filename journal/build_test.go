package journal

import (
	"bytes"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/stretchr/testify/require"
)

// What is handed to Badger is what its own function makes of it.
func TestAppendKV(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 1100, 16383, 16384, 1 << 20} {
		key, value := MakeKey(SpaceChunk, 1, uint64(n)), bytes.Repeat([]byte{7}, n)
		want, have := z.NewBuffer(64, "test"), z.NewBuffer(64, "test")
		badger.KVToBuffer(&pb.KV{Key: key[:], Value: value, Version: 1}, want)
		appendKV(have, &key, value)
		require.Equal(t, want.Bytes(), have.Bytes(), n)
		require.NoError(t, want.Release())
		require.NoError(t, have.Release())
	}
}
