//go:build bench

package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// noiseFile writes bytes that cannot be compressed.
func noiseFile(t *testing.T, path string, size int64, seed uint64) {
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	require.NoError(t, err)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, min(size, mib))
	for ; size > 0; size -= int64(len(b)) {
		src.Read(b)
		_, err := f.Write(b[:min(size, int64(len(b)))])
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
}

// fromDisks has the kernel forget what it caches of a file.
func fromDisks(t *testing.T, path string) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// TestBenchCopy: one cp of a large file and a sync of it, and one cat, on disks of 50, 100 and 200
// MiB/s.
func TestBenchCopy(t *testing.T) {
	source := filepath.Join(filepath.Dir(harness.SparseRAM(t, 4096)), "source")
	const size = 2 << 30
	noiseFile(t, source, size, 1)
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			ds, alone := newMeasured(t, 3<<30, limits)
			env, dir := harness.New(t), harness.MountPoint(t)
			env.Must(append([]string{"create", "v", "--force", fmt.Sprintf("--copies=%d", copies)}, ds.paths()...)...)
			d := env.Serve("v", "--mount", dir)
			t.Cleanup(func() { require.Zero(t, d.Stop()) })
			copied := filepath.Join(dir, "copied")
			tell := func(what, rw string, rate float64) {
				b := bound(alone[rw], rw, copies)
				report(figure{Bench: "copy", What: fmt.Sprintf("%d copies, %s", copies, what), Value: size * rate / mib, Unit: "MiB/s",
					Ratio: size * rate / b, Against: "the bound of disks of " + rates(alone[rw]), Goal: 0.95})
			}
			tell("cp and sync", "write", perSecond(1, func() {
				harness.Tool(t, "cp", source, copied)
				harness.Tool(t, "sync", copied)
			}))
			fromDisks(t, copied)
			tell("cat", "read", perSecond(1, func() { harness.Tool(t, "sh", "-c", "cat "+copied+" >/dev/null") }))
			harness.Tool(t, "cmp", source, copied)
		})
	}
}

// TestBenchRestic: a backup to a volume on disks of 50, 100 and 200 MiB/s beside one to ext4 on a disk
// of 200 MiB/s, by turns ($BALLAST_BENCH_ROUNDS, 3 unless set).
func TestBenchRestic(t *testing.T) {
	harness.Need(t, "restic", "mkfs.ext4")
	source := filepath.Join(filepath.Dir(harness.SparseRAM(t, 4096)), "source")
	for i := range 400 {
		noiseFile(t, filepath.Join(source, fmt.Sprint(i%10), fmt.Sprint("f", i)), 1<<10<<(i%13), uint64(i))
	}
	for i := range 4 {
		noiseFile(t, filepath.Join(source, fmt.Sprint("large", i)), 128<<20, uint64(1000+i))
	}
	ds := newDisks(t, 3<<30, limits)
	single := harness.NewLoop(t, harness.SparseRAM(t, 3<<30))
	harness.Tool(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", single.Path)
	ext4, dir := harness.MountPoint(t), harness.MountPoint(t)
	harness.Tool(t, "mount", "-t", "ext4", single.Path, ext4)
	env := harness.New(t)
	env.Must(append([]string{"create", "v", "--force"}, ds.paths()...)...)
	d := env.Serve("v", "--mount", dir)
	t.Cleanup(func() { require.Zero(t, d.Stop()) })
	ds.throttle(t)
	single.Throttle(t, limits[2], limits[2])
	backup := func(dir string) float64 {
		repo := filepath.Join(dir, "repo")
		require.NoError(t, os.RemoveAll(repo))
		run := func(args ...string) {
			cmd := exec.Command("restic", append([]string{"-q", "--no-cache", "-r", repo}, args...)...)
			cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=x")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		run("init")
		unix.Sync()
		began := time.Now()
		run("backup", source)
		harness.Tool(t, "sync", "-f", dir)
		return time.Since(began).Seconds()
	}
	took := [2][]float64{}
	for range rounds(3) {
		for i, dir := range []string{dir, ext4} {
			took[i] = append(took[i], backup(dir))
		}
	}
	ours, theirs := median(took[0]), median(took[1])
	report(figure{Bench: "restic", What: "backup", Value: ours, Unit: "s", Ratio: ours / theirs, Against: fmt.Sprintf("ext4 on a disk of %d MiB/s", limits[2]/mib),
		Goal: 1, AtMost: true, More: map[string]float64{"s on ext4": theirs}})
}
