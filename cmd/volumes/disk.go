package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ballast/cmd/control"

	"golang.org/x/sys/unix"
)

// identity is what two paths of one disk have in common.
type identity struct {
	block    bool
	dev, ino uint64 // of a block device, dev is its number and ino is 0
}

func (id identity) number() string {
	return fmt.Sprintf("%d:%d", unix.Major(id.dev), unix.Minor(id.dev))
}

// found is what stands at the path of a Spec.
type found struct {
	Spec
	id    identity
	block bool
}

// look finds out what a path leads to, opening nothing. It refuses what can be no device.
func look(s Spec) (*found, *control.Refusal) {
	var st unix.Stat_t
	if err := unix.Stat(s.Path, &st); err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, control.Refuse("E_DEVICE_NOT_FOUND", "%s: there is nothing at this path", s.Given).
				WithTry("%s:10GiB, to make a sparse file there", s.Given)
		case errors.Is(err, fs.ErrPermission):
			return nil, control.Refuse("E_NOT_PERMITTED", "%s: permission denied", s.Given).WithTry("the same as root")
		}
		return nil, control.Refuse("E_DEVICE_NOT_FOUND", "%s: %v", s.Given, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return &found{Spec: s, block: true, id: identity{block: true, dev: st.Rdev}}, nil
	case unix.S_IFREG:
		return &found{Spec: s, id: identity{dev: st.Dev, ino: st.Ino}}, nil
	}
	return nil, control.Refuse("E_DEVICE_KIND", "%s is %s; a device is a block device or a regular file", s.Given, kindName(st.Mode)).
		WithTry("%s", kindHint(s, st.Mode))
}

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFIFO:
		return "a named pipe"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "of an unknown kind"
}

func kindHint(s Spec, mode uint32) string {
	if mode&unix.S_IFMT == unix.S_IFDIR {
		return filepath.Join(s.Given, "ballast.img") + ":10GiB, to make a sparse file in it"
	}
	return "a path below /dev/disk/by-id, or FILE:10GiB to make a sparse file"
}

// twice refuses pairs that are one disk: the same device or file under two names, a partition and
// its disk, a loop device and the file it stands on.
func twice(disks []*found) control.Refusals {
	var faults control.Refusals
	for i, a := range disks {
		for _, b := range disks[:i] {
			if why := sameDisk(a, b); why != "" {
				faults = append(faults, control.Refuse("E_DEVICE_TWICE", "%s and %s are %s", b.Given, a.Given, why).
					WithTry("each disk once"))
			}
		}
	}
	return faults
}

func sameDisk(a, b *found) string {
	switch {
	case a.id == b.id:
		return "the same disk"
	case a.block && b.block && (wholeDisk(a.id) == b.id || wholeDisk(b.id) == a.id):
		return "a partition and the disk it is on"
	case a.block && backing(a.id) == b.id || b.block && backing(b.id) == a.id:
		return "a loop device and the file under it"
	}
	return ""
}

// wholeDisk is the disk a partition is on; of a disk, the zero identity.
func wholeDisk(id identity) identity {
	dir := "/sys/dev/block/" + id.number()
	if _, err := os.Stat(dir + "/partition"); err != nil {
		return identity{}
	}
	text, err := os.ReadFile(dir + "/../dev")
	if err != nil {
		return identity{}
	}
	dev, ok := parseNumber(strings.TrimSpace(string(text)))
	if !ok {
		return identity{}
	}
	return identity{block: true, dev: dev}
}

// backing is the file a loop device stands on; of other devices, the zero identity.
func backing(id identity) identity {
	text, err := os.ReadFile("/sys/dev/block/" + id.number() + "/loop/backing_file")
	if err != nil {
		return identity{}
	}
	var st unix.Stat_t
	if unix.Stat(strings.TrimSuffix(string(text), "\n"), &st) != nil {
		return identity{}
	}
	return identity{dev: st.Dev, ino: st.Ino}
}

func parseNumber(s string) (uint64, bool) {
	major, minor, ok := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), ok && err == nil && err2 == nil
}

// busy refuses a disk that the kernel or somebody else uses, and says who.
func busy(f *found) *control.Refusal {
	if f.block {
		return busyBlock(f)
	}
	if loop := loopOver(f.id); loop != "" {
		return control.Refuse("E_DEVICE_BUSY", "%s is the file under %s", f.Given, loop).WithTry("losetup -d %s", loop)
	}
	return nil
}

func busyBlock(f *found) *control.Refusal {
	if at := mountedAt(f.id); at != "" {
		return control.Refuse("E_DEVICE_BUSY", "%s is mounted at %s", f.Given, at).WithTry("umount %s", at)
	}
	if holders, err := os.ReadDir("/sys/dev/block/" + f.id.number() + "/holders"); err == nil && len(holders) > 0 {
		return control.Refuse("E_DEVICE_BUSY", "%s is part of %s", f.Given, holders[0].Name()).WithTry("another device, or stop %s first", holders[0].Name())
	}
	if swapsOn(f.id) {
		return control.Refuse("E_DEVICE_BUSY", "%s is used for swapping", f.Given).WithTry("swapoff %s", f.Given)
	}
	fd, err := unix.Open(f.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return control.Refuse("E_DEVICE_BUSY", "%s is in use by another process or by the kernel", f.Given).WithTry("lsblk %s", f.Given)
	case errors.Is(err, fs.ErrPermission):
		return control.Refuse("E_NOT_PERMITTED", "%s: permission denied", f.Given).WithTry("the same as root")
	case err != nil:
		return control.Refuse("E_DEVICE_BUSY", "%s: %v", f.Given, err)
	}
	unix.Close(fd)
	return nil
}

// mountedAt is where the device or one of its partitions is mounted.
func mountedAt(id identity) string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		ids := []identity{}
		if dev, ok := parseNumber(fields[2]); ok {
			ids = append(ids, identity{block: true, dev: dev})
		}
		// btrfs and others have device numbers of their own; their source says more.
		for i, f := range fields {
			if f == "-" && i+2 < len(fields) && strings.HasPrefix(fields[i+2], "/") {
				var st unix.Stat_t
				if unix.Stat(fields[i+2], &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
					ids = append(ids, identity{block: true, dev: st.Rdev})
				}
			}
		}
		for _, m := range ids {
			if m == id || wholeDisk(m) == id {
				return fields[4]
			}
		}
	}
	return ""
}

func swapsOn(id identity) bool {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var st unix.Stat_t
		if fields := strings.Fields(line); len(fields) > 0 && unix.Stat(fields[0], &st) == nil &&
			st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == id.dev {
			return true
		}
	}
	return false
}

// loopOver is the loop device that stands on the file.
func loopOver(file identity) string {
	names, _ := filepath.Glob("/sys/block/loop*/dev")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if dev, ok := parseNumber(strings.TrimSpace(string(text))); ok && backing(identity{block: true, dev: dev}) == file {
			return "/dev/" + filepath.Base(filepath.Dir(name))
		}
	}
	return ""
}

// makeable refuses a sparse file that cannot be made.
func makeable(s Spec) *control.Refusal {
	if _, err := os.Lstat(s.Path); err == nil {
		return control.Refuse("E_DEVICE_FILE", "%s is there already", s.Path).
			WithTry("%s without a size, to use it as it is", s.Path).WithTry("another name")
	}
	dir := filepath.Dir(s.Path)
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = unix.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK)
	}
	if err != nil {
		return control.Refuse("E_DEVICE_FILE", "%s cannot be made: %s: %v", s.Path, dir, err).WithTry("mkdir -p %s", dir)
	}
	return nil
}

// twicePaths refuses one file to be made two times.
func twicePaths(specs []Spec) control.Refusals {
	var faults control.Refusals
	seen := map[string]string{}
	for _, s := range specs {
		if s.Size == 0 {
			continue
		}
		path := s.Path
		if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			path = filepath.Join(dir, filepath.Base(path))
		}
		if other, ok := seen[path]; ok {
			faults = append(faults, control.Refuse("E_DEVICE_TWICE", "%s and %s are the same file", other, s.Given).WithTry("each disk once"))
		}
		seen[path] = s.Given
	}
	return faults
}
