package striping

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestSequentialChunksGoWhole writes an export in order, in pieces of a chunk, faster than the disks
// take it, and then once more: each chunk goes to a device once, in one piece, and wherever there is
// room then. (All of the budget is on its way to the disks for most of the time; that was taken as
// a reason to write out what was just being filled: two write-outs for each chunk, the second time
// most in place, at 88 % of what the disks can do.)
func TestSequentialChunksGoWhole(t *testing.T) {
	const chunks, piece = 128, 128 << 10
	for _, depth := range []int{1, 32} {
		synctest.Test(t, func(t *testing.T) {
			rates := []float64{50e6, 100e6, 200e6}
			r := newRig(t, rigConfig{disks: 3, size: 160 << 20, chunk: 1 << 20, latency: time.Millisecond, opts: Options{DirtyLimit: 24 << 20},
				wrapD: func(i int, d devices.Disk) devices.Disk {
					d.(*simdisk.Disk).SetTiming(simdisk.SSD(rates[i], rates[i]))
					return d
				}})
			require.NoError(t, r.v.CreateExport(t.Context(), "e", chunks<<20))
			e := r.export("e")
			for round := range int64(3) {
				began := time.Now()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range depth {
					wg.Go(func() {
						p := make([]byte, piece)
						for off := next.Add(piece) - piece; off < chunks<<20; off = next.Add(piece) - piece {
							if err := e.WriteAt(t.Context(), p, off, false); err != nil {
								t.Error(err)
							}
							time.Sleep(50 * time.Microsecond)
						}
					})
				}
				wg.Wait()
				require.NoError(t, e.Sync(t.Context()))
				t.Logf("depth %d: written at %.0f %% of what the disks can do", depth, chunks<<20/time.Since(began).Seconds()/350e4)
				require.Equal(t, (round+1)*chunks, r.v.stats.placed.Load())
				require.Equal(t, (round+1)*chunks, r.v.stats.writeOuts.Load())
				require.Zero(t, r.v.stats.inPlace.Load())
			}
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestGrowingFileGoesWhole makes a file longer in pieces that end nowhere near a chunk's end, as the kernel
// writes back what cp left in its cache: each chunk goes to a device once. (The last chunk of a file was
// taken for complete whenever a piece ended in it, and was read back and moved when the next one came:
// a sixth more was written, and as much read.) What is left in the last chunk goes when nobody has
// the file open for writing any more.
func TestGrowingFileGoesWhole(t *testing.T) {
	const chunks, piece = 64, 640 << 10
	for _, depth := range []int{1, 16} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{disks: 3, size: 80 << 20, chunk: 1 << 20, latency: time.Millisecond, timing: simdisk.SSD(50e6, 50e6),
				opts: Options{DirtyLimit: 24 << 20, WriteAge: time.Hour, FlushInterval: time.Hour}})
			f := r.newFile(nil)
			const size = chunks<<20 + 300<<10
			var next atomic.Int64
			var wg sync.WaitGroup
			for range depth {
				wg.Go(func() {
					p := make([]byte, piece)
					for off := next.Add(piece) - piece; off < size; off = next.Add(piece) - piece {
						f.Grow(min(off+piece, size))
						if err := f.WriteAt(t.Context(), p[:min(piece, size-off)], off); err != nil {
							t.Error(err)
						}
						time.Sleep(50 * time.Microsecond)
					}
				})
			}
			wg.Wait()
			time.Sleep(10 * time.Second)
			require.EqualValues(t, chunks, r.v.stats.writeOuts.Load())
			f.Rest()
			time.Sleep(time.Second)
			require.EqualValues(t, chunks+1, r.v.stats.writeOuts.Load())
			require.Zero(t, r.v.stats.rewrote.Load())
			require.Zero(t, r.v.stats.inPlace.Load())
			require.NoError(t, f.Sync(t.Context()))
			f.Close()
			require.NoError(t, r.close())
		})
	}
}
