//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const flushDiskSize = 768 << 20

// TestBenchFsync: how many more fsyncs 64 writers get done than one does, each of 4 KiB to a file of its
// own, on a volume of two disks, and beside it on ext4 on such a disk, and each to a place of its own on the
// disk itself, which is what one of them costs at least. They share what they wait for.
func TestBenchFsync(t *testing.T) {
	harness.Need(t, "mkfs.ext4")
	const writers = 64
	systems := map[string]openSynced{}
	for _, copies := range []int{1, 2} {
		env := harness.New(t)
		name := fmt.Sprintf("ballast, %d copies", copies)
		env.Must("create", "v", "--force", fmt.Sprintf("--copies=%d", copies), diskLoop(t), diskLoop(t))
		dir := harness.MountPoint(t)
		env.Serve("v", "--mount", dir)
		systems[name] = filesIn(dir)
	}
	disk, ext4 := diskLoop(t), harness.MountPoint(t)
	harness.Tool(t, "mkfs.ext4", "-q", disk)
	harness.Tool(t, "mount", "-t", "ext4", disk, ext4)
	systems["ext4"] = filesIn(ext4)
	systems["the disk"] = placesOn(diskLoop(t))

	alone, many := map[string][]float64{}, map[string][]float64{}
	for range rounds(3) {
		for name, open := range systems {
			alone[name] = append(alone[name], fsyncsOf(t, open, 1))
			many[name] = append(many[name], fsyncsOf(t, open, writers))
		}
	}
	for name := range systems {
		f := figure{Bench: "fsync", What: fmt.Sprintf("%s, %d writers", name, writers), Value: median(many[name]), Unit: "per s",
			Ratio: median(many[name]) / median(alone[name]), Against: "one", More: map[string]float64{"one per s": median(alone[name])}}
		if strings.HasPrefix(name, "ballast") {
			f.Goal = 10
			f.More["ext4 per s"] = median(many["ext4"])
			f.More["one, of the disk's"] = median(alone[name]) / median(alone["the disk"])
		}
		report(f)
	}
}

// openSynced opens where writer i writes, from at on.
type openSynced func(i int) (f *os.File, at int64, err error)

func filesIn(dir string) openSynced {
	return func(i int) (*os.File, int64, error) {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("f", i)))
		return f, 0, err
	}
}

func placesOn(disk string) openSynced {
	return func(i int) (*os.File, int64, error) {
		f, err := os.OpenFile(disk, os.O_RDWR|unix.O_DIRECT, 0)
		return f, int64(i) * syncedBlocks * 4096, err
	}
}

// syncedBlocks is how many blocks a writer writes before it starts over.
const syncedBlocks = 1024

// fsyncsOf is how many fsyncs so many writers get done in a second.
func fsyncsOf(t *testing.T, open openSynced, writers int) float64 {
	var wg sync.WaitGroup
	done, errs := make([]int, writers), make([]error, writers)
	began := time.Now()
	for i := range writers {
		wg.Go(func() {
			f, at, err := open(i)
			if errs[i] = err; err != nil {
				return
			}
			defer f.Close()
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
			if errs[i] = err; err != nil {
				return
			}
			defer unix.Munmap(b)
			for time.Since(began) < 3*time.Second && errs[i] == nil {
				_, errs[i] = f.WriteAt(b, at+int64(done[i]%syncedBlocks)*4096)
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
