package torture

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	blockSize  = 4096
	sectorSize = 512
)

// content stands for the bytes of a block.
type content uint64

var hashSeed = maphash.MakeSeed()

func contentOf(p []byte) content { return content(maphash.Bytes(hashSeed, p)) }

var zeroContent = contentOf(make([]byte, blockSize))

// model knows what every block of an export may read as.
type model struct {
	mu     sync.Mutex
	tick   int64 // counts beginnings and ends: the order of events as the client sees it
	seq    uint32
	blocks [][]version
	busy   []bool // claimed by an operation
}

// forever is the end of a write that was not answered.
const forever = int64(1) << 62

// version is a write of a block, begun and answered at these ticks.
type version struct {
	what       content
	begin, end int64
	vague      bool // answered with an error: it may have happened or not
}

// replaces tells that x cannot be what is read once v has happened for certain.
func (v *version) replaces(x *version) bool { return !v.vague && x.end < v.begin }

func newModel(size int64) *model {
	m := &model{blocks: make([][]version, size/blockSize), busy: make([]bool, size/blockSize)}
	for i := range m.blocks {
		m.blocks[i] = []version{{what: zeroContent}}
	}
	return m
}

// claim takes n free blocks for an operation, at random; it fails when that would take long.
func (m *model) claim(rng *rand.Rand, n int) (first int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 20 {
		first = rng.IntN(len(m.blocks) - n + 1)
		if !slices.Contains(m.busy[first:first+n], true) {
			for i := first; i < first+n; i++ {
				m.busy[i] = true
			}
			return first, true
		}
	}
	return 0, false
}

func (m *model) release(first, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.busy[first : first+n])
}

// next is a number for the stamps of one write.
func (m *model) next() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	return m.seq
}

// writing is a write under way.
type writing struct {
	m     *model
	first int
	n     int
	begin int64
}

// begin notes that blocks from first on are about to be given these contents.
func (m *model) begin(first int, contents []content) *writing {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick++
	for i, c := range contents {
		m.blocks[first+i] = append(m.blocks[first+i], version{what: c, begin: m.tick, end: forever})
	}
	return &writing{m, first, len(contents), m.tick}
}

// end notes the answer: success, or an error with which the write may have happened or not.
func (w *writing) end(success bool) {
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick++
	w.each(func(v *version) { v.end, v.vague = m.tick, !success })
}

// durable notes that the write was answered and is durable.
func (w *writing) durable() {
	w.end(true)
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := w.first; i < w.first+w.n; i++ {
		m.settleLocked(i, func(v *version) bool { return v.begin == w.begin })
	}
}

func (w *writing) each(f func(*version)) {
	for i := w.first; i < w.first+w.n; i++ {
		for k := range w.m.blocks[i] {
			if v := &w.m.blocks[i][k]; v.begin == w.begin {
				f(v)
			}
		}
	}
}

// now is when a flush begins.
func (m *model) now() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick++
	return m.tick
}

// flushed notes that the flush which began at that tick succeeded.
func (m *model) flushed(since int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.blocks {
		if len(m.blocks[i]) > 1 {
			m.settleLocked(i, func(v *version) bool { return v.end < since })
		}
	}
}

// settleLocked drops the versions of a block that durable ones replace.
func (m *model) settleLocked(block int, durable func(*version) bool) {
	list := m.blocks[block]
	newest := int64(-1)
	for k := range list {
		if v := &list[k]; durable(v) && !v.vague {
			newest = max(newest, v.begin)
		}
	}
	m.blocks[block] = slices.DeleteFunc(list, func(x version) bool { return x.end < newest })
}

// check compares what a read that began at a tick returned; before are the block's versions then,
// from reading.
func (m *model) check(p []byte, block int, since int64, before []version) error {
	got := contentOf(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, list := range [][]version{m.blocks[block], before} {
		for k := range list {
			if x := &list[k]; x.what == got && !slices.ContainsFunc(list, func(v version) bool { return v.end < since && v.replaces(x) }) {
				return nil
			}
		}
	}
	return fmt.Errorf("block %d reads as %s; it may be %s", block, describe(p), m.allowedLocked(block))
}

// open tells whether a block may have more than one content.
func (m *model) open(block int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.blocks[block]) > 1
}

// reading notes that a read of blocks begins.
func (m *model) reading(first, n int) (since int64, before [][]version) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick++
	for i := first; i < first+n; i++ {
		before = append(before, slices.Clone(m.blocks[i]))
	}
	return m.tick, before
}

// collapse compares a block as it is after the daemon has died with what it may be; whatever it
// is stays and is durable from then on.
func (m *model) collapse(p []byte, block int) error {
	got := contentOf(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	found := slices.ContainsFunc(m.blocks[block], func(v version) bool { return v.what == got })
	var err error
	if !found {
		err = fmt.Errorf("block %d reads as %s; it may be %s", block, describe(p), m.allowedLocked(block))
	}
	m.tick++
	m.blocks[block] = []version{{what: got, begin: m.tick, end: m.tick}}
	return err
}

// finished is collapse for the end of a daemon that lost nothing: only what is newest may be there.
func (m *model) settleAll() { m.flushed(m.now()) }

func (m *model) allowedLocked(block int) string {
	s := ""
	for _, v := range m.blocks[block] {
		if v.what == zeroContent {
			s += " zeros"
		} else {
			s += fmt.Sprintf(" %x", uint64(v.what))
		}
		s += fmt.Sprintf("[%d,%d)", v.begin, min(v.end, m.tick+1))
	}
	return s
}

// stamp fills p, whole sectors from block on, with block, sector, number and a checksum. What is
// between depends on them too, so that a mixture within a sector shows.
func stamp(p []byte, block int, number uint32) {
	for s := 0; s < len(p); s += sectorSize {
		q := p[s : s+sectorSize]
		sector := uint64(block)*blockSize/sectorSize + uint64(s/sectorSize)
		binary.LittleEndian.PutUint64(q, 0xba11a57<<32|uint64(number))
		binary.LittleEndian.PutUint64(q[8:], sector)
		x := uint64(number)<<40 ^ sector*0x9e3779b97f4a7c15
		for i := 16; i < sectorSize-8; i += 8 {
			x = x*6364136223846793005 + 1442695040888963407
			binary.LittleEndian.PutUint64(q[i:], x)
		}
		binary.LittleEndian.PutUint64(q[sectorSize-8:], uint64(crc32.Checksum(q[:sectorSize-8], castagnoli)))
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// describe says what stands in a block, sector by sector.
func describe(p []byte) string {
	s := fmt.Sprintf("%x:", uint64(contentOf(p)))
	for i := 0; i < len(p); i += sectorSize {
		q := p[i : i+sectorSize]
		switch {
		case !slices.ContainsFunc(q, func(b byte) bool { return b != 0 }):
			s += " 0"
		case binary.LittleEndian.Uint64(q[sectorSize-8:]) != uint64(crc32.Checksum(q[:sectorSize-8], castagnoli)):
			s += " ?"
		default:
			sector := binary.LittleEndian.Uint64(q[8:])
			s += fmt.Sprintf(" %d of %d/%d", binary.LittleEndian.Uint32(q), sector/8, sector%8)
		}
	}
	return s
}

func TestTheModelSees(t *testing.T) {
	block := func(n uint32) []byte {
		p := make([]byte, blockSize)
		stamp(p, 0, n)
		return p
	}
	of := func(n uint32) []content { return []content{contentOf(block(n))} }
	after := func(m *model, n uint32) error { // what a crash would be judged as, without happening
		saved := slices.Clone(m.blocks[0])
		err := m.collapse(block(n), 0)
		m.blocks[0] = saved
		return err
	}
	m := newModel(blockSize)
	m.begin(0, of(1)).end(true)
	since := m.now()
	w2 := m.begin(0, of(2))
	require.NoError(t, m.collapse(make([]byte, blockSize), 0))
	m = newModel(blockSize)
	m.begin(0, of(1)).end(true)
	require.NoError(t, after(m, 1))

	since = m.now()
	w2 = m.begin(0, of(2)) // under way while the flush is
	m.flushed(since)
	require.NoError(t, after(m, 1))
	require.NoError(t, after(m, 2))
	require.Error(t, m.collapse(make([]byte, blockSize), 0), "a lost write")

	m = newModel(blockSize)
	m.begin(0, of(1)).durable()
	require.Error(t, after(m, 0), "a lost FUA write")
	w2 = m.begin(0, of(2))
	w3 := m.begin(0, of(3))
	w3.end(true)
	w2.end(true)
	m.flushed(m.now())
	require.Error(t, after(m, 1), "an older version")
	require.NoError(t, after(m, 2), "they overlapped")
	require.NoError(t, after(m, 3))
	m.begin(0, of(4)).end(false)
	m.flushed(m.now())
	require.NoError(t, after(m, 3), "it failed")
	require.NoError(t, after(m, 4), "it failed, but may have happened")
	m.begin(0, of(5)).end(true)
	m.flushed(m.now())
	require.Error(t, after(m, 4))
	at, before := m.reading(0, 1)
	w6 := m.begin(0, of(6))
	require.NoError(t, m.check(block(5), 0, at, before[0]))
	require.NoError(t, m.check(block(6), 0, at, before[0]))
	require.Error(t, m.check(block(4), 0, at, before[0]))
	w6.durable()
	require.NoError(t, m.check(block(5), 0, at, before[0]), "the read began before")
	at, before = m.reading(0, 1)
	require.Error(t, m.check(block(5), 0, at, before[0]), "a stale read")
	mixed := block(6)
	copy(mixed[1000:], block(5)[1000:])
	require.Error(t, m.collapse(mixed, 0), "a mixture")
}
