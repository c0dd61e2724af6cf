//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// resident is the memory of a process in bytes: all that is resident, and of that what is not
// backed by files.
func resident(t testing.TB, pid int) (all, anonymous int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			all = kb << 10
		}
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 {
			anonymous = kb << 10
		}
	}
	return all, anonymous
}

// residentMost is the most memory of a process that was resident since it was asked last, or began.
func residentMost(t testing.TB, pid int) (most int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &most); n == 1 {
			break
		}
	}
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
	return most << 10
}

// TestBenchMemory: the daemon's memory while it serves a thin export of 10 TiB with a million placed
// chunks, one block written in each. Its caches have a fixed size and are full long before; what it
// takes for each further chunk is the difference between a tenth of the chunks and all.
func TestBenchMemory(t *testing.T) {
	const chunks, some = 1_000_000, 100_000
	env := harness.New(t)
	// Blocks of zeros take no memory there, as data of a client they are like any other.
	env.Must("create", "v", "--force", harness.NewZram(t, (chunks+chunks/8)<<20))
	env.Must("export", "create", "v/e", "10TiB")
	d := env.Serve("v")
	tell := func(what string, placed int64) int64 {
		time.Sleep(15 * time.Second) // buffers that are not needed any more are given up by then
		all, anonymous := resident(t, d.Pid)
		report(figure{Bench: "memory", What: fmt.Sprintf("%s, %d chunks placed", what, placed), Value: float64(anonymous) / mib, Unit: "MiB of its own",
			More: map[string]float64{"MiB resident": float64(all) / mib}})
		return anonymous
	}
	place := func(from, to int64) {
		began := time.Now()
		cmd := exec.Command("fio", "--name=place", "--ioengine=nbd", "--uri="+d.URI("e"), "--rw=write:1020k", "--bs=4k", "--iodepth=32", "--zero_buffers",
			fmt.Sprintf("--offset=%d", from<<20), fmt.Sprintf("--size=%d", (to-from)<<20), fmt.Sprintf("--io_size=%d", (to-from)*4096), "--end_fsync=1")
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		report(figure{Bench: "memory", What: "chunks placed", Value: float64(to-from) / time.Since(began).Seconds(), Unit: "per s"})
	}
	read := func(placed int64) {
		job{rw: "randread", bs: 4096, depth: 32, uri: d.URI("e"), size: placed << 20, seconds: 10}.run(t)
	}
	again := func(placed int64) int64 {
		d.Kill()
		began := time.Now()
		d = d.Again()
		report(figure{Bench: "memory", What: fmt.Sprintf("started again with %d chunks", placed), Value: time.Since(began).Seconds(), Unit: "s"})
		tell("started again", placed)
		read(placed)
		return tell("started again and read", placed)
	}
	tell("started", 0)
	place(0, some)
	tell("written", some)
	few := again(some)
	place(some, chunks)
	tell("written", chunks)
	many := again(chunks)
	report(figure{Bench: "memory", What: "each chunk placed beyond what the caches hold", Value: float64(many-few) / (chunks - some), Unit: "bytes", Goal: 64, AtMost: true})
}
