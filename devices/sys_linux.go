package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/procfs/blockdevice"
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

func rotational(disk string) bool {
	if disk == "" {
		return false
	}
	fs, err := blockdevice.NewDefaultFS()
	if err != nil {
		return false
	}
	n, err := fs.SysBlockDeviceRotational(disk)
	return err == nil && n == 1
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
