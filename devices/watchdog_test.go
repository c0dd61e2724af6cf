package devices

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAPauseOfTheProcessIsNotTheDisks: when time has jumped because nobody ran, what the disk did
// meanwhile counts; what it still has not done a moment later is late as ever.
func TestAPauseOfTheProcessIsNotTheDisks(t *testing.T) {
	for _, answers := range []bool{true, false} {
		withDevice(t, Options{Timeout: 5 * time.Second}, func(t *testing.T, g *gateDisk, d *Device) {
			began := time.Now()
			result := make(chan error, 1)
			d.Submit(&Request{Kind: Read, Bufs: [][]byte{AlignedBytes(4096)}, Done: func(_ *Request, err error) { result <- err }})
			require.Len(t, g.inDisk(), 1)
			d.epoch = d.epoch.Add(-7 * time.Second) // two seconds after the watchdog should have run
			d.kick <- struct{}{}
			time.Sleep(pauseGrace / 2)
			if answers {
				g.end(0, nil)
				require.NoError(t, <-result)
				return
			}
			synctest.Wait()
			require.Empty(t, result)
			require.ErrorIs(t, <-result, ErrTimeout)
			require.Equal(t, pauseGrace, time.Since(began))
		})
	}
}
