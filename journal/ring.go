package journal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// ring lays out units in the order in which they are to be written. It does no I/O and is for
// one goroutine at a time.
type ring struct {
	id   ringID
	size uint64
	life Life

	head, tail uint64
	prev       uint32 // sum of the last frame
}

// ringWrite is a unit that is to be written at pos.
type ringWrite struct {
	pos  uint64
	unit uint64 // the last unit that begins in buf
	tail uint64 // that it leaves
	seq  Seq
	buf  []byte
}

// newRing begins a ring of its own in an area, whatever was there.
func newRing(volume [16]byte, p *Place, life Life) *ring {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return &ring{id: ringID{volume, p.Device, binary.LittleEndian.Uint64(id[:])}, size: ringSize(p.Area.Size()), life: life}
}

// continueRing goes on where a survey ended.
func continueRing(s *Survey, life Life) *ring {
	return &ring{id: s.header.ringID, size: s.header.size, life: life, head: s.head.end, tail: s.head.tail, prev: s.head.sum}
}

// used is what the ring takes now.
func (r *ring) used() uint64 { return r.head - r.tail }

// fits tells whether a unit of n bytes can be written without overwriting what is needed.
func (r *ring) fits(n int) bool { return r.used()+unitSize(r.head, r.size, n) <= r.size }

// add lays out a unit, which must fit. tail is what it leaves behind.
func (r *ring) add(kind unitKind, state State, tail, synced uint64, payload []byte) ringWrite {
	total := unitSize(r.head, r.size, len(payload))
	if r.used()+total > r.size || tail < r.tail || tail > r.head {
		panic(fmt.Sprintf("journal: unit of %d bytes at %d, tail %d then %d, in a ring of %d", total, r.head, r.tail, tail, r.size))
	}
	w := ringWrite{pos: r.head, unit: r.head, tail: tail, seq: state.Seq, buf: alignedBytes(int(total))}
	b, unit := w.buf, r.head
	for {
		n := frameRoom(r.head, r.size, len(payload))
		copy(b[frameHeader:], payload[:n])
		payload = payload[n:]
		f := frame{kind: kind, last: len(payload) == 0, length: n, pos: r.head, unit: unit, tail: tail, synced: synced,
			life: r.life, State: state, prev: r.prev}
		f.pack(b, &r.id)
		r.prev = f.sum
		r.head += f.size()
		b = b[f.size():]
		if f.last {
			r.tail = tail
			return w
		}
	}
}

// writeRing writes whole frames at a position, in two parts where the ring ends.
func writeRing(area Area, size, pos uint64, b []byte) error {
	for len(b) > 0 {
		n := min(uint64(len(b)), size-pos%size)
		if _, err := area.WriteAt(b[:n], int64(ringStart+pos%size)); err != nil {
			return err
		}
		pos, b = pos+n, b[n:]
	}
	return nil
}

// reclaimAt is how full a ring may be before what its tail holds alive is carried to its head.
func (r *ring) reclaimAt() uint64 {
	return r.size - max(r.size/8, min(r.size/2, 8<<20))
}

// crowdedAt is how full it may be without commits being slowed down.
func (r *ring) crowdedAt() uint64 { return r.size - (r.size-r.reclaimAt())/2 }
