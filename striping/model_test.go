package striping

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// model knows, for every block of one export, which versions it may read as (TRUST D1-D6).
type model struct {
	mu     sync.Mutex
	blocks []blockModel
	seq    uint32
}

// blockModel lists the versions of one block, oldest first, from the newest that is known to be
// durable on. Version 0 is zeros. A block is written by one goroutine at a time.
type blockModel struct {
	base      int      // number of versions cut off so far
	versions  []uint32 // versions[i] has index base+i
	completed int      // index of the newest version whose write returned
	uncertain bool     // the writes after completed failed: each may have happened or not
	crashed   int      // versions with an index below it were there at a crash, after which the block could not be read yet
}

func newModel(size int64) *model {
	m := &model{blocks: make([]blockModel, size/blockSize)}
	for i := range m.blocks {
		m.blocks[i].versions = []uint32{0}
	}
	return m
}

// begin notes that blocks [first, first+n) are about to be written, and returns the version.
func (m *model) begin(first, n int, zero bool) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	ver := uint32(0)
	if !zero {
		m.seq++
		ver = m.seq
	}
	for i := first; i < first+n; i++ {
		m.blocks[i].versions = append(m.blocks[i].versions, ver)
	}
	return ver
}

// end notes that the write returned.
func (m *model) end(first, n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := first; i < first+n; i++ {
		b := &m.blocks[i]
		b.uncertain = err != nil
		if err == nil {
			b.completed = b.base + len(b.versions) - 1
		}
	}
}

// mark returns what a flush that begins now covers.
func (m *model) mark() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	marks := make([]int, len(m.blocks))
	for i := range m.blocks {
		marks[i] = m.blocks[i].completed
		if b := &m.blocks[i]; b.completed < b.crashed {
			marks[i] = b.base // which of them is there is open: no flush settles that
		}
	}
	return marks
}

// flushed notes that the flush which began at marks succeeded.
func (m *model) flushed(marks []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, n := range marks {
		b := &m.blocks[i]
		if cut := n - b.base; cut > 0 {
			b.versions = b.versions[cut:]
			b.base = n
		}
	}
}

// flushedOnly is flushed for blocks [first, first+n) alone.
func (m *model) flushedOnly(marks []int, first, n int) {
	only := make([]int, len(marks))
	copy(only[first:first+n], marks[first:first+n])
	m.flushed(only)
}

// forget notes that blocks [first, first+n) may read as any version that they ever had, and as
// zeros, until they are written again.
func (m *model) forget(first, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := first; i < first+n; i++ {
		m.blocks[i].uncertain = true
	}
}

// unseen notes that a block could not be read after a crash.
func (m *model) unseen(block int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.blocks[block]
	b.crashed = b.base + len(b.versions)
}

// stamp fills a block with its number and version, in every sector.
func stamp(p []byte, block int, ver uint32) {
	clear(p)
	if ver == 0 {
		return
	}
	for s := 0; s < len(p); s += 512 {
		binary.LittleEndian.PutUint32(p[s:], 0xBA11A57)
		binary.LittleEndian.PutUint32(p[s+4:], uint32(block))
		binary.LittleEndian.PutUint32(p[s+8:], ver)
		binary.LittleEndian.PutUint32(p[s+508:], ver^0x5555)
	}
}

// versionOf returns which version p is, or an error when it is none of this block.
func versionOf(p []byte, block int) (uint32, error) {
	ver := binary.LittleEndian.Uint32(p[8:])
	var want [blockSize]byte
	stamp(want[:], block, ver)
	if string(want[:]) == string(p) {
		return ver, nil
	}
	var s []string
	for i := 0; i < len(p); i += 512 {
		s = append(s, fmt.Sprintf("%x:%d/%d", binary.LittleEndian.Uint32(p[i:]), binary.LittleEndian.Uint32(p[i+4:]), binary.LittleEndian.Uint32(p[i+8:])))
	}
	return 0, fmt.Errorf("block %d holds a mixture or another block: sectors %v", block, s)
}

// check compares what a read by the block's writer returned with the model.
func (m *model) check(p []byte, block int) error {
	ver, err := versionOf(p, block)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.blocks[block]
	if ver == b.versions[len(b.versions)-1] || b.uncertain && slices.Contains(b.versions[max(b.completed-b.base, 0):], ver) {
		return nil
	}
	if b.completed < b.crashed && slices.Contains(b.versions, ver) {
		return nil
	}
	return fmt.Errorf("block %d reads as version %d; its versions: %v", block, ver, b.versions)
}

// collapse is check after a crash: any version from the durable one on may be there; whichever it
// is, stays.
func (m *model) collapse(p []byte, block int) error {
	ver, err := versionOf(p, block)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.blocks[block]
	for _, allowed := range b.versions {
		if ver == allowed {
			*b = blockModel{versions: []uint32{ver}}
			return nil
		}
	}
	return fmt.Errorf("block %d reads as version %d after the crash; allowed: %v", block, ver, b.versions)
}

// pending reports whether block was written since it was last durable, so that a torn medium may
// have destroyed it (D4 allows an error then).
func (m *model) pending(block int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.blocks[block].versions) > 1
}
