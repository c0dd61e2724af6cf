//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

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

// TestBenchMemory: the daemon's memory while it serves a thin export of 10 TiB with a million
// placed chunks, one block written in each.
func TestBenchMemory(t *testing.T) {
	const chunks = 1_000_000
	env := harness.New(t)
	env.Must("create", "v", "--force", harness.SparseRAM(t, (chunks+chunks/8)<<20))
	env.Must("export", "create", "v/e", "10TiB")
	d := env.Serve("v")
	_, empty := resident(t, d.Pid)
	// One block in each chunk.
	cmd := exec.Command("fio", "--name=place", "--ioengine=nbd", "--uri="+d.URI("e"), "--rw=write:1020k", "--bs=4k", "--iodepth=32",
		fmt.Sprintf("--size=%d", int64(chunks)<<20), fmt.Sprintf("--io_size=%d", int64(chunks)*4096), "--end_fsync=1")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	all, anonymous := resident(t, d.Pid)
	fmt.Printf("memory: %d chunks placed; daemon %d MiB resident, %d MiB of it its own, %d MiB before: %d bytes per chunk\n",
		chunks, all>>20, anonymous>>20, empty>>20, (anonymous-empty)/chunks)
	d.Kill()
	d = d.Again()
	all, anonymous = resident(t, d.Pid)
	fmt.Printf("memory: started again with %d chunks: %d MiB resident, %d MiB of it its own\n", chunks, all>>20, anonymous>>20)
	job{rw: "randread", bs: 4096, depth: 32, uri: d.URI("e"), size: chunks << 20, seconds: 20}.run(t)
	all, anonymous = resident(t, d.Pid)
	fmt.Printf("memory: after random reads over all of it: %d MiB resident, %d MiB of it its own\n", all>>20, anonymous>>20)
}
