package torture

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

var cutsFlag = flag.Int("cuts", 0, "power cuts of each variant of TestTorturePowerCuts; 0: 2, or 60 with $BALLAST_TORTURE")

// newRigOn is newRig on the disks of a machine, of which any may lose what it had not flushed.
func newRigOn(t *testing.T, m *harness.Machine, s shape) *rig {
	t.Helper()
	r := &rig{t: t, env: m.Env, shape: s, m: newModel(s.size)}
	args := []string{"create", "v", "--copies", fmt.Sprint(s.copies), "--chunk", s.chunk}
	for _, d := range m.Disks {
		args = append(args, d.Path)
	}
	r.env.Must(args...)
	r.env.Must("export", "create", "v/e", fmt.Sprint(s.size))
	return r
}

// TestTorturePowerCuts cuts the power of a machine at any time, under load and while the daemon starts:
// each of its disks, and the one with the file system that the journal is on, loses by itself what it had
// not flushed. The daemon must find, without help, all that was flushed.
func TestTorturePowerCuts(t *testing.T) {
	var all totals
	for i, fs := range []string{"ext4", "xfs"} {
		for copies := 1; copies <= 2; copies++ {
			if !long() && copies != 2-i {
				continue
			}
			t.Run(fmt.Sprintf("%s,copies=%d", fs, copies), func(t *testing.T) { cutLoop(t, fs, copies, &all) })
		}
	}
	all.print("power cuts")
	require.Zero(t, all.lost)
	require.Zero(t, all.helped)
}

func cutLoop(t *testing.T, fs string, copies int, all *totals) {
	cuts := *cutsFlag
	if cuts == 0 {
		cuts = 2
		if long() {
			cuts = 60
		}
	}
	rng := newRand(t)
	m := harness.NewMachine(t, fs, diskSizes...)
	chunk := []string{"64KiB", "1MiB"}[rng.IntN(2)]
	serve := [][]string{nil, {"--dirty-limit", "8MiB"}, {"--flush-interval", "100ms"}}[rng.IntN(3)]
	r := newRigOn(t, m, shape{copies: copies, chunk: chunk, size: 32 << 20, serve: serve, tears: true})
	defer func() {
		all.kills += cuts
		all.lost += r.lost
		all.helped += r.helped
		all.torn += r.torn.Load()
		all.starts = append(all.starts, r.starts...)
	}()
	r.start()
	for range cuts {
		cutUnderLoad(r, m, rng, all)
		r.start()
		require.True(t, r.verify())
		if rng.IntN(4) == 0 { // what a start has written counts as well, if the power fails at once
			require.NoError(t, m.PowerFails(r.d))
			m.Cut(rng)
			r.start()
			require.True(t, r.verify())
		}
		require.False(t, t.Failed())
	}
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}

func cutUnderLoad(r *rig, m *harness.Machine, rng *rand.Rand, all *totals) {
	r.t.Helper()
	after := time.Duration(20+rng.IntN(1200)) * time.Millisecond
	all.acked += r.underLoad(rng, func() {
		<-time.After(after)
		require.NoError(r.t, m.PowerFails(r.d))
	})
	m.Cut(rng)
}

// TestTorturePowerCutAndLoss takes away the state directory and one of two or three disks after a power cut.
// What is left is imported and has all that was flushed.
func TestTorturePowerCutAndLoss(t *testing.T) {
	rounds := *cutsFlag
	if rounds == 0 {
		rounds = 1
		if long() {
			rounds = 30
		}
	}
	var all totals
	for disks := 2; disks <= 3; disks++ {
		for range rounds {
			t.Run(fmt.Sprintf("%d disks", disks), func(t *testing.T) {
				rng := newRand(t)
				m := harness.NewMachine(t, "ext4", diskSizes[:disks]...)
				r := newRigOn(t, m, shape{copies: 2, chunk: "1MiB", size: 32 << 20, tears: true})
				r.start()
				cutUnderLoad(r, m, rng, &all)
				require.NoError(t, os.RemoveAll(m.Env.State))
				lost := rng.IntN(disks)
				m.Disks[lost].Vanish()
				left := []string{"import"}
				for i, d := range m.Disks {
					if i != lost {
						left = append(left, d.Path)
					}
				}
				r.env.Must(left...)
				r.start()
				require.True(t, r.verify())
				r.stop()
				all.kills++
				all.lost += r.lost
				all.helped += r.helped
				all.torn += r.torn.Load()
				all.starts = append(all.starts, r.starts...)
			})
		}
	}
	all.print("power cuts with the journal and a disk lost")
	require.Zero(t, all.lost)
	require.Zero(t, all.helped)
}

// print says how the power cuts went.
func (s *totals) print(what string) {
	if len(s.starts) > 0 {
		fmt.Printf("%s: %s, torn blocks told as errors %d\n", what, strings.TrimPrefix(s.String(), "kills "), s.torn)
	}
}
