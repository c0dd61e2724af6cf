package striping

import (
	"os"
	"testing"
)

// torture reports whether the campaigns are to be as long as a release wants them.
func torture() bool { return os.Getenv("BALLAST_TORTURE") != "" }

func spaceCases() int {
	if torture() {
		return 100
	}
	return 4
}

// TestTorture runs the long campaigns one after the other. Each prints one line with its figures.
func TestTorture(t *testing.T) {
	if !torture() {
		t.Skip("set BALLAST_TORTURE, or run make torture")
	}
	*crashCount = max(*crashCount, 100_000)
	*enumDepth = max(*enumDepth, 2)
	*lifeCount = max(*lifeCount, 10_000)
	t.Run("power cuts", TestCrash)
	t.Run("power cuts of faulty mirrors", TestCrashWithFaults)
	t.Run("every crash", TestEveryCrash)
	t.Run("lives of exports", TestLifeOfExports)
	t.Run("failed calls", TestNthCall)
	t.Run("full volumes", TestSpaceFillsUp)
}
