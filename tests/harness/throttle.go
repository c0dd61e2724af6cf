package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The limits of the blkio controller. Version 1 has them in the root group, where they bind
// everybody; version 2 knows them only for a child group, which daemons are started in.
const (
	blkioV1 = "/sys/fs/cgroup/blkio"
	unified = "/sys/fs/cgroup"
)

var throttled struct {
	mu      sync.Mutex
	devices map[string]bool // by MAJ:MIN, all that ever were; true: a test will lift the limits
	group   string          // of version 2
}

// Throttle limits the device to so many bytes per second (0: no limit) until the test ends, or
// skips the test where the kernel cannot. It may be called again to change the limits.
func (l *Loop) Throttle(t testing.TB, read, write int64) {
	t.Helper()
	id := fmt.Sprintf("%d:%d", l.Major, l.Minor)
	if err := setLimits(id, read, write); err != nil {
		t.Skipf("cannot limit the speed of a disk here: %v", err)
	}
	throttled.mu.Lock()
	first := !throttled.devices[id]
	if throttled.devices == nil {
		throttled.devices = map[string]bool{}
	}
	throttled.devices[id] = true
	throttled.mu.Unlock()
	if first {
		t.Cleanup(func() {
			throttled.mu.Lock()
			throttled.devices[id] = false
			throttled.mu.Unlock()
			if err := setLimits(id, 0, 0); err != nil {
				t.Errorf("lifting the limits of %s: %v", l.Path, err)
			}
		})
	}
}

func setLimits(id string, read, write int64) error {
	if _, err := os.Stat(blkioV1 + "/blkio.throttle.read_bps_device"); err == nil {
		if err := writeControl(blkioV1+"/blkio.throttle.read_bps_device", fmt.Sprintf("%s %d", id, read)); err != nil {
			return err
		}
		return writeControl(blkioV1+"/blkio.throttle.write_bps_device", fmt.Sprintf("%s %d", id, write))
	}
	group, err := throttleGroup()
	if err != nil {
		return err
	}
	return writeControl(group+"/io.max", fmt.Sprintf("%s rbps=%s wbps=%s", id, orMax(read), orMax(write)))
}

func orMax(n int64) string {
	if n == 0 {
		return "max"
	}
	return fmt.Sprint(n)
}

// throttleGroup is the version 2 group for daemons, made when first asked for.
func throttleGroup() (string, error) {
	throttled.mu.Lock()
	defer throttled.mu.Unlock()
	if throttled.group != "" {
		return throttled.group, nil
	}
	if err := writeControl(unified+"/cgroup.subtree_control", "+io"); err != nil {
		return "", err
	}
	group := filepath.Join(unified, fmt.Sprintf("ballast-tests-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		return "", err
	}
	throttled.group = group
	return group, nil
}

func writeControl(path, text string) error { return os.WriteFile(path, []byte(text), 0) }

// throttlesLeft names limits of ours that are still set, and removes the group of version 2.
func throttlesLeft() []string {
	throttled.mu.Lock()
	defer throttled.mu.Unlock()
	var left []string
	for _, name := range []string{"read_bps_device", "write_bps_device"} {
		text, err := os.ReadFile(blkioV1 + "/blkio.throttle." + name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			id, _, _ := strings.Cut(line, " ")
			if _, ours := throttled.devices[id]; ours {
				left = append(left, "throttle "+name+" "+strings.TrimSpace(line))
			}
		}
	}
	if throttled.group != "" {
		if err := os.Remove(throttled.group); err != nil {
			left = append(left, err.Error())
		} else {
			throttled.group = ""
		}
	}
	return left
}
