package balance

import (
	"sync"

	"ballast/devices"
	"ballast/striping/policy"
)

// Stream is one sequential reader. Reads that name it are cut over spinning mirrors in long
// segments, since a head has to pass over what it does not read; where a copy lies on a device
// without moving parts, or a device has trouble, each read goes its own way. The zero value is
// ready.
type Stream struct {
	mu       sync.Mutex
	segments policy.Segments
	last     int64 // bytes of the stream that were asked for
}

// pick returns the copy that serves the next range of the stream, -1 if the stream has no say.
func (s *Stream) pick(b *Balancer, r *Read, sources []policy.Source) int {
	var buf [4]policy.StreamSource
	var index [4]int
	list := buf[:0]
	for i, c := range r.Copies {
		m := b.dev(c.Device)
		if m == nil || sources[i].Gone || !sources[i].Readable || sources[i].Tried {
			continue
		}
		if !m.dev.Rotational() || len(list) == len(buf) {
			return -1
		}
		index[len(list)] = i
		list = append(list, policy.StreamSource{Device: int(c.Device), Rate: m.dev.Rate(devices.Read)})
	}
	if len(list) < 2 {
		return -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	off := s.last
	s.last += r.Size
	return index[s.segments.Next(off, r.Size, list)]
}
