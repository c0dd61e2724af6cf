package journal

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"unsafe"
)

// The format of a ring; doc.go has the diagram. All numbers are little endian.
const (
	ringBlock  = 4096
	ringStart  = 2 * ringBlock // two headers come first
	ringLeast  = 8 * ringBlock // the smallest area that is used
	frameMax   = 256 << 10     // of one frame, header included
	frameMagic = "BALLFRAM"
	ringMagic  = "BALLRING"

	frameHeader = 160
	atFrameSum  = frameHeader - 4

	ringVersion = 2  // 1: the digest was another one
	ringLives   = 64 // kept in a header and in the store
)

// unitKind says what a unit of a ring is.
type unitKind byte

const (
	unitBegin unitKind = 1 // the ring begins here; whatever lies before is nothing
	unitDump  unitKind = 2 // records as they were when the ring began
	unitWhole unitKind = 3 // from here on the ring has all records; also where a life begins
	// A committed group, and behind it records that are still so, from units that its tail leaves
	// behind.
	unitGroup unitKind = 4
)

// Life is one opening of a journal. Numbers grow by one; the ID tells two openings apart that both
// followed the same one, as when the devices of a volume were served apart.
type Life struct {
	Number uint64
	ID     uint64
}

// frame is the header of a frame. A unit is one frame or several, one behind the other.
type frame struct {
	kind   unitKind
	last   bool   // of its unit
	length int    // bytes of payload
	pos    uint64 // of this frame
	unit   uint64 // position of the unit's first frame
	tail   uint64 // units before it are not needed from this one on
	synced uint64 // what is before it was on stable media when this was written
	life   Life
	State         // of the journal after this unit
	prev   uint32 // sum of the header of the frame before
	sum    uint32 // of this header
}

// ringID says whose ring it is, and which of those that were begun in the same area.
type ringID struct {
	volume, device [16]byte
	ring           uint64
}

// pack writes the frame into b, whose payload stands behind the header already.
//
//	0   magic "BALLFRAM"      64  position of the unit     136 ID of the life
//	8   version (1)           72  tail                     144 sum of the frame before (4)
//	9   kind (1)              80  synced                   148 CRC32C of the payload (4)
//	10  last of its unit (1)  88  number of the life       152 zero (4)
//	11  zero (1)              96  sequence                 156 CRC32C of the 156 bytes before
//	12  bytes of payload (4)  104 number of records
//	16  volume UUID           112 digest (16)
//	32  device UUID           128 zero (8)
//	48  ring
//	56  position
func (f *frame) pack(b []byte, id *ringID) {
	clear(b[:frameHeader])
	copy(b, frameMagic)
	b[8], b[9] = ringVersion, byte(f.kind)
	if f.last {
		b[10] = 1
	}
	le.PutUint32(b[12:], uint32(f.length))
	copy(b[16:], id.volume[:])
	copy(b[32:], id.device[:])
	le.PutUint64(b[48:], id.ring)
	le.PutUint64(b[56:], f.pos)
	le.PutUint64(b[64:], f.unit)
	le.PutUint64(b[72:], f.tail)
	le.PutUint64(b[80:], f.synced)
	le.PutUint64(b[88:], f.life.Number)
	le.PutUint64(b[96:], uint64(f.Seq))
	le.PutUint64(b[104:], f.Count)
	copy(b[112:], f.Digest[:])
	le.PutUint64(b[136:], f.life.ID)
	le.PutUint32(b[144:], f.prev)
	le.PutUint32(b[148:], crc32.Checksum(b[frameHeader:frameHeader+f.length], castagnoli))
	f.sum = crc32.Checksum(b[:atFrameSum], castagnoli)
	le.PutUint32(b[atFrameSum:], f.sum)
}

// parseFrame reads a header; the payload is checked by checkPayload.
func parseFrame(b []byte) (f frame, id ringID, err error) {
	bad := func(what string) (frame, ringID, error) {
		return frame{}, ringID{}, fmt.Errorf("%w: frame: %s", ErrCorrupt, what)
	}
	if len(b) < frameHeader || string(b[:8]) != frameMagic {
		return bad("no magic")
	}
	f.sum = crc32.Checksum(b[:atFrameSum], castagnoli)
	if f.sum != le.Uint32(b[atFrameSum:]) {
		return bad("checksum")
	}
	if b[8] != ringVersion {
		return f, id, fmt.Errorf("%w: ring of version %d, this program knows %d", ErrVersion, b[8], ringVersion)
	}
	f.kind, f.last, f.length = unitKind(b[9]), b[10] == 1, int(le.Uint32(b[12:]))
	copy(id.volume[:], b[16:])
	copy(id.device[:], b[32:])
	id.ring = le.Uint64(b[48:])
	f.pos, f.unit, f.tail, f.synced = le.Uint64(b[56:]), le.Uint64(b[64:]), le.Uint64(b[72:]), le.Uint64(b[80:])
	f.life = Life{le.Uint64(b[88:]), le.Uint64(b[136:])}
	f.Seq, f.Count = Seq(le.Uint64(b[96:])), le.Uint64(b[104:])
	copy(f.Digest[:], b[112:])
	f.prev = le.Uint32(b[144:])
	if f.kind < unitBegin || f.kind > unitGroup || b[10] > 1 || b[11] != 0 || f.length > frameMax-frameHeader ||
		f.pos%ringBlock != 0 || f.unit > f.pos || f.tail > f.pos || f.synced > f.pos {
		return bad("fields")
	}
	return f, id, nil
}

func checkPayload(b []byte, f *frame) error {
	if crc32.Checksum(b[frameHeader:frameHeader+f.length], castagnoli) != le.Uint32(b[148:]) {
		return fmt.Errorf("%w: frame at %d: checksum of its payload", ErrCorrupt, f.pos)
	}
	return nil
}

// size is what the frame takes on the device.
func (f *frame) size() uint64 { return frameSize(f.length) }

func frameSize(payload int) uint64 {
	return (uint64(frameHeader+payload) + ringBlock - 1) / ringBlock * ringBlock
}

// frameRoom returns how many of n bytes of payload go into a frame at pos of a ring of size bytes:
// a frame never runs over the end of the ring.
func frameRoom(pos, size uint64, n int) int {
	return min(n, int(min(frameMax, size-pos%size))-frameHeader)
}

// unitSize returns what a unit of n bytes at pos takes.
func unitSize(pos, size uint64, n int) uint64 {
	start := pos
	for {
		part := frameRoom(pos, size, n)
		pos += frameSize(part)
		if n -= part; n == 0 {
			return pos - start
		}
	}
}

// deleted is the length that stands for a record that is no more.
const deleted = 1<<32 - 1

// appendOps appends changes as a unit has them: key (16), length (4), value.
func appendOps(dst []byte, ops []Op) []byte {
	for i := range ops {
		dst = append(dst, ops[i].Key[:]...)
		if ops[i].Value == nil {
			dst = le.AppendUint32(dst, deleted)
			continue
		}
		dst = le.AppendUint32(dst, uint32(len(ops[i].Value)))
		dst = append(dst, ops[i].Value...)
	}
	return dst
}

func opSize(op *Op) int { return len(op.Key) + 4 + len(op.Value) }

// parseOps is the reverse of appendOps. The values stand in b.
func parseOps(b []byte) ([]Op, error) {
	var ops []Op
	for len(b) > 0 {
		if len(b) < 20 {
			return nil, fmt.Errorf("%w: unit ends within a record", ErrCorrupt)
		}
		op := Op{Key: Key(b[:16])}
		n := le.Uint32(b[16:])
		b = b[20:]
		if n != deleted {
			if uint64(n) > uint64(len(b)) {
				return nil, fmt.Errorf("%w: record %v of %d bytes in a unit with %d left", ErrCorrupt, op.Key, n, len(b))
			}
			op.Value = b[:n:n]
			b = b[n:]
		}
		if k := op.Key; k.Space() == SpaceReserve || k[0] == 0 || k[1] != 0 {
			return nil, fmt.Errorf("%w: unit has key %x", ErrCorrupt, k[:])
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// ringHeader says where to begin to read. The two stand in the first two blocks of the area and
// are written by turns.
type ringHeader struct {
	ringID
	size   uint64 // of the ring, bytes
	writes uint64 // grows by one with each writing
	at     uint64 // position of a unit that is on stable media
	lives  lives
}

// pack returns the header's block:
//
//	0   magic "BALLRING"   56  size                  84   zero (4)
//	8   version (1)        64  number of writing     88   lives: number (8), ID (8), 64 at most
//	9   zero (7)           72  position of a unit    1112 with what sequence each began (8); 0: not known
//	16  volume UUID        80  number of lives (4)   4092 CRC32C of the 4092 bytes before
//	32  device UUID
//	48  ring
func (h *ringHeader) pack() []byte {
	b := alignedBytes(ringBlock)
	copy(b, ringMagic)
	b[8] = ringVersion
	copy(b[16:], h.volume[:])
	copy(b[32:], h.device[:])
	le.PutUint64(b[48:], h.ring)
	le.PutUint64(b[56:], h.size)
	le.PutUint64(b[64:], h.writes)
	le.PutUint64(b[72:], h.at)
	le.PutUint32(b[80:], uint32(len(h.lives)))
	for i, l := range h.lives {
		le.PutUint64(b[88+16*i:], l.Number)
		le.PutUint64(b[96+16*i:], l.ID)
		le.PutUint64(b[1112+8*i:], uint64(l.began))
	}
	le.PutUint32(b[ringBlock-4:], crc32.Checksum(b[:ringBlock-4], castagnoli))
	return b
}

func parseRingHeader(b []byte) (h ringHeader, err error) {
	bad := func(what string) (ringHeader, error) {
		return ringHeader{}, fmt.Errorf("%w: header of a ring: %s", ErrCorrupt, what)
	}
	if len(b) != ringBlock || !bytes.HasPrefix(b, []byte(ringMagic)) {
		return bad("no magic")
	}
	if crc32.Checksum(b[:ringBlock-4], castagnoli) != le.Uint32(b[ringBlock-4:]) {
		return bad("checksum")
	}
	if b[8] != ringVersion {
		return h, fmt.Errorf("%w: ring of version %d, this program knows %d", ErrVersion, b[8], ringVersion)
	}
	copy(h.volume[:], b[16:])
	copy(h.device[:], b[32:])
	h.ring, h.size, h.writes, h.at = le.Uint64(b[48:]), le.Uint64(b[56:]), le.Uint64(b[64:]), le.Uint64(b[72:])
	n := le.Uint32(b[80:])
	if n > ringLives || h.size == 0 || h.size%ringBlock != 0 || h.at%ringBlock != 0 {
		return bad("fields")
	}
	for i := range int(n) {
		h.lives = append(h.lives, opening{Life{le.Uint64(b[88+16*i:]), le.Uint64(b[96+16*i:])}, Seq(le.Uint64(b[1112+8*i:]))})
	}
	return h, nil
}

// alignedBytes returns size zero bytes at a multiple of ringBlock, as disks want them.
func alignedBytes(size int) []byte {
	b := make([]byte, size+ringBlock)
	pad := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (ringBlock - 1))
	return b[pad : pad+size : pad+size]
}
