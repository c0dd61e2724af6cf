//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ballast/striping/policy"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// limits are the speeds of the unequal disks, in bytes per second.
var limits = []int64{50 * mib, 100 * mib, 200 * mib}

// spread are speeds ten times apart, in steps of the same ratio.
var spread = []int64{25 * mib, 35 * mib, 48 * mib, 67 * mib, 93 * mib, 129 * mib, 180 * mib, 250 * mib}

// disk is a loop device and what it is throttled to, in bytes per second.
type disk struct {
	*harness.Loop
	limit int64
}

type disks []disk

func newDisks(t testing.TB, size int64, limits []int64) disks {
	harness.NeedRoot(t)
	var ds disks
	for _, limit := range limits {
		ds = append(ds, disk{harness.NewLoop(t, harness.FilledRAM(t, size)), limit})
	}
	return ds
}

func (ds disks) throttle(t testing.TB) {
	for _, d := range ds {
		d.Throttle(t, d.limit, d.limit)
	}
}

func (ds disks) free(t testing.TB) {
	for _, d := range ds {
		d.Throttle(t, 0, 0)
	}
}

func (ds disks) paths() []string {
	var ps []string
	for _, d := range ds {
		ps = append(ps, d.Path)
	}
	return ps
}

// alone measures each disk by itself.
func (ds disks) alone(t testing.TB, rw string, bs int) []float64 {
	var rates []float64
	for _, d := range ds {
		rates = append(rates, job{rw: rw, bs: bs, depth: 32, file: d.Path, seconds: 3, ramp: 1, size: 400 * mib}.run(t).bytesPerSecond)
	}
	return rates
}

// newMeasured returns throttled disks, and what each can do alone, by kind of access.
func newMeasured(t testing.TB, size int64, limits []int64) (ds disks, alone map[string][]float64) {
	ds, alone = newDisks(t, size, limits), map[string][]float64{}
	ds.throttle(t)
	for _, rw := range []string{"write", "read"} {
		alone[rw] = ds.alone(t, rw, 1<<20)
	}
	return ds, alone
}

// bound is the largest rate at which every byte can be read once, or written to so many disks. Nobody
// writes more of a byte than one copy, so at a rate of r a disk takes no more than r.
func bound(rates []float64, rw string, copies int) float64 {
	if !strings.HasSuffix(rw, "write") {
		copies = 1
	}
	return policy.Bound(rates, copies)
}

type shape struct{ bs, depth int }

var shapes = []shape{{128 << 10, 1}, {1 << 20, 8}, {128 << 10, 32}}

// TestBenchUnequal: sequential reads and writes on disks of 50, 100 and 200 MiB/s.
func TestBenchUnequal(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			ds, alone := newMeasured(t, 3<<30, limits)
			benchUnequal(t, ds, alone, "unequal", copies, 2<<30, 0.95)
		})
	}
}

// TestBenchSpread: the same on eight disks of 25 to 250 MiB/s.
func TestBenchSpread(t *testing.T) {
	for _, copies := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			ds, alone := newMeasured(t, 1536<<20, spread)
			benchUnequal(t, ds, alone, "spread", copies, 2<<30, 0.97)
		})
	}
}

// benchUnequal writes and reads size bytes, all copies counted, in each shape.
func benchUnequal(t *testing.T, ds disks, alone map[string][]float64, bench string, copies int, size int64, goal float64) {
	env := harness.New(t)
	env.Must(append([]string{"create", "v", "--force", fmt.Sprintf("--copies=%d", copies)}, ds.paths()...)...)
	env.Must("export", "create", "v/e", "2GiB")
	d := env.Serve("v")
	size = size / int64(copies) &^ (1<<20 - 1)
	for _, sh := range shapes {
		for _, rw := range []string{"write", "read"} {
			before := ds.transferred(t, rw)
			r := job{rw: rw, bs: sh.bs, depth: sh.depth, uri: d.URI("e"), size: size, fsync: rw == "write"}.run(t)
			more := map[string]float64{}
			for i, n := range ds.transferred(t, rw) {
				more[fmt.Sprintf("MiB of disk %d (%.0f)", i+1, alone[rw][i]/mib)] = (n - before[i]) / mib
			}
			report(figure{Bench: bench, What: fmt.Sprintf("%d copies, %s %dK, depth %d", copies, rw, sh.bs>>10, sh.depth),
				Value: r.bytesPerSecond / mib, Unit: "MiB/s", Ratio: r.bytesPerSecond / bound(alone[rw], rw, copies),
				Against: "the bound of disks of " + rates(alone[rw]), Goal: goal, More: more})
		}
	}
}

// transferred is what each disk has read or written since it was made, in bytes.
func (ds disks) transferred(t testing.TB, rw string) (n []float64) {
	for _, d := range ds {
		b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Path), "stat"))
		require.NoError(t, err)
		fields := strings.Fields(string(b))
		sectors, err := strconv.ParseFloat(fields[map[string]int{"read": 2, "write": 6}[rw]], 64)
		require.NoError(t, err)
		n = append(n, sectors*512)
	}
	return n
}

func rates(rs []float64) string {
	var s []string
	for _, r := range rs {
		s = append(s, fmt.Sprintf("%.0f", r/mib))
	}
	return strings.Join(s, "+")
}

// TestBenchTrouble: the same while the fastest disk is 20 times slower, or stalls.
func TestBenchTrouble(t *testing.T) {
	for _, kind := range []string{"slow", "stalls"} {
		for _, rw := range []string{"write", "read"} {
			t.Run(kind+" "+rw, func(t *testing.T) {
				ds := newDisks(t, 3<<30, limits)
				ds.throttle(t)
				rest := ds[:2].alone(t, rw, 1<<20)
				copies := 1
				if rw == "read" {
					copies = 2 // a read of one copy has nowhere else to go
				}
				env := harness.New(t)
				env.Must(append([]string{"create", "v", "--force", fmt.Sprintf("--copies=%d", copies)}, ds.paths()...)...)
				env.Must("export", "create", "v/e", "4GiB")
				d := env.Serve("v")
				if rw == "read" {
					job{rw: "write", bs: 1 << 20, depth: 8, uri: d.URI("e"), size: 1 << 30, fsync: true}.run(t)
				}
				stop := make(chan struct{})
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					trouble(t, ds[2].Loop, kind, stop)
				}()
				time.Sleep(2 * time.Second)
				r := job{rw: rw, bs: 1 << 20, depth: 8, uri: d.URI("e"), size: 1 << 30, seconds: 12, ramp: 2}.run(t)
				close(stop)
				<-ended
				b := bound(rest, rw, 1)
				report(figure{Bench: "trouble", What: fmt.Sprintf("%s disk, %d copies, %s", kind, copies, rw),
					Value: r.bytesPerSecond / mib, Unit: "MiB/s", Ratio: r.bytesPerSecond / b, Against: "the other disks", Goal: 0.9})
			})
		}
	}
}

// trouble makes a disk 20 times slower, or stop for 300 ms every 3 s, until stop is closed.
func trouble(t testing.TB, d *harness.Loop, kind string, stop chan struct{}) {
	fast := limits[2]
	defer d.Throttle(t, fast, fast)
	if kind == "slow" {
		d.Throttle(t, fast/20, fast/20)
		<-stop
		return
	}
	for {
		d.Throttle(t, fast, fast)
		select {
		case <-stop:
			return
		case <-time.After(2700 * time.Millisecond):
		}
		d.Throttle(t, 4096, 4096)
		select {
		case <-stop:
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// TestBenchBtrfs: btrfs raid0 and raid1 over the same disks, for comparison.
func TestBenchBtrfs(t *testing.T) {
	harness.Need(t, "mkfs.btrfs")
	for _, raid := range []string{"raid0", "raid1"} {
		t.Run(raid, func(t *testing.T) {
			ds := newDisks(t, 3<<30, limits)
			harness.Tool(t, "mkfs.btrfs", append([]string{"-q", "-f", "-d", raid, "-m", "raid1"}, ds.paths()...)...)
			dir := t.TempDir()
			harness.Tool(t, "mount", ds[0].Path, dir)
			t.Cleanup(func() { harness.Tool(t, "umount", dir) })
			ds.throttle(t)
			t.Cleanup(func() { ds.free(t) })
			for _, rw := range []string{"write", "read"} {
				r := job{rw: rw, bs: 1 << 20, depth: 8, file: dir + "/f", size: 600 * mib, fsync: true}.run(t)
				report(figure{Bench: "unequal", What: fmt.Sprintf("btrfs %s, %s 1024K, depth 8", raid, rw), Value: r.bytesPerSecond / mib, Unit: "MiB/s"})
			}
		})
	}
}
