package devices

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistBucketsAreContiguous(t *testing.T) {
	for i := range histBuckets {
		lo := HistBound(i)
		require.Equal(t, i, histBucket(lo), "first of bucket %d", i)
		require.Equal(t, i, histBucket(HistBound(i+1)-1), "last of bucket %d", i)
	}
	require.Zero(t, histBucket(0))
	require.Equal(t, histBuckets-1, histBucket(time.Hour))
}

func TestHistQuantilesAndDifference(t *testing.T) {
	var h Hist
	require.Zero(t, h.Snapshot().Quantile(0.5))
	for i := 1; i <= 1000; i++ {
		h.Add(time.Duration(i) * time.Millisecond)
	}
	s := h.Snapshot()
	require.EqualValues(t, 1000, s.Count)
	require.InEpsilon(t, 500*time.Millisecond, s.Quantile(0.5), 0.125)
	require.InEpsilon(t, 990*time.Millisecond, s.Quantile(0.99), 0.125)
	require.InEpsilon(t, 500*time.Millisecond, s.Mean(), 0.01)

	for range 10 {
		h.Add(time.Microsecond * 50)
	}
	d := h.Snapshot().Since(s)
	require.EqualValues(t, 10, d.Count)
	require.InEpsilon(t, 50*time.Microsecond, d.Quantile(0.5), 0.125)
	require.Equal(t, 50*time.Microsecond, d.Mean())
}

func TestHistIsSafe(t *testing.T) {
	var h Hist
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				h.Add(time.Millisecond)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 4000, h.Snapshot().Count)
}
