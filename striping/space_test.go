package striping

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/striping/policy"

	"github.com/stretchr/testify/require"
)

// filled is a volume that clients have filled to the last chunk.
type filled struct {
	*rig
	e    *Export
	rng  *rand.Rand
	mu   sync.Mutex
	have map[int]uint32 // versions by chunk; each chunk is written whole
	next int            // chunk
	ver  uint32
}

const fillChunk = 16 // blocks

// fill lets clients write new chunks until there is no space.
func (f *filled) fill(t *testing.T, clients int) {
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				f.mu.Lock()
				index := f.next
				f.next++
				f.ver++
				ver := f.ver
				sync := f.rng.IntN(40) == 0
				f.mu.Unlock()
				err := f.e.WriteAt(context.Background(), stamped(index*fillChunk, fillChunk, ver), int64(index)*fillChunk*blockSize, false)
				if err != nil {
					if !errors.Is(err, ErrNoSpace) {
						t.Error(err)
					}
					return
				}
				f.mu.Lock()
				f.have[index] = ver
				f.mu.Unlock()
				if sync {
					if err := f.e.Sync(context.Background()); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func (f *filled) check() {
	p := make([]byte, fillChunk*blockSize)
	for index, ver := range f.have {
		require.NoError(f.t, f.e.ReadAt(context.Background(), p, int64(index)*fillChunk*blockSize))
		for b := range fillChunk {
			got, err := versionOf(p[b*blockSize:(b+1)*blockSize], index*fillChunk+b)
			require.NoError(f.t, err)
			if want := ver; got != want {
				require.Equal(f.t, want, got, "block %d of chunk %d", b, index)
			}
		}
	}
}

// some returns a random chunk that was written.
func (f *filled) some() int {
	n := f.rng.IntN(len(f.have))
	for index := range f.next {
		if f.have[index] != 0 {
			if n == 0 {
				return index
			}
			n--
		}
	}
	panic("nothing written")
}

// TestSpaceFillsUp fills volumes over disks of random sizes: all that the copies can use is used,
// nothing acknowledged is lost, and everything that needs no new space goes on.
func TestSpaceFillsUp(t *testing.T) {
	worst, cases := 1.0, 0
	for seed := range uint64(spaceCases()) {
		for copies := uint8(1); copies <= 3; copies++ {
			synctest.Test(t, func(t *testing.T) {
				used := fillOne(t, seed, copies)
				worst = min(worst, used)
				cases++
			})
			if t.Failed() {
				t.Fatalf("seed %d, %d copies", seed, copies)
			}
		}
	}
	fmt.Printf("full volumes: %d sets of disks, at least %.2f %% of what the copies can use was used, nothing lost\n", cases, worst*100)
}

// TestRivalsUnequalDisksFill: of disks of 16, 8, 4, 4 and 2 units, with two copies, 17 can be used, and are.
func TestRivalsUnequalDisksFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const unit = 20 * fillChunk * blockSize
		sizes := []int64{16 * unit, 8 * unit, 4 * unit, 4 * unit, 2 * unit}
		require.EqualValues(t, 17*unit, policy.Capacity(sizes, 2))
		require.GreaterOrEqual(t, fillSet(t, rand.New(rand.NewPCG(1, 9)), sizes, 1, 2), 0.99)
	})
}

func fillOne(t *testing.T, seed uint64, copies uint8) (share float64) {
	rng := rand.New(rand.NewPCG(seed, uint64(copies)))
	var sizes []int64
	for range int(copies) + rng.IntN(4) {
		n := int64(20+rng.IntN(60)) * fillChunk * blockSize
		if rng.IntN(3) == 0 {
			n *= 3
		}
		sizes = append(sizes, n)
	}
	return fillSet(t, rng, sizes, seed, copies)
}

// fillSet fills a volume over disks of these sizes, and returns the share of what could be used that was.
func fillSet(t *testing.T, rng *rand.Rand, sizes []int64, seed uint64, copies uint8) (share float64) {
	ctx := context.Background()
	most := policy.Capacity(sizes, int(copies))
	f := &filled{rng: rng, have: map[int]uint32{}, rig: newRig(t, rigConfig{sizes: sizes, copies: copies, seed: seed, timing: gentle,
		opts: Options{DirtyLimit: 1 << 20, FlushInterval: 100 * time.Millisecond, ReadAhead: -1, CacheBytes: 1}})}
	require.NoError(t, f.v.CreateExport(ctx, "e", 1<<40))
	f.e = f.export("e")
	f.fill(t, 1+rng.IntN(8))
	require.NoError(t, f.e.Sync(ctx))
	chunkBytes := int64(fillChunk * blockSize)
	used := int64(len(f.have)) * chunkBytes
	require.LessOrEqual(t, used, most)
	share = float64(used) / float64(most)
	require.True(t, used*100 >= most*99 || most-used <= chunkBytes, "%d of %d chunks, disks %v", used/chunkBytes, most/chunkBytes, sizes)
	st := f.v.Status()
	require.Less(t, st.FreeBytes, int64(2)*chunkBytes)
	require.Equal(t, used, st.UsedBytes)
	f.check()

	// What needs no new space goes on.
	for range 20 {
		index := f.some()
		f.ver++
		if rng.IntN(2) == 0 { // in two halves, in place
			half := fillChunk / 2 * blockSize
			p := stamped(index*fillChunk, fillChunk, f.ver)
			require.NoError(t, f.e.WriteAt(ctx, p[:half], int64(index)*chunkBytes, false))
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			require.NoError(t, f.e.WriteAt(ctx, p[half:], int64(index)*chunkBytes+int64(half), false))
		} else { // the whole chunk, which would rather have a new slot
			require.NoError(t, f.e.WriteAt(ctx, stamped(index*fillChunk, fillChunk, f.ver), int64(index)*chunkBytes, rng.IntN(3) == 0))
		}
		f.have[index] = f.ver
	}
	require.NoError(t, f.e.Sync(ctx))
	f.check()
	// Trimmed space can be used at once.
	for range 5 {
		index := f.some()
		require.NoError(t, f.e.Trim(ctx, int64(index)*chunkBytes, chunkBytes, false))
		delete(f.have, index)
		f.ver++
		require.NoError(t, f.e.WriteAt(ctx, stamped(f.next*fillChunk, fillChunk, f.ver), int64(f.next)*chunkBytes, false))
		f.have[f.next] = f.ver
		f.next++
	}
	f.fill(t, 3)
	require.NoError(t, f.e.Sync(ctx))
	require.NoError(t, f.v.checkCopies(ctx))
	f.e.Close()
	f.crash(rng, simdisk.KeepNone)
	f.open()
	f.e = f.export("e")
	f.check()
	f.e.Close()
	require.NoError(t, f.v.RemoveExport(ctx, "e", false))
	require.NoError(t, f.v.checkCopies(ctx))
	_, freeNow, _ := f.v.space()
	require.Equal(t, most/chunkBytes, freeNow/chunkBytes)
	require.NoError(t, f.close())
	return share
}

// TestSpaceOfManySmallExports fills a volume with exports that need a part of a chunk each.
func TestSpaceOfManySmallExports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{disks: 2, size: 4 << 20})
		const each = 3 * blockSize
		var made int
		for ; ; made++ {
			name := fmt.Sprint(made)
			require.NoError(t, r.v.CreateExport(ctx, name, each))
			e := r.export(name)
			err := e.WriteAt(ctx, stamped(0, 3, uint32(made+1)), 0, made%7 == 0)
			e.Close()
			if err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
				break
			}
		}
		const most = 2 * 4 << 20 / (64 << 10) * (16 / 3) // five in each region
		require.GreaterOrEqual(t, made*100, most*99, "%d of %d", made, most)
		require.NoError(t, r.v.checkCopies(ctx))
		require.NoError(t, r.close())
		r.open()
		for i := range made {
			e := r.export(fmt.Sprint(i))
			p := make([]byte, each)
			require.NoError(t, e.ReadAt(ctx, p, 0))
			require.True(t, string(p) == string(stamped(0, 3, uint32(i+1))))
			e.Close()
		}
		require.NoError(t, r.close())
	})
}

// TestSpaceOfJournalReturns fills the journal's disk again and again under load: flushes fail,
// reads go on, nothing is lost, and all goes on when there is space.
func TestSpaceOfJournalReturns(t *testing.T) {
	for copies := uint8(1); copies <= 2; copies++ {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: copies, timing: gentle, opts: Options{
				DirtyLimit: 256 << 10, FlushInterval: 50 * time.Millisecond, WriteAge: 5 * time.Millisecond}})
			rng := rand.New(rand.NewPCG(4, uint64(copies)))
			for range 20 {
				s.strict = true
				for range 5 {
					first := rng.IntN(scriptBlocks - 4)
					s.write(first, 1+rng.IntN(4), rng.IntN(3) == 0)
				}
				s.zero(rng.IntN(5)*16, 16, "trim")
				s.sync()
				s.j.SetFull(true)
				s.strict = false
				s.failed = 0
				for range 10 {
					first := rng.IntN(scriptBlocks - 20)
					s.write(first, 1+rng.IntN(20), false)
					time.Sleep(20 * time.Millisecond)
					s.read(0, scriptBlocks)
					s.sync()
				}
				require.NotZero(t, s.failed, "the journal was not full")
				require.False(t, s.v.events.journalDead.Load())
				s.j.SetFull(false)
				time.Sleep(time.Second)
				s.strict = true
				s.sync()
				s.read(0, scriptBlocks)
				if rng.IntN(3) == 0 {
					s.e.Close()
					s.crash(rng, simdisk.KeepNone)
					s.open()
					verifyReopened(t, s.rig, s.m, false)
					s.e = s.export("e")
				}
			}
			require.NoError(t, s.v.checkCopies(s.ctx))
			s.e.Close()
			require.NoError(t, s.rig.close())
		})
	}
}

// TestWriteOutWithoutDevices makes all disks refuse writes: flushes say so, what was written is
// read back nevertheless, and writes are refused before memory is full of what nobody takes.
func TestWriteOutWithoutDevices(t *testing.T) {
	for copies := uint8(1); copies <= 2; copies++ {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: copies, timing: gentle, opts: Options{
				DirtyLimit: 128 << 10, FlushInterval: 50 * time.Millisecond, WriteAge: 5 * time.Millisecond}})
			s.write(0, 32, true)
			s.strict = false
			for _, d := range s.disks {
				d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Fail, Err: syscall.EROFS, Sticky: true})
			}
			for i := range scriptBlocks {
				s.write(i, 1, false)
				if s.failed > 0 {
					break
				}
				s.read(0, i+1)
				time.Sleep(10 * time.Millisecond)
			}
			require.NotZero(t, s.failed, "all was taken")
			s.strict = true
			s.read(0, 16)
			s.strict = false
			require.Error(t, s.e.Sync(s.ctx))
			s.e.Close()
			require.Error(t, s.end(), "a clean end although data is not on any disk")
			for i, d := range s.disks {
				s.disks[i] = d.Crash(nil, simdisk.KeepAll)
			}
			s.open()
			verifyReopened(t, s.rig, s.m, false)
			require.NoError(t, s.rig.close())
		})
	}
}

// TestRewriteLeavesPromisedSpace rewrites a chunk while all free space is promised to buffered
// writes of new chunks: these must still find it at the flush.
func TestRewriteLeavesPromisedSpace(t *testing.T) {
	for copies := uint8(1); copies <= 2; copies++ {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			r := newRig(t, rigConfig{disks: 2, copies: copies, size: 8 * 64 << 10, opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour}})
			chunks := 16 / int(copies)
			require.NoError(t, r.v.CreateExport(ctx, "e", int64(chunks)*64<<10))
			e := r.export("e")
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, true))
			for i := 1; i < chunks; i++ {
				require.NoError(t, e.WriteAt(ctx, stamped(i*16, 1, 2), int64(i)*64<<10, false))
			}
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 3), 0, false))
			time.Sleep(time.Second)
			require.NoError(t, e.Sync(ctx))
			require.NoError(t, r.v.checkCopies(ctx))
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestNoSpaceIsTrue: the first write that is refused for lack of space finds none, however much is on
// its way to the disks, where it has its slots and is still counted as promised.
func TestNoSpaceIsTrue(t *testing.T) {
	for _, copies := range []uint8{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			sizes := []int64{4 << 20, 6 << 20, 9 << 20}
			f := &filled{rng: rand.New(rand.NewPCG(1, 2)), have: map[int]uint32{}, rig: newRig(t, rigConfig{sizes: sizes, copies: copies, timing: gentle,
				opts: Options{DirtyLimit: 16 << 20, ReadAhead: -1}})}
			require.NoError(t, f.v.CreateExport(ctx, "e", 1<<40))
			f.e = f.export("e")
			const clients = 4
			var refusedAt atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for refusedAt.Load() == 0 {
						f.mu.Lock()
						index := f.next
						f.next++
						f.mu.Unlock()
						err := f.e.WriteAt(ctx, stamped(index*fillChunk, fillChunk, 1), int64(index)*fillChunk*blockSize, false)
						f.mu.Lock()
						if err == nil {
							f.have[index] = 1
						} else if errors.Is(err, ErrNoSpace) {
							refusedAt.CompareAndSwap(0, int64(len(f.have)))
						} else {
							t.Error(err)
						}
						f.mu.Unlock()
					}
				})
			}
			wg.Wait()
			most := policy.Capacity(sizes, int(copies)) / (fillChunk * blockSize)
			require.GreaterOrEqual(t, refusedAt.Load(), most-clients, "of %d chunks", most)
			require.NoError(t, f.e.Sync(ctx))
			f.check()
			f.e.Close()
			require.NoError(t, f.close())
		})
	}
}

// TestLargeWriteHasSpace: what a write has on its way to the disks already counts twice for a while. It is
// not taken for want of space, although most of the volume is on its way.
func TestLargeWriteHasSpace(t *testing.T) {
	for _, write := range []struct {
		name string
		do   func(e *Export, p []byte) error
	}{
		{"WriteAt", func(e *Export, p []byte) error { return e.WriteAt(context.Background(), p, 0, false) }},
		{"WriteBuffer", func(e *Export, p []byte) error {
			b := NewBuffer(len(p))
			copy(b.Bytes(), p)
			return e.WriteBuffer(context.Background(), b, 0, false)
		}},
		{"WriteZeroes", func(e *Export, p []byte) error {
			return e.WriteZeroes(context.Background(), 0, int64(len(p)), true, false, false)
		}},
	} {
		t.Run(write.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size, chunk = 16 << 20, 64 << 10
				r := newRig(t, rigConfig{disks: 1, size: size, chunk: chunk, copies: 1, timing: simdisk.SSD(20e6, 20e6)})
				n := int(r.v.capacityLeft()/chunk) - 2
				require.Greater(t, n*chunk, size/2)
				require.NoError(t, r.v.CreateExport(t.Context(), "e", 2*size))
				e := r.export("e")
				p := stamped(0, n*chunk/blockSize, 1)
				require.NoError(t, write.do(e, p))
				require.NoError(t, e.Sync(t.Context()))
				if write.name == "WriteZeroes" {
					clear(p)
				}
				got := make([]byte, len(p))
				require.NoError(t, e.ReadAt(t.Context(), got, 0))
				require.True(t, bytes.Equal(p, got))
				require.ErrorIs(t, e.WriteAt(t.Context(), make([]byte, 4*chunk), int64(len(p)), false), ErrNoSpace)
				e.Close()
				require.NoError(t, r.close())
			})
		})
	}
}

// TestRemoveReturnsSpace: when a removal has returned, the space is free, also if it was the background commit
// that made it so.
func TestRemoveReturnsSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 1))
		r := newRig(t, rigConfig{disks: 3, size: 4 << 20, copies: 2, timing: gentle, opts: Options{FlushInterval: 10 * time.Millisecond, CacheBytes: 1}})
		const chunks = 40
		for i := range 120 {
			require.NoError(t, r.v.CreateExport(t.Context(), "e", chunks*64<<10))
			e := r.export("e")
			require.NoError(t, e.WriteAt(t.Context(), stamped(0, chunks*16, uint32(i+1)), 0, true))
			e.Close()
			time.Sleep(time.Duration(rng.IntN(10_000)) * time.Microsecond)
			require.NoError(t, r.v.RemoveExport(t.Context(), "e", false))
			for _, m := range r.v.devs() {
				used, _ := m.alloc.usage()
				require.Zero(t, used, "round %d", i)
			}
		}
		require.NoError(t, r.close())
	})
}
