package simdisk

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"ballast/devices"
)

// Timing is how long a disk takes. The disk serves one operation at a time, in order of
// arrival; an operation occupies it for PerOp, the seek and the transfer, and is answered
// Latency later, in which time the next ones are served. The zero value takes no time at all:
// operations then touch no clock and no timer.
type Timing struct {
	ReadRate, WriteRate float64       // bytes per second; 0: no time
	PerOp               time.Duration // occupies the disk, for each operation
	PerSync             time.Duration // occupies the disk, for each sync
	Latency             time.Duration // after the disk has been left
	Noise               float64       // sigma of the log-normal factor (mean 1) on the occupied time

	// Seek makes the disk a spinning one: an operation that does not start where the last one
	// ended waits that long, or, if it lies ahead, for the gap to pass by if that is shorter.
	Seek time.Duration

	Slow   float64     // factor on occupied time and latency; 0 means 1
	Phases []SlowPhase // besides Slow

	// For StallTime at the end of every StallEvery, counted from when the timing was set, the
	// disk does nothing.
	StallTime, StallEvery time.Duration
}

// SlowPhase is a time in which a disk is slower; From and To count from when the timing was set.
type SlowPhase struct {
	From, To time.Duration
	Factor   float64
}

// SSD is a solid-state disk of the given bytes per second for reads and writes: 20 us of
// occupancy, 100 us of latency, 15 % of noise.
func SSD(read, write float64) Timing {
	return Timing{ReadRate: read, WriteRate: write, PerOp: 20 * time.Microsecond,
		Latency: 100 * time.Microsecond, Noise: 0.15}
}

// HDD is a spinning disk of the given bytes per second with seeks of 9 ms.
func HDD(rate float64) Timing {
	return Timing{ReadRate: rate, WriteRate: rate, PerOp: 20 * time.Microsecond,
		Latency: 100 * time.Microsecond, Noise: 0.15, Seek: 9 * time.Millisecond}
}

func (t *Timing) none() bool {
	return t.ReadRate == 0 && t.WriteRate == 0 && t.PerOp == 0 && t.PerSync == 0 &&
		t.Latency == 0 && t.Seek == 0 && t.StallTime == 0
}

// factor is how much slower the disk is at a time since the timing was set.
func (t *Timing) factor(at time.Duration) float64 {
	f := 1.0
	if t.Slow > 0 {
		f = t.Slow
	}
	for _, p := range t.Phases {
		if at >= p.From && at < p.To {
			f *= p.Factor
		}
	}
	return f
}

// occupied is the undisturbed time of an operation with the head at head.
func (t *Timing) occupied(kind devices.Kind, off, size, head int64) time.Duration {
	if kind == devices.Sync {
		return t.PerSync
	}
	rate := t.ReadRate
	if kind == devices.Write {
		rate = t.WriteRate
	}
	perByte := 0.0
	if rate > 0 {
		perByte = float64(time.Second) / rate
	}
	d := t.PerOp
	if kind == devices.Discard {
		return d
	}
	if t.Seek > 0 && off != head {
		seek := t.Seek
		if off > head && perByte > 0 {
			seek = min(seek, time.Duration(float64(off-head)*perByte))
		}
		d += seek
	}
	return d + time.Duration(float64(size)*perByte)
}

// through is when work of length d that starts at start (since the timing was set) ends, given
// the stalls.
func (t *Timing) through(start, d time.Duration) time.Duration {
	if t.StallTime <= 0 || t.StallEvery <= t.StallTime {
		return start + d
	}
	for {
		phase := start % t.StallEvery
		room := t.StallEvery - t.StallTime - phase // until the next stall; < 0 inside one
		if room > 0 && d <= room {
			return start + d
		}
		d -= max(room, 0)
		start += t.StallEvery - phase
	}
}

// server is the part of a disk that takes time.
type server struct {
	mu     sync.Mutex // never held while waiting
	timing Timing
	since  time.Time // when timing was set
	rng    *rand.Rand
	tail   chan struct{} // closed when the last operation in line leaves the disk; nil: none
	free   time.Time     // when the last operation left, by the model
	head   int64         // where the last transfer ended
	queued int
	busy   time.Duration
}

// serve waits for as long as an operation takes. factor and delay come from faults.
func (s *server) serve(kind devices.Kind, off, size int64, factor float64, delay time.Duration) {
	s.mu.Lock()
	if s.timing.none() && s.tail == nil {
		s.mu.Unlock()
		if delay > 0 {
			time.Sleep(delay)
		}
		return
	}
	arrived := time.Now()
	before, mine := s.tail, make(chan struct{})
	s.tail = mine
	s.queued++
	s.mu.Unlock()

	if before != nil {
		<-before
	}
	s.mu.Lock()
	t := &s.timing
	start := arrived
	if s.free.After(start) {
		start = s.free
	}
	at := max(start.Sub(s.since), 0)
	slow := t.factor(at) * factor
	work := float64(t.occupied(kind, off, size, s.head)) * slow
	if t.Noise > 0 {
		work *= math.Exp(t.Noise*s.rng.NormFloat64() - t.Noise*t.Noise/2)
	}
	end := s.since.Add(t.through(at, time.Duration(work)))
	if end.Before(start) {
		end = start
	}
	s.busy += end.Sub(start)
	s.free = end
	if kind == devices.Read || kind == devices.Write {
		s.head = off + size
	}
	latency := time.Duration(float64(t.Latency)*slow) + delay
	s.mu.Unlock()

	sleepUntil(end)
	s.mu.Lock()
	s.queued--
	if s.tail == mine {
		s.tail = nil
	}
	s.mu.Unlock()
	close(mine)
	sleepUntil(end.Add(latency))
}

func sleepUntil(t time.Time) {
	if d := time.Until(t); d > 0 {
		time.Sleep(d)
	}
}

func (s *server) set(t Timing) {
	s.mu.Lock()
	s.timing = t
	s.since = time.Now()
	s.mu.Unlock()
}
