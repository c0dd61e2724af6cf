package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4/fb"
)

// A table of Badger's, as its package table writes it without compression. Its numbers are big endian
// where nothing else is said:
//
//	blocks, index (flatbuffer), length of the index (4), checksum, length of the checksum (4)
//
// and a block:
//
//	entries, offsets of the entries (4 each, little endian), their number (4), checksum, its length (4)
//
// An entry is the length of what its key has in common with the block's first (2, little endian), that of
// the rest (2), the rest, meta (1), user meta (1), the time it expires (varint), and its value to the end.
// A checksum is of all that stands before it, in protobuf: which one (1), and the sum (2), both varints.

// tableRead is how much of a table is read at once: it stays in the processor's cache until all is done
// with it, and is enough for a disk to be read as fast as it can.
const tableRead = 64 << 10

// tableCut is how much of a table is at most, about, what one processor reads while others read the rest.
var tableCut int64 = 16 << 20

// tableMemory is memory that tables were read into.
var tableMemory = sync.Pool{New: func() any { return new([]byte) }}

// Bits of an entry's meta.
const (
	entryDeleted = 1 << 0
	entryPointer = 1 << 1 // the value stands in the value log, which holds none of ours
)

// entryKey is the key of an entry: entries ascend by key, and those of one key from the newest to the oldest.
type entryKey struct {
	high, low uint64
	age       uint64 // the greatest number less the version
}

const entryKeySize = 24

func parseEntryKey(b []byte) (k entryKey, err error) {
	if len(b) != entryKeySize {
		return k, fmt.Errorf("key %x of %d bytes", b, len(b)-8)
	}
	return entryKey{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}

// firstEntry is before all entries of a key.
func firstEntry(key *Key) entryKey {
	return entryKey{binary.BigEndian.Uint64(key[:]), binary.BigEndian.Uint64(key[8:]), 0}
}

func (k *entryKey) less(o *entryKey) bool {
	switch {
	case k.high != o.high:
		return k.high < o.high
	case k.low != o.low:
		return k.low < o.low
	}
	return k.age < o.age
}

func (k entryKey) compare(o entryKey) int {
	return cmp.Or(cmp.Compare(k.high, o.high), cmp.Compare(k.low, o.low), cmp.Compare(k.age, o.age))
}

func (k *entryKey) sameKey(o *entryKey) bool { return k.high == o.high && k.low == o.low }

func (k *entryKey) key() (key Key) {
	binary.BigEndian.PutUint64(key[:], k.high)
	binary.BigEndian.PutUint64(key[8:], k.low)
	return key
}

// errTable is an error of a table that is not as it was written.
var errTable = errors.New("damaged table")

// table is one table. Its index is in memory from the first use to the last.
type table struct {
	path     string
	smallest entryKey   // as it stood at the begin of the file
	largest  entryKey   // of a table of level 0
	within   []entryKey // of a large table: where it is cut into parts

	mu     sync.Mutex
	uses   int // that are to come
	file   *os.File
	blocks []tableBlock
}

// tableBlock is what a table's index says of a block.
type tableBlock struct {
	first    entryKey
	off, end int64
}

func (t *table) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s: %w", ErrCorrupt, errTable, t.path, fmt.Errorf(format, args...))
}

// begin reads the first key, of a large table where it can be cut, and if asked the last key.
func (t *table) begin(last bool) error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var first [4 + entryKeySize]byte
	if _, err := f.ReadAt(first[:], 0); errors.Is(err, io.EOF) {
		return t.corrupt("too short")
	} else if err != nil {
		return err
	}
	if t.smallest, err = parseEntryKey(first[4:]); err != nil {
		return t.corrupt("%w", err)
	}
	info, err := f.Stat()
	if err != nil || !last && info.Size() < 2*tableCut {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	defer t.close()
	cut := int64(0)
	for _, b := range t.blocks {
		if b.off-cut >= tableCut {
			cut = b.off
			t.within = append(t.within, b.first)
		}
	}
	if last {
		c, err := newCursor(t, &t.blocks[len(t.blocks)-1].first, nil, nil)
		for err == nil && !c.isDone {
			t.largest = c.at
			err = c.step()
		}
		return err
	}
	return nil
}

// open reads the index, if it is not in memory.
func (t *table) open() (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		return nil
	}
	if t.file, err = os.Open(t.path); err != nil {
		return err
	}
	err = t.readIndex()
	if err == nil && t.blocks[0].first != t.smallest {
		err = t.corrupt("its first key is not that of the index")
	}
	return err
}

// done gives the index back with the last use.
func (t *table) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses--; t.uses == 0 {
		t.closeLocked()
	}
}

func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeLocked()
}

func (t *table) closeLocked() {
	if t.file != nil {
		t.file.Close()
		t.file, t.blocks = nil, nil
	}
}

// readIndex reads the index from the end of the file.
func (t *table) readIndex() (err error) {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	if end > math.MaxUint32 {
		return t.corrupt("%d bytes", end)
	}
	sum, err := t.takeField(&end, nil)
	if err != nil {
		return err
	}
	memory := tableMemory.Get().(*[]byte)
	defer tableMemory.Put(memory)
	index, err := t.takeField(&end, *memory)
	if err != nil {
		return err
	}
	*memory = index
	if err := checkTableSum(index, sum); err != nil {
		return t.corrupt("index: %w", err)
	}
	defer func() {
		if recover() != nil { // a damage that the checksum does not show; what follows does not check its bytes
			err = t.corrupt("index does not parse")
		}
	}()
	x := fb.GetRootAsTableIndex(index, 0)
	n := x.OffsetsLength()
	if n == 0 {
		return t.corrupt("no blocks")
	}
	t.blocks = make([]tableBlock, n)
	var b fb.BlockOffset
	for i := range t.blocks {
		x.Offsets(&b, i)
		first, err := parseEntryKey(b.KeyBytes())
		if err != nil {
			return t.corrupt("index: %w", err)
		}
		t.blocks[i] = tableBlock{first, int64(b.Offset()), int64(b.Offset()) + int64(b.Len())}
		if at := t.blocks[i]; at.off >= at.end || at.end > end || i > 0 && !t.blocks[i-1].first.less(&first) ||
			at.off != t.endOf(i-1) {
			return t.corrupt("index: block %d of %d stands from %d to %d", i, n, at.off, at.end)
		}
	}
	if last := t.endOf(n - 1); last != end {
		return t.corrupt("index: blocks end at %d, before %d", last, end)
	}
	return nil
}

// endOf returns where block i ends, and 0 for that before the first.
func (t *table) endOf(i int) int64 {
	if i < 0 {
		return 0
	}
	return t.blocks[i].end
}

// takeField reads bytes that stand before their length, which ends at end, into the memory of buf if it is
// large enough, and moves end before them.
func (t *table) takeField(end *int64, buf []byte) ([]byte, error) {
	var size [4]byte
	if *end < 4 {
		return nil, t.corrupt("too short")
	}
	if err := t.readAt(size[:], *end-4); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n > *end-4 {
		return nil, t.corrupt("%d bytes before %d", n, *end-4)
	}
	*end -= 4 + n
	b := resize(buf, int(n))
	return b, t.readAt(b, *end)
}

func (t *table) readAt(b []byte, off int64) error {
	_, err := t.file.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		return t.corrupt("it has become shorter")
	}
	return err
}

// checkTableSum checks bytes by one of Badger's checksums.
func checkTableSum(b, sum []byte) error {
	if len(b) == 0 { // whose sum is 0, and that is written as nothing
		return errors.New("no bytes")
	}
	var which, want uint64
	for len(sum) > 0 {
		field := sum[0]
		v, n := binary.Uvarint(sum[1:])
		if n <= 0 {
			return errors.New("checksum does not parse")
		}
		sum = sum[1+n:]
		switch field {
		case 1 << 3:
			which = v
		case 2 << 3:
			want = v
		default:
			return errors.New("checksum does not parse")
		}
	}
	var have uint64
	switch which {
	case 0:
		have = uint64(crc32.Checksum(b, castagnoli))
	case 1:
		have = xxhash.Sum64(b)
	default:
		return fmt.Errorf("checksum of kind %d", which)
	}
	if have != want {
		return fmt.Errorf("checksum: want %x, have %x", want, have)
	}
	return nil
}

// cursor goes through entries of a table, in their order. Its blocks are checked as they are read.
type cursor struct {
	t         *table
	before    *entryKey // nil: no end
	next, end int       // blocks to be read
	buf       []byte    // what was read
	bufOff    int64     // where in the table it stood

	block   []byte // entries
	offsets []byte
	number  int // entry that comes next

	bytes  [entryKeySize]byte
	at     entryKey
	meta   byte
	value  []byte // in buf
	isDone bool
}

// newCursor returns a cursor on the first entry from one key on and before another (nil: no limit). It reads
// into the memory of buf.
func newCursor(t *table, from, before *entryKey, buf []byte) (*cursor, error) {
	c := &cursor{t: t, before: before, end: len(t.blocks), buf: buf[:0]}
	byFirst := func(b tableBlock, k *entryKey) int {
		if b.first.less(k) {
			return -1
		}
		return 1
	}
	if from != nil {
		n, _ := slices.BinarySearchFunc(t.blocks, from, byFirst)
		c.next = max(0, n-1)
	}
	if before != nil {
		c.end, _ = slices.BinarySearchFunc(t.blocks, before, byFirst)
	}
	err := c.step()
	for err == nil && from != nil && !c.isDone && c.at.less(from) {
		err = c.step()
	}
	return c, err
}

// step goes to the next entry. The value of the one before is gone then.
func (c *cursor) step() error {
	for 4*c.number >= len(c.offsets) {
		if c.next >= c.end {
			c.isDone = true
			return nil
		}
		if err := c.readBlock(); err != nil {
			return err
		}
	}
	start, end := int(le.Uint32(c.offsets[4*c.number:])), len(c.block)
	if 4*c.number+4 < len(c.offsets) {
		end = int(le.Uint32(c.offsets[4*c.number+4:]))
	}
	if start >= end || end > len(c.block) || end-start < 4 || c.number == 0 && start != 0 {
		return c.corrupt("stands from %d to %d", start, end)
	}
	b := c.block[start:end]
	same, rest := int(le.Uint16(b)), int(le.Uint16(b[2:]))
	b = b[4:]
	if same+rest != entryKeySize || c.number == 0 && same != 0 || rest+3 > len(b) {
		return c.corrupt("key of %d and %d bytes", same, rest)
	}
	// The first key of a block stands at its begin.
	copy(c.bytes[:same], c.block[4:])
	copy(c.bytes[same:], b[:rest])
	before := c.at
	c.at, _ = parseEntryKey(c.bytes[:])
	if c.number == 0 && c.at != c.t.blocks[c.next-1].first {
		return c.corrupt("key %v is not that of the index", c.at.key())
	}
	if c.number > 0 && !before.less(&c.at) {
		return c.corrupt("key %v behind %v", c.at.key(), before.key())
	}
	b = b[rest:]
	c.meta = b[0]
	if c.meta&entryPointer != 0 || b[2] != 0 {
		return c.corrupt("key %v: meta %#02x, expires %d", c.at.key(), c.meta, b[2])
	}
	c.value = b[3:]
	c.number++
	c.isDone = c.before != nil && !c.at.less(c.before)
	return nil
}

func (c *cursor) corrupt(format string, args ...any) error {
	return c.t.corrupt("block %d, entry %d: %w", c.next-1, c.number, fmt.Errorf(format, args...))
}

// readBlock goes to the next block, which it reads, with those behind it, if it has not been.
func (c *cursor) readBlock() error {
	blocks := c.t.blocks
	at := blocks[c.next]
	if at.end > c.bufOff+int64(len(c.buf)) {
		n := c.next + 1
		for n < c.end && blocks[n].end-at.off <= tableRead {
			n++
		}
		c.buf = resize(c.buf, int(blocks[n-1].end-at.off))
		c.bufOff = at.off
		if err := c.t.readAt(c.buf, at.off); err != nil {
			return err
		}
	}
	b := c.buf[at.off-c.bufOff : at.end-c.bufOff]
	c.next++
	c.number = 0
	tail := len(b) - 4
	if tail < 0 {
		return c.corrupt("block of %d bytes", len(b))
	}
	if tail -= int(binary.BigEndian.Uint32(b[tail:])); tail < 4 {
		return c.corrupt("length of its checksum")
	}
	if err := checkTableSum(b[:tail], b[tail:len(b)-4]); err != nil {
		return c.corrupt("%w", err)
	}
	tail -= 4
	n := int(binary.BigEndian.Uint32(b[tail:]))
	if n == 0 || n > tail/4 {
		return c.corrupt("%d entries in %d bytes", n, tail)
	}
	c.block, c.offsets = b[:tail-4*n], b[tail-4*n:tail]
	return nil
}
