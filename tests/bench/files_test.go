//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// diskSize is that of the disks in memory.
const diskSize = 4 << 30

// system is a file system under measurement.
type system struct {
	name string
	dir  string
	pid  int // of its server; 0: the kernel
}

// TestBenchFiles measures a mounted volume on one disk in memory beside ext4 on such a disk,
// mergerfs over a directory in memory, and the ceiling: a file system that answers from RAM. That is there twice, as
// the kernel asks more of one with permissions. All their
// memory, the journal's too, was used before the first line. Each has its
// turn in each round ($BALLAST_BENCH_ROUNDS, 3 unless set).
func TestBenchFiles(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "fio", "mkfs.ext4", "tar", "find")
	ballast, store := ballastFiles(t)
	systems := []system{ballast, ramFiles(t, "ceiling", false), ramFiles(t, "ceiling with permissions", true), mergerfsFiles(t), ext4Files(t)}
	archive := goSources(t)
	for _, s := range systems {
		fileJob(t, s, "write", "1M", 512, "--end_fsync=1")
	}
	for _, line := range []struct {
		name string
		run  func(t *testing.T, s system) (rate float64)
		work float64 // of a run
		unit string
	}{
		{"write 1M buffered", func(t *testing.T, s system) float64 { return fileJob(t, s, "write", "1M", 512, "--end_fsync=1") }, 512, "MiB/s"},
		{"read 1M buffered", func(t *testing.T, s system) float64 { return fileJob(t, s, "read", "1M", 512, "--invalidate=1") }, 512, "MiB/s"},
		{"write 1M direct", func(t *testing.T, s system) float64 {
			return fileJob(t, s, "write", "1M", 512, "--direct=1", "--end_fsync=1")
		}, 512, "MiB/s"},
		{"read 1M direct", func(t *testing.T, s system) float64 { return fileJob(t, s, "read", "1M", 512, "--direct=1") }, 512, "MiB/s"},
		{"write 4K buffered", func(t *testing.T, s system) float64 { return fileJob(t, s, "write", "4k", 256, "--end_fsync=1") }, 256, "MiB/s"},
		{"randread 4K QD32", func(t *testing.T, s system) float64 {
			return fileJob(t, s, "randread", "4k", 512, "--direct=1", "--ioengine=libaio", "--iodepth=32", "--io_size=64M")
		}, 64, "MiB/s"},
		{"create 20000 x 8K", createFiles, smallFiles, "files/s"},
		{"read 20000 x 8K", readFiles, smallFiles, "files/s"}, // of those before
		{"unpack Go", func(t *testing.T, s system) float64 {
			require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "src")))
			return perSecond(1, func() { harness.Tool(t, "tar", "-C", s.dir, "-xf", archive) })
		}, 1, "1/s"},
		{"delete Go", func(t *testing.T, s system) float64 {
			harness.Tool(t, "tar", "-C", s.dir, "-xf", archive)
			return perSecond(1, func() { require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "src"))) })
		}, 1, "1/s"},
		{"find 100000", findFiles, 100000, "files/s"},
	} {
		t.Run(line.name, func(t *testing.T) { measureLine(t, systems, line.name, line.work, line.unit, line.run) })
	}
	t.Run("fsync 4K", func(t *testing.T) { // beside a file on what has Ballast's disk and journal: that costs one at least
		measureLine(t, append(systems, system{name: "the disk", dir: store}), "fsync 4K", syncs, "1/s", fsyncRate)
	})
}

// goals are the least ratios to the other systems; the others are only shown: ext4, which is in the kernel, and the
// ceiling with permissions, which tells what of the distance to the other one is not up to the server.
var goals = map[string]float64{"ceiling": 0.8, "mergerfs": 1}

func measureLine(t *testing.T, systems []system, name string, work float64, unit string, run func(*testing.T, system) float64) {
	rates, cpu := make([][]float64, len(systems)), make([][]float64, len(systems))
	for range rounds(3) {
		for i, s := range systems {
			before := cpuOf(s.pid)
			rates[i] = append(rates[i], run(t, s))
			cpu[i] = append(cpu[i], (cpuOf(s.pid)-before)/work)
		}
	}
	ours := median(rates[0])
	more := map[string]float64{}
	for i, s := range systems {
		more[s.name] = median(rates[i])
		if s.pid != 0 {
			more[s.name+" ms of CPU"] = 1000 * median(cpu[i])
		}
		if i == 0 {
			continue
		}
		f := figure{Bench: "files", What: name, Value: ours, Unit: unit, Ratio: ours / median(rates[i]), Against: s.name, Goal: goals[s.name]}
		if i == len(systems)-1 {
			f.More = more
		}
		report(f)
	}
}

// cpuOf is how many seconds of CPU a process has used.
func cpuOf(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	kernel, _ := strconv.ParseFloat(f[12], 64)
	return (user + kernel) / 100
}

func perSecond(n int, f func()) float64 {
	began := time.Now()
	f()
	return float64(n) / time.Since(began).Seconds()
}

// ballastFiles also returns the directory of its disk and state.
func ballastFiles(t *testing.T) (s system, store string) {
	e, disk := harness.New(t), harness.FilledRAM(t, diskSize)
	store = filepath.Dir(disk)
	e.State = filepath.Join(store, "state")
	e.Must("create", "v", "--force", disk)
	dir := harness.MountPoint(t)
	d := e.Serve("v", "--mount", dir)
	t.Cleanup(func() { require.Zero(t, d.Stop()) })
	return system{"ballast", dir, d.Pid}, store
}

func ramFiles(t *testing.T, name string, checked bool) system {
	dir := harness.MountPoint(t)
	return system{name, dir, mountRAM(t, dir, checked)}
}

func mergerfsFiles(t *testing.T) system {
	harness.Need(t, "mergerfs")
	dir := harness.MountPoint(t)
	branch, err := os.MkdirTemp("/dev/shm", "bt")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(branch) })
	cmd := exec.Command("mergerfs", "-f", "-o", "allow_other,cache.files=auto-full,cache.writeback=true,cache.entry=3600,cache.attr=3600,async_read=true,dropcacheonclose=false", branch, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		unix.Unmount(dir, 0)
		cmd.Process.Kill()
		cmd.Wait()
	})
	require.Eventually(t, func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	}, harness.Patience, 10*time.Millisecond)
	return system{"mergerfs", dir, cmd.Process.Pid}
}

func ext4Files(t *testing.T) system {
	loop := harness.NewLoop(t, harness.FilledRAM(t, diskSize))
	harness.Tool(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", loop.Path)
	dir := harness.MountPoint(t)
	harness.Tool(t, "mount", "-t", "ext4", loop.Path, dir)
	return system{"ext4", dir, 0}
}

// goSources packs the sources of the Go distribution, without links, and returns the archive.
func goSources(t *testing.T) string {
	archive := filepath.Join(t.TempDir(), "go.tar")
	harness.Tool(t, "tar", "-C", runtime.GOROOT(), "-cf", archive, "src")
	return archive
}

// fileJob runs fio on one file and returns MiB/s; a file that is to be read is the last one written.
func fileJob(t *testing.T, s system, rw, bs string, mibs int, more ...string) float64 {
	args := append([]string{"--name=bench", "--filename=" + filepath.Join(s.dir, "file"), "--rw=" + rw, "--bs=" + bs, fmt.Sprintf("--size=%dM", mibs),
		"--output-format=json", "--fallocate=none", "--randrepeat=0"}, more...)
	out, err := exec.Command("fio", args...).Output()
	require.NoError(t, err, "%s", out)
	var parsed struct {
		Jobs []struct {
			Error       int
			JobRuntime  float64 `json:"job_runtime"`
			Read, Write struct {
				IOBytes float64 `json:"io_bytes"`
			}
		}
	}
	require.NoError(t, json.Unmarshal(out[max(0, slices.Index(out, '{')):], &parsed), "%s", out)
	require.Zero(t, parsed.Jobs[0].Error)
	j := parsed.Jobs[0]
	return (j.Read.IOBytes + j.Write.IOBytes) / mib / (j.JobRuntime / 1000)
}

const smallFiles = 20000

func small(s system, i int) string {
	return filepath.Join(s.dir, "small", fmt.Sprintf("%02d", i%100), fmt.Sprintf("f%05d", i))
}

// inParallel runs f for 0 to n-1 on four threads.
func inParallel(t *testing.T, n int, f func(i int) error) {
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for i := k; i < n; i += 4 {
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func createFiles(t *testing.T, s system) float64 {
	require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "small")))
	for i := range 100 {
		require.NoError(t, os.MkdirAll(filepath.Dir(small(s, i)), 0o755))
	}
	b := bytes.Repeat([]byte("8 KiB of data   "), 512)
	rate := perSecond(smallFiles, func() {
		inParallel(t, smallFiles, func(i int) error { return os.WriteFile(small(s, i), b, 0o644) })
	})
	unix.Sync()
	return rate
}

// readFiles reads what createFiles made, from the server and not from the page cache.
func readFiles(t *testing.T, s system) float64 {
	inParallel(t, smallFiles, func(i int) error {
		f, err := os.Open(small(s, i))
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	return perSecond(smallFiles, func() {
		inParallel(t, smallFiles, func(i int) error {
			b, err := os.ReadFile(small(s, i))
			if err == nil && len(b) != 8192 {
				err = fmt.Errorf("%d bytes", len(b))
			}
			return err
		})
	})
}

// findFiles lists 100,000 empty files with their attributes.
func findFiles(t *testing.T, s system) float64 {
	const n = 100000
	base := filepath.Join(s.dir, "many")
	if _, err := os.Stat(base); err != nil {
		for i := range 100 {
			require.NoError(t, os.MkdirAll(filepath.Join(base, fmt.Sprint(i)), 0o755))
		}
		inParallel(t, n, func(i int) error {
			return os.WriteFile(filepath.Join(base, fmt.Sprint(i%100), fmt.Sprint(i)), nil, 0o644)
		})
	}
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)) // or the kernel would know the names
	found := 0
	rate := perSecond(n, func() {
		require.NoError(t, filepath.WalkDir(base, func(_ string, d fs.DirEntry, err error) error {
			if err == nil {
				_, err = d.Info()
				found++
			}
			return err
		}))
	})
	require.Equal(t, n+101, found)
	return rate
}

// syncs is how many fsyncs are measured: the ceiling has 300 done in less time than one pause takes.
const syncs = 2000

// fsyncRate writes 4 KiB and syncs, over and over.
func fsyncRate(t *testing.T, s system) float64 {
	f, err := os.Create(filepath.Join(s.dir, "synced"))
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 4096)
	return perSecond(syncs, func() {
		for i := range syncs {
			_, err := f.WriteAt(b, int64(i)*4096)
			require.NoError(t, err)
			require.NoError(t, f.Sync())
		}
	})
}
