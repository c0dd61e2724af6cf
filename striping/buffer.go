package striping

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"ballast/devices"
)

const blockSize = devices.BlockSize

// Buffer is page-aligned memory that is counted: whoever holds a reference may read it, and it
// goes back to its pool with the last one. A buffer that a disk still holds (a hung operation)
// is kept by that operation's reference, so it can never be handed out under the kernel's hand.
type Buffer struct {
	mem  []byte   // whole pool size
	sums []uint64 // rawSum of each block, where it was taken
	one  [1]uint64
	size int
	refs atomic.Int32
}

// bufferPools holds free buffers by power of two from one block to 64 MiB.
var bufferPools [15]sync.Pool

// blockFree holds free buffers of one block, last in first out. They are cut from slabs: there may
// be hundreds of thousands, and one by one each would cost the garbage collector and the kernel
// more than what is done with it.
var blockFree struct {
	mu   sync.Mutex
	list []*Buffer
	low  int // least length since the last trim
}

const slabBlocks = 64

func takeBlock() *Buffer {
	f := &blockFree
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) == 0 {
		mem := devices.AlignedBytes(slabBlocks * blockSize)
		slab := make([]Buffer, slabBlocks)
		for i := range slab {
			b := &slab[i]
			b.mem = mem[i*blockSize : (i+1)*blockSize : (i+1)*blockSize]
			b.sums = b.one[:]
			f.list = append(f.list, b)
		}
	}
	n := len(f.list) - 1
	b := f.list[n]
	f.list[n] = nil
	f.list = f.list[:n]
	f.low = min(f.low, n)
	return b
}

// trimBlocks gives half of the blocks that were not needed since the last call to the garbage
// collector.
func trimBlocks() {
	f := &blockFree
	f.mu.Lock()
	defer f.mu.Unlock()
	if drop := f.low / 2; drop > 0 { // those at the bottom were not needed for longest
		n := copy(f.list, f.list[drop:])
		clear(f.list[n:])
		f.list = f.list[:n]
	}
	f.low = len(f.list)
}

// giveBlocks takes back buffers of one block that nobody holds.
func giveBlocks(list ...*Buffer) {
	f := &blockFree
	f.mu.Lock()
	f.list = append(f.list, list...)
	f.mu.Unlock()
}

// largeFree holds free buffers of 64 KiB and more, last in first out, so that the processor's
// cache may still know them. The garbage collector empties pools at each of its rounds, and rounds
// are frequent where such buffers come from it.
var largeFree struct {
	mu    sync.Mutex
	bytes int
	low   int // least bytes since the last trim
	lists [len(bufferPools)][]*Buffer
}

const (
	largeClass   = 4        // 64 KiB
	largeFreeMax = 96 << 20 // bytes kept: buffered writes and a reader's window
)

func takeFree(class int) *Buffer {
	if class == 0 {
		return takeBlock()
	}
	if class < largeClass {
		b, _ := bufferPools[class].Get().(*Buffer)
		return b
	}
	f := &largeFree
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.lists[class])
	if n == 0 {
		return nil
	}
	b := f.lists[class][n-1]
	f.lists[class] = f.lists[class][:n-1]
	f.bytes -= len(b.mem)
	f.low = min(f.low, f.bytes)
	return b
}

// trimFree gives half of the large buffers that were not needed since the last call to the
// garbage collector.
func trimFree() {
	trimBlocks()
	f := &largeFree
	f.mu.Lock()
	defer f.mu.Unlock()
	drop := f.low / 2
	for class := len(f.lists) - 1; class >= largeClass && drop > 0; class-- {
		for n := len(f.lists[class]); n > 0 && drop > 0; n-- {
			b := f.lists[class][n-1]
			f.lists[class][n-1] = nil
			f.lists[class] = f.lists[class][:n-1]
			f.bytes -= len(b.mem)
			drop -= len(b.mem)
		}
	}
	f.low = f.bytes
}

func giveFree(class int, b *Buffer) {
	if class == 0 {
		giveBlocks(b)
		return
	}
	if class < largeClass {
		bufferPools[class].Put(b)
		return
	}
	f := &largeFree
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes+len(b.mem) <= largeFreeMax {
		f.bytes += len(b.mem)
		f.lists[class] = append(f.lists[class], b)
	}
}

func poolIndex(size int) int {
	n := (size + blockSize - 1) / blockSize
	if n <= 1 {
		return 0
	}
	return bits.Len(uint(n - 1))
}

// NewBuffer returns memory of size bytes with one reference. Its content is not defined.
func NewBuffer(size int) *Buffer {
	i := poolIndex(size)
	if i >= len(bufferPools) {
		b := &Buffer{mem: devices.AlignedBytes(size), size: size}
		b.refs.Store(1)
		return b
	}
	b := takeFree(i)
	if b == nil {
		b = &Buffer{mem: devices.AlignedBytes(blockSize << i)}
	}
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
	if i := poolIndex(len(b.mem)); i < len(bufferPools) {
		giveFree(i, b)
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

// releaseAll releases each of list, which it uses up.
func releaseAll(list []*Buffer) {
	blocks := list[:0]
	for _, b := range list {
		if len(b.mem) != blockSize {
			b.Release()
		} else if b.drop() {
			blocks = append(blocks, b)
		}
	}
	if len(blocks) > 0 {
		giveBlocks(blocks...)
	}
}

// zeroPage is what holes are read from where bytes are needed; nobody writes to it.
var zeroPage = devices.AlignedBytes(1 << 20)
