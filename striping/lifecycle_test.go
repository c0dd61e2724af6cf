package striping

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

var lifeCount = flag.Int("lives", 60, "simulated power cuts while exports come, change their size and go")

// living is what is known of one name: of the export that has it, if one has.
type living struct {
	name  string
	m     *model
	there bool  // it exists
	maybe bool  // a create or remove was under way when the power went
	sizes []int // blocks that it may have
}

const (
	lifeBlocks = 80
	lifeShared = 16 // blocks below it have a client of their own
)

// TestLifeOfExports creates, resizes, fills and removes exports while the power goes, and
// compares names, sizes and every block with what was answered.
func TestLifeOfExports(t *testing.T) {
	const each = 4
	cuts := campaign(t, *lifeCount, each, func(t *testing.T, seed uint64) { lives(t, seed, each) })
	fmt.Printf("lives of exports: %d power cuts, no promise broken: %v\n", cuts, !t.Failed())
}

func lives(t *testing.T, seed uint64, cuts int) {
	rng := rand.New(rand.NewPCG(seed, 11))
	r := newRig(t, rigConfig{disks: 3, copies: uint8(1 + seed%2), seed: seed, timing: gentle, latency: time.Millisecond,
		opts: Options{DirtyLimit: 256 << 10, FlushInterval: 30 * time.Millisecond, WriteAge: 3 * time.Millisecond, CacheBytes: 1}})
	all := []*living{{name: "a"}, {name: "b"}, {name: "c"}}
	for range cuts {
		var stop atomic.Bool
		var wg sync.WaitGroup
		var mu sync.Mutex
		var errs []error
		for i, l := range all {
			mine := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
			wg.Go(func() {
				for !stop.Load() {
					if err := l.step(r.v, mine, &stop); err != nil && !stop.Load() {
						mu.Lock()
						errs = append(errs, fmt.Errorf("export %s: %w", l.name, err))
						mu.Unlock()
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(150_000)) * time.Microsecond)
		synctest.Wait()
		stop.Store(true)
		r.crash(rng, simdisk.Random)
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		r.open()
		for _, l := range all {
			l.settle(t, r.v)
		}
		time.Sleep(time.Second) // removals and shrinks that were cut short go on
		require.NoError(t, r.v.checkCopies(t.Context()))
		known := map[uint64]bool{}
		r.v.mu.Lock()
		for n, o := range r.v.objects {
			known[n] = true
			if o.removed.Load() {
				t.Errorf("object %d is still being removed", n)
			}
		}
		r.v.mu.Unlock()
		require.NoError(t, r.j.Scan(journal.SpaceChunk, func(k journal.Key, _ []byte) error {
			if _, n, _ := k.Parts(); !known[n] {
				return fmt.Errorf("a chunk of object %d, which is gone", n)
			}
			return nil
		}))
	}
	require.NoError(t, r.close())
}

// step does one thing with the export. An error before the power goes is a broken promise.
func (l *living) step(v *Volume, rng *rand.Rand, stop *atomic.Bool) error {
	ctx := context.Background()
	if !l.there {
		l.m, l.maybe, l.sizes = newModel(lifeBlocks*blockSize), true, []int{lifeBlocks}
		if err := v.CreateExport(ctx, l.name, lifeBlocks*blockSize); err != nil {
			return err
		}
		l.there, l.maybe = true, false
		return nil
	}
	e, err := v.OpenExport(l.name)
	if err != nil {
		return err
	}
	size := l.sizes[0]
	if rng.IntN(8) == 0 {
		l.maybe = true
		if !errors.Is(v.RemoveExport(ctx, l.name, false), ErrBusy) && !stop.Load() {
			return errors.New("was removed while open")
		}
		force := rng.IntN(2) == 0
		if !force {
			e.Close()
		}
		if err := v.RemoveExport(ctx, l.name, force); err != nil {
			return fmt.Errorf("remove: %w", err)
		}
		if force {
			if err := e.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, ErrRemoved) {
				return fmt.Errorf("read of a removed export: %w", err)
			}
			e.Close()
		}
		l.there, l.maybe = false, false
		return nil
	}
	defer e.Close()
	var side sync.WaitGroup
	defer side.Wait()
	var sideErr error
	shared := rand.New(rand.NewPCG(rng.Uint64(), 3))
	side.Go(func() { // I/O on the part that always exists, while the owner does what it does
		s := client{l: &load{}, e: e, m: l.m, rng: shared, of: 1}
		for range 5 {
			if err := s.one(shared, 0, lifeShared, stop); err != nil {
				sideErr = err
				return
			}
		}
	})
	s := client{l: &load{}, e: e, m: l.m, rng: rng, of: 1}
	for range 3 {
		if size > lifeShared {
			if err := s.one(rng, lifeShared, size, stop); err != nil {
				return err
			}
		}
	}
	if rng.IntN(2) == 0 {
		to := lifeShared + rng.IntN(lifeBlocks-lifeShared+1)
		l.sizes = []int{size, to}
		if to < size {
			l.m.begin(to, size-to, true)
		}
		if err := v.ResizeExport(ctx, l.name, int64(to)*blockSize); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
		if stop.Load() {
			return nil
		}
		l.sizes = []int{to}
		if to < size {
			l.m.end(to, size-to, nil)
			l.m.flushedOnly(l.m.mark(), to, size-to)
		}
	}
	side.Wait()
	return sideErr
}

// one makes one request within blocks [from, to).
func (c *client) one(rng *rand.Rand, from, to int, stop *atomic.Bool) error {
	ctx := context.Background()
	first := from + rng.IntN(to-from)
	n := min(1+rng.IntN(20), to-first)
	off, size := int64(first)*blockSize, int64(n)*blockSize
	var err error
	switch rng.IntN(6) {
	case 0, 1, 2:
		ver := c.m.begin(first, n, false)
		err = c.e.WriteAt(ctx, stamped(first, n, ver), off, false)
		c.m.end(first, n, err)
	case 3:
		c.m.begin(first, n, true)
		err = c.e.Trim(ctx, off, size, false)
		c.m.end(first, n, err)
	case 4:
		marks := c.m.mark()
		if err = c.e.Sync(ctx); err == nil && !stop.Load() {
			c.m.flushed(marks)
		}
	default:
		p := make([]byte, size)
		if err = c.e.ReadAt(ctx, p, off); err != nil {
			break
		}
		for i := range n {
			if err := c.m.check(p[i*blockSize:(i+1)*blockSize], first+i); err != nil {
				return err
			}
		}
	}
	return err
}

// settle compares what a crash left of the export.
func (l *living) settle(t *testing.T, v *Volume) {
	ctx := context.Background()
	e, err := v.OpenExport(l.name)
	if err != nil {
		require.ErrorIs(t, err, ErrNotExist)
		require.True(t, !l.there || l.maybe, "export %s is gone", l.name)
		l.there, l.maybe = false, false
		return
	}
	require.True(t, l.there || l.maybe, "export %s is back", l.name)
	l.there, l.maybe = true, false
	defer e.Close()
	require.True(t, slices.Contains(l.sizes, int(e.Size()/blockSize)), "%d blocks, allowed %v", e.Size()/blockSize, l.sizes)
	require.NoError(t, v.ResizeExport(ctx, l.name, lifeBlocks*blockSize))
	l.sizes = []int{lifeBlocks}
	p := make([]byte, blockSize)
	for i := range lifeBlocks {
		err := e.ReadAt(ctx, p, int64(i)*blockSize)
		if errors.Is(err, ErrUnreadable) && l.m.pending(i) {
			ver := l.m.begin(i, 1, false)
			stamp(p, i, ver)
			require.NoError(t, e.WriteAt(ctx, p, int64(i)*blockSize, true))
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, l.m.collapse(p, i), "export %s", l.name)
	}
}

func TestExportNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{})
		for _, bad := range []string{"", "a/b", "a\x00", "a\nb", "\x7f", string([]byte{0xff}), strings.Repeat("x", 256)} {
			require.Error(t, r.v.CreateExport(ctx, bad, 1<<20), "%q", bad)
		}
		for _, bad := range []int64{0, -1, MaxExportSize + 1} {
			require.Error(t, r.v.CreateExport(ctx, "x", bad), "%d", bad)
		}
		require.Empty(t, r.v.Exports())
		names := []string{"a", "ü", "..", " ", strings.Repeat("x", 255), "a b", "A"}
		for _, n := range names {
			require.NoError(t, r.v.CreateExport(ctx, n, 1))
			require.ErrorIs(t, r.v.CreateExport(ctx, n, 1), ErrExists)
		}
		require.NoError(t, r.v.CreateExport(ctx, "huge", MaxExportSize))
		e := r.export("huge")
		require.NoError(t, e.WriteAt(ctx, stamped(0, 1, 1), MaxExportSize-blockSize, true))
		require.ErrorIs(t, e.WriteAt(ctx, stamped(0, 1, 1), MaxExportSize-1, true), ErrRange)
		ext, err := e.Extents(ctx, nil, 0, MaxExportSize, 10)
		require.NoError(t, err)
		require.Equal(t, Extent{MaxExportSize - 64<<10, true, true}, ext[0])
		require.NoError(t, e.Trim(ctx, 0, MaxExportSize, true))
		e.Close()
		require.ErrorIs(t, r.v.RemoveExport(ctx, "none", false), ErrNotExist)
		require.ErrorIs(t, r.v.ResizeExport(ctx, "none", 1), ErrNotExist)
		_, err = r.v.OpenExport("none")
		require.ErrorIs(t, err, ErrNotExist)
		require.NoError(t, r.close())
		r.open()
		require.Len(t, r.v.Exports(), len(names)+1)
		require.NoError(t, r.close())
	})
}

// TestReadOnlyExports refuses whatever would change the content, and nothing else.
func TestReadOnlyExports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{})
		s.write(0, 20, true)
		require.NoError(t, s.v.SetReadOnly(s.ctx, "e", true))
		require.True(t, s.e.ReadOnly())
		require.ErrorIs(t, s.e.WriteAt(s.ctx, stamped(0, 1, 9), 0, false), ErrReadOnly)
		require.ErrorIs(t, s.e.WriteBuffer(s.ctx, NewBuffer(blockSize), 0, false), ErrReadOnly)
		_, err := s.e.TryWriteAt(stamped(0, 1, 9), 0)
		require.ErrorIs(t, err, ErrReadOnly)
		require.ErrorIs(t, s.e.Trim(s.ctx, 0, blockSize, false), ErrReadOnly)
		require.ErrorIs(t, s.e.WriteZeroes(s.ctx, 0, blockSize, false, false, false), ErrReadOnly)
		s.read(0, scriptBlocks)
		s.sync()
		s.e.Close()
		require.NoError(t, s.rig.close())
		s.open()
		s.e = s.export("e")
		require.True(t, s.e.ReadOnly())
		s.read(0, scriptBlocks)
		require.NoError(t, s.v.SetReadOnly(s.ctx, "e", false))
		s.write(0, 4, true)
		s.e.Close()
		require.NoError(t, s.rig.close())
	})
}

// TestBadRangesGoWithTheExport removes an export with an unreadable range: a new one of that name
// has none.
func TestBadRangesGoWithTheExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		d := newDamaged(t, 1, 1, 1)
		d.noise(0)
		d.open()
		e := d.export("e")
		require.ErrorIs(t, e.ReadAt(ctx, make([]byte, blockSize), 0), ErrUnreadable)
		e.Close()
		require.Len(t, d.v.Status().Bad, 1)
		require.NoError(t, d.v.RemoveExport(ctx, "e", false))
		require.Empty(t, d.v.Status().Bad)
		require.NoError(t, d.close())
	})
}

// TestShrinkForgetsBadRanges cuts an unreadable range off.
func TestShrinkForgetsBadRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		d := newDamaged(t, 1, 1, 1)
		d.noise(0)
		d.open()
		e := d.export("e")
		for _, block := range []int64{3, 9, 100} {
			require.ErrorIs(t, e.ReadAt(ctx, make([]byte, blockSize), block*blockSize), ErrUnreadable)
		}
		require.Len(t, d.v.Status().Bad, 3)
		require.NoError(t, d.v.ResizeExport(ctx, "e", 8*blockSize))
		require.Len(t, d.v.Status().Bad, 1)
		e.Close()
		require.NoError(t, d.close())
	})
}

// TestShrinkBesideKeptZeros cuts off zeros whose space is to stay allocated while they are on their
// way to the devices.
func TestShrinkBesideKeptZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		var r *rig
		armed := false
		r = newRig(t, rigConfig{opts: Options{FlushInterval: time.Hour, WriteAge: time.Hour}, wrapJ: func(j journal.Journal) journal.Journal {
			return &hookJournal{Journal: j, beforeCommit: func(*journal.Batch) {
				if armed { // the new size counts, and what lies behind it has not been dropped
					armed = false
					c, err := r.v.acquire(chunkKey{1, 1})
					require.NoError(t, err)
					r.v.wb.want(c)
					r.v.cache.put(c)
					time.Sleep(time.Second)
				}
			}}
		}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 128<<10))
		e := r.export("e")
		require.NoError(t, e.WriteZeroes(ctx, 64<<10, 32<<10, true, false, false))
		armed = true
		require.NoError(t, r.v.ResizeExport(ctx, "e", 64<<10))
		require.False(t, armed)
		require.NoError(t, r.v.checkCopies(ctx))
		require.Zero(t, r.v.Status().UsedBytes)
		e.Close()
		require.NoError(t, r.close())
	})
}
