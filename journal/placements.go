package journal

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
)

// Placement is what a chunk's record says without its blocks.
type Placement struct {
	Key        Key
	Generation uint64
	Slot       uint32
	Count      uint8 // of copies
	Copies     [MaxCopies]Copy
}

// Placements are those of all chunks as Open has read them, so that a volume need not read all records
// once more. They are noted as differences from the chunk before, in some 10 to 20 bytes each.
type Placements struct {
	parts [][]byte
	bytes atomic.Int64
}

// placementsMax is how many bytes of placements are kept: of 12 to 25 million chunks. Of a larger journal
// none are, and who wants them reads the records.
var placementsMax int64 = 256 << 20

// done returns the placements, or nil if they have become too many.
func (p *Placements) done() *Placements {
	if p.bytes.Load() > placementsMax {
		return nil
	}
	return p
}

// set keeps what was noted as part i.
func (p *Placements) set(i int, w *placementWriter) {
	if p.bytes.Add(int64(len(w.buf))) <= placementsMax {
		p.parts[i] = slices.Clone(w.buf)
	}
	w.buf = nil
}

// Parts is the number of parts, which can be read at once and ascend by key.
func (p *Placements) Parts() int { return len(p.parts) }

// placementWriter notes the placements of one part.
type placementWriter struct {
	buf  []byte
	last Placement
}

// Bits of a placement's first byte: two for the number of copies, three for those that are stale.
const (
	placementStale = 1 << 2
	placementNext  = 1 << 5 // it is of the chunk behind the last one
	placementSlot  = 1 << 6 // the slot is as long as the last one
)

// add notes a chunk. Its key is above those before.
func (w *placementWriter) add(key Key, c *Chunk) {
	b := w.buf
	_, object, index := key.Parts()
	_, lastObject, lastIndex := w.last.Key.Parts()
	flags := byte(len(c.Copies))
	for i := range c.Copies {
		if c.Copies[i].Stale {
			flags |= placementStale << i
		}
	}
	next := object == lastObject && index == lastIndex+1
	if next {
		flags |= placementNext
	}
	if c.Slot == w.last.Slot {
		flags |= placementSlot
	}
	b = append(b, flags)
	if !next {
		b = binary.AppendUvarint(b, object)
		b = binary.AppendUvarint(b, index)
	}
	if c.Slot != w.last.Slot {
		b = binary.AppendUvarint(b, uint64(c.Slot))
	}
	b = binary.AppendVarint(b, int64(c.Generation-w.last.Generation))
	for i := range c.Copies {
		b = binary.AppendUvarint(b, uint64(c.Copies[i].Device))
		b = binary.AppendVarint(b, (c.Copies[i].Off-w.last.Copies[i].Off)/BlockSize)
	}
	w.buf = b
	w.last.Key, w.last.Generation, w.last.Slot = key, c.Generation, c.Slot
	copy(w.last.Copies[:], c.Copies)
}

// Part calls fn for the chunks of a part, by ascending key. What it gets is valid until it returns.
func (p *Placements) Part(i int, fn func(*Placement) error) error {
	var c Placement
	b := p.parts[i]
	uvarint := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	varint := func() int64 {
		v, n := binary.Varint(b)
		b = b[n:]
		return v
	}
	for len(b) > 0 {
		flags := b[0]
		b = b[1:]
		_, object, index := c.Key.Parts()
		if flags&placementNext != 0 {
			index++
		} else {
			object, index = uvarint(), uvarint()
		}
		c.Key = MakeKey(SpaceChunk, object, index)
		if flags&placementSlot == 0 {
			c.Slot = uint32(uvarint())
		}
		c.Generation += uint64(varint())
		c.Count = flags & 3
		for i := range c.Count {
			to := &c.Copies[i]
			to.Device = uint16(uvarint())
			to.Off += varint() * BlockSize
			to.Stale = flags&(placementStale<<i) != 0
		}
		if err := fn(&c); err != nil {
			return err
		}
	}
	return nil
}

// TakePlacements returns the placements of all chunks as they still are, for one caller, or nil if they
// have to be read.
func (s *Store) TakePlacements() *Placements {
	return s.placements.Swap(nil)
}
