//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

const flushDiskSize = 768 << 20

// TestBenchFsync: how many more fsyncs 64 writers get done than one does, each of 4 KiB to a file of its
// own, on a volume of two disks, and beside it on ext4 on such a disk. They share what they wait for.
func TestBenchFsync(t *testing.T) {
	harness.Need(t, "mkfs.ext4")
	const writers = 64
	systems := map[string]string{}
	for _, copies := range []int{1, 2} {
		env := harness.New(t)
		name := fmt.Sprintf("ballast, %d copies", copies)
		env.Must("create", "v", "--force", fmt.Sprintf("--copies=%d", copies), diskLoop(t), diskLoop(t))
		dir := harness.MountPoint(t)
		env.Serve("v", "--mount", dir)
		systems[name] = dir
	}
	disk, ext4 := diskLoop(t), harness.MountPoint(t)
	harness.Tool(t, "mkfs.ext4", "-q", disk)
	harness.Tool(t, "mount", "-t", "ext4", disk, ext4)
	systems["ext4"] = ext4

	alone, many := map[string][]float64{}, map[string][]float64{}
	for range rounds(3) {
		for name, dir := range systems {
			alone[name] = append(alone[name], fsyncsOf(t, dir, 1))
			many[name] = append(many[name], fsyncsOf(t, dir, writers))
		}
	}
	for name := range systems {
		f := figure{Bench: "fsync", What: fmt.Sprintf("%s, %d writers", name, writers), Value: median(many[name]), Unit: "per s",
			Ratio: median(many[name]) / median(alone[name]), Against: "one", More: map[string]float64{"one per s": median(alone[name])}}
		if name != "ext4" {
			f.Goal = 10
			f.More["ext4 per s"] = median(many["ext4"])
		}
		report(f)
	}
}

// fsyncsOf is how many fsyncs so many writers get done in a second.
func fsyncsOf(t *testing.T, dir string, writers int) float64 {
	var wg sync.WaitGroup
	done, errs := make([]int, writers), make([]error, writers)
	began := time.Now()
	for i := range writers {
		wg.Go(func() {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("f", i)))
			if errs[i] = err; err != nil {
				return
			}
			defer f.Close()
			b := make([]byte, 4096)
			for time.Since(began) < 3*time.Second && errs[i] == nil {
				_, errs[i] = f.WriteAt(b, int64(done[i]%1024)*4096)
				if errs[i] == nil {
					errs[i] = f.Sync()
				}
				done[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	n := 0
	for i := range writers {
		require.NoError(t, errs[i])
		n += done[i]
	}
	return float64(n) / took
}

// diskLoop is a block device on a disk, of which every block was written: room that the file system below
// has to find first would cost each flush a journal commit there.
func diskLoop(t *testing.T) string {
	path := harness.Sparse(t, flushDiskSize)
	harness.Tool(t, "dd", "if=/dev/zero", "of="+path, "bs=1M", fmt.Sprintf("count=%d", flushDiskSize>>20), "oflag=direct", "conv=notrunc,fsync")
	return harness.NewLoop(t, path).Path
}
