package torture

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestTortureDiskAndJournalLost kills the daemon at any moment under load, and takes away the journal with
// all of the state directory and one of two or three disks. What is left is imported, has all that was
// flushed, and is made whole on another disk, so that the next disk may go.
func TestTortureDiskAndJournalLost(t *testing.T) {
	rounds := *killsFlag
	if rounds == 0 {
		rounds = 2
		if long() {
			rounds = 50
		}
	}
	var all totals
	for _, disks := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d disks", disks), func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: 2, disks: disks, size: 32 << 20})
			for round := range rounds {
				require.Len(t, r.disks, disks)
				r.start()
				all.acked += r.underLoad(rng, func() {
					<-r.killAfter(time.Duration(20+rng.IntN(800)) * time.Millisecond)
					r.d = nil
				})
				all.kills++
				lost := rng.IntN(disks)
				require.NoError(t, os.RemoveAll(r.env.State))
				require.NoError(t, os.Remove(r.disks[lost]))
				r.disks = slices.Delete(r.disks, lost, lost+1)
				r.env.Must(append([]string{"import"}, r.disks...)...)
				r.start()
				require.True(t, r.verify())
				require.False(t, t.Failed(), "round %d", round)

				r.disks = append(r.disks, harness.Sparse(t, diskSizes[2]))
				gone := r.missing()
				r.env.Must("device", "replace", "v", gone, r.disks[len(r.disks)-1])
				remove := "ballast device remove v " + gone
				require.Eventually(t, func() bool {
					s := r.status()
					return s.Degraded == 0 && strings.HasPrefix(s.Health[0].Action, remove)
				}, harness.Patience, 20*time.Millisecond)
				r.env.Must(strings.Fields(remove)[1:]...)
				require.Eventually(t, func() bool {
					s := r.status()
					return s.State == "ok" && s.Journal.CopiesGood >= 2
				}, harness.Patience, 20*time.Millisecond, "%+v", r.status())
				require.True(t, r.verify())
				r.stop()
				require.Equal(t, "sound", r.check().Verdict)
			}
			all.lost += r.lost
			all.helped += r.helped
			all.starts = append(all.starts, r.starts...)
		})
	}
	if len(all.starts) > 0 {
		fmt.Println("kills with the journal and a disk lost: " + all.String())
	}
	require.Zero(t, all.lost)
	require.Zero(t, all.helped)
}

// missing is the device that is.
func (r *rig) missing() string {
	r.t.Helper()
	devices := r.status().Devices
	i := slices.IndexFunc(devices, func(d deviceStatus) bool { return d.State == "missing" })
	require.GreaterOrEqual(r.t, i, 0)
	return devices[i].ID
}
