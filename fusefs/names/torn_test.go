package names

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// TestTornTailKeepsWhatWasSynced: what a file had when it was synced is there when the power fails while the
// block with its end is written over, with more behind it, and a disk leaves some sectors of that old and
// some new.
func TestTornTailKeepsWhatWasSynced(t *testing.T) {
	for copies := 1; copies <= 2; copies++ {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			whole := make([]byte, 8000)
			for i := range whole {
				whole[i] = byte(rng.Uint32()) | 1
			}
			const synced = 5000 // 904 bytes of the second block
			r := newRig(t, rigConfig{disks: copies, copies: uint8(copies), volume: striping.Options{WriteAge: time.Millisecond, FlushInterval: time.Hour}})
			a := r.file(Root, "f")
			r.write(a.Ino, 0, whole[:synced])
			r.fsync(a.Ino)
			r.write(a.Ino, synced, whole[synced:])
			time.Sleep(time.Second)
			for i, d := range r.disks {
				pending := d.PendingWrites()
				require.NotEmpty(t, pending, "it is written in place, and not synced")
				last := len(pending) - 1
				r.disks[i] = d.Crash(nil, simdisk.TearWrite(last, func(sector, _ int) bool { return sector%3 == 2*i }, simdisk.KeepAll))
			}
			j := r.j.Crash(rng)
			require.Error(t, r.end())
			r.j = j
			r.open()
			a = r.lookup(Root, "f")
			require.GreaterOrEqual(t, a.Size, int64(synced))
			require.Equal(t, whole[:synced], r.read(a.Ino)[:synced])
			require.NoError(t, r.close())
		})
	}
}
