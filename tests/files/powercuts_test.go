package files

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestTorturePowerCuts cuts the power of a machine while the model works: the disks of the volume and the
// one with the file system that the journal is on lose, each by itself, what they had not flushed.
func TestTorturePowerCuts(t *testing.T) {
	cuts := 2
	long := os.Getenv("BALLAST_TORTURE") != ""
	if long {
		cuts = 60
	}
	for i, fs := range []string{"ext4", "xfs"} {
		for copies := 1; copies <= 2; copies++ {
			if long || copies == 1+i {
				t.Run(fmt.Sprintf("%s,copies=%d", fs, copies), func(t *testing.T) { cutLoop(t, fs, copies, cuts) })
			}
		}
	}
}

func cutLoop(t *testing.T, fs string, copies, cuts int) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("again: go test ./tests/files -run '^%s$' -seed %d", t.Name(), s)
	machine := harness.NewMachine(t, fs, 300<<20, 400<<20, 500<<20)
	var disks []string
	for _, d := range machine.Disks {
		disks = append(disks, d.Path)
	}
	r := mountOn(t, machine.Env, disks, copies)
	m := newModel(r, s)
	require.NoError(t, m.syncDir())
	rnd := rand.New(rand.NewPCG(s, 2))
	m.crashes(cuts, rnd, func(after time.Duration) func() {
		failed := make(chan error, 1)
		time.AfterFunc(after, func() { failed <- machine.PowerFails(r.d) })
		return func() {
			require.NoError(t, <-failed)
			machine.Cut(rnd)
			r.again()
		}
	})
	t.Logf("%d power cuts, %d operations, %d names at the end", cuts, m.ops, len(m.now()))
}
