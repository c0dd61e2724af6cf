package faultdisk

import (
	"maps"
	"slices"

	"ballast/devices"
)

// Truth remembers what damaged blocks should hold, so that damage can be named and undone. It
// holds nothing for sound blocks. It is not safe for concurrent use.
type Truth struct {
	blocks map[int64][]byte // by offset
}

// Wrote notes that [off, off+n) has been written as told: whatever was damaged there is sound.
func (t *Truth) Wrote(off, n int64) {
	if len(t.blocks) == 0 {
		return
	}
	for o := off; o < off+n; o += devices.BlockSize {
		delete(t.blocks, o)
	}
}

// Set notes that p should stand at off, but does not.
func (t *Truth) Set(off int64, p []byte) {
	t.each(off, p, true)
}

// Keep notes that p, which stands at off, is about to be spoiled. What is damaged already
// keeps its older truth.
func (t *Truth) Keep(off int64, p []byte) {
	t.each(off, p, false)
}

func (t *Truth) each(off int64, p []byte, replace bool) {
	if t.blocks == nil {
		t.blocks = make(map[int64][]byte)
	}
	for b := range slices.Chunk(p, devices.BlockSize) {
		if _, known := t.blocks[off]; replace || !known {
			t.blocks[off] = slices.Clone(b)
		}
		off += devices.BlockSize
	}
}

// Damaged returns the offsets of the damaged blocks, ascending.
func (t *Truth) Damaged() []int64 { return slices.Sorted(maps.Keys(t.blocks)) }

// Take returns what should stand at off and forgets it, or nil if the block is sound.
func (t *Truth) Take(off int64) []byte {
	b := t.blocks[off]
	delete(t.blocks, off)
	return b
}

// Clone returns a copy.
func (t *Truth) Clone() Truth { return Truth{blocks: maps.Clone(t.blocks)} }
