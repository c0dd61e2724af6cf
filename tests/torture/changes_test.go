package torture

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
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
					return s.Degraded == 0 && len(s.Health) > 0 && strings.HasPrefix(s.Health[0].Action, remove)
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

// TestTortureChanges does to a volume under load, one after the other and at random, what may become of its
// disks and its state: they join, leave, are emptied, replaced, grown, taken offline, lost; jobs run; the
// daemon is killed or stopped meanwhile, and the volume is taken in anew without its state. After each the
// operator does what status says, and all that was flushed is there.
func TestTortureChanges(t *testing.T) {
	rounds := *killsFlag
	if rounds == 0 {
		rounds = 6
		if long() {
			rounds = 200
		}
	}
	rng := newRand(t)
	w := &changes{rig: newRig(t, shape{copies: 2 + rng.IntN(2), size: 32 << 20}), rng: rng, done: map[string]int{}}
	w.start()
	for range rounds {
		w.change()
		require.False(t, t.Failed())
	}
	w.settle()
	w.stop()
	require.Equal(t, "sound", w.check().Verdict)
	fmt.Printf("changes of a volume of %d copies under load: %v, acknowledged %.1f GiB, flushed bytes lost %d, starts that needed help %d\n",
		w.shape.copies, w.done, float64(w.acked)/(1<<30), w.lost, w.helped)
	require.Zero(t, w.lost)
	require.Zero(t, w.helped)
}

// changes is a volume whose devices come and go.
type changes struct {
	*rig
	rng   *rand.Rand
	done  map[string]int // what was done, how often
	acked int64
}

// change does one thing, while clients work and the daemon may end, and has the volume settle.
func (w *changes) change() {
	w.t.Helper()
	present := w.status().Devices
	require.NotEmpty(w.t, present)
	d := present[w.rng.IntN(len(present))]
	w.disks = nil
	for _, p := range present {
		w.disks = append(w.disks, p.Path)
	}
	disk := func() string { return harness.Sparse(w.t, diskSizes[1+w.rng.IntN(2)]) }
	lose := false
	var older func() // puts an older image of the disk in its place
	var what string
	var begin func()
	switch n := w.rng.IntN(9); {
	case n == 0 && len(present) < 6:
		added := disk()
		what, begin = "add", func() { w.env.Must("device", "add", "v", added) }
		w.disks = append(w.disks, added)
	case n == 1 && len(present) > w.shape.copies+1:
		what, begin = "drain", func() { w.env.Must("device", "drain", "v", d.ID) }
	case n == 2:
		by := disk()
		what, begin = "replace", func() { w.env.Must("device", "replace", "v", d.ID, by) }
		w.disks = append(w.disks, by)
	case n == 3 && len(present) > 2:
		what, begin = "offline", func() { w.env.Must("device", "offline", "v", d.ID) }
	case n == 4:
		what, begin = "grow", func() {
			require.NoError(w.t, os.Truncate(d.Path, d.Size+16<<20))
			w.env.Must("device", "grow", "v", d.ID)
		}
	case n == 5:
		what, begin = "scrub", func() { w.env.Command("scrub", "start", "v") } // one may go on after a restart
	case n == 6:
		what, begin = "rebalance", func() { w.env.Command("rebalance", "start", "v") } // there may be nothing to do
	case n == 7:
		what = "older"
		older = keep(w.t, d.Path) // while the daemon writes to it: what a snapshot of a disk in use is
		begin = func() {}
	default:
		what, begin, lose = "lose", func() {}, true
	}
	w.done[what]++
	w.t.Logf("%s %s", what, d.ID)
	kill := lose || w.rng.IntN(3) > 0
	w.acked += w.underLoad(w.rng, func() {
		begin()
		<-time.After(time.Duration(w.rng.IntN(500)) * time.Millisecond)
		if kill {
			w.kill()
		} else {
			require.Zero(w.t, w.d.Stop())
			w.d = nil
		}
	})
	if lose {
		require.NoError(w.t, os.Remove(d.Path))
		w.disks = slices.DeleteFunc(w.disks, func(p string) bool { return p == d.Path })
	}
	if older != nil {
		older()
	} else if w.rng.IntN(2) == 0 {
		w.done["import"]++
		require.NoError(w.t, os.RemoveAll(w.env.State))
		w.env.Must(append([]string{"import"}, w.disks...)...)
	}
	w.start()
	require.True(w.t, w.verify())
	w.settle()
	if older != nil { // which a label does not tell that was not written since: block sums do
		w.env.Command("scrub", "start", "v")
		require.Eventually(w.t, func() bool { return !w.running("scrub") }, harness.Patience, 20*time.Millisecond)
	}
	require.True(w.t, w.verify())
}

// settle does what status says until there is nothing left to do.
func (w *changes) settle() {
	w.t.Helper()
	replaced := map[string]bool{}
	for began := time.Now(); ; <-time.After(20 * time.Millisecond) {
		moving := w.running("drain", "replace", "rebuild")
		s := w.status()
		if s.State == "ok" && !moving {
			return
		}
		require.Empty(w.t, s.Bad)
		require.Zero(w.t, s.Lost)
		require.Less(w.t, time.Since(began), harness.Patience, "%+v\n%s", s, w.env.Must("job", "ls", "v"))
		for _, h := range s.Health {
			i := slices.IndexFunc(s.Devices, func(d deviceStatus) bool { return strings.Contains(h.Message, "device "+d.ID+" ") })
			if i < 0 {
				continue
			}
			d := s.Devices[i]
			_, gone := os.Stat(d.Path)
			switch {
			case strings.HasPrefix(h.Action, "ballast device remove"):
				w.env.Must("device", "remove", "v", d.ID)
			case strings.HasSuffix(h.Action, "--resync"):
				_, command, _ := strings.Cut(h.Action, "ballast ")
				w.env.Must(strings.Fields(command)...)
			case h.Code == "DEVICE_MISSING" && gone == nil:
				w.env.Must("device", "online", "v", d.ID)
			case h.Code == "DEVICE_MISSING" && !replaced[d.ID]:
				w.env.Must("device", "replace", "v", d.ID, harness.Sparse(w.t, diskSizes[2]))
				replaced[d.ID] = true
			}
		}
	}
}

// running tells whether there is a running job of one of these kinds.
func (w *changes) running(kinds ...string) bool {
	w.t.Helper()
	var doc struct{ Jobs []drainJob }
	require.NoError(w.t, json.Unmarshal([]byte(w.env.Must("job", "ls", "v", "--json")), &doc))
	return slices.ContainsFunc(doc.Jobs, func(j drainJob) bool {
		kind, _, _ := strings.Cut(j.ID, "-")
		return j.State == "running" && slices.Contains(kinds, kind)
	})
}
