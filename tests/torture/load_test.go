package torture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// client is what a load talks to: a connection, or something that always has one.
type client interface {
	Read(p []byte, off int64) error
	Write(p []byte, off int64, flags uint16) error
	Flush() error
	Trim(off int64, size int, flags uint16) error
	WriteZeroes(off int64, size int, flags uint16) error
}

// load is several workers that write, read, trim, zero and flush, each request on any of the
// connections, so that flushes cover what went through others.
type load struct {
	m     *model
	conns []client
	stop  chan struct{} // closed to let the workers finish
	ended sync.WaitGroup

	acked   atomic.Int64 // bytes of modifications answered with success
	flushes atomic.Int64
	ops     atomic.Int64

	mu      sync.Mutex
	faults  []error
	allowed []wire.Errno // answers that are no faults
}

// allow tells which answers are no faults from now on.
func (l *load) allow(list ...wire.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = list
}

func (l *load) allows(e wire.Errno) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.allowed, e)
}

// startLoad starts so many workers. They end when stop is closed, or the connections are lost.
func startLoad(m *model, rng *rand.Rand, workers int, conns ...client) *load {
	l := &load{m: m, conns: conns, stop: make(chan struct{})}
	for range workers {
		w := &worker{load: l, rng: rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))}
		l.ended.Go(w.run)
	}
	return l
}

// finish lets the workers finish what they are doing and waits for them.
func (l *load) finish() {
	close(l.stop)
	l.ended.Wait()
}

// awaitOps waits until the workers have done so many requests more, however fast the disks are.
func (l *load) awaitOps(t *testing.T, more int64) {
	t.Helper()
	end := l.ops.Load() + more
	require.Eventually(t, func() bool { return l.ops.Load() >= end || l.err() != nil }, harness.Patience, time.Millisecond, "the load does not get on")
	require.NoError(t, l.err())
}

func (l *load) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, err)
}

// err is what went wrong.
func (l *load) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.faults[:min(len(l.faults), 20)]...)
}

type worker struct {
	*load
	rng *rand.Rand
	buf []byte
}

func (w *worker) run() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		err := w.step()
		w.ops.Add(1)
		switch {
		case err == nil:
		case errors.Is(err, nbdclient.ErrLost):
			return
		case !w.allows(nbdclient.ErrnoOf(err)):
			w.fault(err)
			return
		}
	}
}

func (w *worker) conn() client { return w.conns[w.rng.IntN(len(w.conns))] }

// blocks is a number of blocks from 1 to 256, small ones being as frequent as large ones.
func (w *worker) blocks() int {
	n := 1 << w.rng.IntN(9)
	return min(1+w.rng.IntN(n), len(w.m.blocks))
}

func (w *worker) bytes(n int) []byte {
	if cap(w.buf) < n {
		w.buf = make([]byte, max(n, 256*blockSize))
	}
	return w.buf[:n]
}

func (w *worker) step() error {
	switch x := w.rng.IntN(100); {
	case x < 50:
		return w.write()
	case x < 60:
		return w.unaligned()
	case x < 65:
		return w.zero()
	case x < 70:
		return w.overlap()
	case x < 75:
		return w.flush()
	default:
		return w.read()
	}
}

// contents are those of the blocks of p.
func contents(p []byte) (list []content) {
	for i := 0; i < len(p); i += blockSize {
		list = append(list, contentOf(p[i:i+blockSize]))
	}
	return list
}

// send sends a modification and notes its fate.
func (w *worker) send(first int, what []content, size int, do func(flags uint16) error) error {
	var flags uint16
	if w.rng.IntN(25) == 0 {
		flags = nbdclient.FUA
	}
	wr := w.m.begin(first, what)
	err := do(flags)
	switch {
	case err == nil && flags&nbdclient.FUA != 0:
		wr.durable()
	case err == nil:
		wr.end(true)
	case !errors.Is(err, nbdclient.ErrLost):
		wr.end(false)
	}
	if err == nil {
		w.acked.Add(int64(size))
	}
	return err
}

func (w *worker) write() error {
	n := w.blocks()
	first, ok := w.m.claim(w.rng, n)
	if !ok {
		return nil
	}
	defer w.m.release(first, n)
	p := w.bytes(n * blockSize)
	w.fill(p, first)
	return w.send(first, contents(p), len(p), func(flags uint16) error { return w.conn().Write(p, int64(first)*blockSize, flags) })
}

func (w *worker) fill(p []byte, first int) {
	number := w.m.next()
	for i := 0; i < len(p); i += blockSize {
		stamp(p[i:i+blockSize], first+i/blockSize, number)
	}
}

// unaligned writes some bytes, or zeros, anywhere into blocks that nobody else writes meanwhile.
func (w *worker) unaligned() error {
	n := 1 + w.rng.IntN(16)
	first, ok := w.m.claim(w.rng, n)
	if !ok {
		return nil
	}
	defer w.m.release(first, n)
	p := w.bytes(n * blockSize)
	if err := w.readBlocks(p, first); err != nil {
		return err
	}
	from := w.rng.IntN(len(p))
	size := 1 + w.rng.IntN(len(p)-from)
	zeros := w.rng.IntN(4) == 0
	if zeros {
		clear(p[from : from+size])
	} else {
		q := make([]byte, len(p))
		w.fill(q, first)
		copy(p[from:from+size], q[from:])
	}
	a, b := from/blockSize, (from+size-1)/blockSize+1
	off := int64(first)*blockSize + int64(from)
	return w.send(first+a, contents(p[a*blockSize:b*blockSize]), size, func(flags uint16) error {
		if zeros {
			return w.conn().WriteZeroes(off, size, flags)
		}
		return w.conn().Write(p[from:from+size], off, flags)
	})
}

// zero trims blocks or writes zeros.
func (w *worker) zero() error {
	n := w.blocks()
	first, ok := w.m.claim(w.rng, n)
	if !ok {
		return nil
	}
	defer w.m.release(first, n)
	what := slices.Repeat([]content{zeroContent}, n)
	off, size := int64(first)*blockSize, n*blockSize
	return w.send(first, what, size, func(flags uint16) error {
		switch w.rng.IntN(3) {
		case 0:
			return w.conn().WriteZeroes(off, size, flags)
		case 1:
			return w.conn().WriteZeroes(off, size, flags|nbdclient.NoHole)
		default:
			return w.conn().Trim(off, size, flags)
		}
	})
}

// overlap sends two writes that overlap at once; the blocks of both may end as either.
func (w *worker) overlap() error {
	n := 2 + w.rng.IntN(32)
	first, ok := w.m.claim(w.rng, n)
	if !ok {
		return nil
	}
	defer w.m.release(first, n)
	var errs [2]error
	var both sync.WaitGroup
	for i := range errs {
		a := w.rng.IntN(n)
		b := a + 1 + w.rng.IntN(n-a)
		p := make([]byte, (b-a)*blockSize)
		w.fill(p, first+a)
		conn := w.conn()
		wr := w.m.begin(first+a, contents(p))
		both.Go(func() {
			errs[i] = conn.Write(p, int64(first+a)*blockSize, 0)
			if errs[i] == nil {
				w.acked.Add(int64(len(p)))
			}
			if !errors.Is(errs[i], nbdclient.ErrLost) {
				wr.end(errs[i] == nil)
			}
		})
	}
	both.Wait()
	return errors.Join(errs[:]...)
}

func (w *worker) flush() error {
	since := w.m.now()
	if err := w.conn().Flush(); err != nil {
		return err
	}
	w.m.flushed(since)
	w.flushes.Add(1)
	return nil
}

// read reads blocks, whoever writes them meanwhile.
func (w *worker) read() error {
	n := w.blocks()
	first := w.rng.IntN(len(w.m.blocks) - n + 1)
	return w.readBlocks(w.bytes(n*blockSize), first)
}

func (w *worker) readBlocks(p []byte, first int) error {
	since, before := w.m.reading(first, len(p)/blockSize)
	if err := w.conn().Read(p, int64(first)*blockSize); err != nil {
		return err
	}
	for i, list := range before {
		if err := w.m.check(p[i*blockSize:(i+1)*blockSize], first+i, since, list); err != nil {
			w.fault(fmt.Errorf("reading while others write: %w", err))
		}
	}
	return nil
}
