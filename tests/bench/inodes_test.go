//go:build bench

package bench

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestBenchInodes: what a directory of a million files costs: time to make, list and look up each, the
// daemon's memory, and the time to open it all again. BALLAST_BENCH_INODES sets another number.
func TestBenchInodes(t *testing.T) {
	harness.NeedRoot(t)
	n := 1_000_000
	if s := os.Getenv("BALLAST_BENCH_INODES"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	e, dir := harness.New(t), harness.MountPoint(t)
	// Large enough that a copy of the journal has room on it.
	e.Must("create", "v", harness.SparseRAM(t, max(5<<30, int64(n)*50<<10)))
	d := e.Serve("v", "--mount", dir)
	many := filepath.Join(dir, "many")
	require.NoError(t, os.Mkdir(many, 0o755))
	tell := func(what string, rate float64) {
		all, anonymous := resident(t, d.Pid)
		most := residentMost(t, d.Pid)
		f := figure{Bench: "inodes", What: fmt.Sprintf("%d in one directory, %s", n, what), Value: float64(all) / mib, Unit: "MiB resident",
			Goal: 400, AtMost: true, More: map[string]float64{"MiB of its own": float64(anonymous) / mib, "MiB at most": float64(most) / mib}}
		if rate > 0 {
			f.More["per s"] = rate
		}
		report(f)
	}
	tell("nothing made yet", 0)
	path := func(i int) string { return filepath.Join(many, fmt.Sprintf("file-%08d", i)) }
	tell("made", perSecond(n, func() {
		inParallel(t, n, func(i int) error { return unix.Mknod(path(i), unix.S_IFREG|0o644, 0) })
	}))
	list := func() {
		found := 0
		tell("listed with attributes", perSecond(n, func() {
			require.NoError(t, filepath.WalkDir(many, func(_ string, d fs.DirEntry, err error) error {
				if err == nil {
					_, err = d.Info()
					found++
				}
				return err
			}))
		}))
		require.Equal(t, n+1, found)
	}
	list()
	require.Zero(t, d.Stop())
	began := time.Now()
	d = d.Again()
	report(figure{Bench: "inodes", What: "served again", Value: time.Since(began).Seconds(), Unit: "s"})
	tell("opened", 0)
	looked := min(n, 100_000)
	tell("looked up at random", perSecond(looked, func() {
		inParallel(t, looked, func(int) error {
			_, err := os.Lstat(path(rand.IntN(n)))
			return err
		})
	}))
	list()
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
	time.Sleep(15 * time.Second) // buffers that are not needed any more are given up by then
	tell("forgotten by the kernel", 0)
	require.Zero(t, d.Stop())
}
