package devices

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets of a latency histogram: each power of two of nanoseconds is cut into histSub equal
// parts, from 2^histLow ns (about 1 µs) to 2^histHigh ns (about 2.3 minutes). What is shorter or
// longer falls into the first or the last bucket. A quantile is off by at most one bucket: 12.5 %.
const (
	histLow     = 10
	histHigh    = 37
	histSubBits = 3
	histSub     = 1 << histSubBits
	histBuckets = (histHigh - histLow) * histSub
)

// Hist counts latencies in buckets of logarithmic width. Add may be called concurrently; the
// zero value is ready.
type Hist struct {
	counts [histBuckets]atomic.Uint64
	sum    atomic.Int64 // ns
}

// histBucket is the bucket that counts t.
func histBucket(t time.Duration) int {
	if t < 1<<histLow {
		return 0
	}
	exp := bits.Len64(uint64(t)) - 1
	if exp >= histHigh {
		return histBuckets - 1
	}
	sub := int(uint64(t)>>(exp-histSubBits)) & (histSub - 1)
	return (exp-histLow)*histSub + sub
}

// HistBound is the least duration that falls into bucket i.
func HistBound(i int) time.Duration {
	exp := histLow + i/histSub
	return time.Duration(1)<<exp + time.Duration(i%histSub)<<(exp-histSubBits)
}

// Add counts one operation that took t.
func (h *Hist) Add(t time.Duration) {
	h.counts[histBucket(t)].Add(1)
	h.sum.Add(int64(t))
}

// Snapshot reads the histogram. Operations that complete meanwhile are counted or not.
func (h *Hist) Snapshot() HistSnapshot {
	var s HistSnapshot
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
		s.Count += s.Counts[i]
	}
	s.Sum = time.Duration(h.sum.Load())
	return s
}

// HistSnapshot is a Hist at one moment, or the difference of two moments.
type HistSnapshot struct {
	Counts [histBuckets]uint64
	Count  uint64        // sum of Counts
	Sum    time.Duration // of all latencies
}

// Since returns what was counted after the earlier snapshot.
func (s HistSnapshot) Since(earlier HistSnapshot) HistSnapshot {
	for i := range s.Counts {
		s.Counts[i] -= earlier.Counts[i]
	}
	s.Count -= earlier.Count
	s.Sum -= earlier.Sum
	return s
}

// Quantile returns the latency that a share q of the operations did not exceed, interpolated
// within its bucket; 0 when nothing was counted.
func (s HistSnapshot) Quantile(q float64) time.Duration {
	if s.Count == 0 {
		return 0
	}
	rank := q * float64(s.Count)
	var below float64
	for i, c := range s.Counts {
		if c == 0 {
			continue
		}
		if below+float64(c) >= rank {
			lo, hi := HistBound(i), HistBound(i+1)
			if i == 0 {
				lo = 0
			}
			part := max(0, min(1, (rank-below)/float64(c)))
			return lo + time.Duration(part*float64(hi-lo))
		}
		below += float64(c)
	}
	return HistBound(histBuckets)
}

// Mean is the mean latency, 0 when nothing was counted.
func (s HistSnapshot) Mean() time.Duration {
	if s.Count == 0 {
		return 0
	}
	return s.Sum / time.Duration(s.Count)
}
