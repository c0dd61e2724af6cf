package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fsType is the type of our mounts, as mount(8) and df show it.
const fsType = "fuse.ballast"

// MountInfo is one line of /proc/self/mountinfo.
type MountInfo struct {
	Dir    string
	Type   string
	Source string
	Device string // MAJOR:MINOR
	ID     int
}

// Mounts reads what is mounted where this process looks.
func Mounts() ([]MountInfo, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []MountInfo
	for in := bufio.NewScanner(f); in.Scan(); {
		if m, ok := parseMountInfo(in.Text()); ok {
			list = append(list, m)
		}
	}
	return list, nil
}

// MountedVolume tells of which volume the mount with that device number is; ok is false if it is none
// of ours.
func MountedVolume(dev uint64) (volume string, ok bool, err error) {
	list, err := Mounts()
	for _, m := range list {
		if m.Type == fsType && m.Device == fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) {
			return m.Source, true, nil
		}
	}
	return "", false, err
}

// parseMountInfo reads a line: ID PARENT MAJ:MIN ROOT DIR OPTIONS [TAG...] - TYPE SOURCE OPTIONS.
func parseMountInfo(line string) (m MountInfo, ok bool) {
	front, back, ok := strings.Cut(line, " - ")
	f, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(f) < 6 || len(b) < 2 {
		return m, false
	}
	id, err := strconv.Atoi(f[0])
	return MountInfo{Dir: unescape(f[4]), Type: b[0], Source: unescape(b[1]), Device: f[2], ID: id}, err == nil
}

// unescape undoes \040 and its like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountedAt returns what is mounted on top of dir, an absolute path without links.
func mountedAt(dir string) (found MountInfo, ok bool, err error) {
	list, err := Mounts()
	for _, m := range list {
		if m.Dir == dir { // later lines lie over earlier ones
			found, ok = m, true
		}
	}
	return found, ok, err
}

// Errors of Prepare.
var (
	// ErrBusy is returned when something that is alive is mounted there.
	ErrBusy = errors.New("fusefs: something is mounted there")
	// ErrNotDirectory is returned when there is no directory to mount on.
	ErrNotDirectory = errors.New("fusefs: not a directory")
)

// answerTimeout is how long a mounted file system may take to show that it is alive.
const answerTimeout = 5 * time.Second

// Prepare makes ready to mount the volume on dir and returns its path without links. What a daemon of the
// same volume left behind there when it died is taken away; anything else that is mounted there
// is ErrBusy. The caller is the only one who serves the volume.
func Prepare(dir, volume string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// The parent is resolved, not the directory: to look at a dead mount fails.
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotDirectory, err)
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	for {
		m, ok, err := mountedAt(abs)
		if err != nil {
			return "", err
		}
		if !ok || m.Type != fsType {
			break // other file systems may be mounted over, as always
		}
		if alive(abs) || m.Source != volume {
			return "", fmt.Errorf("%w: %s of %s", ErrBusy, m.Type, m.Source)
		}
		if err := detach(abs); err != nil {
			return "", fmt.Errorf("taking away what a daemon left at %s: %w", abs, err)
		}
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil && resolved != abs {
		return Prepare(resolved, volume)
	}
	st, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotDirectory, err)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("%w: %s", ErrNotDirectory, abs)
	}
	return abs, nil
}

// alive tells whether somebody answers for the file system at dir, or may do so later.
func alive(dir string) bool {
	dead := make(chan bool, 1)
	go func() {
		var st unix.Statfs_t
		dead <- errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
	}()
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case d := <-dead:
		return !d
	case <-timer.C:
		return true
	}
}
