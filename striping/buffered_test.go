package striping

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// keepSink keeps what a read delivers.
type keepSink struct {
	b      []byte
	owners []interface{ Release() }
}

func (s *keepSink) Append(b []byte, owner interface{ Release() }) {
	s.b = b
	if owner != nil {
		s.owners = append(s.owners, owner)
	}
}

func (s *keepSink) AppendHole(int64) {}

// TestOverwriteOfBufferedBlocks: a block that is written again and again takes its memory and its
// part of the budget once, and never under the eyes of a reader.
func TestOverwriteOfBufferedBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 256<<10))
		e := r.export("e")
		for ver := range uint32(100) {
			for _, block := range []int{3, 9, 5} {
				done, err := e.TryWriteAt(stamped(block, 1, ver), int64(block)*blockSize)
				require.NoError(t, err)
				require.True(t, done)
			}
			require.NoError(t, e.WriteAt(ctx, stamped(9, 1, ver), 9*blockSize, false))
			used := r.v.dirty.inUse()
			require.EqualValues(t, 3*blockSize, used)
		}
		var seen keepSink
		require.NoError(t, e.Read(ctx, 9*blockSize, blockSize, &seen))
		require.NoError(t, e.WriteAt(ctx, stamped(9, 1, 100), 9*blockSize, false))
		require.True(t, bytes.Equal(stamped(9, 1, 99), seen.b), "a reader's data does not change")
		for _, o := range seen.owners {
			o.Release()
		}
		require.NoError(t, e.WriteAt(ctx, stamped(9, 1, 101), 9*blockSize, false))
		check := func() {
			p := make([]byte, blockSize)
			require.NoError(t, e.ReadAt(ctx, p, 9*blockSize))
			require.True(t, bytes.Equal(stamped(9, 1, 101), p))
			require.NoError(t, e.ReadAt(ctx, p, 3*blockSize))
			require.True(t, bytes.Equal(stamped(3, 1, 99), p))
		}
		check()
		require.NoError(t, e.Sync(ctx))
		used := r.v.dirty.inUse()
		require.Zero(t, used)
		require.Zero(t, r.v.dirty.sent)
		e.Close()
		require.NoError(t, r.close())
		r.open()
		e = r.export("e")
		check() // its sums were those of the newest data
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestPressureTakesTheOldest: what gathers neighbours fills half of the budget; then the oldest
// goes, and not much more than is needed.
func TestPressureTakesTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{opts: Options{DirtyLimit: 160 << 10, WriteAge: time.Hour, FlushInterval: time.Hour}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 4<<20))
		e := r.export("e")
		write := func(chunk, block int) {
			n := chunk*16 + block
			require.NoError(t, e.WriteAt(ctx, stamped(n, 1, 1), int64(n)*blockSize, false))
		}
		isDirty := func(chunk int) bool {
			c := r.v.cache.get(chunkKey{1, uint64(chunk)})
			defer r.v.cache.put(c)
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.dirty != nil
		}
		for i := range 20 { // 80 KiB: half
			write(i, 2)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, isDirty(0), "nothing presses")
		write(20, 2)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.False(t, isDirty(0), "the oldest went")
		require.False(t, isDirty(2), "and what makes it worth the while")
		require.True(t, isDirty(3), "and no other")
		used := r.v.dirty.inUse()
		require.EqualValues(t, 18*blockSize, used)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestNobodyWaitsForAnAge: those who write more into chunks that are dirty already do not stand still
// until these are old enough, once the budget is used up.
func TestNobodyWaitsForAnAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{opts: Options{DirtyLimit: 160 << 10, WriteAge: time.Hour, FlushInterval: 24 * time.Hour}})
		require.NoError(t, r.v.CreateExport(t.Context(), "e", 4<<20))
		e := r.export("e")
		began := time.Now()
		for block := range 15 { // of 16: no chunk is whole
			for chunk := range 10 {
				n := chunk*16 + block
				require.NoError(t, e.WriteAt(t.Context(), stamped(n, 1, 1), int64(n)*blockSize, false))
			}
		}
		require.Less(t, time.Since(began), time.Minute)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestWhatIsOldFlows: all chunks of an export that grow old at the same moment go to the disks a few at a
// time, so that a reader does not wait for all of them; and they do go.
func TestWhatIsOldFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 400
		r := newRig(t, rigConfig{size: 64 << 20, chunk: 128 << 10, opts: Options{DirtyLimit: 8 << 20, WriteAge: time.Second, FlushInterval: time.Hour},
			wrapD: func(_ int, d devices.Disk) devices.Disk {
				d.(*simdisk.Disk).SetTiming(simdisk.SSD(20e6, 20e6))
				return d
			}})
		require.NoError(t, r.v.CreateExport(t.Context(), "e", chunks*128<<10))
		e := r.export("e")
		for chunk := range chunks {
			require.NoError(t, e.WriteAt(t.Context(), stamped(chunk*32, 1, 1), int64(chunk)*128<<10, false))
		}
		most, steps := int64(0), 0
		for ; r.v.dirty.inUse() > 0 && steps < 10_000; steps++ {
			r.v.dirty.mu.Lock()
			most = max(most, r.v.dirty.sent)
			r.v.dirty.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		require.Less(t, steps, 10_000)
		require.LessOrEqual(t, most, int64(8<<20/16+blockSize))
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestNothingIsVolatileForLong: what was written FlushInterval ago is there after a power cut, without
// any flush, whenever it was written between two background commits and however busy its chunk is.
func TestNothingIsVolatileForLong(t *testing.T) {
	const interval = 4 * time.Second
	for _, phase := range []time.Duration{0, interval / 8, 3 * interval / 8, interval / 2, 7 * interval / 8} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{timing: gentle, opts: Options{WriteAge: time.Hour, FlushInterval: interval}})
			require.NoError(t, r.v.CreateExport(t.Context(), "e", 4<<20))
			e := r.export("e")
			time.Sleep(phase + time.Millisecond)
			written := map[int]time.Time{}
			for block := range 16 * 15 {
				if block%16 == 15 {
					continue // no chunk is whole
				}
				require.NoError(t, e.WriteAt(t.Context(), stamped(block, 1, 1), int64(block)*blockSize, false))
				written[block] = time.Now()
				time.Sleep(50 * time.Millisecond)
			}
			cut := time.Now()
			e.Close()
			r.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
			r.open()
			e = r.export("e")
			old := 0
			for block, at := range written {
				if cut.Sub(at) < interval+100*time.Millisecond { // and some time for the disks
					continue
				}
				old++
				p := make([]byte, blockSize)
				require.NoError(t, e.ReadAt(t.Context(), p, int64(block)*blockSize))
				require.True(t, bytes.Equal(stamped(block, 1, 1), p), "block %d, written %v before the cut", block, cut.Sub(at))
			}
			require.Greater(t, old, 50)
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

// TestBudgetGrowsWhenItPresses: disks that are fast are given more to gather once that is known and
// needed, not at the next background commit.
func TestBudgetGrowsWhenItPresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 1200
		r := newRig(t, rigConfig{size: 256 << 20, chunk: 128 << 10, timing: simdisk.SSD(2e9, 2e9), opts: Options{WriteAge: time.Hour, FlushInterval: time.Hour}})
		r.v.dirty.limit = leastDirty
		require.NoError(t, r.v.CreateExport(t.Context(), "e", chunks*128<<10))
		e := r.export("e")
		p := make([]byte, 124<<10)
		for chunk := range chunks {
			require.NoError(t, e.WriteAt(t.Context(), p, int64(chunk)*128<<10, false))
			time.Sleep(time.Millisecond)
		}
		limit := func() float64 {
			r.v.dirty.mu.Lock()
			defer r.v.dirty.mu.Unlock()
			return float64(r.v.dirty.limit)
		}
		grown := limit()
		r.v.sizeBudget()
		require.InEpsilon(t, limit(), grown, 0.3)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestBudgetFollowsTheDevices: as much is buffered as the devices write in a second, within bounds.
func TestBudgetFollowsTheDevices(t *testing.T) {
	at := func(perOp, perByte float64) devices.Speeds {
		return devices.Speeds{SecondsPerOp: [4]float64{perOp}, SecondsPerByte: [4]float64{perByte}}
	}
	ssd := at(0, 1/256e6)
	for _, c := range []struct {
		speeds []devices.Speeds
		copies int
		memory int64
		want   int64
	}{
		{nil, 1, 64 << 30, leastDirty},
		{[]devices.Speeds{{}}, 1, 64 << 30, leastDirty}, // never measured
		{[]devices.Speeds{ssd}, 1, 64 << 30, 256e6},
		{[]devices.Speeds{ssd, ssd, ssd}, 1, 64 << 30, 3 * 256e6},
		{[]devices.Speeds{ssd, ssd, ssd, ssd}, 2, 64 << 30, 2 * 256e6},
		{[]devices.Speeds{ssd, ssd, ssd}, 1, 4 << 30, 4 << 30 / dirtyShare},
		{[]devices.Speeds{ssd}, 1, 1 << 30, leastDirty},
		{[]devices.Speeds{at(1, 0)}, 1, 64 << 30, leastDirty},
		{[]devices.Speeds{at(256e-6, 0)}, 1, 64 << 30, 256e6},
		{[]devices.Speeds{at(1e-9, 0)}, 1, 0, leastDirty},
	} {
		require.InDelta(t, c.want, dirtyLimit(c.speeds, c.copies, c.memory), 1e3, "%+v", c)
	}
}
