package striping

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestCopiesLieInDistinctDomains: whatever is fast, full or broken, no two copies of a chunk are
// in one domain.
func TestCopiesLieInDistinctDomains(t *testing.T) {
	for _, broken := range []int{-1, 0, 2} {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			domains := []string{"left", "left", "left", "right", ""}
			r := newRig(t, rigConfig{disks: 5, copies: 2, timing: simdisk.SSD(200e6, 200e6), domains: domains,
				sizes: []int64{6 << 20, 6 << 20, 6 << 20, 2 << 20, 2 << 20}, opts: Options{WriteAge: time.Millisecond}})
			// 18 MiB in one domain, 2 MiB in each of two others: those bound the volume.
			require.LessOrEqual(t, r.v.Status().SizeBytes, int64(4<<20))
			require.NoError(t, r.v.CreateExport(ctx, "e", 8<<20))
			e := r.export("e")
			if broken >= 0 {
				r.disks[broken].Faults.Add(faultdisk.Fault{On: faultdisk.OnWrite, Rate: 0.2, Sticky: true, Effect: faultdisk.Fail, Err: syscall.EIO})
			}
			var full error
			for off := int64(0); off < 8<<20 && full == nil; off += 256 << 10 {
				full = e.WriteAt(ctx, stamped(int(off/blockSize), 64, 1), off, false)
			}
			require.ErrorIs(t, full, ErrNoSpace)
			// A disk that is given up meanwhile takes along space that was promised.
			mayFail := func(err error) {
				if broken < 0 {
					require.NoError(t, err)
				} else if err != nil {
					require.ErrorIs(t, err, ErrNoSpace)
				}
			}
			mayFail(e.Sync(ctx))
			chunks := 0
			require.NoError(t, r.j.Scan(journal.SpaceChunk, func(k journal.Key, value []byte) error {
				rec, err := journal.ParseChunk(k, value)
				require.NoError(t, err)
				in := map[string]bool{}
				for _, c := range rec.Copies {
					name := r.v.dev(devices.ID(c.Device)).domain()
					require.False(t, in[name], "%v", rec.Copies)
					in[name] = true
				}
				if broken < 0 {
					require.Len(t, rec.Copies, 2)
				}
				chunks++
				return nil
			}))
			require.Greater(t, chunks, 40)
			for _, d := range r.v.Status().Devices {
				require.Equal(t, domains[d.ID-1], d.Domain)
			}
			e.Close()
			mayFail(r.close())
		})
	}
}
