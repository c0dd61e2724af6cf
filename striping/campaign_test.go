//go:build torture

package striping

import "testing"

// TestTorture runs the long campaigns one after the other. Each prints one line with its figures.
func TestTorture(t *testing.T) {
	*crashCount = max(*crashCount, 100_000)
	*enumDepth = max(*enumDepth, 2)
	*lifeCount = max(*lifeCount, 10_000)
	*forecastSeeds = max(*forecastSeeds, 20)
	*drainSeeds = max(*drainSeeds, 60)
	*everyState = true
	*burstHours = max(*burstHours, 24)
	t.Run("power cuts", TestCrash)
	t.Run("power cuts of faulty mirrors", TestCrashWithFaults)
	t.Run("power cuts and lost disks", TestCrashThenLoss)
	t.Run("power cuts and disks gone for good", TestCrashThenRebuild)
	t.Run("every crash", TestEveryCrash)
	t.Run("lives of exports", TestLifeOfExports)
	t.Run("failed calls", TestNthCall)
	t.Run("full volumes", TestSpaceFillsUp)
	t.Run("forecasts", TestForecasts)
	t.Run("drains through power cuts", TestDrainThroughCrashes)
	t.Run("slow disks", TestSlowDiskSitsOut)
	t.Run("bursts", TestRivalsNoFalseVerdict)
}
