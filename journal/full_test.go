package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// TestRoom steps through the floors on a file system that only seems to fill up.
func TestRoom(t *testing.T) {
	s := open(t, create(t))
	free := int64(1 << 40)
	s.SetFree(func() int64 { return free })
	ctx := t.Context()
	require.NoError(t, s.Commit(ctx, put(0, 10, "a")))
	soft := journal.SoftFloor(s.Stats().DiskBytes)
	free = soft - 4096
	require.ErrorIs(t, s.Commit(ctx, put(9, 11, "b")), journal.ErrFull)
	require.NoError(t, s.Commit(ctx, put(0, 10, "c")), "what is there may be replaced")
	again := &journal.Batch{}
	again.Delete(job(0))
	again.Put(job(0), []byte("d"))
	require.ErrorIs(t, s.Commit(ctx, again), journal.ErrFull, "a record that is gone is a new one")
	gone := &journal.Batch{}
	gone.Delete(job(0))
	require.NoError(t, s.Commit(ctx, gone))
	require.ErrorIs(t, s.Commit(ctx, put(0, 1, "e")), journal.ErrFull)
	require.Positive(t, s.Stats().BallastBytes)

	// At the end of the space the ballast goes, and then frees are possible again.
	free = journal.HardFloor - 4096
	gone.Delete(job(1))
	require.ErrorIs(t, s.Commit(ctx, gone), journal.ErrFull)
	require.Zero(t, s.Stats().BallastBytes)
	require.Equal(t, uint64(9), s.State().Count)
	free = journal.HardFloor
	require.NoError(t, s.Commit(ctx, gone))
	free = soft * 2
	require.NoError(t, s.Commit(ctx, put(0, 2, "f")))
	require.Equal(t, uint64(5-1), s.Stats().Refused)
	require.NoError(t, s.Stats().Failed)
	require.Equal(t, uint64(10), s.State().Count)
}

// mountSmall mounts a file system of some bytes in memory.
func mountSmall(t *testing.T, bytes int64) string {
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skip("needs root, to mount a small file system")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

// fill leaves free bytes on the file system of dir, in a file that is returned.
func fill(t *testing.T, dir string, free int64) string {
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	size := int64(st.Bavail)*st.Bsize - free
	require.Positive(t, size)
	f, err := os.Create(dir + "/filler")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	return f.Name()
}

// TestFullFileSystem writes until the journal refuses, on a real small file system, where one write
// too many is SIGBUS; then others take the rest; then space returns.
func TestFullFileSystem(t *testing.T) {
	mount := mountSmall(t, 320<<20)
	dir := mount + "/journal"
	require.NoError(t, journal.Create(dir, volume))
	s := open(t, dir)
	ctx := t.Context()
	n := 0
	more := func() error {
		b := &journal.Batch{}
		for i := range 1000 {
			b.Put(job(n+i), bytes.Repeat([]byte{byte(n)}, 1000))
		}
		err := s.Commit(ctx, b)
		if err == nil {
			n += 1000
		}
		return err
	}
	var err error
	for err == nil && n < 1e6 {
		err = more()
	}
	require.ErrorIs(t, err, journal.ErrFull)
	require.Greater(t, n, 10_000, "a good part was usable")
	require.Less(t, n, 300_000)
	require.NoError(t, s.Commit(ctx, put(0, 1000, "replaced")))
	free := &journal.Batch{}
	for i := range 500 {
		free.Delete(job(i))
	}
	require.NoError(t, s.Commit(ctx, free))
	want := s.State()

	// Somebody else fills the file system. Were Badger writing tables just then, it would die by
	// SIGBUS, from which only the next start helps; so it has nothing left to do first.
	require.NoError(t, s.Close())
	s = open(t, dir)
	require.NoError(t, s.Flatten())
	_ = s.Close() // Flatten may have logged what counts as a failure
	s = open(t, dir)
	filler := fill(t, mount, 16<<20)
	require.ErrorIs(t, s.Commit(ctx, put(0, 1, "no")), journal.ErrFull)
	require.ErrorIs(t, s.Commit(ctx, put(600, 601, "no room even for this")), journal.ErrFull)
	require.NoError(t, s.Stats().Failed)
	require.Zero(t, s.Stats().BallastBytes)
	v, err := s.Get(job(600))
	require.NoError(t, err)
	require.Equal(t, "replaced 600", string(v))
	require.NoError(t, os.Remove(filler))
	require.NoError(t, s.Commit(ctx, put(600, 700, "again")))
	want.Seq++
	require.Equal(t, want.Count, s.State().Count)
	want = s.State()
	require.NoError(t, s.Close())

	filler = fill(t, mount, journal.OpenFloor-1<<20)
	_, err = journal.Open(dir, journal.Options{Preflight: preflight(t)})
	require.ErrorIs(t, err, journal.ErrFull)
	require.ErrorContains(t, err, "try:")
	require.NoError(t, os.Remove(filler))
	s, err = journal.Open(dir, journal.Options{Preflight: preflight(t), Anchors: []journal.State{want}})
	require.NoError(t, err)
	require.Equal(t, want, s.State())
	journaltest.CheckState(t, s, journaltest.Contents(t, s))
	require.NoError(t, s.Close())
}

// TestBallastIsNoMoreThanAShare looks at what a journal takes from a small file system.
func TestBallastIsNoMoreThanAShare(t *testing.T) {
	mount := mountSmall(t, 400<<20)
	require.NoError(t, journal.Create(mount+"/journal", volume))
	s := open(t, mount+"/journal")
	require.LessOrEqual(t, s.Stats().BallastBytes, int64(10<<20))
	require.Positive(t, s.Stats().BallastBytes)
	require.NoError(t, s.Close())
}
