package names

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// entryReads counts what the journal is asked of entries.
type entryReads struct {
	journal.Journal
	n atomic.Int64
}

func (j *entryReads) Get(key journal.Key) ([]byte, error) {
	if key.Space() == journal.SpaceEntry {
		j.n.Add(1)
	}
	return j.Journal.Get(key)
}

func (j *entryReads) ScanFrom(from journal.Key, fn func(journal.Key, []byte) error) error {
	if from.Space() == journal.SpaceEntry {
		j.n.Add(1)
	}
	return j.Journal.ScanFrom(from, fn)
}

// TestFreshDirectories: the journal is not asked which names are not in a directory that is new, also
// after they were committed and deleted, and is for one that was there before.
func TestFreshDirectories(t *testing.T) {
	reads := &entryReads{}
	r := newRig(t, rigConfig{tree: Options{CacheLimit: 1}, // nothing else tells
		wrapJ: func(j journal.Journal) journal.Journal { reads.Journal = j; return reads }})
	ctx := t.Context()
	absent := func(dir Ino, name string) {
		t.Helper()
		_, err := r.Lookup(ctx, dir, name)
		require.Equal(t, syscall.ENOENT, err)
	}
	absent(Root, "dir")
	dir, err := r.Create(ctx, Root, "dir", New{Mode: syscall.S_IFDIR | 0o755})
	require.NoError(t, err)
	before := reads.n.Load()
	for i := range 20 {
		absent(dir.Ino, fmt.Sprint(i))
		_, err = r.Create(ctx, dir.Ino, fmt.Sprint(i), New{Mode: syscall.S_IFREG | 0o644})
		require.NoError(t, err)
	}
	require.Equal(t, before, reads.n.Load(), "before a commit")
	require.NoError(t, r.Sync(ctx))
	absent(dir.Ino, "none")
	require.Equal(t, before, reads.n.Load(), "after it")
	_, err = r.Lookup(ctx, dir.Ino, "7")
	require.NoError(t, err)
	require.Equal(t, before+1, reads.n.Load(), "the value of one that is there")
	require.Equal(t, syscall.ENOTEMPTY, r.Rmdir(ctx, Root, "dir"))
	for i := range 20 {
		require.NoError(t, r.Unlink(ctx, dir.Ino, fmt.Sprint(i)))
	}
	require.NoError(t, r.Sync(ctx))
	before = reads.n.Load()
	absent(dir.Ino, "7")
	require.Equal(t, before, reads.n.Load(), "after they were deleted")
	_, err = r.Create(ctx, dir.Ino, "last", New{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	require.Equal(t, syscall.ENOTEMPTY, r.Rmdir(ctx, Root, "dir"))
	require.NoError(t, r.Sync(ctx))

	r.close()
	r.open()
	before = reads.n.Load()
	absent(dir.Ino, "none")
	_, err = r.Lookup(ctx, dir.Ino, "last")
	require.NoError(t, err)
	require.Equal(t, syscall.ENOTEMPTY, r.Rmdir(ctx, Root, "dir"))
	require.Greater(t, reads.n.Load(), before+2, "one that was there before")
	require.NoError(t, r.Unlink(ctx, dir.Ino, "last"))
	require.NoError(t, r.Rmdir(ctx, Root, "dir"))
	r.close()
}

// checkInvariants is for tests.
func (f *fresh) checkInvariants(t *testing.T) {
	names := 0
	for _, set := range f.dirs {
		names += freshDir + len(set)
	}
	require.Equal(t, names, f.names)
	require.LessOrEqual(t, names, f.limit)
	require.LessOrEqual(t, len(f.order), 2*len(f.dirs)+66+f.limit/freshDir)
}

func TestFreshIsBounded(t *testing.T) {
	f := newFresh(100)
	for dir := range uint64(1000) {
		f.add(dir)
		f.checkInvariants(t)
		for hash := range dir % 20 {
			require.Equal(t, f.dirs[dir] != nil, f.lacks(dir, hash))
			f.set(dir, hash, true)
			f.set(dir-1, hash, false)
			f.checkInvariants(t)
			require.False(t, f.lacks(dir, hash))
		}
		if dir%3 == 0 {
			f.remove(dir)
		}
		f.checkInvariants(t)
	}
	f.add(5000)
	empty, known := f.empty(5000)
	require.True(t, empty && known)
	for hash := range uint64(200) { // more than there may be in all
		f.set(5000, hash, true)
		f.checkInvariants(t)
	}
	_, known = f.empty(5000)
	require.False(t, known)
	require.False(t, f.lacks(5000, 1000))
}
