package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// wholeDisk is the name in /sys/block of the disk that dev is, or is a partition of, or "". For
// a file system without a block device of its own (btrfs) it is that of its source.
func wholeDisk(dev uint64) string {
	if name := blockName(dev); name != "" {
		return name
	}
	for _, m := range mounts() {
		if m.dev != dev || !strings.HasPrefix(m.source, "/dev/") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(m.source, &st) == nil && isBlock(&st) {
			return blockName(uint64(st.Rdev))
		}
	}
	return ""
}

func blockName(dev uint64) string {
	dir, err := filepath.EvalSymlinks(sysBlockDir(dev))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	return filepath.Base(dir)
}

func sysBlockDir(dev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
}

// rotational tells whether a whole disk is known to spin.
func rotational(disk string) bool {
	return spins(sysBlock, disk, func(file string) string {
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil {
			return ""
		}
		if isBlock(&st) {
			return wholeDisk(uint64(st.Rdev))
		}
		return wholeDisk(uint64(st.Dev))
	})
}

const (
	sysBlock  = "/sys/block"
	mostBelow = 8 // devices that stand on each other; more is a loop
)

// spins reads what the kernel says of a disk in sys. It says "rotational" of everything that has
// not declared otherwise, so disks whose real nature it cannot see (virtio, Xen, network block
// devices, QEMU's SCSI disks) are not known to spin; and what stands on others (loop, dm, md) is
// what those are. diskOf names the disk that a file or device node is on.
func spins(sys, disk string, diskOf func(file string) string) bool {
	for range mostBelow {
		if disk == "" {
			return false
		}
		dir := filepath.Join(sys, disk)
		if file, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil {
			disk = diskOf(strings.TrimSuffix(string(file), "\n"))
			continue
		}
		if below, err := os.ReadDir(filepath.Join(dir, "slaves")); err == nil && len(below) > 0 {
			// The slowest decides. A partition is a directory of its disk's.
			for _, s := range below {
				name := s.Name()
				if parts, _ := filepath.Glob(filepath.Join(sys, "*", name, "partition")); len(parts) > 0 {
					name = filepath.Base(filepath.Dir(filepath.Dir(parts[0])))
				}
				if name != disk && spins(sys, name, diskOf) {
					return true
				}
			}
			return false
		}
		for _, kind := range []string{"vd", "xvd", "nbd", "rbd", "loop", "zram", "ram"} {
			if strings.HasPrefix(disk, kind) {
				return false
			}
		}
		vendor, _ := os.ReadFile(filepath.Join(dir, "device/vendor"))
		flag, _ := os.ReadFile(filepath.Join(dir, "queue/rotational"))
		return strings.TrimSpace(string(flag)) == "1" && strings.TrimSpace(string(vendor)) != "QEMU"
	}
	return false
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	dev    uint64
	dir    string
	fstype string
	source string
}

func mounts() []mount {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return parseMounts(string(text))
}

// parseMounts parses /proc/self/mountinfo: "36 35 98:0 /root /dir opts tags - type source opts".
func parseMounts(text string) []mount {
	var all []mount
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 2 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(h[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		all = append(all, mount{dev: unix.Mkdev(major, minor), dir: unescape(h[4]), fstype: t[0], source: unescape(t[1])})
	}
	return all
}

// unescape undoes the octal escapes by which the kernel hides blanks in its tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// lockedBy says who has locked the file or device node with flock, as far as can be seen.
func lockedBy(st *unix.Stat_t) string {
	text, _ := os.ReadFile("/proc/locks")
	pid := lockHolder(string(text), st)
	if pid <= 0 {
		return "locked by another process"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("locked by process %d", pid)
	}
	return fmt.Sprintf("locked by process %d (%s)", pid, strings.TrimSpace(string(name)))
}

// lockHolder finds the process in the text of /proc/locks, whose lines are
// "1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF", the device in hexadecimal; or 0.
func lockHolder(text string, st *unix.Stat_t) int {
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 5 && f[1] == "FLOCK" && f[5] == want {
			if pid, err := strconv.Atoi(f[4]); err == nil {
				return pid
			}
		}
	}
	return 0
}
