package striping

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestCrashThenLoss cuts the power and takes as many disks away as the copies allow, works on
// without them, cuts the power again and brings the disks back as they were left: what was flushed
// is there each time, and what the disks missed is not believed.
func TestCrashThenLoss(t *testing.T) {
	const each = 4
	cuts := campaign(t, *crashCount/4, each, func(t *testing.T, seed uint64) { crashThenLoss(t, seed, each) })
	fmt.Printf("crashes and lost disks: %d power cuts, no promise broken: %v\n", cuts, !t.Failed())
}

func crashThenLoss(t *testing.T, seed uint64, rounds int) {
	rng := rand.New(rand.NewPCG(seed, 31))
	copies := 2 + rng.IntN(2)
	r := newRig(t, rigConfig{disks: copies + rng.IntN(2), copies: uint8(copies), seed: seed, timing: gentle,
		latency: time.Duration(rng.IntN(3)) * time.Millisecond,
		opts: Options{DirtyLimit: int64(64<<10) << rng.IntN(5), FlushInterval: time.Duration(1+rng.IntN(100)) * time.Millisecond,
			WriteAge: time.Duration(rng.IntN(20)) * time.Millisecond, CacheBytes: 1, ReadAhead: int64(rng.IntN(3)-1) << 18}})
	size := int64(1+rng.IntN(6)) * 64 << 10
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	m := newModel(size)
	leaving := rng.Perm(len(r.disks))[:1+rng.IntN(copies-1)]
	away := map[int]*simdisk.Disk{}
	for range rounds {
		l := startLoad(r, m, rng, 1+rng.IntN(3), time.Duration(rng.IntN(300))*time.Microsecond)
		time.Sleep(time.Duration(rng.IntN(100_000)) * time.Microsecond)
		synctest.Wait()
		l.stop.Store(true)
		r.crash(rng, simdisk.Random)
		l.wg.Wait()
		for _, err := range l.errs {
			require.NoError(t, err)
		}
		for _, i := range leaving {
			switch {
			case r.disks[i] == nil:
				r.disks[i] = away[i]
			case rng.IntN(3) > 0:
				away[i], r.disks[i] = r.disks[i], nil
			}
		}
		r.open()
		e := r.export("e")
		readOrReplace(t, m, e)
		readEachCopy(t, r, m, e)
		e.Close()
		require.NoError(t, r.v.checkCopies(context.Background()))
	}
	require.NoError(t, r.close())
}

// readOrReplace reads every block. Those that were torn by the power cut and had not been flushed may
// be unreadable; they are written anew.
func readOrReplace(t *testing.T, m *model, e *Export) {
	p := make([]byte, blockSize)
	for i := range m.blocks {
		err := e.ReadAt(context.Background(), p, int64(i)*blockSize)
		if errors.Is(err, ErrUnreadable) && m.pending(i) {
			ver := m.begin(i, 1, false)
			stamp(p, i, ver)
			require.NoError(t, e.WriteAt(context.Background(), p, int64(i)*blockSize, true))
			err = nil
		}
		require.NoError(t, err, "block %d", i)
		require.NoError(t, m.collapse(p, i))
	}
}

// TestCrashThenRebuild cuts the power, and one disk does not come back: the volume is made whole on
// another one and the lost one leaves, whatever was being written when the power went. In every fourth
// case that is a block of which the lost disk alone has a copy that is not torn.
func TestCrashThenRebuild(t *testing.T) {
	var blocked atomic.Int64
	cuts := campaign(t, *crashCount/8, 1, func(t *testing.T, seed uint64) { crashThenRebuild(t, seed, &blocked) })
	fmt.Printf("crashes and disks that are gone for good: %d power cuts, made whole each time: %v; blocks written anew for it: %d times\n",
		cuts, !t.Failed(), blocked.Load())
}

// crashThenRebuild counts in blocked if there were blocks that only the lost disk can have had.
func crashThenRebuild(t *testing.T, seed uint64, blocked *atomic.Int64) {
	rng := rand.New(rand.NewPCG(seed, 37))
	copies := 2 + rng.IntN(2)
	r := newRig(t, rigConfig{disks: copies + rng.IntN(2), copies: uint8(copies), seed: seed, timing: gentle,
		opts: Options{FlushInterval: time.Duration(1+rng.IntN(100)) * time.Millisecond, WriteAge: time.Duration(rng.IntN(20)) * time.Millisecond}})
	size := int64(1+rng.IntN(6)) * 64 << 10
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	m := newModel(size)
	l := startLoad(r, m, rng, 1+rng.IntN(3), time.Duration(rng.IntN(300))*time.Microsecond)
	time.Sleep(time.Duration(rng.IntN(100_000)) * time.Microsecond)
	synctest.Wait()
	l.stop.Store(true)
	torn := seed%4 == 0
	gone := rng.IntN(len(r.disks))
	if torn {
		l.wg.Wait()
		gone = tearAllButOne(t, r, m, rng)
	} else {
		r.crash(rng, simdisk.Random)
		l.wg.Wait()
	}
	r.disks[gone] = nil
	r.open()
	e := r.export("e")
	r.addDisk(r.cfg.size, gentle)
	id, err := r.v.Rebuild(t.Context(), JobOptions{})
	if err != nil {
		require.ErrorIs(t, err, ErrNoJob) // nothing was on it
	} else {
		until(t, time.Minute, "rebuilt or blocked", func() bool { return r.job(id).Ended != nil || r.job(id).BlockedReason != nil })
	}
	require.True(t, !torn || err == nil && r.job(id).BlockedReason != nil, "what only the lost disk can have is given up")
	if err == nil && r.job(id).Ended == nil {
		require.Contains(t, *r.job(id).BlockedReason, "write these blocks anew")
		blocked.Add(1)
	}
	readOrReplace(t, m, e)
	if err == nil {
		until(t, time.Minute, "rebuilt", r.jobEnded(id))
	}
	require.NoError(t, r.v.RemoveDevice(t.Context(), devices.ID(gone+1)))
	require.NoError(t, r.v.checkCopies(t.Context()))
	readEachCopy(t, r, m, e)
	require.Equal(t, "ok", r.v.Status().State)
	e.Close()
	require.NoError(t, r.close())
}

// tearAllButOne cuts the power while a block is overwritten, which is then whole on the disk returned and
// torn on all others that have a copy.
func tearAllButOne(t *testing.T, r *rig, m *model, rng *rand.Rand) (whole int) {
	e := r.export("e")
	defer e.Close()
	block := rng.IntN(len(m.blocks))
	write := func() {
		ver := m.begin(block, 1, false)
		err := e.WriteAt(t.Context(), stamped(block, 1, ver), int64(block)*blockSize, false)
		m.end(block, 1, err)
		require.NoError(t, err)
	}
	write()
	marks := m.mark()
	require.NoError(t, r.v.Flush(t.Context()))
	m.flushed(marks)
	before := make([]int, len(r.disks)) // of what need not be durable
	for i, d := range r.disks {
		before[i] = d.Pending()
		d.HangAll(faultdisk.OnSync)
	}
	write()
	var have []int
	until(t, mirrorTimeout/2, "it is on its way to all copies", func() bool {
		have = nil
		for i, d := range r.disks {
			if d.Pending() > before[i] {
				have = append(have, i)
			}
		}
		return len(have) == int(r.cfg.copies)
	})
	whole = have[rng.IntN(len(have))]
	half := func(rng *rand.Rand, pending []simdisk.Write) []simdisk.Fate {
		odd := func(sector, _ int) bool { return sector%2 == 1 }
		return simdisk.TearWrite(len(pending)-1, odd, simdisk.KeepNone)(rng, pending)
	}
	r.crashEach(rng, func(disk int) simdisk.Policy {
		switch {
		case disk == whole:
			return simdisk.KeepAll
		case slices.Contains(have, disk):
			return half
		}
		return simdisk.KeepNone
	})
	return whole
}

// readEachCopy reads everything from each device in turn, which heals what a disk missed: whoever
// answers, it is the same.
func readEachCopy(t *testing.T, r *rig, m *model, e *Export) {
	ahead := r.v.opts.ReadAhead
	r.v.opts.ReadAhead = -1 // what was read ahead would hide the copies
	defer func() { r.v.opts.ReadAhead = ahead }()
	p := make([]byte, blockSize)
	for _, mem := range r.v.devs() {
		if !mem.usable() {
			continue
		}
		for _, o := range r.v.devs() {
			r.v.bal.SetReadable(o.id, o == mem)
		}
		for i := range m.blocks {
			require.NoError(t, e.ReadAt(context.Background(), p, int64(i)*blockSize))
			require.NoError(t, m.check(p, i))
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, o := range r.v.devs() {
		r.v.bal.SetReadable(o.id, o.usable())
	}
}

// TestFlushCoversOtherHandles writes on one handle and flushes on another.
func TestFlushCoversOtherHandles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Hour}})
		other := s.export("e")
		for _, first := range []int{0, 3, 30, 3} {
			s.write(first, 20, false)
			marks := s.m.mark()
			require.NoError(t, other.Sync(s.ctx))
			s.m.flushed(marks)
		}
		other.Close()
		s.e.Close()
		s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
		s.open()
		verifyReopened(t, s.rig, s.m, false)
		require.NoError(t, s.rig.close())
	})
}

// TestJournalHangs lets the journal stop answering: reads and buffered writes go on, flushes wait,
// and everything is as promised when it answers again.
func TestJournalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{copies: 2, timing: gentle, opts: Options{FlushInterval: 50 * time.Millisecond, WriteAge: time.Millisecond}})
		s.write(0, 48, false)
		s.sync()
		resume := s.j.Hang()
		for i := range 10 {
			begun := time.Now()
			s.write(i*5, 7, false)
			s.read(0, scriptBlocks)
			require.Less(t, time.Since(begun), 100*time.Millisecond)
			s.pause()
		}
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		require.ErrorIs(t, s.e.Sync(ctx), context.DeadlineExceeded)
		cancel()
		resume()
		s.sync()
		s.e.Close()
		s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
		s.open()
		verifyReopened(t, s.rig, s.m, false)
		require.NoError(t, s.rig.close())
	})
}
