package devices

import (
	"errors"
	"math"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/procfs/blockdevice"
	"github.com/stretchr/testify/require"
)

func TestKernelLoad(t *testing.T) {
	before := blockdevice.IOStats{ReadIOs: 10, ReadMerges: 1, ReadSectors: 100, ReadTicks: 5, WriteIOs: 20, WriteSectors: 400,
		WriteTicks: 9, IOsInProgress: 1, WeightedIOTicks: 1000, DiscardIOs: 1, FlushRequestsCompleted: 2}
	after := blockdevice.IOStats{ReadIOs: 14, ReadMerges: 3, ReadSectors: 2148, ReadTicks: 45, WriteIOs: 22, WriteMerges: 5, WriteSectors: 656,
		WriteTicks: 19, IOsInProgress: 7, WeightedIOTicks: 1250, DiscardIOs: 2, DiscardSectors: 8, FlushRequestsCompleted: 5}
	at := time.Unix(100, 0)
	require.Equal(t, KernelLoad{At: at, Interval: 100 * time.Millisecond, InFlight: 7, Queue: 2.5, Reads: 4, Writes: 2, Others: 4,
		ReadBytes: 1 << 20, WriteBytes: 128 << 10, ReadTime: 40 * time.Millisecond, WriteTime: 10 * time.Millisecond,
		DiscardBytes: 4096, Unmerged: 10 + 2 + 5}, kernelLoad(before, after, at, 100*time.Millisecond))

	require.Equal(t, KernelLoad{At: at, InFlight: 1}, kernelLoad(after, before, at, time.Second), "the disk was replaced")
	require.Equal(t, KernelLoad{At: at, InFlight: 7}, kernelLoad(before, after, at, 0))
}

func TestTicksTurnOver(t *testing.T) {
	require.Equal(t, 30*time.Millisecond, tickDelta(math.MaxUint32-9, 20))
	require.Equal(t, 30*time.Millisecond, tickDelta(10, 40))
	require.Zero(t, tickDelta(7, 7))
}

func TestForeignLoad(t *testing.T) {
	const dt = 100 * time.Millisecond
	kernel := KernelLoad{Interval: dt, InFlight: 5, Queue: 3, Reads: 6, Writes: 10, ReadBytes: 6 << 20, WriteBytes: 10 << 20, Unmerged: 20}
	tests := map[string]struct {
		kernel KernelLoad
		own    OwnLoad
		want   Foreign
	}{
		"all ours":             {kernel, OwnLoad{20, 16 << 20, 5}, Foreign{}},
		"all theirs":           {kernel, OwnLoad{}, Foreign{20, 16 << 20, 5, 1}},
		"a quarter is theirs":  {kernel, OwnLoad{15, 12 << 20, 3}, Foreign{5, 4 << 20, 2, 0.25}},
		"we counted earlier":   {kernel, OwnLoad{25, 17 << 20, 6}, Foreign{}},
		"half idle":            {KernelLoad{Interval: dt, Queue: 0.5, Writes: 2, WriteBytes: 8192, Unmerged: 2}, OwnLoad{1, 4096, 0}, Foreign{1, 4096, 0, 0.25}},
		"idle":                 {KernelLoad{Interval: dt}, OwnLoad{}, Foreign{}},
		"only a hung request":  {KernelLoad{Interval: dt, InFlight: 1, Queue: 1}, OwnLoad{}, Foreign{InFlight: 1}},
		"nothing known yet":    {KernelLoad{InFlight: 2}, OwnLoad{InFlight: 1}, Foreign{InFlight: 1}},
		"ours split by kernel": {KernelLoad{Interval: dt, Queue: 1, Writes: 8, WriteBytes: 1 << 20, Unmerged: 8}, OwnLoad{1, 1 << 20, 0}, Foreign{IOs: 7}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, ForeignLoad(tt.kernel, tt.own))
		})
	}
}

func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var stats blockdevice.IOStats
		var failure error
		own := OwnLoad{IOs: 100, Bytes: 1 << 30} // from before
		set := func(change func()) { mu.Lock(); change(); mu.Unlock() }
		s, err := startSampler(func() (blockdevice.IOStats, error) {
			mu.Lock()
			defer mu.Unlock()
			return stats, failure
		}, 0, func() OwnLoad {
			mu.Lock()
			defer mu.Unlock()
			return own
		})
		require.NoError(t, err)
		last, err := s.Last()
		require.NoError(t, err)
		require.Zero(t, last.Interval)

		next := func() (KernelLoad, error) {
			time.Sleep(SampleInterval)
			synctest.Wait()
			return s.Last()
		}
		set(func() { stats.WriteIOs, stats.WriteSectors, stats.WeightedIOTicks, stats.IOsInProgress = 5, 80, 200, 3 })
		last, err = next()
		require.NoError(t, err)
		require.Equal(t, KernelLoad{At: time.Now(), Interval: SampleInterval, InFlight: 3, Queue: 2, Writes: 5, WriteBytes: 40960, Unmerged: 5}, last)

		require.Equal(t, Foreign{IOs: 5, Bytes: 40960, InFlight: 3, Share: 1}, s.Foreign())
		set(func() {
			stats.WriteIOs, stats.WriteSectors, stats.WeightedIOTicks = 9, 160, 250
			own = OwnLoad{IOs: 103, Bytes: 1<<30 + 30720, InFlight: 2}
		})
		last, err = next()
		require.NoError(t, err)
		require.Equal(t, Foreign{IOs: 1, Bytes: 10240, InFlight: 1, Share: 0.125}, s.Foreign())

		gone := errors.New("gone")
		set(func() { failure = gone; stats.WriteSectors = 240 })
		again, err := next()
		require.ErrorIs(t, err, gone)
		require.Equal(t, last, again)

		set(func() { failure = nil })
		last, err = next()
		require.NoError(t, err)
		require.Equal(t, 2*SampleInterval, last.Interval, "covers the gap")
		require.EqualValues(t, 40960, last.WriteBytes)

		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
	})
}

func TestSamplerNeedsAStatistic(t *testing.T) {
	for _, disk := range []string{"", ".", "..", "../etc", "a/b", "no-such-disk"} {
		_, err := NewSampler(disk, 0, nil)
		require.Error(t, err, disk)
	}
	failure := errors.New("unreadable")
	_, err := startSampler(func() (blockdevice.IOStats, error) { return blockdevice.IOStats{}, failure }, 0, nil)
	require.ErrorIs(t, err, failure)
}

// TestKernelCountsOurWrites asks the real kernel.
func TestKernelCountsOurWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, CreateFile(path, 8<<20))
	f, err := Open(path, FileOptions{})
	require.NoError(t, err)
	defer f.Close()
	read, err := kernelStats(f.DiskName())
	if errors.Is(err, ErrNoStats) || f.Buffered() {
		t.Skip("needs a temporary directory on a disk with statistics and O_DIRECT")
	}
	require.NoError(t, err)
	before, err := read()
	require.NoError(t, err)
	_, err = f.WriteAt(AlignedBytes(8<<20), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	after, err := read()
	require.NoError(t, err)
	k := kernelLoad(before, after, time.Now(), time.Second)
	require.GreaterOrEqual(t, k.WriteBytes, int64(8<<20))
	require.Positive(t, k.Writes)

	s, err := NewSampler(f.DiskName(), time.Hour, nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
