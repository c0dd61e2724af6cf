package devices

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrBusy is returned by Open when somebody else uses the disk: it is mounted, part of
	// another device, or open in another process.
	ErrBusy = errors.New("in use")
	// ErrNotDisk is returned by Open for what is neither a block device nor a regular file.
	ErrNotDisk = errors.New("neither a block device nor a regular file")
)

// FileOptions say how a disk is opened. The zero value is for using it: for reading and
// writing, without the page cache, and alone.
type FileOptions struct {
	ReadOnly bool
	Buffered bool // go through the page cache even where O_DIRECT would do
}

// File is a block device, or a regular file standing in for one. It is safe for concurrent use.
type File struct {
	fd       int
	path     string // as resolved
	size     atomic.Int64
	block    bool // a block device
	buffered bool
	dev      uint64 // of the block device, or of what the file stands on
	// users counts the operations under way; closedBit is added by Close. Whoever takes it to
	// closedBit alone closes fd, so no operation ever meets an fd that was given out anew.
	users atomic.Int64
}

const (
	closedBit = 1 << 40
	goneBit   = 1 << 41
)

var (
	_ Disk      = (*File)(nil)
	_ Vectored  = (*File)(nil)
	_ Discarder = (*File)(nil)
)

// Open opens the block device or file at path, which may be a symbolic link (/dev/disk/by-id):
// it is resolved first, and the target opened only if it is then none. The disk is locked against
// other processes, a block device also against being mounted. O_DIRECT is used unless the file
// system refuses it; see Buffered.
func Open(path string, opts FileOptions) (*File, error) {
	f, err := open(path, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

func open(path string, opts FileOptions) (*File, error) {
	target, err := resolve(path)
	if err != nil {
		return nil, err
	}
	var before unix.Stat_t
	if err := retry(func() error { return unix.Lstat(target, &before) }); err != nil {
		return nil, err
	}
	if err := checkType(&before); err != nil {
		return nil, err
	}
	// Nothing but a disk is opened, as opening alone may block (FIFO) or act (tape).
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK
	if opts.ReadOnly {
		flags = flags&^unix.O_RDWR | unix.O_RDONLY
	}
	if isBlock(&before) {
		flags |= unix.O_EXCL
	}
	f := &File{path: target, block: isBlock(&before), buffered: opts.Buffered}
	if err := f.openDirect(flags); err != nil {
		return nil, err
	}
	if err := f.prepare(&before); err != nil {
		unix.Close(f.fd)
		return nil, err
	}
	return f, nil
}

// openDirect opens f.path with O_DIRECT if it may and can.
func (f *File) openDirect(flags int) error {
	try := func(flags int) (err error) {
		err = whileBusy(unix.EBUSY, func() (err error) {
			f.fd, err = retryInt(func() (int, error) { return unix.Open(f.path, flags, 0) })
			return err
		})
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w: it is mounted or part of another device", ErrBusy)
		}
		return err
	}
	if !f.buffered {
		err := try(flags | unix.O_DIRECT)
		if err == nil {
			if f.buffered = !directWorks(f.fd); !f.buffered {
				return nil
			}
			unix.Close(f.fd)
		} else if !errors.Is(err, unix.EINVAL) {
			return err
		}
		f.buffered = true
	}
	return try(flags)
}

// directWorks tells whether an fd that was opened with O_DIRECT transfers blocks without the
// page cache: some file systems let it be opened and refuse, or ignore, the rest.
func directWorks(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC) {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && !isBlock(&st) { // device nodes stand on tmpfs too
			return false
		}
	}
	var stx unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &stx)
	if err == nil && stx.Mask&unix.STATX_DIOALIGN != 0 {
		align := max(stx.Dio_mem_align, stx.Dio_offset_align)
		return align > 0 && align <= BlockSize
	}
	// Kernels before 6.1 do not say, nor does every file system.
	_, err = retryInt(func() (int, error) { return unix.Pread(fd, AlignedBytes(BlockSize), 0) })
	return !errors.Is(err, unix.EINVAL)
}

// prepare checks what has been opened, and locks it.
func (f *File) prepare(before *unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT || !sameDisk(&st, before) {
		return errors.New("it was replaced by something else while being opened")
	}
	if err := unix.SetNonblock(f.fd, false); err != nil {
		return err
	}
	err := whileBusy(unix.EWOULDBLOCK, func() error {
		return retry(func() error { return unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB) })
	})
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", ErrBusy, lockedBy(&st))
	}
	if err != nil {
		return err
	}
	f.dev = uint64(st.Dev)
	if f.block {
		f.dev = uint64(st.Rdev)
		sector, err := unix.IoctlGetInt(f.fd, unix.BLKSSZGET)
		if err != nil {
			return err
		}
		if sector > BlockSize {
			return fmt.Errorf("its sectors of %d bytes are larger than %d", sector, BlockSize)
		}
	}
	size, err := sizeOf(f.fd, &st)
	f.size.Store(size)
	return err
}

// resolve makes path absolute and free of symbolic links.
func resolve(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("empty path: %w", os.ErrNotExist)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(abs)
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return "", pe.Err // Open names the path
	}
	return target, err
}

func isBlock(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFBLK }

func checkType(st *unix.Stat_t) error {
	names := map[uint32]string{unix.S_IFDIR: "a directory", unix.S_IFIFO: "a FIFO",
		unix.S_IFCHR: "a character device", unix.S_IFSOCK: "a socket", unix.S_IFLNK: "a symbolic link"}
	switch t := st.Mode & unix.S_IFMT; t {
	case unix.S_IFBLK, unix.S_IFREG:
		return nil
	default:
		return fmt.Errorf("%w, but %s", ErrNotDisk, names[t])
	}
}

// sameDisk tells whether two stats are of one disk, whatever the names.
func sameDisk(a, b *unix.Stat_t) bool {
	if isBlock(a) != isBlock(b) {
		return false
	}
	if isBlock(a) {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// sizeOf is the size of the disk behind fd, cut to whole blocks.
func sizeOf(fd int, st *unix.Stat_t) (int64, error) {
	size := st.Size
	if isBlock(st) {
		var n uint64
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); errno != 0 {
			return 0, errno
		}
		size = int64(n)
	}
	return size / BlockSize * BlockSize, nil
}

// CreateFile makes a sparse file of size bytes at path, durably, that only its owner may use.
// It fails if something is there already.
func CreateFile(path string, size int64) (err error) {
	if size <= 0 || size%BlockSize != 0 {
		return fmt.Errorf("create %s: %d bytes: %w", path, size, ErrAlignment)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Path is where the disk was found, with symbolic links resolved.
func (f *File) Path() string { return f.path }

// Size implements Disk: the size when the disk was opened, or of the last LookAgain, in whole blocks.
func (f *File) Size() int64 { return f.size.Load() }

// LookAgain finds out whether the disk has grown since it was opened. One that has become smaller
// is left as it was, with ErrShrunk.
func (f *File) LookAgain() error {
	if !f.acquire() {
		return ErrClosed
	}
	defer f.release()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	size, err := sizeOf(f.fd, &st)
	if err != nil {
		return err
	}
	if before := f.size.Load(); size < before {
		return fmt.Errorf("%w: %d bytes, it had %d", ErrShrunk, size, before)
	}
	f.size.Store(size)
	return nil
}

// Block tells whether the disk is a block device.
func (f *File) Block() bool { return f.block }

// Buffered tells whether I/O goes through the page cache, by choice or because the file system
// knows no O_DIRECT.
func (f *File) Buffered() bool { return f.buffered }

// DiskName is the kernel's name of the whole disk that the I/O ends up on, as in /sys/block and
// /proc/diskstats: "sda" for /dev/sda1 and for a file on it. It is "" if there is none.
func (f *File) DiskName() string { return wholeDisk(f.dev) }

// Rotational tells whether that disk is known to spin.
func (f *File) Rotational() bool { return rotational(f.DiskName()) }

func (f *File) acquire() bool {
	if f.users.Add(1) >= closedBit {
		f.release()
		return false
	}
	return true
}

func (f *File) release() error {
	if f.users.Add(-1) == closedBit && f.users.CompareAndSwap(closedBit, closedBit|goneBit) {
		return unix.Close(f.fd)
	}
	return nil
}

// Close implements Disk. It waits for nothing: operations under way end as they would have, and
// with the last of them the disk and its lock are let go. Later ones get ErrClosed.
func (f *File) Close() error {
	for {
		n := f.users.Load()
		if n >= closedBit {
			return nil
		}
		if f.users.CompareAndSwap(n, n+closedBit+1) {
			return f.release()
		}
	}
}

// ReadAt implements Disk.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.ReadVec([][]byte{p}, off) }

// WriteAt implements Disk.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.WriteVec([][]byte{p}, off) }

// ReadVec implements Vectored.
func (f *File) ReadVec(bufs [][]byte, off int64) (int, error) {
	return f.transfer(bufs, off, io.ErrUnexpectedEOF, func(bufs [][]byte, off int64) (int, error) {
		return unix.Preadv2(f.fd, bufs, off, 0)
	})
}

// WriteVec implements Vectored.
func (f *File) WriteVec(bufs [][]byte, off int64) (int, error) {
	return f.transfer(bufs, off, io.ErrShortWrite, func(bufs [][]byte, off int64) (int, error) {
		return unix.Pwritev2(f.fd, bufs, off, 0)
	})
}

// transfer calls some, which may do less than asked, until everything is done. none is the error
// for a disk that does nothing and says nothing.
func (f *File) transfer(bufs [][]byte, off int64, none error, some func([][]byte, int64) (int, error)) (int, error) {
	if !f.acquire() {
		return 0, ErrClosed
	}
	defer f.release()
	total, err := CheckIO(bufs, off, f.Size())
	if err != nil {
		return 0, err
	}
	return transferAll(bufs, off, total, none, some)
}

// maxVec is how many buffers the kernel takes in one call (IOV_MAX).
const maxVec = 1024

func transferAll(bufs [][]byte, off, total int64, none error, some func([][]byte, int64) (int, error)) (int, error) {
	owned := false // bufs is ours to change
	stuck := 0
	var done int64
	for done < total {
		for len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
		n, err := some(bufs[:min(len(bufs), maxVec)], off+done)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return int(done), err
		}
		// With O_DIRECT only whole blocks can be gone on with. A part of one says that the rest
		// met an error, which trying again will tell.
		part := n % BlockSize
		n -= part
		if n <= 0 {
			if stuck++; part == 0 || stuck > 3 {
				return int(done), none
			}
			continue
		}
		stuck = 0
		done += int64(n)
		for n > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		if n > 0 {
			if !owned {
				bufs, owned = append([][]byte(nil), bufs...), true
			}
			bufs[0] = bufs[0][n:]
		}
	}
	return int(total), nil
}

// Sync implements Disk by fdatasync, which also flushes the cache of a block device.
func (f *File) Sync() error {
	if !f.acquire() {
		return ErrClosed
	}
	defer f.release()
	return retry(func() error { return unix.Fdatasync(f.fd) })
}

// Discard implements Discarder: it punches a hole into a file, and trims a block device. Where
// neither is known it does nothing.
func (f *File) Discard(off, size int64) error {
	if !f.acquire() {
		return ErrClosed
	}
	defer f.release()
	if err := CheckRange(off, size, f.Size()); err != nil || size == 0 {
		return err
	}
	err := retry(func() error {
		if !f.block {
			return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
		}
		span := [2]uint64{uint64(off), uint64(size)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return nil
	}
	return err
}

// whileBusy tries again for a short time while fn returns busy: udev locks a disk while it looks
// at it, and so does Inspect.
func whileBusy(busy error, fn func() error) error {
	const tries, pause = 30, 10 * time.Millisecond
	for i := 1; ; i++ {
		if err := fn(); i == tries || !errors.Is(err, busy) {
			return err
		}
		time.Sleep(pause)
	}
}

func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func retryInt(fn func() (int, error)) (int, error) {
	for {
		if n, err := fn(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
