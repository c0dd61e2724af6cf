package devices_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ballast/devices"
	"ballast/devices/devicetest"
)

// sparse makes a file and returns its path.
func sparse(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "disk")
	require.NoError(t, devices.CreateFile(path, size))
	return path
}

// openFile opens a disk for the time of the test.
func openFile(t *testing.T, path string, opts devices.FileOptions) *devices.File {
	t.Helper()
	f, err := devices.Open(path, opts)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// memoryDir is a directory on tmpfs.
func memoryDir(t *testing.T) string {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("needs tmpfs at /dev/shm")
	}
	dir, err := os.MkdirTemp("/dev/shm", "ballast-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// again opens the disk at the path that prepare returns, as often as asked.
func again(opts devices.FileOptions, prepare func(t *testing.T) string) func(t *testing.T) (devicetest.Opener, bool) {
	return func(t *testing.T) (devicetest.Opener, bool) {
		path := prepare(t)
		return func(t *testing.T) devices.Disk {
			f, err := devices.Open(path, opts)
			require.NoError(t, err)
			return f
		}, true
	}
}

func TestFile(t *testing.T) {
	devicetest.Run(t, again(devices.FileOptions{}, func(t *testing.T) string {
		return sparse(t, t.TempDir(), devicetest.MinSize)
	}))
}

func TestFileBuffered(t *testing.T) {
	devicetest.Run(t, again(devices.FileOptions{Buffered: true}, func(t *testing.T) string {
		return sparse(t, t.TempDir(), devicetest.MinSize)
	}))
}

func TestFileInMemory(t *testing.T) {
	memoryDir(t)
	devicetest.Run(t, again(devices.FileOptions{}, func(t *testing.T) string {
		return sparse(t, memoryDir(t), devicetest.MinSize)
	}))
}

func TestLoopDevice(t *testing.T) {
	devicetest.Loop(t, sparse(t, t.TempDir(), devicetest.MinSize))
	devicetest.Run(t, again(devices.FileOptions{}, func(t *testing.T) string {
		return devicetest.Loop(t, sparse(t, t.TempDir(), devicetest.MinSize))
	}))
}

func TestBufferedIsTold(t *testing.T) {
	dir := t.TempDir()
	path := sparse(t, dir, 1<<20)
	f, err := devices.Open(path, devices.FileOptions{Buffered: true})
	require.NoError(t, err)
	require.True(t, f.Buffered())
	require.NoError(t, f.Close())

	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &fs))
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		require.False(t, openFile(t, path, devices.FileOptions{}).Buffered())
	default:
		t.Logf("file system %#x: O_DIRECT is not asserted", fs.Type)
	}
	require.True(t, openFile(t, sparse(t, memoryDir(t), 1<<20), devices.FileOptions{}).Buffered())
}

func TestBlockDevice(t *testing.T) {
	path := sparse(t, t.TempDir(), 8<<20)
	dev := devicetest.Loop(t, path)
	f := openFile(t, dev, devices.FileOptions{})
	require.True(t, f.Block())
	require.False(t, f.Buffered())
	require.EqualValues(t, 8<<20, f.Size())
	require.Equal(t, filepath.Base(dev), f.DiskName())

	_, err := devices.Open(dev, devices.FileOptions{})
	require.ErrorIs(t, err, devices.ErrBusy)
	require.ErrorContains(t, err, dev)
	require.NoError(t, f.Close())

	link := filepath.Join(t.TempDir(), "by-id")
	require.NoError(t, os.Symlink(dev, link))
	f = openFile(t, link, devices.FileOptions{})
	require.Equal(t, dev, f.Path())
	require.NoError(t, f.Close())
}

func TestMountedDeviceIsRefused(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("needs mkfs.ext4 (package e2fsprogs)")
	}
	path := sparse(t, t.TempDir(), 8<<20)
	out, err := exec.Command(mkfs, "-q", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	dev, dir := devicetest.Loop(t, path), t.TempDir()
	require.NoError(t, unix.Mount(dev, dir, "ext4", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })

	_, err = devices.Open(dev, devices.FileOptions{})
	require.ErrorIs(t, err, devices.ErrBusy)
}

func TestLock(t *testing.T) {
	path := sparse(t, t.TempDir(), 1<<20)
	f := openFile(t, path, devices.FileOptions{})
	for _, opts := range []devices.FileOptions{{}, {ReadOnly: true}} {
		_, err := devices.Open(path, opts)
		require.ErrorIs(t, err, devices.ErrBusy)
	}
	require.NoError(t, f.Close())
	openFile(t, path, devices.FileOptions{})
}

func TestReadOnly(t *testing.T) {
	path := sparse(t, t.TempDir(), 1<<20)
	require.NoError(t, os.Chmod(path, 0o400))
	f := openFile(t, path, devices.FileOptions{ReadOnly: true})
	p := devices.AlignedBytes(devices.BlockSize)
	_, err := f.ReadAt(p, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(p, 0)
	require.ErrorIs(t, err, unix.EBADF)
	require.Error(t, f.Discard(0, devices.BlockSize))
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo, dangling, loop := filepath.Join(dir, "fifo"), filepath.Join(dir, "dangling"), filepath.Join(dir, "loop")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	require.NoError(t, os.Symlink(filepath.Join(dir, "nothing"), dangling))
	require.NoError(t, os.Symlink(loop, loop))
	tests := map[string]struct {
		path string
		want error
		text string
	}{
		"directory":     {dir, devices.ErrNotDisk, "a directory"},
		"FIFO":          {fifo, devices.ErrNotDisk, "a FIFO"},
		"null":          {"/dev/null", devices.ErrNotDisk, "a character device"},
		"tty":           {"/dev/tty", devices.ErrNotDisk, "a character device"},
		"nothing":       {filepath.Join(dir, "no\nsuch$(x)"), os.ErrNotExist, `no`},
		"dangling link": {dangling, os.ErrNotExist, dangling},
		"circle":        {loop, nil, "too many links"},
		"empty path":    {"", os.ErrNotExist, "empty path"},
	}
	for name, tt := range tests {
		_, err := devices.Open(tt.path, devices.FileOptions{})
		require.Error(t, err, name)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, name)
		}
		require.ErrorContains(t, err, tt.text, name)
	}
}

func TestCreateFile(t *testing.T) {
	dir := t.TempDir()
	path := sparse(t, dir, 1<<40)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 1<<40, st.Size())
	require.EqualValues(t, 0o600, st.Mode().Perm())
	require.Zero(t, st.Sys().(*syscall.Stat_t).Blocks)
	require.ErrorIs(t, devices.CreateFile(path, 1<<20), os.ErrExist)
	for _, size := range []int64{0, -4096, 4097} {
		require.ErrorIs(t, devices.CreateFile(filepath.Join(dir, "x"), size), devices.ErrAlignment)
	}
	require.Error(t, devices.CreateFile(filepath.Join(dir, "x"), 1<<62)) // larger than the file system allows
	require.NoFileExists(t, filepath.Join(dir, "x"))
	require.Error(t, devices.CreateFile(filepath.Join(dir, "no", "x"), 1<<20))
}

func TestOddSizeIsCutToBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(path, make([]byte, 3*devices.BlockSize+100), 0o600))
	require.EqualValues(t, 3*devices.BlockSize, openFile(t, path, devices.FileOptions{}).Size())
}

func TestTruncatedUnderneath(t *testing.T) {
	path := sparse(t, t.TempDir(), 1<<20)
	f := openFile(t, path, devices.FileOptions{})
	require.NoError(t, os.Truncate(path, 6000))
	n, err := f.ReadAt(devices.AlignedBytes(4*devices.BlockSize), 0)
	require.Error(t, err)
	require.Equal(t, devices.BlockSize, n)
}

func TestDiscardGivesSpaceBack(t *testing.T) {
	path := sparse(t, t.TempDir(), 8<<20)
	f := openFile(t, path, devices.FileOptions{})
	_, err := f.WriteAt(devicetest.Pattern(8<<20, 1), 0)
	require.NoError(t, err)
	blocks := func() int64 {
		st, err := os.Stat(path)
		require.NoError(t, err)
		return st.Sys().(*syscall.Stat_t).Blocks
	}
	before := blocks()
	require.NoError(t, f.Discard(0, 4<<20))
	require.Less(t, blocks(), before)
}

// TestCloseMeetsNoForeignFile: operations race with Close and with the file that takes over the
// number of the descriptor; that one must stay as it is.
func TestCloseMeetsNoForeignFile(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("foreign."), 8192)
	for round := range 30 {
		path := sparse(t, t.TempDir(), 1<<20)
		f, err := devices.Open(path, devices.FileOptions{})
		require.NoError(t, err)
		var wg sync.WaitGroup
		p := devicetest.Pattern(64<<10, uint64(round))
		for i := range 4 {
			wg.Go(func() {
				for {
					if _, err := f.WriteAt(p, int64(i)*65536); err != nil {
						if !errors.Is(err, devices.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		name := filepath.Join(dir, "foreign")
		require.NoError(t, os.WriteFile(name, want, 0o600))
		other, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		wg.Wait()
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, other.Close())
		openFile(t, path, devices.FileOptions{}).Close() // the lock is gone with the last operation
	}
}

func TestDiskNameAndRotational(t *testing.T) {
	path := sparse(t, t.TempDir(), 1<<20)
	f := openFile(t, path, devices.FileOptions{})
	if name := f.DiskName(); name != "" {
		require.FileExists(t, filepath.Join("/sys/block", name, "stat"))
		text, err := os.ReadFile(filepath.Join("/sys/block", name, "queue/rotational"))
		require.NoError(t, err)
		if string(text) != "1\n" || strings.HasPrefix(name, "vd") {
			require.False(t, f.Rotational())
		}
	}
	m := openFile(t, sparse(t, memoryDir(t), 1<<20), devices.FileOptions{})
	require.Empty(t, m.DiskName())
	require.False(t, m.Rotational())
}

func swapCall(call uintptr, path *byte) error {
	_, _, errno := unix.Syscall(call, uintptr(unsafe.Pointer(path)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
