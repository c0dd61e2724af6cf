package process

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

var seed = flag.Uint64("seed", 0, "seed of the torture test; 0: a new one")

// TestTortureKill kills the daemon under writers that flush, again and again: nothing that was
// flushed may be lost, no block may be torn, and each start must work without help. A few kills in
// every run, 200 for each number of copies with BALLAST_TORTURE=1.
func TestTortureKill(t *testing.T) {
	kills := 5
	if os.Getenv("BALLAST_TORTURE") != "" {
		kills = 200
	}
	from := *seed
	if from == 0 {
		from = rand.Uint64N(1e9)
	}
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			t.Logf("to repeat: go test ./tests/process -run TestTortureKill -seed %d", from)
			rng := rand.New(rand.NewPCG(from, uint64(copies)))
			env := harness.New(t)
			volume(t, env, copies)
			const size = 48 << 20
			env.Must("export", "create", "v/x", fmt.Sprint(size))
			env.Must("export", "create", "v/y", fmt.Sprint(size))
			stampers := []*stamper{newStamper("x", size, rng.Uint64()), newStamper("y", size, rng.Uint64())}
			d := env.Serve("v")
			for _, s := range stampers { // something is flushed, however soon the kills come
				s.some(t, d)
			}
			for range kills {
				var wg sync.WaitGroup
				for _, s := range stampers {
					wg.Go(func() { s.run(d.NBD) })
				}
				kill := time.AfterFunc(time.Duration(rng.IntN(600))*time.Millisecond, d.Kill)
				wg.Wait() // the writers end when the daemon is gone, and only then
				<-d.Ended()
				kill.Stop()
				d = d.Again()
				for _, s := range stampers {
					require.NoError(t, s.check(d.NBD), "export %s", s.export)
				}
			}
			flushes := stampers[0].flushes + stampers[1].flushes
			require.Positive(t, flushes)
			require.Zero(t, d.Stop())
			var c checked
			decode(t, env.Must("check", "v", "--json"), &c)
			require.Equal(t, "sound", c.Verdict, c.Faults)
			t.Logf("%d kills, %d flushes, nothing lost", kills, flushes)
		})
	}
}
