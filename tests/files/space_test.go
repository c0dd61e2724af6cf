package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fill writes to a file, around the page cache, until there is no space, and returns how much fitted.
func fill(t *testing.T, path string) (size int64) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o644)
	require.NoError(t, err)
	defer unix.Close(fd)
	p := alignedBytes(1 << 20)
	for {
		n, err := unix.Pwrite(fd, p, size)
		if err != nil {
			require.Equal(t, unix.ENOSPC, err)
			require.NoError(t, unix.Fsync(fd), "what was accepted has its space")
			return size
		}
		size += int64(n)
		require.Less(t, size, int64(1<<30), "the volume does not get full")
	}
}

// TestFullVolume: on a full volume a write says ENOSPC, at once or at the fsync; what needs no space
// goes on, nothing is lost, and what is deleted makes space, also across a kill.
func TestFullVolume(t *testing.T) {
	harness.NeedRoot(t)
	for copies := 1; copies <= 2; copies++ {
		t.Run(fmt.Sprint(copies), func(t *testing.T) {
			e, dir := harness.New(t), harness.MountPoint(t)
			e.Must("create", "v", harness.SparseRAM(t, 96<<20), harness.SparseRAM(t, 96<<20), "--copies", fmt.Sprint(copies))
			d := e.Serve("v", "--mount", dir)
			at := func(name string) string { return filepath.Join(dir, name) }
			kept := noise(1, 300_000)
			require.NoError(t, os.WriteFile(at("kept"), kept, 0o644))
			require.NoError(t, syncPath(at("kept")))
			size := fill(t, at("big"))
			var st unix.Statfs_t
			require.NoError(t, unix.Statfs(dir, &st))
			require.Less(t, int64(st.Bavail)*st.Bsize, int64(2<<20))

			// Through the page cache the fsync tells.
			f, err := os.Create(at("late"))
			require.NoError(t, err)
			_, err = f.Write(noise(2, 8<<20))
			require.NoError(t, err, "it is only in the page cache")
			require.ErrorIs(t, f.Sync(), unix.ENOSPC)
			f.Close()
			// Names need none.
			require.NoError(t, os.Mkdir(at("d"), 0o755))
			require.NoError(t, os.Rename(at("kept"), at("d/kept")))
			require.NoError(t, os.Symlink("d/kept", at("link")))
			require.NoError(t, unix.Setxattr(at("d/kept"), "user.x", []byte("y"), 0))
			require.NoError(t, syncPath(at("d")))
			// A file that takes another one's place has what was written, or there is an error.
			err = os.WriteFile(at("new"), noise(3, 4<<20), 0o644)
			if err == nil {
				err = syncPath(at("new"))
			}
			require.ErrorIs(t, err, unix.ENOSPC)
			require.NoError(t, os.Remove(at("new")))
			d.Kill()
			d = d.Again()
			requireFile(t, at("d/kept"), kept)

			require.NoError(t, os.Remove(at("big")))
			require.NoError(t, os.Remove(at("late")))
			again := noise(4, int(size/2))
			require.NoError(t, os.WriteFile(at("again"), again, 0o644))
			require.NoError(t, syncPath(at("again")), "space is back as soon as it is needed")
			require.GreaterOrEqual(t, fill(t, at("rest")), size/2-(4<<20))
			requireFile(t, at("again"), again)
			requireFile(t, at("d/kept"), kept)
			require.Zero(t, d.Stop())
			res := e.Command("check", "v")
			require.Zero(t, res.Code, res.Stdout+res.Stderr)
		})
	}
}

// TestFullJournalDisk: when there is no space where the journal is, what would need it says ENOSPC,
// reads go on, and with space everything does; nothing that was synced is lost.
func TestFullJournalDisk(t *testing.T) {
	harness.NeedRoot(t)
	e, dir := harness.New(t), harness.MountPoint(t)
	require.NoError(t, os.MkdirAll(e.State, 0o700))
	require.NoError(t, unix.Mount("tmpfs", e.State, "tmpfs", 0, "size=512m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(e.State, unix.MNT_DETACH)) })
	e.Must("create", "v", harness.SparseRAM(t, 1<<30))
	d := e.Serve("v", "--mount", dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	kept := noise(1, 300_000)
	require.NoError(t, os.WriteFile(at("kept"), kept, 0o644))
	require.NoError(t, syncPath(at("kept")))
	filler := filepath.Join(e.State, "filler")
	harness.TakeAll(t, filler)

	// create, write, rename and fsync: until one is refused, and then all that add something.
	until(t, "creating is never refused", func(i int) bool {
		err := os.WriteFile(at(fmt.Sprint("f", i)), kept[:10_000], 0o644)
		if err == nil {
			err = syncPath(at(fmt.Sprint("f", i)))
		}
		if err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
		}
		return err != nil
	})
	requireFile(t, at("kept"), kept)
	err := syncPath(at("kept"))
	require.True(t, err == nil || errors.Is(err, unix.ENOSPC), "%v", err)
	require.NoError(t, os.Remove(filler))
	until(t, "with space syncs still fail", func(int) bool {
		return os.WriteFile(at("after"), kept, 0o644) == nil && syncPath(at("after")) == nil && syncPath(dir) == nil
	})
	d.Kill()
	d = d.Again()
	requireFile(t, at("kept"), kept)
	requireFile(t, at("after"), kept)
	require.Zero(t, d.Stop())
	res := e.Command("check", "v")
	require.Zero(t, res.Code, res.Stdout+res.Stderr)
}

// until calls do until it says that it is done.
func until(t *testing.T, never string, do func(i int) bool) {
	deadline := time.Now().Add(harness.Patience)
	for i := 0; !do(i); i++ {
		require.True(t, time.Now().Before(deadline), never)
	}
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func requireFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "%s: %d bytes, %d wanted, or others", path, len(got), len(want))
}
