package striping

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestCrashWithFaults cuts the power while one disk of a mirror goes wrong in some way, always
// the same one: no client sees an error, and the promises hold as without the fault.
func TestCrashWithFaults(t *testing.T) {
	const each = 3
	var met atomic.Int64
	cuts := campaign(t, *crashCount/4, each, func(t *testing.T, seed uint64) { met.Add(crashWithFault(t, seed, each)) })
	fmt.Printf("crashes of faulty mirrors: %d power cuts, %d operations struck by faults, no promise broken: %v\n", cuts, met.Load(), !t.Failed())
}

// mirrorFaults are what one disk of a mirror may do.
var mirrorFaults = []faultdisk.Fault{
	{On: faultdisk.OnRead, Effect: faultdisk.Fail},
	{On: faultdisk.OnWrite, Effect: faultdisk.Fail, Extent: faultdisk.Any},
	{On: faultdisk.OnSync, Effect: faultdisk.Fail},
	{On: faultdisk.OnAll, Effect: faultdisk.Fail, Err: syscall.ENXIO},
	{On: faultdisk.OnWrite, Effect: faultdisk.Lose},
	{On: faultdisk.OnSync, Effect: faultdisk.Lose},
	{On: faultdisk.OnWrite, Effect: faultdisk.Misdirect, Target: -1},
	{On: faultdisk.OnRead, Effect: faultdisk.Misdirect, Target: -1},
	{On: faultdisk.OnWrite, Effect: faultdisk.Corrupt, Damage: faultdisk.Flip},
	{On: faultdisk.OnRead, Effect: faultdisk.Corrupt, Damage: faultdisk.Zero},
	{On: faultdisk.OnAll, Effect: faultdisk.Slow, Factor: 50},
	{On: faultdisk.OnWrite, Effect: faultdisk.Hang, Delay: 7 * time.Second},
	{On: faultdisk.OnAll, Effect: faultdisk.Hang, Delay: 40 * time.Millisecond, Extent: faultdisk.Whole},
	{On: faultdisk.OnSync, Effect: faultdisk.Hang, Delay: 20 * time.Second},
	{On: faultdisk.OnRead, Effect: faultdisk.Hang, Delay: 20 * time.Second},
}

func crashWithFault(t *testing.T, seed uint64, cuts int) (met int64) {
	rng := rand.New(rand.NewPCG(seed, 21))
	copies := uint8(2 + rng.IntN(2))
	cfg := rigConfig{disks: int(copies) + rng.IntN(2), copies: copies, seed: seed, latency: time.Duration(rng.IntN(3)) * time.Millisecond,
		timing: gentle, opts: Options{DirtyLimit: int64(64<<10) << rng.IntN(5), FlushInterval: time.Duration(1+rng.IntN(100)) * time.Millisecond,
			WriteAge: time.Duration(rng.IntN(20)) * time.Millisecond, CacheBytes: 1, ReadAhead: int64(rng.IntN(3)-1) << 18}}
	r := newRig(t, cfg)
	size := int64(1+rng.IntN(6)) * 64 << 10
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	m := newModel(size)
	bad := rng.IntN(len(r.disks))
	for range cuts {
		f := mirrorFaults[rng.IntN(len(mirrorFaults))]
		f.Sticky = true
		length, pause := 50*time.Millisecond, 100*time.Microsecond
		if f.Effect == faultdisk.Hang && rng.IntN(3) == 0 {
			length, pause = 30*time.Second, 50*time.Millisecond
		}
		l := startLoad(r, m, rng, 1+rng.IntN(3), pause)
		time.Sleep(time.Duration(rng.IntN(50_000)) * time.Microsecond)
		if rng.IntN(2) == 0 {
			f.Rate = 0.3
		}
		a := r.disks[bad].Add(f)
		time.Sleep(time.Duration(rng.Int64N(int64(length))))
		if rng.IntN(3) == 0 {
			a.Lift()
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		synctest.Wait()
		l.stop.Store(true)
		r.crash(rng, simdisk.Random)
		l.wg.Wait()
		met += a.Seen()
		for _, err := range l.errs {
			require.NoError(t, err)
		}
		// A flush waits for the round under way and then for its own, each with a write and a sync.
		// A disk that hangs for less than it takes to be given up comes back, and hangs again.
		most := 4 * mirrorTimeout
		if f.Effect == faultdisk.Hang && f.Delay < 2*mirrorTimeout {
			most = 6 * mirrorTimeout
		}
		require.Less(t, l.longest, most, "a client waited for the bad disk")
		r.open()
		verifyFaulty(t, r, m)
	}
	require.NoError(t, r.close())
	return met
}

// verifyFaulty is verifyAfterCrash where one disk may hold anything: each copy is read, and so
// healed, before they are compared.
func verifyFaulty(t *testing.T, r *rig, m *model) {
	e := r.export("e")
	defer e.Close()
	ctx := t.Context()
	p := make([]byte, blockSize)
	for i := range m.blocks {
		err := e.ReadAt(ctx, p, int64(i)*blockSize)
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			require.True(t, m.pending(i), "block %d was durable: %v", i, err)
			ver := m.begin(i, 1, false)
			stamp(p, i, ver)
			require.NoError(t, e.WriteAt(ctx, p, int64(i)*blockSize, true))
		}
		require.NoError(t, m.collapse(p, i))
	}
	readEachCopy(t, r, m, e)
}
