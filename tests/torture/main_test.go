package torture

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"

	"ballast/tests/harness"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of random tests; 0: a new one")
	killsFlag = flag.Int("kills", 0, "kills of each variant of TestTortureKills; 0: 3, or 50 with $BALLAST_TORTURE")
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// long tells that this is make torture.
func long() bool { return os.Getenv("BALLAST_TORTURE") != "" }

// newRand prints the seed. It repeats what clients do, though not when the daemon does what.
func newRand(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("go test ./tests/torture -run '%s' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 1))
}
