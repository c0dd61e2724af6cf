package names

import (
	"fmt"
	"testing"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

func commitOne(d *delta, key journal.Key, value []byte) {
	b := &journal.Batch{}
	if value == nil {
		b.Delete(key)
	} else {
		b.Put(key, value)
	}
	d.apply(b)
	layers, _ := d.seal(0)
	d.committed(layers)
}

// TestCacheIsNeverOlderThanTheJournal: what was read before a commit and comes after it is dropped.
func TestCacheIsNeverOlderThanTheJournal(t *testing.T) {
	d := newDelta(1<<20, 1<<20)
	key := journal.InodeKey(7)
	_, known, commits := d.get(key)
	require.False(t, known)
	commitOne(d, key, []byte("new"))
	d.remember(key, []byte("old"), commits)
	value, known, _ := d.get(key)
	require.True(t, known)
	require.Equal(t, "new", string(value))
	commitOne(d, key, nil)
	value, known, _ = d.get(key)
	require.True(t, known, "that there is none is known, too")
	require.Nil(t, value)

	other := journal.InodeKey(8)
	_, _, commits = d.get(other)
	d.remember(other, []byte("read"), commits)
	value, known, _ = d.get(other)
	require.True(t, known)
	require.Equal(t, "read", string(value))
}

// TestCacheIsBounded keeps what is asked for, and forgets the rest.
func TestCacheIsBounded(t *testing.T) {
	const limit = 64 << 10
	c := newCache(limit)
	often := journal.InodeKey(1 << 40)
	c.put(often, []byte("often"))
	for i := range uint64(10_000) {
		c.put(journal.InodeKey(i), []byte(fmt.Sprint("value ", i)))
		_, known := c.get(often)
		require.True(t, known)
	}
	_, known := c.get(journal.InodeKey(9_999))
	require.True(t, known)
	_, known = c.get(journal.InodeKey(0))
	require.False(t, known)
	require.LessOrEqual(t, (len(c.young)+len(c.old))*cachedBytes, limit)
}
