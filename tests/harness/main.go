package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// made is what tests of this process made and must be gone at its end.
var made struct {
	mu    sync.Mutex
	loops map[string]string // device path -> backing file
	dirs  []string          // below which nothing of ours may be mounted
}

// Main runs the tests and reports what they left behind. The result is the exit code.
func Main(m *testing.M) int {
	if dir, store, ok := strings.Cut(os.Getenv(sickVariable), ":"); ok {
		if err := serveSick(dir, store); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	code := m.Run()
	removeBinaries()
	if left := leftBehind(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests:\n  %s\n", strings.Join(left, "\n  "))
		return 1
	}
	return code
}

func leftBehind() []string {
	var left []string
	left = append(left, children()...)
	left = append(left, mounts()...)
	made.mu.Lock()
	defer made.mu.Unlock()
	for dev, file := range made.loops {
		backing, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file")
		if err == nil && strings.HasPrefix(string(backing), file) {
			left = append(left, "loop device "+dev+" over "+file)
		}
	}
	left = append(left, throttlesLeft()...)
	return left
}

// children returns the processes whose parent we are, dead ones nobody waited for included.
func children() []string {
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// pid (name) state ppid: the name may hold spaces and parentheses.
		end := strings.LastIndexByte(string(stat), ')')
		var state string
		var parent int
		if end < 0 {
			continue
		}
		if _, err := fmt.Sscanf(string(stat[end+1:]), " %s %d", &state, &parent); err != nil || parent != os.Getpid() {
			continue
		}
		found = append(found, "process "+string(stat[:end+1])+" in state "+state)
	}
	return found
}

func mounts() []string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	made.mu.Lock()
	defer made.mu.Unlock()
	var found []string
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		for _, dir := range made.dirs {
			if strings.HasPrefix(fields[4], dir) {
				found = append(found, "mount "+fields[4])
			}
		}
	}
	return found
}

// tempDir is t.TempDir with a short path, so that sockets below it have names that fit.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bt")
	if err != nil {
		t.Fatal(err)
	}
	made.mu.Lock()
	made.dirs = append(made.dirs, dir)
	made.mu.Unlock()
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing %s: %v", dir, err)
		}
	})
	return dir
}
