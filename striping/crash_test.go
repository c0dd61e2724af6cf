package striping

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestCrash cuts the power of a simulated volume at random moments of a random load and compares
// what is found afterwards with the model (promises D1-D6, C1-C3).
func TestCrash(t *testing.T) {
	const each = 4
	cuts := campaign(t, *crashCount, each, func(t *testing.T, seed uint64) { crashScenario(t, seed, each) })
	fmt.Printf("simulated crashes: %d power cuts, no promise broken: %v\n", cuts, !t.Failed())
}

// crashScenario runs one volume through several power cuts.
func crashScenario(t *testing.T, seed uint64, crashes int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	defer func() {
		if t.Failed() {
			fmt.Printf("found after %d power cuts\n", powerCuts.Load())
		}
	}()
	cfg := rigConfig{
		disks: 1 + rng.IntN(4), copies: uint8(1 + rng.IntN(3)), seed: seed,
		latency: time.Duration(rng.IntN(3)) * time.Millisecond,
		timing: simdisk.Timing{ReadRate: 200e6, WriteRate: 100e6, PerOp: 20 * time.Microsecond,
			Latency: time.Duration(rng.IntN(2000)) * time.Microsecond},
		opts: Options{
			DirtyLimit:    int64(64<<10) << rng.IntN(6),
			FlushInterval: time.Duration(1+rng.IntN(100)) * time.Millisecond,
			WriteAge:      time.Duration(rng.IntN(20)) * time.Millisecond,
			CacheBytes:    1,
			ReadAhead:     int64(rng.IntN(3)-1) << 18,
		},
	}
	cfg.disks = max(cfg.disks, int(cfg.copies))
	size := int64(1+rng.IntN(8)) * 64 << 10
	if rng.IntN(4) == 0 {
		size -= int64(rng.IntN(60000))
		size = max(size/blockSize*blockSize, blockSize)
	}
	r := newRig(t, cfg)
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	m := newModel(size)
	for range crashes {
		load := startLoad(r, m, rng, 1+rng.IntN(3), 0)
		time.Sleep(time.Duration(rng.IntN(100_000)) * time.Microsecond)
		synctest.Wait()
		load.stop.Store(true)
		r.crash(rng, simdisk.Random)
		load.wg.Wait()
		for _, err := range load.errs {
			require.NoError(t, err)
		}
		r.open()
		verifyAfterCrash(t, r, m)
		if t.Failed() {
			break
		}
	}
	if !t.Failed() {
		finishQuietly(t, r, m, rng)
	}
	require.NoError(t, r.close())
}

// finishQuietly ends a load without a power cut and looks at the volume as it is then, and as it
// is found after a clean end.
func finishQuietly(t *testing.T, r *rig, m *model, rng *rand.Rand) {
	load := startLoad(r, m, rng, 1+rng.IntN(3), 0)
	time.Sleep(time.Duration(rng.IntN(50_000)) * time.Microsecond)
	load.stop.Store(true)
	load.wg.Wait()
	require.Empty(t, load.errs)
	require.NoError(t, r.v.Flush(context.Background()))
	require.NoError(t, r.v.checkCopies(context.Background()))
	marks := m.mark()
	m.flushed(marks)
	verifyAfterCrash(t, r, m)
	require.NoError(t, r.close())
	r.open()
	verifyAfterCrash(t, r, m)
}

// load is a set of clients that write, read, trim and flush one export until the power goes.
type load struct {
	e       *Export
	stop    atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	errs    []error
	pause   time.Duration // between the requests of a client
	longest time.Duration // that a request took
}

func (l *load) note(d time.Duration) {
	l.mu.Lock()
	l.longest = max(l.longest, d)
	l.mu.Unlock()
}

func startLoad(r *rig, m *model, rng *rand.Rand, clients int, pause time.Duration) *load {
	e := r.export("e")
	l := &load{e: e, pause: pause}
	r.t.Cleanup(func() { l.stop.Store(true) })
	for i := range clients {
		c := &client{l: l, e: e, m: m, rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))), id: i, of: clients}
		l.wg.Go(func() {
			for !l.stop.Load() {
				time.Sleep(l.pause)
				begun := time.Now()
				err := c.step()
				l.note(time.Since(begun))
				if err != nil && !l.stop.Load() {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
	return l
}

// client owns the blocks whose number is id modulo of in groups of 4, so that clients share
// chunks but no block has two writers.
type client struct {
	l      *load
	e      *Export
	m      *model
	rng    *rand.Rand
	id, of int
}

// pick returns a run of blocks that the client owns.
func (c *client) pick() (first, n int) {
	blocks := len(c.m.blocks)
	if c.of == 1 {
		first = c.rng.IntN(blocks)
		return first, min(1+c.rng.IntN(1<<c.rng.IntN(6)), blocks-first)
	}
	groups := (blocks + 3) / 4
	mine := (groups - c.id + c.of - 1) / c.of // groups id, id+of, id+2*of...
	if mine <= 0 {
		return 0, 0
	}
	g := c.id + c.of*c.rng.IntN(mine)
	end := min((g+1)*4, blocks)
	first = g*4 + c.rng.IntN(end-g*4)
	return first, min(1+c.rng.IntN(4), end-first)
}

func (c *client) step() error {
	first, n := c.pick()
	if n == 0 {
		time.Sleep(time.Millisecond)
		return nil
	}
	ctx := context.Background()
	off, size := int64(first)*blockSize, int64(n)*blockSize
	size = min(size, c.e.Size()-off)
	switch c.rng.IntN(10) {
	case 0, 1, 2, 3, 4:
		ver := c.m.begin(first, n, false)
		buf := NewBuffer(int(size))
		for i := range n {
			stamp(buf.Bytes()[i*blockSize:(i+1)*blockSize], first+i, ver)
		}
		var err error
		if c.rng.IntN(2) == 0 {
			err = c.e.WriteBuffer(ctx, buf, off, false)
		} else {
			err = c.e.WriteAt(ctx, buf.Bytes(), off, false)
			buf.Release()
		}
		c.m.end(first, n, err)
		return err
	case 5:
		c.m.begin(first, n, true)
		var err error
		if c.rng.IntN(2) == 0 {
			err = c.e.Trim(ctx, off, size, false)
		} else {
			err = c.e.WriteZeroes(ctx, off, size, c.rng.IntN(2) == 0, false, false)
		}
		c.m.end(first, n, err)
		return err
	case 6, 7:
		p := make([]byte, size)
		if err := c.e.ReadAt(ctx, p, off); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		for i := range n {
			if err := c.m.check(p[i*blockSize:(i+1)*blockSize], first+i); err != nil {
				return err
			}
		}
		return nil
	case 8:
		marks := c.m.mark()
		if err := c.e.Sync(ctx); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		if !c.l.stop.Load() {
			c.m.flushed(marks)
		}
		return nil
	default:
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Microsecond)
		return nil
	}
}

// verifyAfterCrash reads everything twice against the model and then looks at every copy.
func verifyAfterCrash(t *testing.T, r *rig, m *model) { verifyReopened(t, r, m, true) }

// verifyReopened is verifyAfterCrash where writes may have been torn, or not.
func verifyReopened(t *testing.T, r *rig, m *model, mayTear bool) {
	e := r.export("e")
	defer e.Close()
	p := make([]byte, blockSize)
	torn := 0
	for i := range m.blocks {
		err := e.ReadAt(context.Background(), p, int64(i)*blockSize)
		if mayTear && errors.Is(err, ErrUnreadable) && m.pending(i) {
			// Torn on every copy: the client writes it again.
			torn++
			ver := m.begin(i, 1, false)
			stamp(p, i, ver)
			require.NoError(t, e.WriteAt(context.Background(), p, int64(i)*blockSize, true))
			require.NoError(t, m.collapse(p, i))
			continue
		}
		require.NoError(t, err)
		require.NoError(t, m.collapse(p, i))
	}
	for i := range m.blocks {
		require.NoError(t, e.ReadAt(context.Background(), p, int64(i)*blockSize))
		require.NoError(t, m.check(p, i))
	}
	require.NoError(t, r.v.checkCopies(context.Background()))
}
