package striping

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestUnalignedWriters lets clients write neighbouring sectors of the same blocks at once: each
// sector holds what its own client wrote last, now and after a flush and a power cut.
func TestUnalignedWriters(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			rng := rand.New(rand.NewPCG(seed, 5))
			r := newRig(t, rigConfig{disks: 3, copies: uint8(1 + seed%2), timing: gentle, seed: seed, opts: Options{
				DirtyLimit: 128 << 10, FlushInterval: 20 * time.Millisecond, WriteAge: time.Millisecond, CacheBytes: 1, ReadAhead: -1}})
			const sectors = 3 * 128
			require.NoError(t, r.v.CreateExport(ctx, "e", sectors*512))
			e := r.export("e")
			var mu sync.Mutex
			want := make([]uint32, sectors)
			const clients = 4
			var wg sync.WaitGroup
			for id := range clients {
				rng := rand.New(rand.NewPCG(seed, uint64(id)))
				wg.Go(func() {
					for ver := uint32(1); ver < 60; ver++ {
						at := rng.IntN(sectors/clients)*clients + id // every clients-th sector is its own
						p := make([]byte, 512)
						binary.LittleEndian.PutUint32(p, uint32(at))
						binary.LittleEndian.PutUint32(p[508:], ver)
						if err := e.WriteAt(ctx, p, int64(at)*512, rng.IntN(20) == 0); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						want[at] = ver
						mu.Unlock()
						q := make([]byte, 512)
						if err := e.ReadAt(ctx, q, int64(at)*512); err != nil || string(p) != string(q) {
							t.Errorf("sector %d: %v", at, err)
							return
						}
						time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
					}
				})
			}
			wg.Wait()
			require.NoError(t, e.Sync(ctx))
			check := func() {
				p := make([]byte, sectors*512)
				require.NoError(t, e.ReadAt(ctx, p, 0))
				for i := range sectors {
					require.Equal(t, want[i], binary.LittleEndian.Uint32(p[i*512+508:]), "sector %d, seed %d", i, seed)
				}
			}
			check()
			e.Close()
			r.crash(rng, simdisk.KeepNone)
			r.open()
			e = r.export("e")
			check()
			require.NoError(t, r.v.checkCopies(ctx))
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestOverlappingWriters lets clients write the same blocks at once: each block equals one of the
// writes, the same for all readers and on all copies, also after a power cut.
func TestOverlappingWriters(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			rng := rand.New(rand.NewPCG(seed, 6))
			r := newRig(t, rigConfig{disks: 3, copies: uint8(1 + seed%3), timing: gentle, seed: seed, opts: Options{
				DirtyLimit: 256 << 10, FlushInterval: 10 * time.Millisecond, WriteAge: time.Millisecond, ReadAhead: -1}})
			const blocks = 40
			require.NoError(t, r.v.CreateExport(ctx, "e", blocks*blockSize))
			e := r.export("e")
			read := func(i int) uint32 {
				p := make([]byte, blockSize)
				require.NoError(t, e.ReadAt(ctx, p, int64(i)*blockSize))
				ver, err := versionOf(p, i)
				require.NoError(t, err)
				return ver
			}
			for round := range 10 {
				given := make([]map[uint32]bool, blocks)
				for i := range given {
					given[i] = map[uint32]bool{}
				}
				var wg sync.WaitGroup
				for id := range 4 {
					first := rng.IntN(blocks)
					n := 1 + rng.IntN(blocks-first)
					ver := uint32(round*10 + id + 1)
					if id == 3 && round%2 == 0 {
						ver = 0
					}
					for i := first; i < first+n; i++ {
						given[i][ver] = true
					}
					fua := rng.IntN(3) == 0
					wg.Go(func() {
						var err error
						if ver == 0 {
							err = e.Trim(ctx, int64(first)*blockSize, int64(n)*blockSize, fua)
						} else {
							err = e.WriteAt(ctx, stamped(first, n, ver), int64(first)*blockSize, fua)
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				got := make([]uint32, blocks)
				for i := range blocks {
					got[i] = read(i)
					require.True(t, len(given[i]) == 0 || given[i][got[i]], "block %d reads as %d, written were %v", i, got[i], given[i])
				}
				if round%3 == 2 {
					require.NoError(t, r.v.checkCopies(ctx))
				} else {
					require.NoError(t, e.Sync(ctx))
				}
				if round%4 == 3 {
					e.Close()
					r.crash(rng, simdisk.KeepNone)
					r.open()
					e = r.export("e")
				}
				for i := range blocks {
					require.Equal(t, got[i], read(i), "block %d", i)
				}
			}
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestReadAheadSeesWrites reads an export in sequence while what was read ahead is overwritten
// and trimmed.
func TestReadAheadSeesWrites(t *testing.T) {
	for _, wait := range []bool{false, true} {
		t.Run(fmt.Sprint(wait), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{WriteAge: time.Millisecond, ReadAhead: 1 << 20, CacheBytes: 1}})
				s.write(0, scriptBlocks, false)
				s.sync()
				for i := 0; i < scriptBlocks; i += 4 {
					s.read(i, 4)
					if next := i + 12; i%16 == 8 && next < scriptBlocks {
						if i%32 == 8 {
							s.write(next, 2, false)
						} else {
							s.zero(next, 1, "trim")
						}
						if wait { // until it is on the disks
							s.pause()
						}
					}
				}
				require.Positive(t, s.v.stats.readAheadHits.Load(), "nothing was read ahead")
				s.sync()
				s.read(0, scriptBlocks)
				s.e.Close()
				require.NoError(t, s.rig.close())
			})
		})
	}
}

// sinkBytes is a Sink that keeps what it gets.
type sinkBytes struct{ p []byte }

func (s *sinkBytes) Append(b []byte, owner interface{ Release() }) {
	s.p = append(s.p, b...)
	if owner != nil {
		owner.Release()
	}
}

func (s *sinkBytes) AppendHole(size int64) { s.p = append(s.p, make([]byte, size)...) }

// TestModelOfBytes runs random requests of any alignment, the quick ways beside the usual ones,
// against a plain slice, with the block status checked against it.
func TestModelOfBytes(t *testing.T) {
	campaign(t, 30, 1, func(t *testing.T, seed uint64) {
		ctx := context.Background()
		rng := rand.New(rand.NewPCG(seed, 7))
		r := newRig(t, rigConfig{disks: 3, copies: uint8(1 + seed%3), seed: seed, opts: Options{
			DirtyLimit: 64 << 10 << rng.IntN(4), FlushInterval: 50 * time.Millisecond, WriteAge: time.Duration(rng.IntN(3)) * time.Millisecond,
			CacheBytes: 1, ReadAhead: int64(rng.IntN(3)-1) << 18}})
		size := 400_000 + rng.IntN(5000)
		want := make([]byte, size)
		require.NoError(t, r.v.CreateExport(ctx, "e", int64(size)))
		e := r.export("e")
		quick := 0
		for step := range 300 {
			off := rng.IntN(len(want))
			n := min(1+rng.IntN(1<<(3+rng.IntN(16))), len(want)-off)
			if rng.IntN(2) == 0 {
				off &^= blockSize - 1
				n = max(n&^(blockSize-1), min(blockSize, len(want)-off))
				n = min(n, len(want)-off)
			}
			switch rng.IntN(12) {
			case 0, 1, 2:
				for i := range n {
					want[off+i] = byte(rng.Uint32()) | 1
				}
				require.NoError(t, e.WriteAt(ctx, want[off:off+n], int64(off), rng.IntN(10) == 0))
			case 3:
				p := make([]byte, n)
				for i := range p {
					p[i] = byte(rng.Uint32()) | 1
				}
				done, err := e.TryWriteAt(p, int64(off))
				require.NoError(t, err)
				if done {
					copy(want[off:], p)
					quick++
				}
			case 4:
				require.NoError(t, e.Trim(ctx, int64(off), int64(n), false))
				first, end := (off+blockSize-1)&^(blockSize-1), (off+n)&^(blockSize-1)
				if off+n == len(want) {
					end = off + n
				}
				if first < end {
					clear(want[first:end])
				}
			case 5:
				require.NoError(t, e.WriteZeroes(ctx, int64(off), int64(n), rng.IntN(2) == 0, false, false))
				clear(want[off : off+n])
			case 6:
				require.NoError(t, e.Sync(ctx))
			case 7:
				var s sinkBytes
				done, err := e.TryRead(int64(off), int64(n), &s)
				require.NoError(t, err)
				if done {
					quick++
					require.True(t, string(want[off:off+n]) == string(s.p), "seed %d, step %d: quick read of %d at %d", seed, step, n, off)
				}
			case 8:
				ext, err := e.Extents(ctx, nil, int64(off), int64(n), 1+rng.IntN(50))
				require.NoError(t, err)
				require.NotEmpty(t, ext)
				at := off
				for _, x := range ext {
					require.Positive(t, x.Size)
					require.LessOrEqual(t, at+int(x.Size), off+n)
					require.True(t, !x.Hole || x.Zero)
					if x.Zero {
						for i := at; i < at+int(x.Size); i++ {
							if want[i] != 0 {
								t.Fatalf("seed %d, step %d: byte %d is said to be zero", seed, step, i)
							}
						}
					}
					at += int(x.Size)
				}
			case 9:
				time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
			case 10:
				grown := 300_000 + rng.IntN(200_000)
				require.NoError(t, r.v.ResizeExport(ctx, "e", int64(grown)))
				if grown < len(want) {
					want = want[:grown:grown]
				} else {
					want = append(want, make([]byte, grown-len(want))...)
				}
				require.Equal(t, int64(grown), e.Size())
			default:
				p := make([]byte, n)
				require.NoError(t, e.ReadAt(ctx, p, int64(off)))
				require.True(t, string(want[off:off+n]) == string(p), "seed %d, step %d: read of %d at %d", seed, step, n, off)
			}
		}
		require.Positive(t, quick)
		require.ErrorIs(t, e.WriteAt(ctx, []byte("x"), int64(len(want)), false), ErrRange)
		require.ErrorIs(t, e.ReadAt(ctx, []byte("x"), -1), ErrRange)
		require.NoError(t, r.v.checkCopies(ctx))
		e.Close()
		require.NoError(t, r.close())
		r.open()
		e = r.export("e")
		p := make([]byte, len(want))
		require.NoError(t, e.ReadAt(ctx, p, 0))
		require.True(t, string(want) == string(p), "after reopening")
		e.Close()
		require.NoError(t, r.close())
	})
}
