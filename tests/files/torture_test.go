//go:build torture

package files

import "testing"

func TestTortureNamesSurviveKills(t *testing.T) {
	for range 4 {
		t.Run("", func(t *testing.T) { killLoop(t, 60) })
	}
}
