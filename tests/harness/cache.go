package harness

import (
	"io"
	"math/rand/v2"
	"slices"
	"sync"
)

// cache is the volatile cache of a disk. What is written goes to the medium at once, and beside it is
// kept what stood there before, until a flush: so a power cut can take it back.
type cache struct {
	mu       sync.Mutex
	pending  []cachedWrite // since the last flush, in their order
	before   uint64        // how many there were before these
	floating []cachedWrite // were not answered when the power failed
}

type cachedWrite struct {
	off      int64
	old, new []byte // old is nil for one that floats
}

type medium interface {
	io.ReaderAt
	io.WriterAt
}

func (c *cache) write(m medium, p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := make([]byte, len(p))
	if _, err := m.ReadAt(old, off); err != nil {
		return 0, err
	}
	n, err := m.WriteAt(p, off)
	c.pending = append(c.pending, cachedWrite{off, old, slices.Clone(p)})
	return n, err
}

// written is how much a flush that begins now covers.
func (c *cache) written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.before + uint64(len(c.pending))
}

// flushed notes that all of that is on the medium for good.
func (c *cache) flushed(written uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if written > c.before {
		c.pending = slices.Delete(c.pending, 0, int(written-c.before))
		c.before = written
	}
}

func (c *cache) float(p []byte, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floating = append(c.floating, cachedWrite{off: off, new: slices.Clone(p)})
}

// cut is a power cut: of what no flush covered all is lost, all is kept, the first or the last of it is, or
// any writes, or blocks of 4 KiB, or sectors.
func (c *cache) cut(m medium, seed uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range slices.Backward(c.pending) {
		if _, err := m.WriteAt(w.old, w.off); err != nil {
			return err
		}
	}
	list := append(c.pending, c.floating...)
	c.before += uint64(len(c.pending))
	c.pending, c.floating = nil, nil
	rng := rand.New(rand.NewPCG(seed, 1))
	mode, middle := rng.IntN(7), rng.IntN(len(list)+1)
	for i, w := range list {
		size := len(w.new)
		switch mode {
		case 5:
			size = 4096
		case 6:
			size = 512
		}
		for at := 0; at < len(w.new); at += size {
			kept := mode == 1 || mode == 2 && i < middle || mode == 3 && i >= middle || mode > 3 && rng.IntN(2) == 0
			if !kept {
				continue
			}
			if _, err := m.WriteAt(w.new[at:min(at+size, len(w.new))], w.off+int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}
