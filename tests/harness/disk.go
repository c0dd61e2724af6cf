package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Sparse makes a file of that size, all of it a hole, and returns its path.
func Sparse(t testing.TB, size int64) string {
	t.Helper()
	return sparseIn(t, tempDir(t), size)
}

// SparseRAM is Sparse on a file system in memory, or a plain one where there is none.
func SparseRAM(t testing.TB, size int64) string {
	t.Helper()
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Bavail)*fs.Bsize < size {
		return Sparse(t, size)
	}
	dir, err := os.MkdirTemp("/dev/shm", "bt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return sparseIn(t, dir, size)
}

// FilledRAM is SparseRAM whose memory is taken beforehand: on a virtual machine a page that is used
// for the first time may take longer than what is then done with it.
func FilledRAM(t testing.TB, size int64) string {
	t.Helper()
	path := SparseRAM(t, size)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		zeros := make([]byte, 1<<20)
		for off := int64(0); off < size && err == nil; off += int64(len(zeros)) {
			_, err = f.WriteAt(zeros[:min(size-off, int64(len(zeros)))], off)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func sparseIn(t testing.TB, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "disk")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Loop is a block device over a file. It is detached when the test ends, and by the kernel when
// the test process does.
type Loop struct {
	Path         string // /dev/loop12
	File         string // what it stands on
	Major, Minor uint32

	dev *os.File
}

// NewLoop makes a loop device over file, or skips the test where that is not possible.
func NewLoop(t testing.TB, file string) *Loop {
	t.Helper()
	NeedRoot(t)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop devices: %v", err)
	}
	defer control.Close()
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatalf("finding a free loop device: %v", err)
		}
		l, err := attach(n, backing)
		if errors.Is(err, unix.EBUSY) {
			continue // somebody else took it
		}
		if err != nil {
			t.Fatalf("loop device %d: %v", n, err)
		}
		made.mu.Lock()
		if made.loops == nil {
			made.loops = map[string]string{}
		}
		made.loops[l.Path] = file
		made.mu.Unlock()
		t.Cleanup(l.detach)
		return l
	}
	t.Fatal("every free loop device was taken by others")
	return nil
}

func attach(n int, backing *os.File) (*Loop, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
	}
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		dev.Close()
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		dev.Close()
		return nil, err
	}
	return &Loop{Path: path, File: backing.Name(), Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), dev: dev}, nil
}

// detach gives the device up; whoever still has it open keeps it until they close it.
func (l *Loop) detach() {
	unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_CLR_FD, 0)
	l.dev.Close()
}

// Resize has the block device be as large as its file is now.
func (l *Loop) Resize(t testing.TB) {
	t.Helper()
	if err := unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatalf("%s: %v", l.Path, err)
	}
}

// NewZram makes a block device of that size in compressed memory. A block of zeros, or of any other
// word over and over, takes none; the device itself takes 16 bytes for each block it may have.
func NewZram(t testing.TB, size int64) string {
	t.Helper()
	NeedRoot(t)
	b, err := os.ReadFile("/sys/class/zram-control/hot_add")
	if err != nil {
		Missing(t, "the kernel's zram")
	}
	number := strings.TrimSpace(string(b))
	dir := "/sys/block/zram" + number
	t.Cleanup(func() {
		err := errors.Join(os.WriteFile(dir+"/reset", []byte("1"), 0), os.WriteFile("/sys/class/zram-control/hot_remove", []byte(number), 0))
		if err != nil {
			t.Errorf("zram%s: %v", number, err)
		}
	})
	if err := os.WriteFile(dir+"/disksize", []byte(fmt.Sprint(size)), 0); err != nil {
		t.Fatal(err)
	}
	path := "/dev/zram" + number
	if _, err := os.Stat(path); err != nil { // no udev here
		var major, minor uint32
		b, err := os.ReadFile(dir + "/dev")
		if err == nil {
			_, err = fmt.Sscanf(string(b), "%d:%d", &major, &minor)
		}
		if err == nil {
			err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor)))
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	return path
}

// TakeAll takes all the space of a file system, with one file.
func TakeAll(t testing.TB, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := int64(0); ; size += 64 << 10 {
		if err := unix.Fallocate(int(f.Fd()), 0, size, 64<<10); err != nil {
			if err != unix.ENOSPC {
				t.Fatalf("filling %s: %v", file, err)
			}
			return
		}
	}
}
