package devices

import (
	"sync"
	"sync/atomic"
)

// memoryPart is the unit in which a memory disk takes memory and locks.
const memoryPart = 1 << 20

// Memory is a disk in memory. What is written is as durable as the process. It is safe for
// concurrent use; a read sees each block before or after a write, never between.
type Memory struct {
	size   int64
	parts  []memoryRange
	closed atomic.Bool
}

type memoryRange struct {
	mu   sync.RWMutex // held while bytes are copied
	data []byte       // nil: all zeros
}

var (
	_ Disk      = (*Memory)(nil)
	_ Vectored  = (*Memory)(nil)
	_ Discarder = (*Memory)(nil)
)

// NewMemory returns a disk of zeros. size is a multiple of BlockSize; memory is taken when it is
// first written to.
func NewMemory(size int64) *Memory {
	if size < 0 || size%BlockSize != 0 {
		panic("devices: memory size is not a multiple of the block size")
	}
	return &Memory{size: size, parts: make([]memoryRange, (size+memoryPart-1)/memoryPart)}
}

// Size implements Disk.
func (m *Memory) Size() int64 { return m.size }

// Sync implements Disk.
func (m *Memory) Sync() error {
	if m.closed.Load() {
		return ErrClosed
	}
	return nil
}

// Close implements Disk.
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

// ReadAt implements Disk.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) { return m.ReadVec([][]byte{p}, off) }

// WriteAt implements Disk.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) { return m.WriteVec([][]byte{p}, off) }

// ReadVec implements Vectored.
func (m *Memory) ReadVec(bufs [][]byte, off int64) (int, error) {
	return m.each(bufs, off, func(part *memoryRange, p []byte, at int64) {
		part.mu.RLock()
		defer part.mu.RUnlock()
		if part.data == nil {
			clear(p)
		} else {
			copy(p, part.data[at:])
		}
	})
}

// WriteVec implements Vectored.
func (m *Memory) WriteVec(bufs [][]byte, off int64) (int, error) {
	return m.each(bufs, off, func(part *memoryRange, p []byte, at int64) {
		part.mu.Lock()
		defer part.mu.Unlock()
		if part.data == nil {
			part.data = make([]byte, memoryPart)
		}
		copy(part.data[at:], p)
	})
}

// each calls fn for every piece of bufs that lies in one part.
func (m *Memory) each(bufs [][]byte, off int64, fn func(part *memoryRange, p []byte, at int64)) (int, error) {
	if m.closed.Load() {
		return 0, ErrClosed
	}
	total, err := CheckIO(bufs, off, m.size)
	if err != nil {
		return 0, err
	}
	for _, b := range bufs {
		for len(b) > 0 {
			at := off % memoryPart
			n := min(int64(len(b)), memoryPart-at)
			fn(&m.parts[off/memoryPart], b[:n], at)
			b, off = b[n:], off+n
		}
	}
	return int(total), nil
}

// Discard implements Discarder: the range reads as zeros, and whole parts give their memory back.
func (m *Memory) Discard(off, size int64) error {
	if m.closed.Load() {
		return ErrClosed
	}
	if err := CheckRange(off, size, m.size); err != nil {
		return err
	}
	for size > 0 {
		at := off % memoryPart
		n := min(size, memoryPart-at)
		part := &m.parts[off/memoryPart]
		part.mu.Lock()
		switch {
		case part.data == nil:
		case n == memoryPart:
			part.data = nil
		default:
			clear(part.data[at : at+n])
		}
		part.mu.Unlock()
		off, size = off+n, size-n
	}
	return nil
}
