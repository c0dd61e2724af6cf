package striping

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ballast/devices"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestReadAheadReadsOnce: a client of some depth that goes through an export in order has each chunk
// read from its disk once, though the requests whose chunks the slow disk has fall behind the others.
func TestReadAheadReadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunk, size, depth = 64 << 10, 24 << 20, 16
		ctx := context.Background()
		rates := []float64{20e6, 200e6}
		r := newRig(t, rigConfig{disks: 2, size: 32 << 20, chunk: chunk, wrapD: func(i int, d devices.Disk) devices.Disk {
			d.(*simdisk.Disk).SetTiming(simdisk.Timing{ReadRate: rates[i], WriteRate: rates[i]})
			return d
		}})
		require.NoError(t, r.v.CreateExport(ctx, "e", size))
		e := r.export("e")
		require.NoError(t, e.WriteAt(ctx, make([]byte, size), 0, true))
		before := r.bytesRead()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range depth {
			wg.Go(func() {
				p := make([]byte, chunk)
				for off := next.Add(chunk) - chunk; off < size; off = next.Add(chunk) - chunk {
					if err := e.ReadAt(ctx, p, off); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, int64(size), r.bytesRead()-before)
		e.Close()
		require.NoError(t, r.close())
	})
}

// bytesRead is what was read from the disks since the volume was opened.
func (r *rig) bytesRead() (sum int64) {
	for _, d := range r.devs {
		sum += int64(d.Stats().Read.Bytes)
	}
	return sum
}
