package simdisk_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ballast/devices"
	. "ballast/devices/simdisk"

	"ballast/devices/faultdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

func fill(n int, b byte) []byte {
	p := devices.AlignedBytes(n)
	copy(p, bytes.Repeat([]byte{b}, n))
	return p
}

func write(t *testing.T, d *Disk, off int64, n int, b byte) {
	t.Helper()
	_, err := d.WriteAt(fill(n, b), off)
	require.NoError(t, err)
}

// state is the first byte of each of the first n blocks.
func state(t *testing.T, d *Disk, n int) string {
	t.Helper()
	out := make([]byte, n)
	p := devices.AlignedBytes(devices.BlockSize)
	for i := range out {
		d.Peek(p, int64(i)*devices.BlockSize)
		out[i] = '.'
		if p[0] != 0 {
			out[i] = p[0]
		}
	}
	return string(out)
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestBandwidthIsSharedInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: 64 * mib, Timing: Timing{ReadRate: 200 * mib, WriteRate: 100 * mib,
			PerOp: time.Millisecond, Latency: 5 * time.Millisecond}})
		p := devices.AlignedBytes(mib)
		require.Equal(t, 16*time.Millisecond, timed(func() { _, _ = d.WriteAt(p, 0) }))
		require.Equal(t, 11*time.Millisecond, timed(func() { _, _ = d.ReadAt(p, 0) }))
		require.Equal(t, 8*11*time.Millisecond+5*time.Millisecond, timed(func() {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() { _, _ = d.WriteAt(p, int64(i)*mib) })
			}
			wg.Wait()
		}), "occupancy adds up, latency overlaps")
		require.Equal(t, 105*time.Millisecond, d.Busy())
	})
}

func TestNoTimingTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: 64 * mib})
		require.Zero(t, timed(func() {
			write(t, d, 0, mib, 'a')
			require.NoError(t, d.Sync())
		}))
	})
}

func TestSeeks(t *testing.T) {
	tests := map[string]struct {
		off  int64
		want time.Duration
	}{
		"at the end of the last one": {2 * mib, 10 * time.Millisecond},
		"a short gap passes by":      {2*mib + mib/2, 15 * time.Millisecond},
		"a long gap is a seek":       {32 * mib, 19 * time.Millisecond},
		"backwards is a seek":        {mib, 19 * time.Millisecond},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := New(Options{Size: 64 * mib, Timing: Timing{ReadRate: 100 * mib, WriteRate: 100 * mib, Seek: 9 * time.Millisecond}})
				p := devices.AlignedBytes(mib)
				_, _ = d.ReadAt(p, 0)
				_, _ = d.ReadAt(p, mib)
				require.Equal(t, tt.want, timed(func() { _, _ = d.ReadAt(p, tt.off) }))
			})
		})
	}
}

func TestSlowPhasesAndStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := Timing{ReadRate: 100 * mib, WriteRate: 100 * mib}
		phased := base
		phased.Phases = []SlowPhase{{From: time.Second, To: 2 * time.Second, Factor: 20}}
		d := New(Options{Size: 64 * mib, Timing: phased})
		p := devices.AlignedBytes(mib)
		op := func() { _, _ = d.WriteAt(p, 0) }
		require.Equal(t, 10*time.Millisecond, timed(op))
		time.Sleep(time.Second)
		require.Equal(t, 200*time.Millisecond, timed(op))
		time.Sleep(time.Second)
		require.Equal(t, 10*time.Millisecond, timed(op))
		d.SetSlow(3)
		require.Equal(t, 30*time.Millisecond, timed(op))

		stalling := base
		stalling.StallTime, stalling.StallEvery = 300*time.Millisecond, 3*time.Second
		d.SetTiming(stalling)
		require.Equal(t, 2700*time.Millisecond, timed(func() {
			for range 270 {
				op()
			}
		}), "2.7 s of work before the stall")
		require.Equal(t, 310*time.Millisecond, timed(op))
	})
}

func TestNoiseKeepsTheMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: 64 * mib, NoData: true, Seed: 7, Timing: Timing{WriteRate: 100 * mib, Noise: .15}})
		p := devices.AlignedBytes(mib)
		took := timed(func() {
			for range 2000 {
				_, _ = d.WriteAt(p, 0)
			}
		})
		require.InEpsilon(t, 20*time.Second, took, 0.02)
	})
}

func TestTimingChangesForThoseThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: 64 * mib, NoData: true, Timing: Timing{WriteRate: mib}})
		p := devices.AlignedBytes(mib)
		var wg sync.WaitGroup
		took := timed(func() {
			for range 10 {
				wg.Go(func() { _, _ = d.WriteAt(p, 0) })
			}
			time.Sleep(time.Second / 2)
			require.Equal(t, 10, d.Queued())
			d.SetTiming(Timing{WriteRate: 100 * mib})
			wg.Wait()
		})
		require.Equal(t, time.Second+90*time.Millisecond, took)
	})
}

// prepared has "aaaa" durable and then six pending writes: b0 c1 d2 e0 f(2-3) discard 1.
func prepared(t *testing.T, opts Options) *Disk {
	opts.Size = mib
	d := New(opts)
	const b = devices.BlockSize
	write(t, d, 0, 4*b, 'a')
	require.NoError(t, d.Sync())
	require.Zero(t, d.Pending())
	write(t, d, 0, b, 'b')
	write(t, d, b, b, 'c')
	write(t, d, 2*b, b, 'd')
	write(t, d, 0, b, 'e')
	write(t, d, 2*b, 2*b, 'f')
	require.NoError(t, d.Discard(b, b))
	return d
}

func TestCrashPolicies(t *testing.T) {
	tests := map[string]struct {
		policy Policy
		want   string
	}{
		"none":        {KeepNone, "aaaa"},
		"all":         {KeepAll, "e.ff"},
		"prefix 0":    {KeepPrefix(0), "aaaa"},
		"prefix 3":    {KeepPrefix(3), "bcda"},
		"prefix 4":    {KeepPrefix(4), "ecda"},
		"prefix 99":   {KeepPrefix(99), "e.ff"},
		"drop only 3": {DropOnly(3), "b.ff"},
		"drop only 5": {DropOnly(5), "ecff"},
		"keep only 2": {KeepOnly(2), "aada"},
		"keep only 5": {KeepOnly(5), "a.aa"},
		"mask":        {KeepMask(0b10101), "baff"},
		"short fates": {func(*rand.Rand, []Write) []Fate { return []Fate{{Keep: true}} }, "baaa"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := prepared(t, Options{})
			require.Equal(t, 6, d.Pending())
			c := d.Crash(nil, tt.policy)
			require.Equal(t, tt.want, state(t, c, 4))
			require.Zero(t, c.Pending())
			require.Equal(t, "e.ff", state(t, d, 4), "the disk itself goes on")
			require.Equal(t, 6, d.Pending())
			require.Equal(t, tt.want, state(t, c.Crash(nil, KeepNone), 4), "what came back is durable")
		})
	}
}

func TestTornWrite(t *testing.T) {
	d := prepared(t, Options{})
	c := d.Crash(nil, TearWrite(4, func(s, n int) bool { require.Equal(t, 16, n); return s < 10 }, KeepNone))
	p := make([]byte, 2*devices.BlockSize)
	c.Peek(p, 2*devices.BlockSize)
	require.Equal(t, append(fill(5120, 'f'), fill(3072, 'a')...), p)

	// By chance, it is never whole, and both kinds of sector come up.
	seen := map[byte]int{}
	for seed := range uint64(200) {
		c := d.Crash(rand.New(rand.NewPCG(seed, 0)), TearWrite(4, nil, KeepAll))
		c.Peek(p, 2*devices.BlockSize)
		require.NotEqual(t, fill(len(p), 'f'), p)
		for s := 0; s < len(p); s += 512 {
			require.Equal(t, fill(512, p[s]), p[s:s+512], "sectors are whole")
			seen[p[s]]++
		}
	}
	require.Len(t, seen, 3, "%v", seen) // a, d, f
}

func TestRandomCrashReachesEverySubset(t *testing.T) {
	d := New(Options{Size: mib})
	for i := range 4 {
		write(t, d, int64(i)*devices.BlockSize, devices.BlockSize, 'x')
	}
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		c := d.Crash(rand.New(rand.NewPCG(seed, 0)), Random)
		torn := false
		p := devices.AlignedBytes(devices.BlockSize)
		for i := range 4 {
			c.Peek(p, int64(i)*devices.BlockSize)
			torn = torn || !bytes.Equal(p, fill(len(p), p[0]))
		}
		if !torn {
			seen[state(t, c, 4)] = true
		}
	}
	require.Len(t, seen, 16)
}

func TestCrashIsRepeatable(t *testing.T) {
	d := prepared(t, Options{})
	for seed := range uint64(50) {
		a := d.Crash(rand.New(rand.NewPCG(seed, 0)), Random)
		b := d.Crash(rand.New(rand.NewPCG(seed, 0)), Random)
		pa, pb := make([]byte, 16384), make([]byte, 16384)
		a.Peek(pa, 0)
		b.Peek(pb, 0)
		require.Equal(t, pa, pb)
	}
}

func TestSyncCoversOnlyWhatReturnedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: mib})
		write(t, d, 0, devices.BlockSize, 'a')
		hang := d.HangAll(faultdisk.OnSync)
		done := make(chan error)
		go func() { done <- d.Sync() }()
		synctest.Wait()
		write(t, d, devices.BlockSize, devices.BlockSize, 'b')
		require.Equal(t, 2, d.Pending())
		hang.Lift()
		require.NoError(t, <-done)
		require.Equal(t, 1, d.Pending())
		require.Equal(t, "a.", state(t, d.Crash(nil, KeepNone), 2))
	})
}

// TestWriteUnderWayIsNobodysPromise: neither a sync nor a full cache settles a write that has
// not returned.
func TestWriteUnderWayIsNobodysPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cache := range []int64{0, -1} {
			d := New(Options{Size: mib, CacheSize: cache})
			hang := d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Hang, Extent: faultdisk.Whole})
			done := make(chan error)
			go func() {
				_, err := d.WriteAt(fill(devices.BlockSize, 'a'), 0)
				done <- err
			}()
			synctest.Wait()
			write(t, d, devices.BlockSize, devices.BlockSize, 'b')
			if cache == 0 {
				require.NoError(t, d.Sync())
			}
			require.Equal(t, []Write{{Size: devices.BlockSize}}, d.PendingWrites())
			require.Equal(t, ".b", state(t, d.Crash(nil, KeepNone), 2))
			hang.Lift()
			require.NoError(t, <-done)
		}
	})
}

func TestWriteUnderWayMayBeLostOrKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Size: mib, Timing: Timing{WriteRate: mib, PerSync: time.Microsecond}})
		go func() { _, _ = d.WriteAt(fill(devices.BlockSize, 'a'), 0) }()
		synctest.Wait()
		require.Equal(t, []Write{{Size: devices.BlockSize}}, d.PendingWrites())
		require.Equal(t, ".", state(t, d.Crash(nil, KeepNone), 1))
		require.Equal(t, "a", state(t, d.Crash(nil, KeepAll), 1))
		time.Sleep(time.Second)
		require.True(t, d.PendingWrites()[0].Done)
	})
}

func TestCacheSize(t *testing.T) {
	through := New(Options{Size: mib, CacheSize: -1})
	write(t, through, 0, devices.BlockSize, 'a')
	require.Zero(t, through.Pending())

	small := New(Options{Size: mib, CacheSize: 2 * devices.BlockSize})
	for i := range 4 {
		write(t, small, int64(i)*devices.BlockSize, devices.BlockSize, byte('a'+i))
	}
	require.Equal(t, 2, small.Pending())
	require.Equal(t, "ab..", state(t, small.Crash(nil, KeepNone), 4))
}

func TestThinDiskRunsOut(t *testing.T) {
	d := New(Options{Size: mib, Space: 2 * devices.BlockSize})
	write(t, d, 0, devices.BlockSize, 'a')
	write(t, d, 8192, devices.BlockSize, 'b')
	_, err := d.WriteAt(fill(devices.BlockSize, 'c'), 4096)
	require.ErrorIs(t, err, syscall.ENOSPC)
	write(t, d, 0, devices.BlockSize, 'd')
	require.NoError(t, d.Discard(0, 4096))
	write(t, d, 4096, devices.BlockSize, 'c')
	require.Equal(t, ".cb", state(t, d, 3))
	c := d.Crash(nil, KeepNone)
	write(t, c, 0, 2*devices.BlockSize, 'e')
}

func TestDamageCanBeUndone(t *testing.T) {
	const b = devices.BlockSize
	rng := rand.New(rand.NewPCG(1, 1))
	d := New(Options{Size: mib})
	write(t, d, 0, 4*b, 'a')
	require.NoError(t, d.Sync())

	d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Lose})
	write(t, d, 0, b, 'b')
	require.Equal(t, "aaaa", state(t, d, 4))
	d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Misdirect, Target: 3 * b})
	write(t, d, b, b, 'c')
	require.Equal(t, "aaac", state(t, d, 4))
	for _, how := range []faultdisk.Damage{faultdisk.Flip, faultdisk.Zero, faultdisk.Garbage} {
		d.CorruptMedia(2*b, b, how, rng)
	}
	require.Equal(t, []int64{0, b, 2 * b, 3 * b}, d.Damaged())

	c := d.Crash(nil, KeepAll)
	require.Equal(t, d.Damaged(), c.Damaged(), "damage survives")
	s := d.Snapshot()

	d.Heal()
	require.Equal(t, "bcaa", state(t, d, 4))
	p := make([]byte, b)
	d.Peek(p, 2*b)
	require.Equal(t, fill(b, 'a'), p)
	require.Empty(t, d.Damaged())

	write(t, c, 0, 2*b, 'z')
	require.Equal(t, []int64{2 * b, 3 * b}, c.Damaged(), "a write makes a block sound")

	d.Restore(s)
	require.Equal(t, "aa", state(t, d, 2), "stale again")
	require.Len(t, d.Damaged(), 4)
}

func TestMemoryIsSparse(t *testing.T) {
	d := New(Options{Size: 1 << 50})
	write(t, d, 1<<49, devices.BlockSize, 'a')
	write(t, d, 1<<49, devices.BlockSize, 'b')
	require.Equal(t, 1, d.Blocks())
	require.NoError(t, d.Sync())
	require.Equal(t, 1, d.Blocks())
	require.NoError(t, d.Discard(1<<49, devices.BlockSize))
	require.Equal(t, 0, d.Blocks())
	require.NoError(t, d.Sync())
	require.Equal(t, 0, d.Blocks())
}

func TestResize(t *testing.T) {
	d := New(Options{Size: mib})
	d.Resize(mib / 2)
	_, err := d.ReadAt(devices.AlignedBytes(devices.BlockSize), mib/2)
	require.ErrorIs(t, err, devices.ErrRange)
	require.Equal(t, int64(mib/2), d.Crash(nil, KeepAll).Size())
}

func TestHungWriteReturnsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, extent := range []faultdisk.Extent{faultdisk.Nothing, faultdisk.Whole} {
			d := New(Options{Size: mib, Timing: SSD(100*mib, 100*mib)})
			hang := d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Hang, Extent: extent})
			done := make(chan error)
			go func() {
				_, err := d.WriteAt(fill(devices.BlockSize, 'a'), 0)
				done <- err
			}()
			time.Sleep(time.Hour)
			require.Equal(t, map[faultdisk.Extent]string{faultdisk.Nothing: ".", faultdisk.Whole: "a"}[extent], state(t, d, 1))
			write(t, d, devices.BlockSize, devices.BlockSize, 'b') // others go on
			hang.Lift()
			require.NoError(t, <-done)
			require.Equal(t, "ab", state(t, d, 2))
			require.EqualValues(t, 1, hang.Seen())
		}
	})
}

func BenchmarkCrash(b *testing.B) {
	d := New(Options{Size: 64 * mib})
	p := devices.AlignedBytes(devices.BlockSize)
	for i := range 512 {
		_, _ = d.WriteAt(p, int64(i)*devices.BlockSize)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		d.Crash(rng, Random)
	}
}

func BenchmarkWrite4K(b *testing.B) {
	d := New(Options{Size: 64 * mib})
	p := devices.AlignedBytes(devices.BlockSize)
	b.SetBytes(devices.BlockSize)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _ = d.WriteAt(p, int64(i%4096)*devices.BlockSize)
		if i%64 == 0 {
			_ = d.Sync()
		}
	}
}
