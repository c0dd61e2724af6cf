package devices

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inspection is what is known about a disk before it is taken.
type Inspection struct {
	Path       string // with symbolic links resolved
	Block      bool   // a block device
	Size       int64  // bytes, in whole blocks
	SectorSize int    // bytes; 0 for files
	ReadOnly   bool
	Uses       []string    // who uses it now: "mounted at /srv"
	Signatures []Signature // what others have left on it
	Blank      bool        // nothing but zeros where formats have their headers: the first MiB and the last 64 KiB
	Label      *Label      // of a Ballast volume, sound, or with LabelErr ErrShrunk
	LabelErr   error       // ErrNoLabel for most disks
}

// Problem is a reason not to make a disk part of a new volume.
type Problem struct {
	Text   string // "is mounted at /srv"
	Forced bool   // taking it all the same destroys data, but is possible
}

// Inspect looks at the disk at path and changes nothing. It fails for what is no disk.
func Inspect(path string) (*Inspection, error) {
	in, err := inspect(path)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	return in, nil
}

func inspect(path string) (*Inspection, error) {
	target, err := resolve(path)
	if err != nil {
		return nil, err
	}
	var st, now unix.Stat_t
	if err := unix.Lstat(target, &st); err != nil {
		return nil, err
	}
	if err := checkType(&st); err != nil {
		return nil, err
	}
	fd, err := retryInt(func() (int, error) {
		return unix.Open(target, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), target)
	defer f.Close()
	if err := unix.Fstat(fd, &now); err != nil {
		return nil, err
	}
	if now.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT || !sameDisk(&st, &now) {
		return nil, errors.New("it was replaced by something else while being opened")
	}
	in := &Inspection{Path: target, Block: isBlock(&st)}
	if in.Size, err = sizeOf(fd, &st); err != nil {
		return nil, err
	}
	in.ReadOnly = unix.Faccessat(unix.AT_FDCWD, target, unix.W_OK, unix.AT_EACCESS) != nil
	if in.Block {
		if in.SectorSize, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil {
			return nil, err
		}
		if ro, err := unix.IoctlGetInt(fd, unix.BLKROGET); err == nil && ro != 0 {
			in.ReadOnly = true
		}
	}
	in.Uses = uses(target, fd, &st)
	disk := &inspected{f: f, size: in.Size}
	if in.Signatures, err = findSignatures(f, in.Size); err != nil {
		return nil, err
	}
	in.Blank = blank(f, in.Size)
	label, err := ReadLabel(disk)
	if in.LabelErr = err; err == nil || errors.Is(err, ErrShrunk) {
		in.Label = &label
	}
	return in, nil
}

// Problems lists all reasons not to take the disk into a new volume with chunks of the given
// size; without any it may be formatted.
func (in *Inspection) Problems(chunk int64) []Problem {
	var all []Problem
	add := func(forced bool, format string, args ...any) {
		all = append(all, Problem{Text: fmt.Sprintf(format, args...), Forced: forced})
	}
	for _, u := range in.Uses {
		add(false, "is %s", u)
	}
	if in.ReadOnly {
		add(false, "is read-only")
	}
	if least := MinDeviceSize(chunk); in.Size < least {
		add(false, "is too small: %d bytes, at least %d are needed", in.Size, least)
	}
	if in.SectorSize > BlockSize {
		add(false, "has sectors of %d bytes, more than %d", in.SectorSize, BlockSize)
	}
	switch {
	case in.Label != nil:
		add(true, "is device %s of the Ballast volume %q (%s)", in.Label.ID, in.Label.Name, in.Label.Volume)
	case in.LabelErr != nil && !errors.Is(in.LabelErr, ErrNoLabel):
		add(true, "has a Ballast label that cannot be used: %v", in.LabelErr)
	}
	var names []string
	for _, s := range in.Signatures {
		if !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
			add(true, "holds %s", s)
		}
	}
	return all
}

// SameDisk tells whether two paths lead to the same storage: to one block device or file by
// different names, to a loop device and the file behind it, or to a disk and a partition of it.
func SameDisk(a, b string) (bool, error) {
	ia, err := identities(a)
	if err != nil {
		return false, err
	}
	ib, err := identities(b)
	if err != nil {
		return false, err
	}
	return ia[0] == ib[0] || slices.Contains(ia, ib[0]) || slices.Contains(ib, ia[0]), nil
}

// identities names the storage at path, and then what that is a part of or stands on.
func identities(path string) ([]string, error) {
	target, err := resolve(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !isBlock(&st) {
		return []string{fmt.Sprintf("file %d:%d", st.Dev, st.Ino)}, nil
	}
	ids := []string{"block " + devName(uint64(st.Rdev))}
	if disk := blockName(uint64(st.Rdev)); disk != "" {
		if number, err := os.ReadFile(filepath.Join("/sys/block", disk, "dev")); err == nil {
			ids = append(ids, "block "+strings.TrimSpace(string(number)))
		}
		var back unix.Stat_t
		if file := backingFile(disk); file != "" && unix.Stat(file, &back) == nil && !isBlock(&back) {
			ids = append(ids, fmt.Sprintf("file %d:%d", back.Dev, back.Ino))
		}
	}
	return ids, nil
}

func devName(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// backingFile is the file behind a loop device, or "".
func backingFile(disk string) string {
	b, err := os.ReadFile(filepath.Join("/sys/block", disk, "loop/backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// uses lists who uses the disk now.
func uses(path string, fd int, st *unix.Stat_t) []string {
	all := swapUses(st)
	if isBlock(st) {
		all = append(all, blockUses(st)...)
		if len(all) == 0 {
			// Whoever else has claimed it, the kernel knows.
			excl, err := retryInt(func() (int, error) {
				return unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			})
			if err == nil {
				unix.Close(excl)
			} else if errors.Is(err, unix.EBUSY) {
				all = append(all, "claimed by the kernel or by another process")
			}
		}
	} else {
		all = append(all, loopUses(st)...)
	}
	if len(all) == 0 {
		err := retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			unix.Flock(fd, unix.LOCK_UN)
		} else if errors.Is(err, unix.EWOULDBLOCK) {
			all = append(all, lockedBy(st))
		}
	}
	return all
}

func swapUses(st *unix.Stat_t) []string {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		var swap unix.Stat_t
		if len(fields) > 0 && strings.HasPrefix(fields[0], "/") && unix.Stat(unescape(fields[0]), &swap) == nil && sameDisk(&swap, st) {
			return []string{"used as swap"}
		}
	}
	return nil
}

// blockUses finds mounts and holders of a block device and of its partitions.
func blockUses(st *unix.Stat_t) []string {
	var all []string
	table := mounts()
	check := func(dev uint64, dir, prefix string) {
		for _, m := range table {
			if m.on(dev) {
				all = append(all, prefix+"mounted at "+m.dir)
			}
		}
		holders, _ := os.ReadDir(filepath.Join(dir, "holders"))
		for _, h := range holders {
			name := h.Name()
			if mapped, err := os.ReadFile(filepath.Join("/sys/block", name, "dm/name")); err == nil {
				name += " (" + strings.TrimSpace(string(mapped)) + ")"
			}
			all = append(all, prefix+"part of "+name)
		}
	}
	dir := sysBlockDir(uint64(st.Rdev))
	check(uint64(st.Rdev), dir, "")
	entries, _ := os.ReadDir(dir + "/")
	for _, e := range entries {
		part := filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(part, "partition")); err != nil {
			continue
		}
		if dev, ok := readDev(filepath.Join(part, "dev")); ok {
			check(dev, part, "partitioned, with "+e.Name()+" ")
		}
	}
	return all
}

// on tells whether a mount stands on the block device dev.
func (m *mount) on(dev uint64) bool {
	if m.dev == dev {
		return true
	}
	var st unix.Stat_t // btrfs has device numbers of its own
	return strings.HasPrefix(m.source, "/dev/") && unix.Stat(m.source, &st) == nil && isBlock(&st) && uint64(st.Rdev) == dev
}

func readDev(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	major, minor, ok := strings.Cut(strings.TrimSpace(string(b)), ":")
	x, err1 := strconv.ParseUint(major, 10, 32)
	y, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(x), uint32(y)), ok && errors.Join(err, err1, err2) == nil
}

func loopUses(st *unix.Stat_t) []string {
	var all []string
	loops, _ := filepath.Glob("/sys/block/loop*/loop")
	for _, dir := range loops {
		name := filepath.Base(filepath.Dir(dir))
		var back unix.Stat_t
		if file := backingFile(name); file != "" && unix.Stat(file, &back) == nil && sameDisk(&back, st) {
			all = append(all, "attached as /dev/"+name)
		}
	}
	return all
}

// blank tells whether there are only zeros where formats have their headers.
func blank(f *os.File, size int64) bool {
	zeros := make([]byte, 64<<10)
	b := make([]byte, len(zeros))
	check := func(from, to int64) bool {
		for off := max(from, 0); off < to; off += int64(len(b)) {
			p := b[:min(int64(len(b)), to-off)]
			if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, zeros[:len(p)]) {
				return false
			}
		}
		return true
	}
	return check(0, min(size, 1<<20)) && check(size-int64(len(b)), size)
}

// inspected is a disk to read labels from.
type inspected struct {
	f    *os.File
	size int64
}

func (d *inspected) Size() int64                              { return d.size }
func (d *inspected) Close() error                             { return nil }
func (d *inspected) Sync() error                              { return nil }
func (d *inspected) ReadAt(p []byte, off int64) (int, error)  { return d.f.ReadAt(p, off) }
func (d *inspected) WriteAt(p []byte, off int64) (int, error) { return 0, unix.EROFS }
