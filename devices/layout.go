package devices

import (
	"errors"
	"fmt"
)

// Sizes of the layout, in bytes. Part of the format.
const (
	LabelSize     = 4096           // of one copy of the label
	labelArea     = 2 * LabelSize  // at each end of the device
	journalStart  = 64 << 10       // offset of the journal area
	journalUnit   = 64 << 10       // its length is a multiple of this
	journalMin    = 64 << 20       // from smallDevice on
	journalShare  = 128            // of a large device: 0.8 %
	smallDevice   = 4 << 30        // below, the journal area is a share of the device
	smallShare    = 64             // of a small device: 1.6 %
	scratchSize   = 256 << 10      // at the end of the journal area
	scratchLeast  = 1 << 20        // no scratch in a journal area smaller than this
	dataUnit      = 1 << 20        // the data area starts at a multiple of this
	MinChunkSize  = 64 << 10       // bytes
	MaxChunkSize  = 16 << 20       // bytes
	MaxCopies     = 3              // of a chunk
	MaxMembers    = 64             // devices of a volume
	MaxVolumeName = 64             // bytes
	maxDeviceSize = int64(1) << 60 // so that sums of offsets cannot overflow
)

// ErrTooSmall is returned for disks that a label, a journal area and one chunk do not fit on.
var ErrTooSmall = errors.New("too small")

// Layout is where things stand on a device, in bytes: label, journal area, data, label.
type Layout struct {
	JournalOff, JournalSize int64
	DataOff, DataSize       int64
}

// NewLayout divides a device of size bytes for chunks of the given size.
func NewLayout(size, chunk int64) (Layout, error) { return NewLayoutFor(size, chunk, 0) }

// NewLayoutFor is NewLayout for a device whose journal area is to have so many bytes at least, as one of
// many devices' has to hold what the others have on them as well. It gets no more than a quarter of it.
func NewLayoutFor(size, chunk, journalBytes int64) (Layout, error) {
	if !validChunk(chunk) {
		return Layout{}, fmt.Errorf("chunk size of %d bytes is not a power of two from %d to %d", chunk, MinChunkSize, MaxChunkSize)
	}
	if size > maxDeviceSize {
		return Layout{}, fmt.Errorf("device of %d bytes is larger than %d", size, maxDeviceSize)
	}
	size = max(size, 0) / BlockSize * BlockSize
	journal := max(journalMin, size/journalShare)
	if size < smallDevice {
		journal = size / smallShare
	}
	journal = max(journal, min(journalBytes, size/4))
	l := Layout{JournalOff: journalStart, JournalSize: max(roundUp(journal, journalUnit), journalUnit)}
	l.DataOff = roundUp(l.JournalOff+l.JournalSize, dataUnit)
	l.DataSize = size - labelArea - l.DataOff
	if l.DataSize < chunk {
		return Layout{}, fmt.Errorf("device of %d bytes: %w: at least %d are needed", size, ErrTooSmall, MinDeviceSize(chunk))
	}
	return l, nil
}

// Grown is the layout of a device that has grown to size bytes: all that is new is data.
func (l Layout) Grown(size int64) Layout {
	l.DataSize = size/BlockSize*BlockSize - labelArea - l.DataOff
	return l
}

// Scratch is the end of the journal area, which holds nothing and may be written over at any time:
// write probes go there. Its size is 0 where the journal area is too small to spare it.
func (l *Layout) Scratch() (off, size int64) {
	if l.JournalSize < scratchLeast {
		return 0, 0
	}
	return l.JournalOff + l.JournalSize - scratchSize, scratchSize
}

// MinDeviceSize is the size in bytes of the smallest device for chunks of the given size.
func MinDeviceSize(chunk int64) int64 {
	// So small a device has a journal area that ends before the first data unit does, for every
	// chunk size.
	return dataUnit + chunk + labelArea
}

func validChunk(chunk int64) bool {
	return chunk >= MinChunkSize && chunk <= MaxChunkSize && chunk&(chunk-1) == 0
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// check tells whether the layout lies inside a device of size bytes, apart from its labels.
func (l *Layout) check(size int64) error {
	for _, area := range []struct {
		name      string
		off, size int64
	}{{"journal area", l.JournalOff, l.JournalSize}, {"data area", l.DataOff, l.DataSize}} {
		if area.off%BlockSize != 0 || area.size%BlockSize != 0 || area.size <= 0 || area.off < labelArea ||
			area.off > size-labelArea || area.size > size-labelArea-area.off {
			return fmt.Errorf("%s of %d bytes at %d of a device of %d", area.name, area.size, area.off, size)
		}
	}
	if l.JournalOff+l.JournalSize > l.DataOff && l.DataOff+l.DataSize > l.JournalOff {
		return fmt.Errorf("journal area [%d, +%d) overlaps data area [%d, +%d)", l.JournalOff, l.JournalSize, l.DataOff, l.DataSize)
	}
	return nil
}
