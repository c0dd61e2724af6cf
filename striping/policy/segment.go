package policy

// SegmentSize is the length of a segment on the fastest device of a sequential stream. A head
// passes over what another device serves, so pieces must be long against a seek: efficiency is
// about (U/b)/(U/b + seek). 16 MiB gives 94..97 % of the sum of two disks with a read-ahead
// window of twice that per device; pieces of a request give 68..76 %.
const SegmentSize = 16 << 20

// Segments cuts one sequential stream over spinning mirrors: each device serves runs in
// proportion to its speed, in the order of virtual finish times.
type Segments struct {
	virtual map[int]float64 // by device: seconds of work given to it
	device  int             // serves the present segment
	left    int64           // bytes of it
	next    int64           // where the stream goes on
	started bool
}

// StreamSource is a copy of the wanted range.
type StreamSource struct {
	Device int
	Rate   float64 // bytes per second, sequential
}

// Next returns the index of the copy that serves the range of size bytes at off of the stream.
// A jump of the stream ends the segment; so does a range that has no copy on its device.
func (s *Segments) Next(off, size int64, sources []StreamSource) int {
	if s.virtual == nil {
		s.virtual = map[int]float64{}
	}
	if s.started && off == s.next && s.left > 0 {
		for i := range sources {
			if sources[i].Device == s.device {
				s.serve(off, size, sources[i])
				return i
			}
		}
	}
	s.started = true
	best, fastest := -1, 0.0
	floor := s.floor(sources)
	for i, src := range sources {
		if src.Rate <= 0 {
			continue
		}
		fastest = max(fastest, src.Rate)
		// A device that joins, or was not used for long, does not catch up.
		s.virtual[src.Device] = max(s.virtual[src.Device], floor)
		if best < 0 || s.finish(src) < s.finish(sources[best]) {
			best = i
		}
	}
	if best < 0 {
		return 0
	}
	src := sources[best]
	s.device = src.Device
	s.left = max(size, int64(SegmentSize*src.Rate/fastest))
	s.serve(off, size, src)
	return best
}

// finish is the order of devices: least virtual time, and the faster one among equals.
func (s *Segments) finish(src StreamSource) float64 { return s.virtual[src.Device] + 1/src.Rate }

// floor is where a newcomer starts: one segment behind the most advanced.
func (s *Segments) floor(sources []StreamSource) float64 {
	var most, fastest float64
	for _, v := range s.virtual {
		most = max(most, v)
	}
	for _, src := range sources {
		fastest = max(fastest, src.Rate)
	}
	if fastest <= 0 {
		return 0
	}
	return most - 2*SegmentSize/fastest
}

func (s *Segments) serve(off, size int64, src StreamSource) {
	s.left -= size
	s.next = off + size
	s.virtual[src.Device] += float64(size) / src.Rate
}
