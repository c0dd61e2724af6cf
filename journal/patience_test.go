package journal

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAPauseIsOneStep: who looks for the time only when it has long passed, as after a pause of the process,
// waits for all of the rest.
func TestAPauseIsOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pause := range []time.Duration{0, 4990 * time.Millisecond, time.Hour} {
			p := newPatience(5 * time.Second)
			time.Sleep(pause)
			began := time.Now()
			steps := 1
			for <-p.C; !p.over(); <-p.C {
				steps++
			}
			require.Equal(t, patienceSteps, steps)
			require.GreaterOrEqual(t, time.Since(began), 4750*time.Millisecond)
			p.again()
			began = time.Now()
			for <-p.C; !p.over(); <-p.C {
			}
			require.Equal(t, 5*time.Second, time.Since(began))
			p.stop()
		}
	})
}
