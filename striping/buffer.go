package striping

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"ballast/devices"

	"golang.org/x/sys/unix"
)

const blockSize = devices.BlockSize

// Buffer is page-aligned memory that is counted: whoever holds a reference may read it, and it
// goes back to its list with the last one. A buffer that a disk still holds (a hung operation)
// is kept by that operation's reference, so it can never be handed out under the kernel's hand.
type Buffer struct {
	mem    []byte   // of a power of two of blocks, or of the exact size above 64 MiB
	sums   []uint64 // rawSum of each block, where it was taken
	one    [1]uint64
	size   int
	refs   atomic.Int32
	mapped bool // mem is not the garbage collector's
}

// freeBuffers holds the buffers that nobody has, by power of two from one block to 64 MiB. The
// collector's own pools would not do: it empties them at each of its rounds.
var freeBuffers [15]freeList

// freeList is of one size. What was put back last is taken first, so that the processor's cache may
// still know it.
type freeList struct {
	mu   sync.Mutex
	warm []*Buffer
	cold []*Buffer // mapped ones whose memory the kernel has
	low  int       // least length of warm since the last trim
	made int       // of this size there are, in use or not
}

// mapBuffers: new memory comes from the kernel and not from the garbage collector.
var mapBuffers atomic.Bool

// MapBuffers lets the memory of buffers come from the kernel from now on, past the garbage collector.
// That one would let the heap grow to twice of what is buffered before its next round, with memory
// that was never touched before each time, which costs more than all else that is done with a small
// write; and what it frees goes back to the kernel only slowly. A buffer that is not released is lost
// then. So it is for a process that ends with its volumes, as the daemon does, and not for tests that
// leave a crashed volume to the collector.
func MapBuffers() { mapBuffers.Store(mayMap) }

var mayMap = true

// Small buffers are cut from slabs of at least this size: there may be hundreds of thousands, and one
// by one each would cost the garbage collector and the kernel more than what is done with it.
const slabSize = 256 << 10

func (f *freeList) take(class int) *Buffer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.warm) == 0 && len(f.cold) == 0 {
		f.grow(blockSize << class)
	}
	from := &f.warm
	if len(f.warm) == 0 {
		from = &f.cold
	}
	n := len(*from) - 1
	b := (*from)[n]
	(*from)[n] = nil
	*from = (*from)[:n]
	f.low = min(f.low, len(f.warm))
	return b
}

// grow adds new buffers of size bytes.
func (f *freeList) grow(size int) {
	n := max(1, slabSize/size)
	mem, mapped := newMemory(n * size)
	slab := make([]Buffer, n)
	for i := range slab {
		b := &slab[i]
		b.mem, b.mapped = mem[i*size:(i+1)*size:(i+1)*size], mapped
		if size == blockSize {
			b.sums = b.one[:]
		}
		f.warm = append(f.warm, b)
	}
	f.made += n
}

func newMemory(size int) (mem []byte, mapped bool) {
	if mapBuffers.Load() {
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			return mem, true
		}
	}
	return devices.AlignedBytes(size), false
}

func (f *freeList) give(list ...*Buffer) {
	f.mu.Lock()
	f.warm = append(f.warm, list...)
	f.mu.Unlock()
}

// trim gives back half of the memory that was not needed since the last call.
func (f *freeList) trim() {
	f.mu.Lock()
	drop := slices.Clone(f.warm[:f.low/2]) // those at the bottom were not needed for longest
	f.warm = slices.Delete(f.warm, 0, len(drop))
	f.low = len(f.warm)
	f.mu.Unlock()
	cold := drop[:0]
	for _, b := range drop {
		if b.mapped && unix.Madvise(b.mem, unix.MADV_DONTNEED) == nil {
			cold = append(cold, b) // the rest is the collector's
		}
	}
	f.mu.Lock()
	f.cold = append(f.cold, cold...)
	f.made -= len(drop) - len(cold)
	f.mu.Unlock()
}

// trimFree gives back memory that buffers no longer need. It is called now and again.
func trimFree() {
	for i := range freeBuffers {
		freeBuffers[i].trim()
	}
}

func bufferClass(size int) int {
	n := (size + blockSize - 1) / blockSize
	if n <= 1 {
		return 0
	}
	return bits.Len(uint(n - 1))
}

// NewBuffer returns memory of size bytes with one reference. Its content is not defined.
func NewBuffer(size int) *Buffer {
	i := bufferClass(size)
	if i >= len(freeBuffers) {
		b := &Buffer{mem: devices.AlignedBytes(size), size: size}
		b.refs.Store(1)
		return b
	}
	b := freeBuffers[i].take(i)
	b.size = size
	b.refs.Store(1)
	return b
}

// Bytes is the memory, of the size asked for.
func (b *Buffer) Bytes() []byte { return b.mem[:b.size] }

// blocks is the memory up to the next block boundary after the size.
func (b *Buffer) blocks() []byte { return b.mem[:(b.size+blockSize-1)&^(blockSize-1)] }

// sum takes the sums of n blocks from byte off on.
func (b *Buffer) sum(off, n int) {
	if b.sums == nil {
		b.sums = make([]uint64, len(b.mem)/blockSize)
	}
	for i := off / blockSize; i < off/blockSize+n; i++ {
		b.sums[i] = rawSum(b.mem[i*blockSize : (i+1)*blockSize])
	}
}

// Retain adds a reference.
func (b *Buffer) Retain() *Buffer {
	if b.refs.Add(1) <= 1 {
		panic("striping: buffer retained after its last release")
	}
	return b
}

// Release gives up one reference.
func (b *Buffer) Release() {
	if !b.drop() {
		return
	}
	if i := bufferClass(len(b.mem)); i < len(freeBuffers) {
		freeBuffers[i].give(b)
	}
}

// drop is Release without giving the memory back: true when the last reference is gone.
func (b *Buffer) drop() bool {
	n := b.refs.Add(-1)
	if n < 0 {
		panic("striping: buffer released twice")
	}
	return n == 0
}

// releaseAll releases each of list, which is of spareBuffers.
func releaseAll(list []*Buffer) {
	defer spareBuffers.put(list)
	blocks := list[:0]
	for _, b := range list {
		if len(b.mem) != blockSize {
			b.Release()
		} else if b.drop() {
			blocks = append(blocks, b)
		}
	}
	if len(blocks) > 0 {
		freeBuffers[0].give(blocks...)
	}
}

// zeroPage is what holes are read from where bytes are needed; nobody writes to it.
var zeroPage = devices.AlignedBytes(1 << 20)
