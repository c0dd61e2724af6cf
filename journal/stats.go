package journal

import (
	"math/bits"
	"time"
)

// Stats is what a Store has done since it was opened.
type Stats struct {
	Groups  uint64 // committed, each with one device flush
	Batches uint64 // committed in them
	Ops     uint64 // changes in them
	Bytes   uint64 // of keys and values in them
	Refused uint64 // batches refused with ErrFull
	// Commit times of groups, from taking the batches to durable: the sum, the longest, and how
	// many took less than 2^i microseconds but not less than 2^(i-1).
	CommitTime time.Duration
	CommitMax  time.Duration
	Latency    [32]uint64
	// Batches per group: the largest, and how many groups had less than 2^i but not less than
	// 2^(i-1).
	GroupMax int
	Sizes    [18]uint64

	Sheds uint64 // how often the memory of the tables was given back

	DiskBytes    int64 // that the store takes, at most some seconds old
	FreeBytes    int64 // of its file system, as of the last commit
	BallastBytes int64 // reserved to escape a full file system
	Failed       error // why commits fail for good; nil: they do not
}

func (s *Stats) count(batches, ops, bytes int, took time.Duration) {
	s.Groups++
	s.Batches += uint64(batches)
	s.Ops += uint64(ops)
	s.Bytes += uint64(bytes)
	s.CommitTime += took
	s.CommitMax = max(s.CommitMax, took)
	s.Latency[min(bits.Len64(uint64(took.Microseconds())), len(s.Latency)-1)]++
	s.GroupMax = max(s.GroupMax, batches)
	s.Sizes[min(bits.Len(uint(batches)), len(s.Sizes)-1)]++
}

// Stats returns the counts so far.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Failed = s.dead
	return st
}
