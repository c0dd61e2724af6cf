package process

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"ballast/devices"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOthersOnADiskAreSeen reads a device's disk from another process and looks for that in
// iostat, status and metrics.
func TestOthersOnADiskAreSeen(t *testing.T) {
	loop := harness.NewLoop(t, harness.Sparse(t, 256<<20))
	env := harness.New(t)
	env.Must("create", "v", loop.Path)
	d := env.Serve("v", "--http", "127.0.0.1:0")
	other, err := os.OpenFile(loop.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	require.NoError(t, err)
	defer other.Close()
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		p := devices.AlignedBytes(1 << 20)
		tick := time.NewTicker(20 * time.Millisecond) // some 50 MB/s
		defer tick.Stop()
		for off := int64(0); ; off = (off + 1<<20) % (256 << 20) {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = other.ReadAt(p, off) // what is not read is not seen either
			}
		}
	})
	type figures struct {
		Devices []struct {
			Kernel *struct {
				Disk  string
				Share float64 `json:"foreign_share"`
				Rate  float64 `json:"foreign_bytes_per_second"`
			}
		}
	}
	look := func(command string) *figures {
		var s figures
		require.NoError(t, json.Unmarshal([]byte(env.Must(command, "v", "--json")), &s))
		require.Len(t, s.Devices, 1)
		return &s
	}
	await(t, "status has it", func() bool {
		k := look("status").Devices[0].Kernel
		return k != nil && k.Disk == filepath.Base(loop.Path) && k.Rate > 1e6 && k.Share > 0
	})
	await(t, "iostat has it", func() bool { k := look("iostat").Devices[0].Kernel; return k != nil && k.Rate > 1e6 })
	require.Regexp(t, `OTHERS`, env.Must("iostat", "v"))
	await(t, "metrics have it", func() bool { // a scrape's figures are a second old
		_, text, err := d.Get("/metrics")
		return err == nil && regexp.MustCompile(`ballast_device_foreign_bytes_per_second\{[^}]*\} [1-9]`).MatchString(text)
	})
	close(stop)
	reader.Wait()
	// Probes are the volume's own.
	await(t, "it is over", func() bool { k := look("status").Devices[0].Kernel; return k != nil && k.Rate < 100e3 })
	require.Zero(t, d.Stop())
}
