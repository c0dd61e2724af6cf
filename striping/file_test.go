package striping

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// newFile makes a file with an inode record, as the name space would.
func (r *rig) newFile(data []byte) *File {
	ctx := r.t.Context()
	n, err := r.v.NewFileNumber(ctx)
	require.NoError(r.t, err)
	f := r.v.OpenFile(n, 0, 0)
	if len(data) > 0 {
		f.Grow(int64(len(data)))
		require.NoError(r.t, f.WriteAt(ctx, data, 0))
		require.NoError(r.t, f.Sync(ctx))
	}
	r.putInode(f, int64(len(data)), 1)
	return f
}

func (r *rig) putInode(f *File, size int64, links uint32) {
	key := journal.InodeKey(f.Number())
	now := time.Now()
	rec := journal.Inode{Number: f.Number(), Object: f.Number(), Mode: journal.TypeRegular, Links: links, Size: size,
		Blocks: f.Used() / blockSize, Atime: now, Mtime: now, Ctime: now, Btime: now}
	b := &journal.Batch{}
	b.Put(key, rec.Pack(key))
	require.NoError(r.t, r.j.Commit(r.t.Context(), b))
}

// TestFileSlots: a file takes what its data needs, and one that grows is not copied again and again.
func TestFileSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 1})
		small := r.newFile(make([]byte, 5000))
		require.EqualValues(t, 8192, small.Used())
		grown := r.newFile(nil)
		for i := range 16 {
			grown.Grow(int64(i+1) * blockSize)
			require.NoError(t, grown.WriteAt(t.Context(), stamped(i, 1, 1), int64(i)*blockSize))
			require.NoError(t, grown.Sync(t.Context()))
		}
		require.EqualValues(t, 64<<10, grown.Used())
		require.EqualValues(t, 4, r.v.stats.rewrote.Load(), "slots of 1, 2, 4, 8 and 16 blocks")
		p := make([]byte, 64<<10)
		require.NoError(t, grown.ReadAt(t.Context(), p, 0))
		require.Equal(t, stamped(0, 16, 1), p)
		small.Close()
		grown.Close()
		require.NoError(t, r.v.Flush(t.Context()))
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.Empty(t, r.v.objects, "nobody has them open")
		require.NoError(t, r.close())
	})
}

// TestFilesAtOpen: what no inode has, or lies behind a file's end, is given back.
func TestFilesAtOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 1})
		kept, cut, gone, lost := r.newFile(stamped(0, 48, 1)), r.newFile(stamped(0, 48, 2)), r.newFile(stamped(0, 48, 3)), r.newFile(stamped(0, 48, 4))
		r.putInode(cut, 70_000, 1) // its last chunk was never covered
		r.putInode(gone, 48*blockSize, 0)
		b := &journal.Batch{}
		b.Delete(journal.InodeKey(lost.Number()))
		require.NoError(t, r.j.Commit(t.Context(), b))
		for _, f := range []*File{kept, cut, gone, lost} {
			f.Close()
		}
		require.NoError(t, r.close())
		r.open()
		require.Equal(t, []uint64{gone.Number()}, r.v.TakeOrphans())
		require.EqualValues(t, 3, r.v.FoundInodes())
		require.EqualValues(t, (3+2)*64<<10, r.v.Status().UsedBytes)
		val, err := r.j.Get(journal.InodeKey(cut.Number()))
		require.NoError(t, err)
		rec, err := journal.ParseInode(journal.InodeKey(cut.Number()), val)
		require.NoError(t, err)
		require.EqualValues(t, 32, rec.Blocks, "corrected")
		f := r.v.OpenFile(kept.Number(), 48*blockSize, 48*blockSize)
		p := make([]byte, 48*blockSize)
		require.NoError(t, f.ReadAt(t.Context(), p, 0))
		require.Equal(t, stamped(0, 48, 1), p)
		f.Close()
		next, err := r.v.NewFileNumber(t.Context())
		require.NoError(t, err)
		require.Greater(t, next, lost.Number(), "numbers are never used twice")
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestDrainMovesFiles: files that nobody has open are moved as well.
func TestDrainMovesFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20})
		f := r.newFile(stamped(0, 512, 1))
		f.Close()
		require.NoError(t, r.v.Flush(t.Context()))
		h, err := r.v.holds(t.Context(), 2)
		require.NoError(t, err)
		require.NotZero(t, h.Chunks)
		id, err := r.v.Drain(t.Context(), []devices.ID{2}, JobOptions{})
		require.NoError(t, err)
		until(t, time.Minute, "drained", r.jobEnded(id))
		h, err = r.v.holds(t.Context(), 2)
		require.NoError(t, err)
		require.Zero(t, h.Chunks)
		require.EqualValues(t, 512*blockSize, r.v.Status().UsedBytes)
		f = r.v.OpenFile(f.Number(), 512*blockSize, 512*blockSize)
		p := make([]byte, 512*blockSize)
		require.NoError(t, f.ReadAt(t.Context(), p, 0))
		require.Equal(t, stamped(0, 512, 1), p)
		require.EqualValues(t, 512*blockSize, f.Used())
		f.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestManySmallFiles: files that are not whole chunks wait for each other: while they are written
// there are few commits, a sync of them all is one, and each learns what became of it.
func TestManySmallFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 1, size: 64 << 20, opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour, DirtyLimit: 64 << 20}})
		ctx := t.Context()
		var files []*File
		for i := range 3 * flushSoonAfter {
			n, err := r.v.NewFileNumber(ctx)
			require.NoError(t, err)
			f := r.v.OpenFile(n, 0, 0)
			f.Grow(2 * blockSize)
			require.NoError(t, f.WriteAt(ctx, stamped(0, 2, uint32(i+1)), 0))
			files = append(files, f)
		}
		synctest.Wait()
		require.LessOrEqual(t, r.v.stats.flushes.Load(), int64(3), "early commits")
		before := r.v.stats.flushes.Load()
		for _, err := range r.v.SyncFiles(ctx, files) {
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, r.v.stats.flushes.Load()-before)
		require.NoError(t, files[7].WriteAt(ctx, stamped(0, 1, 77), 0))
		require.NoError(t, files[9].WriteAt(ctx, stamped(0, 1, 99), blockSize))
		r.disks[0].FailNth(faultdisk.OnSync, 1, syscall.EIO, true)
		errs := r.v.SyncFiles(ctx, files[:12])
		for i, err := range errs {
			require.Equal(t, i == 7 || i == 9, err != nil, "file %d: %v", i, err)
		}
		for _, f := range files {
			f.Close()
		}
		r.close()
	})
}

// fileOnEach makes an empty file on each disk, with so much room there that a block is written in place.
func (r *rig) fileOnEach() (files []*File) {
	var on deviceSet
	for n := 0; len(files) < len(r.disks); n++ {
		require.Less(r.t, n, 1000)
		f := r.newFile(nil)
		f.Grow(4 * blockSize)
		require.NoError(r.t, f.Reserve(r.t.Context(), 0, 4*blockSize))
		require.NoError(r.t, f.Sync(r.t.Context()))
		c, err := r.v.acquire(chunkKey{f.Number(), 0})
		require.NoError(r.t, err)
		if dev := c.places[0].dev; slices.Contains(on[:], dev) {
			f.Close()
		} else {
			on[len(files)] = dev
			files = append(files, f)
		}
		r.v.cache.put(c)
	}
	return files
}

// TestSyncFilesWith: what is to be durable with files is committed with their placements, in one batch;
// or not at all, when a file fails or there is no room for both.
func TestSyncFilesWith(t *testing.T) {
	key := journal.MakeKey(journal.SpaceJob, 0, 77)
	for _, c := range []struct {
		name    string
		prepare func(r *rig)
		with    int // bytes of it
		joined  bool
		commits int // -1: also of the disk's state
		failed  int
	}{
		{"all is well", func(*rig) {}, 100, true, 1, 0},
		{"nothing", func(*rig) {}, 0, false, 1, 0},
		{"too much", func(*rig) {}, journal.MaxBatchBytes, false, 1, 0},
		{"a disk fails", func(r *rig) { r.disks[1].FailNth(faultdisk.OnSync, 1, syscall.EIO, true) }, 100, false, -1, 1},
		{"no room for new records", func(r *rig) { r.j.SetFull(true) }, 100, false, 1, 0},
		{"the journal dies", func(r *rig) { r.j.FailAt(1) }, 100, false, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, rigConfig{disks: 2, opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour}})
				files := r.fileOnEach()
				for i, f := range files {
					require.NoError(t, f.WriteAt(t.Context(), stamped(0, 1, uint32(i+1)), 0))
				}
				c.prepare(r)
				changes := &journal.Batch{}
				for n := c.with; n > 0; n -= journal.MaxValueBytes {
					changes.Put(journal.MakeKey(journal.SpaceJob, 0, 77+uint64(n)/journal.MaxValueBytes), make([]byte, min(n, journal.MaxValueBytes)))
				}
				before := r.j.Counters().Commits
				errs, joined := r.v.SyncFilesWith(t.Context(), files, func() *journal.Batch {
					if c.with == 0 {
						return nil
					}
					return changes
				})
				require.Equal(t, c.joined, joined)
				if c.commits >= 0 {
					require.EqualValues(t, c.commits, r.j.Counters().Commits-before)
				}
				require.Len(t, slices.DeleteFunc(errs, func(err error) bool { return err == nil }), c.failed)
				_, err := r.j.Get(key)
				require.Equal(t, c.joined, err == nil, "%v", err)
				for _, f := range files {
					f.Close()
				}
				r.j.SetFull(false)
				_ = r.close() // fails where the journal or a disk does
			})
		})
	}
}

// TestSyncFilesWithAtOnce: of several that come together each has its own changes committed.
func TestSyncFilesWithAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 8
		r := newRig(t, rigConfig{disks: 2, latency: time.Millisecond, opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour}})
		var wg sync.WaitGroup
		for i := range callers {
			f := r.newFile(nil)
			f.Grow(blockSize)
			require.NoError(t, f.WriteAt(t.Context(), stamped(0, 1, uint32(i+1)), 0))
			wg.Go(func() {
				defer f.Close()
				errs, joined := r.v.SyncFilesWith(t.Context(), []*File{f}, func() *journal.Batch {
					b := &journal.Batch{}
					b.Put(journal.MakeKey(journal.SpaceJob, 0, uint64(i+1)), []byte("x"))
					return b
				})
				require.NoError(t, errs[0])
				require.True(t, joined)
			})
		}
		wg.Wait()
		for i := range callers {
			_, err := r.j.Get(journal.MakeKey(journal.SpaceJob, 0, uint64(i+1)))
			require.NoError(t, err)
		}
		b := &journal.Batch{}
		for i := range callers {
			b.Delete(journal.MakeKey(journal.SpaceJob, 0, uint64(i+1))) // they are no jobs
		}
		require.NoError(t, r.j.Commit(t.Context(), b))
		require.NoError(t, r.close())
	})
}

// TestFileEndIsWrittenAnew: the last block of a file that cannot be read can be written when all of
// the file that is in it is.
func TestFileEndIsWrittenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 1})
		ctx := t.Context()
		f := r.newFile(make([]byte, 5000))
		r.disks[0].CorruptMedia(0, r.cfg.size, faultdisk.Garbage, rand.New(rand.NewPCG(1, 2)))
		require.ErrorIs(t, f.WriteAt(ctx, make([]byte, 100), 4096), ErrUnreadable)
		require.NoError(t, f.WriteAt(ctx, bytes.Repeat([]byte("x"), 904), 4096))
		require.NoError(t, f.Sync(ctx))
		p := make([]byte, 904)
		require.NoError(t, f.ReadAt(ctx, p, 4096))
		require.Equal(t, strings.Repeat("x", 904), string(p))
		f.Close()
		require.NoError(t, r.close())
	})
}
