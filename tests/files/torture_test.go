//go:build torture

package files

import (
	"fmt"
	"testing"
)

func TestTortureNamesSurviveKills(t *testing.T) {
	for range 4 {
		t.Run("", func(t *testing.T) { killLoop(t, 60) })
	}
}

func TestTortureExerciseFiles(t *testing.T) {
	for copies := 1; copies <= 2; copies++ {
		t.Run(fmt.Sprint(copies), func(t *testing.T) { exercise(t, copies, 3, 20000) })
	}
}
