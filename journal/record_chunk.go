package journal

import (
	"fmt"
	"math/bits"
	"slices"
)

// Chunk record, part of the format:
//
//	0   version of the format (1)
//	1   bits 0-1 number of copies, bit 2 all blocks written, bits 4-6 copy 0-2 is stale, others 0
//	2   slot, in blocks (2 bytes)
//	4   generation (8)
//	12  version (8)
//	20  per copy: device (2), offset in blocks (6)
//	..  unless slot is 0 or bit 2 is set: which blocks are written, bit i of byte i/8 (slot/8, rounded up)
//	..  per written block: sum (4)
//	..  CRC32C (4)
const (
	chunkFixed   = 20
	chunkPerCopy = 8
	chunkAll     = 1 << 2
	chunkStale   = 1 << 4
	chunkUnused  = 1<<3 | 1<<7
)

// PackedSize returns the length of the record in bytes.
func (c *Chunk) PackedSize() int {
	n := chunkFixed + chunkPerCopy*len(c.Copies) + 4*len(c.Sums) + crcSize
	if len(c.Sums) != int(c.Slot) {
		n += (int(c.Slot) + 7) / 8
	}
	return n
}

// Pack returns the record's bytes at key. It panics if c breaks a limit of the format: more than
// MaxCopies copies, an offset that is not a multiple of BlockSize below MaxOff, a written block
// beyond the slot, another number of sums than of written blocks, copies without a slot.
func (c *Chunk) Pack(key Key) []byte {
	return c.AppendPack(make([]byte, 0, c.PackedSize()), key)
}

// AppendPack is Pack into the memory behind dst.
func (c *Chunk) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceChunk)
	c.check(key)
	start := len(dst)
	flags := byte(len(c.Copies))
	all := c.Slot > 0 && len(c.Sums) == int(c.Slot)
	if all {
		flags |= chunkAll
	}
	for i := range c.Copies {
		if c.Copies[i].Stale {
			flags |= chunkStale << i
		}
	}
	dst = append(dst, recordVersion, flags)
	dst = le.AppendUint16(dst, uint16(c.Slot))
	dst = le.AppendUint64(dst, c.Generation)
	dst = le.AppendUint64(dst, c.Version)
	for i := range c.Copies {
		cp := &c.Copies[i]
		dst = le.AppendUint64(dst, uint64(cp.Device)|uint64(cp.Off/BlockSize)<<16)
	}
	if !all {
		dst = appendBits(dst, c.Written, int(c.Slot))
	}
	n := len(dst)
	dst = slices.Grow(dst, 4*len(c.Sums)+crcSize)[:n+4*len(c.Sums)]
	p := dst[n:]
	for _, s := range c.Sums {
		le.PutUint32(p, s)
		p = p[4:]
	}
	return appendCRC(dst, start, &key)
}

// check panics if c breaks a limit of the format.
func (c *Chunk) check(key Key) {
	if len(c.Copies) > MaxCopies || c.Slot > MaxSlot || (c.Slot == 0 && len(c.Copies) > 0) {
		panic(fmt.Sprintf("journal: chunk %v: %d copies, slot of %d blocks", key, len(c.Copies), c.Slot))
	}
	for i := range c.Copies {
		if off := c.Copies[i].Off; off < 0 || off >= MaxOff || off%BlockSize != 0 {
			panic(fmt.Sprintf("journal: chunk %v: copy %d at offset %d", key, i, off))
		}
	}
	written := 0
	for i, w := range c.Written {
		written += bits.OnesCount64(w)
		if rest := int(c.Slot) - 64*i; w != 0 && rest < 64 && (rest <= 0 || w>>rest != 0) {
			panic(fmt.Sprintf("journal: chunk %v: written blocks beyond slot of %d", key, c.Slot))
		}
	}
	if written != len(c.Sums) {
		panic(fmt.Sprintf("journal: chunk %v: %d sums for %d written blocks", key, len(c.Sums), written))
	}
}

// appendBits appends the first n bits of words, rounded up to bytes; words that are not there
// are zero.
func appendBits(dst []byte, words []uint64, n int) []byte {
	size := (n + 7) / 8
	for i := 0; size > 0; i++ {
		var w uint64
		if i < len(words) {
			w = words[i]
		}
		if size >= 8 {
			dst = le.AppendUint64(dst, w)
			size -= 8
			continue
		}
		for ; size > 0; size-- {
			dst = append(dst, byte(w))
			w >>= 8
		}
	}
	return dst
}

// ParseChunk is the reverse of Pack. Written has the words that the slot needs, no more.
func ParseChunk(key Key, b []byte) (Chunk, error) {
	var c Chunk
	err := c.Parse(key, b)
	if err != nil {
		return Chunk{}, err
	}
	return c, nil
}

// Parse is ParseChunk into c, whose slices are used again where they are large enough. After an
// error c is not defined.
func (c *Chunk) Parse(key Key, b []byte) error {
	flags, bits, sums, err := c.parsePlacement(key, b)
	if err != nil {
		return err
	}
	slot := int(c.Slot)
	c.Written = resize(c.Written, (slot+63)/64)
	if flags&chunkAll != 0 {
		for i := range c.Written {
			c.Written[i] = ^uint64(0)
		}
		if slot%64 != 0 {
			c.Written[len(c.Written)-1] = 1<<(slot%64) - 1
		}
	} else {
		parseBits(c.Written, bits)
	}
	c.Sums = resize(c.Sums, len(sums)/4)
	for i := range c.Sums {
		c.Sums[i] = le.Uint32(sums)
		sums = sums[4:]
	}
	return nil
}

// ParsePlacement is Parse without the blocks: it checks all of the record, but leaves Written and Sums
// empty.
func (c *Chunk) ParsePlacement(key Key, b []byte) error {
	c.Written, c.Sums = c.Written[:0], c.Sums[:0]
	_, _, _, err := c.parsePlacement(key, b)
	return err
}

// parsePlacement parses what stands before the bits of written blocks, and checks these, which stand in
// bits if there are any, and the number of sums.
func (c *Chunk) parsePlacement(key Key, b []byte) (flags byte, bits, sums []byte, err error) {
	f, err := openRecord(&key, SpaceChunk, b)
	if err != nil {
		return 0, nil, nil, err
	}
	if len(f) < chunkFixed-1 {
		return 0, nil, nil, corrupt(key, "%d bytes are too short", len(b))
	}
	flags = f[0]
	copies, slot := int(flags&3), int(le.Uint16(f[1:]))
	if flags&chunkUnused != 0 || slot > MaxSlot || slot == 0 && flags != 0 || flags>>4>>copies != 0 {
		return 0, nil, nil, corrupt(key, "flags %#02x, slot of %d blocks", flags, slot)
	}
	c.Slot = uint32(slot)
	c.Generation, c.Version = le.Uint64(f[3:]), le.Uint64(f[11:])
	f = f[chunkFixed-1:]
	if len(f) < chunkPerCopy*copies {
		return 0, nil, nil, corrupt(key, "%d bytes are too short", len(b))
	}
	c.Copies = resize(c.Copies, copies)
	for i := range c.Copies {
		v := le.Uint64(f[chunkPerCopy*i:])
		c.Copies[i] = Copy{uint16(v), flags&(chunkStale<<i) != 0, int64(v>>16) * BlockSize}
	}
	f = f[chunkPerCopy*copies:]
	written := slot
	if flags&chunkAll == 0 {
		size := (slot + 7) / 8
		if len(f) < size {
			return 0, nil, nil, corrupt(key, "%d bytes are too short", len(b))
		}
		bits, f = f[:size], f[size:]
		written = countBits(bits)
		if slot%8 != 0 && bits[size-1]>>(slot%8) != 0 || slot > 0 && written == slot {
			return 0, nil, nil, corrupt(key, "bits of written blocks")
		}
	}
	if len(f) != 4*written {
		return 0, nil, nil, corrupt(key, "%d bytes of sums for %d written blocks", len(f), written)
	}
	return flags, bits, f, nil
}

// countBits returns how many bits are set.
func countBits(b []byte) (set int) {
	for ; len(b) >= 8; b = b[8:] {
		set += bits.OnesCount64(le.Uint64(b))
	}
	for _, v := range b {
		set += bits.OnesCount8(v)
	}
	return set
}

// parseBits fills words from the bytes of appendBits.
func parseBits(words []uint64, b []byte) {
	for i := range words {
		var w uint64
		if len(b) >= 8 {
			w, b = le.Uint64(b), b[8:]
		} else {
			for j, v := range b {
				w |= uint64(v) << (8 * j)
			}
		}
		words[i] = w
	}
}

// resize returns s with length n, in the same memory if it is large enough.
func resize[T any](s []T, n int) []T {
	if n <= cap(s) {
		return s[:n]
	}
	return make([]T, n)
}
