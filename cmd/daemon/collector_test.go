package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestThreadsOfFewProcessors(t *testing.T) {
	for processors, threads := range map[int]int{1: 2, 2: 4, 4: 8, 6: 8, 8: 8, 64: 64} {
		require.Equal(t, threads, threadsFor(processors), "%d", processors)
	}
}

func TestCollectorHasRoom(t *testing.T) {
	for used, percent := range map[int64]int{0: 1600, 8 << 20: 800, 64 << 20: 100, 128 << 20: 50, 1 << 30: 25} {
		require.Equal(t, percent, collectorPercent(used), "%d", used)
	}
	was := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(was) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tuneCollector(ctx)
	}()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	require.Eventually(t, func() bool {
		metrics.Read(sample)
		return sample[0].Value.Uint64() > 100
	}, time.Minute, time.Millisecond)
	cancel()
	<-done
}
