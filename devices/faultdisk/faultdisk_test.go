package faultdisk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ballast/devices"
	"ballast/devices/simdisk"

	. "ballast/devices/faultdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const block = devices.BlockSize

// faulty is what a wrapper and a simulated disk have in common.
type faulty interface {
	devices.Disk
	devices.Discarder
	Add(Fault) *Active
	FailNth(on Ops, n int64, err error, sticky bool) *Active
	Disappear() *Active
	ReadOnly() *Active
	Clear()
	Count(on Ops) int64
	OnFault(func(Seen))
	Damaged() []int64
}

// both runs a test over a wrapper and over a simulated disk: they share their faults.
func both(t *testing.T, test func(t *testing.T, d faulty)) {
	t.Run("wrapper", func(t *testing.T) { test(t, Wrap(devices.NewMemory(1<<20))) })
	t.Run("simdisk", func(t *testing.T) { test(t, simdisk.New(simdisk.Options{Size: 1 << 20})) })
}

func fill(blocks int, b byte) []byte {
	p := devices.AlignedBytes(blocks * block)
	copy(p, bytes.Repeat([]byte{b}, len(p)))
	return p
}

func write(d devices.Disk, at, blocks int, b byte) error {
	_, err := d.WriteAt(fill(blocks, b), int64(at)*block)
	return err
}

func read(t *testing.T, d devices.Disk, at, blocks int) []byte {
	t.Helper()
	p := devices.AlignedBytes(blocks * block)
	_, err := d.ReadAt(p, int64(at)*block)
	require.NoError(t, err)
	return p
}

func TestOnceAndSticky(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		once := d.FailNth(OnWrite, 2, nil, false)
		require.NoError(t, write(d, 0, 1, 'a'))
		require.NoError(t, d.Sync())
		require.ErrorIs(t, write(d, 0, 1, 'b'), syscall.EIO)
		require.NoError(t, write(d, 0, 1, 'c'))
		require.EqualValues(t, 1, once.Seen())

		sticky := d.FailNth(OnSync, 2, syscall.ENODEV, true)
		require.NoError(t, d.Sync())
		require.ErrorIs(t, d.Sync(), syscall.ENODEV)
		require.ErrorIs(t, d.Sync(), syscall.ENODEV)
		require.EqualValues(t, 2, sticky.Seen())
		sticky.Lift()
		sticky.Lift()
		require.NoError(t, d.Sync())
		require.EqualValues(t, 3, d.Count(OnWrite))
		require.EqualValues(t, 5, d.Count(OnSync))
		require.EqualValues(t, 8, d.Count(OnAll))
	})
}

func TestRangeAndRate(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		d.Add(Fault{On: OnRead, Off: 4 * block, Size: 2 * block, Sticky: true, Effect: Fail})
		p := fill(2, 0)
		for at, bad := range map[int64]bool{0: false, 2: false, 3: true, 4: true, 5: true, 6: false} {
			_, err := d.ReadAt(p, at*block)
			require.Equal(t, bad, err != nil, "block %d", at)
			require.NoError(t, write(d, int(at), 1, 'x'))
		}
		d.Clear()
		rate := d.Add(Fault{On: OnRead, Rate: 0.25, Sticky: true, Effect: Fail})
		failed := int64(0)
		for range 2000 {
			if _, err := d.ReadAt(p, 0); err != nil {
				failed++
			}
		}
		require.Equal(t, rate.Seen(), failed)
		require.InDelta(t, 500, failed, 100)
	})
}

func TestFailedWriteMayHaveHappened(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		got := map[Extent]bool{}
		for i := range 200 {
			extent := Extent(i % 4)
			d.Clear()
			require.NoError(t, write(d, 0, 2, 'a'))
			d.Add(Fault{On: OnWrite, Effect: Fail, Extent: extent})
			require.ErrorIs(t, write(d, 0, 2, 'b'), syscall.EIO)
			p := read(t, d, 0, 2)
			found := Torn
			if bytes.Equal(p, fill(2, 'a')) {
				found = Nothing // also a tear that kept no sector
			} else if bytes.Equal(p, fill(2, 'b')) {
				found = Whole
			}
			switch extent {
			case Nothing, Whole:
				require.Equal(t, extent, found)
			case Torn:
				require.NotEqual(t, Whole, found)
			case Any:
				got[found] = true
			}
		}
		require.Len(t, got, 3)
		require.Empty(t, d.Damaged(), "an error was told: nothing is hidden")
	})
}

func TestLies(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		require.NoError(t, write(d, 0, 4, 'a'))
		d.Add(Fault{On: OnWrite, Effect: Lose})
		require.NoError(t, write(d, 1, 1, 'b'))
		require.Equal(t, fill(4, 'a'), read(t, d, 0, 4))
		require.Equal(t, []int64{block}, d.Damaged())

		d.Add(Fault{On: OnWrite, Effect: Misdirect, Target: 3 * block})
		require.NoError(t, write(d, 0, 1, 'c'))
		require.Equal(t, append(fill(3, 'a'), fill(1, 'c')...), read(t, d, 0, 4))
		require.Equal(t, []int64{0, block, 3 * block}, d.Damaged())

		d.Add(Fault{On: OnRead, Effect: Misdirect, Target: 3 * block})
		require.Equal(t, fill(1, 'c'), read(t, d, 0, 1))
		require.Equal(t, fill(1, 'a'), read(t, d, 0, 1))

		for range 50 {
			d.Add(Fault{On: OnRead, Effect: Misdirect, Target: -1})
			require.NotNil(t, read(t, d, 200, 2))
		}
	})
}

func TestLyingSync(t *testing.T) {
	d := simdisk.New(simdisk.Options{Size: 1 << 20})
	d.Add(Fault{On: OnSync, Effect: Lose})
	require.NoError(t, write(d, 0, 1, 'a'))
	require.NoError(t, d.Sync())
	require.Equal(t, 1, d.Pending())
	require.NoError(t, d.Sync())
	require.Zero(t, d.Pending())
}

func TestCorruption(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		for _, how := range []Damage{Flip, Zero, Garbage} {
			require.NoError(t, write(d, 0, 2, 'a'))
			d.Add(Fault{On: OnRead, Effect: Corrupt, Damage: how})
			require.NotEqual(t, fill(2, 'a'), read(t, d, 0, 2), "in transfer")
			require.Equal(t, fill(2, 'a'), read(t, d, 0, 2), "not on the media")
			require.Empty(t, d.Damaged())

			d.Add(Fault{On: OnWrite, Effect: Corrupt, Damage: how})
			p := fill(2, 'b')
			_, err := d.WriteAt(p, 0)
			require.NoError(t, err)
			require.Equal(t, fill(2, 'b'), p, "the caller's buffer is its own")
			bad := read(t, d, 0, 2)
			require.NotEqual(t, fill(2, 'b'), bad)
			require.Equal(t, bad, read(t, d, 0, 2), "sticky")
			require.NotEmpty(t, d.Damaged())
		}
	})
}

func TestCorruptMediaAndHeal(t *testing.T) {
	d := Wrap(devices.NewMemory(1 << 20))
	require.NoError(t, write(d, 0, 4, 'a'))
	require.NoError(t, d.CorruptMedia(block, 2*block, Zero, rand.New(rand.NewPCG(1, 1))))
	d.Add(Fault{On: OnWrite, Effect: Lose})
	require.NoError(t, write(d, 3, 1, 'b'))
	require.Equal(t, []int64{block, 2 * block, 3 * block}, d.Damaged())
	require.NoError(t, write(d, 1, 1, 'c'))
	require.NotEqual(t, fill(1, 'a'), read(t, d, 2, 1))
	require.NoError(t, d.Heal())
	require.Empty(t, d.Damaged())
	require.Equal(t, bytes.Join([][]byte{fill(1, 'a'), fill(1, 'c'), fill(1, 'a'), fill(1, 'b')}, nil), read(t, d, 0, 4))
}

func TestNoSpaceSparesWhatIsWritten(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		require.NoError(t, write(d, 0, 2, 'a'))
		f := d.Add(Fault{On: OnWrite, Effect: NoSpace, Sticky: true})
		require.NoError(t, write(d, 0, 2, 'b'))
		require.ErrorIs(t, write(d, 1, 2, 'c'), syscall.ENOSPC)
		require.Equal(t, append(fill(2, 'b'), fill(1, 0)...), read(t, d, 0, 3))
		f.Lift()
		require.NoError(t, write(d, 1, 2, 'c'))
	})
}

func TestDisappearAndReadOnly(t *testing.T) {
	both(t, func(t *testing.T, d faulty) {
		require.NoError(t, write(d, 0, 1, 'a'))
		gone := d.Disappear()
		_, err := d.ReadAt(fill(1, 0), 0)
		require.ErrorIs(t, err, syscall.ENXIO)
		require.ErrorIs(t, write(d, 0, 1, 'b'), syscall.ENXIO)
		require.ErrorIs(t, d.Sync(), syscall.ENXIO)
		require.ErrorIs(t, d.Discard(0, block), syscall.ENXIO)
		gone.Lift()
		require.Equal(t, fill(1, 'a'), read(t, d, 0, 1))

		d.ReadOnly()
		require.ErrorIs(t, write(d, 0, 1, 'b'), syscall.EROFS)
		require.ErrorIs(t, d.Discard(0, block), syscall.EROFS)
		require.NoError(t, d.Sync())
		require.Equal(t, fill(1, 'a'), read(t, d, 0, 1))
	})
}

func TestHangAndSlow(t *testing.T) {
	for name, make := range map[string]func() faulty{
		"simdisk": func() faulty {
			return simdisk.New(simdisk.Options{Size: 1 << 20, Timing: simdisk.Timing{ReadRate: 4096e3, WriteRate: 4096e3}})
		},
		"wrapper": func() faulty {
			return Wrap(simdisk.New(simdisk.Options{Size: 1 << 20, Timing: simdisk.Timing{ReadRate: 4096e3, WriteRate: 4096e3}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := make()
				timed := func(want time.Duration) {
					t.Helper()
					start := time.Now()
					require.NoError(t, write(d, 0, 1, 'a'))
					require.Equal(t, want, time.Since(start))
				}
				timed(time.Millisecond)
				slow := d.Add(Fault{On: OnWrite, Effect: Slow, Factor: 1000, Sticky: true})
				timed(time.Second)
				slow.Lift()
				d.Add(Fault{On: OnWrite, Effect: Slow, Delay: time.Minute})
				timed(time.Minute + time.Millisecond)
				d.Add(Fault{On: OnWrite, Effect: Hang, Delay: time.Hour})
				timed(time.Hour + time.Millisecond)

				d.Add(Fault{On: OnRead, Effect: Hang, Sticky: true})
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() { _, _ = d.ReadAt(fill(1, 0), 0) })
				}
				time.Sleep(24 * time.Hour)
				timed(time.Millisecond)
				start := time.Now()
				d.Clear()
				wg.Wait()
				require.LessOrEqual(t, time.Since(start), 4*time.Millisecond)
			})
		})
	}
}

// TestSweep fails each call of a scenario in turn, and checks that every fault is told of
// before it is suffered.
func TestSweep(t *testing.T) {
	boom := errors.New("boom")
	for n := int64(1); ; n++ {
		d := Wrap(devices.NewMemory(1 << 20))
		var seen []Seen
		d.OnFault(func(s Seen) { seen = append(seen, s) })
		f := d.FailNth(OnAll, n, boom, false)
		var failedAt int64
		for step, op := range []func() error{
			func() error { return write(d, 0, 1, 'a') },
			func() error { return d.Sync() },
			func() error { return d.Discard(0, block) },
			func() error { _, err := d.ReadAt(fill(1, 0), 0); return err },
		} {
			if err := op(); err != nil {
				require.ErrorIs(t, err, boom)
				require.Len(t, seen, 1)
				failedAt = int64(step + 1)
			}
		}
		require.Equal(t, int64(len(seen)), f.Seen())
		if f.Seen() == 0 {
			require.EqualValues(t, 5, n)
			require.Zero(t, failedAt)
			return
		}
		require.Equal(t, n, failedAt)
		require.Equal(t, n, seen[0].N)
		require.Same(t, f, seen[0].Fault)
	}
}

func TestEqualSeedsEqualFaults(t *testing.T) {
	run := func() (out []bool) {
		d := Wrap(devices.NewMemory(1 << 20))
		d.Seed(rand.New(rand.NewPCG(3, 4)))
		d.Add(Fault{On: OnWrite, Rate: 0.5, Effect: Fail, Extent: Any, Sticky: true})
		for i := range 100 {
			out = append(out, write(d, i, 1, 'a') == nil)
		}
		return out
	}
	require.Equal(t, run(), run())
}

func TestTearLeavesASectorOut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		require.Contains(t, Tear(1+rng.IntN(16), rng), false)
	}
}
