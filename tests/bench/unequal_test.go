//go:build bench

package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"
)

// limits are the speeds of the unequal disks, in bytes per second.
var limits = []int64{50 * mib, 100 * mib, 200 * mib}

// disks are throttled loop devices.
type disks []*harness.Loop

func newDisks(t testing.TB, size int64) disks {
	harness.NeedRoot(t)
	var ds disks
	for range limits {
		ds = append(ds, harness.NewLoop(t, harness.SparseRAM(t, size)))
	}
	return ds
}

func (ds disks) throttle(t testing.TB) {
	for i, d := range ds {
		d.Throttle(t, limits[i], limits[i])
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
func newMeasured(t testing.TB) (ds disks, alone map[string][]float64) {
	ds, alone = newDisks(t, 3<<30), map[string][]float64{}
	ds.throttle(t)
	for _, rw := range []string{"write", "read"} {
		alone[rw] = ds.alone(t, rw, 1<<20)
	}
	return ds, alone
}

// bound is the largest rate at which every byte can be written k times (or read once).
func bound(rates []float64, rw string, copies int) float64 {
	sum, fastest := 0.0, 0.0
	for _, r := range rates {
		sum += r
		fastest = max(fastest, r)
	}
	if copies == 2 && strings.HasSuffix(rw, "write") {
		return min(sum/2, sum-fastest)
	}
	return sum
}

type shape struct{ bs, depth int }

var shapes = []shape{{128 << 10, 1}, {1 << 20, 8}, {128 << 10, 32}}

// TestBenchUnequal: sequential reads and writes on disks of 50, 100 and 200 MiB/s.
func TestBenchUnequal(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			ds, alone := newMeasured(t)
			env := harness.New(t)
			env.Must(append([]string{"create", "v", "--force", fmt.Sprintf("--copies=%d", copies)}, ds.paths()...)...)
			env.Must("export", "create", "v/e", "4GiB")
			d := env.Serve("v")
			size := int64(2 << 30)
			if copies == 2 {
				size = 1 << 30
			}
			for _, sh := range shapes {
				for _, rw := range []string{"write", "read"} {
					r := job{rw: rw, bs: sh.bs, depth: sh.depth, uri: d.URI("e"), size: size, fsync: rw == "write"}.run(t)
					b := bound(alone[rw], rw, copies)
					report(figure{Bench: "unequal", What: fmt.Sprintf("%d copies, %s %dK, depth %d", copies, rw, sh.bs>>10, sh.depth),
						Value: r.bytesPerSecond / mib, Unit: "MiB/s", Ratio: r.bytesPerSecond / b, Against: "the bound of disks of " + rates(alone[rw]), Goal: 0.95})
				}
			}
		})
	}
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
				ds := newDisks(t, 3<<30)
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
					trouble(t, ds[2], kind, stop)
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
			ds := newDisks(t, 3<<30)
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
