package striping

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

var drainSeeds = flag.Int("drains", 6, "drains through simulated power cuts")

// addDisk adds a disk to the served volume.
func (r *rig) addDisk(size int64, timing simdisk.Timing) devices.ID {
	r.t.Helper()
	id, epoch := r.v.NewDeviceID()
	d := simdisk.New(simdisk.Options{Size: size, Seed: r.cfg.seed + uint64(id), Timing: timing})
	for len(r.disks) < int(id) {
		r.disks = append(r.disks, nil)
	}
	r.disks[id-1] = d
	require.NoError(r.t, r.v.AddDevice(context.Background(), r.member(id, epoch, d)))
	return id
}

func (r *rig) member(id devices.ID, epoch uint64, d *simdisk.Disk) Member {
	dev := devices.NewDevice(d, devices.Options{ID: id, Rotational: r.cfg.rotational})
	r.devs = append(r.devs, dev)
	return Member{Record: journal.Device{ID: uint16(id), UUID: [16]byte{byte(id)}, Path: fmt.Sprintf("/sim/%d", id), Size: d.Size(), Epoch: epoch},
		Device: dev, DataSize: d.Size()}
}

// until waits, in fake time, for something to become true.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(began)
}

func (r *rig) jobEnded(id string) func() bool {
	return func() bool {
		for _, j := range r.v.Jobs() {
			if j.ID == id {
				return j.Ended != nil
			}
		}
		return false
	}
}

func (r *rig) job(id string) JobStatus {
	for _, j := range r.v.Jobs() {
		if j.ID == id {
			return j
		}
	}
	r.t.Fatalf("no job %s", id)
	return JobStatus{}
}

// rest has the jobs rest, so that the volume can be looked at from inside.
func (r *rig) rest() (again func()) {
	if r.v.PauseJob(context.Background(), "", "") != nil {
		return func() {} // there is none
	}
	t := &r.v.jobs
	for busy := true; busy; time.Sleep(time.Millisecond) {
		t.mu.Lock()
		busy = false
		for _, j := range t.list {
			busy = busy || j.cancel != nil
		}
		t.mu.Unlock()
	}
	return func() { require.NoError(r.t, r.v.ResumeJob(context.Background(), "", "")) }
}

// fillExport makes an export s of n chunks and writes all of it, version 1.
func (r *rig) fillExport(chunks int) *Export {
	r.t.Helper()
	size := int64(chunks) * int64(r.cfg.chunk)
	require.NoError(r.t, r.v.CreateExport(context.Background(), "s", size))
	e := r.export("s")
	n := int(r.cfg.chunk) / blockSize
	for i := range chunks {
		require.NoError(r.t, e.WriteAt(context.Background(), stamped(i*n, n, 1), int64(i)*int64(r.cfg.chunk), false))
	}
	require.NoError(r.t, e.Sync(context.Background()))
	return e
}

// requireStamped reads the export and compares it with version ver.
func (r *rig) requireStamped(e *Export, chunks int, ver uint32) {
	r.t.Helper()
	n := int(r.cfg.chunk) / blockSize
	p := make([]byte, r.cfg.chunk)
	for i := range chunks {
		require.NoError(r.t, e.ReadAt(context.Background(), p, int64(i)*int64(r.cfg.chunk)))
		require.Equal(r.t, stamped(i*n, n, ver), p)
	}
}

func TestAddedDeviceTakesItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 2, size: 8 << 20, copies: 2, timing: gentle})
		e := r.fillExport(64)
		before := r.v.Status().FreeBytes
		id := r.addDisk(16<<20, gentle)
		require.Greater(t, r.v.Status().FreeBytes, before)
		n := int(r.cfg.chunk) / blockSize
		for i := range 64 {
			require.NoError(t, e.WriteAt(t.Context(), stamped(i*n, n, 2), int64(i)*int64(r.cfg.chunk), false))
		}
		require.NoError(t, e.Sync(t.Context()))
		used, _ := r.v.dev(id).alloc.usage()
		require.Greater(t, used, int64(20*64<<10), "a third of what is written, or nearly")
		r.requireStamped(e, 64, 2)
		e.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
		r.open()
		require.Len(t, r.v.Status().Devices, 3)
		e = r.export("s")
		r.requireStamped(e, 64, 2)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestDrain empties devices while clients write and read, and removes them.
func TestDrain(t *testing.T) {
	for _, copies := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, rigConfig{disks: 5, size: 8 << 20, copies: copies, timing: gentle,
					opts: Options{DirtyLimit: 1 << 20, FlushInterval: 200 * time.Millisecond, WriteAge: 5 * time.Millisecond}})
				e := r.fillExport(96)
				const size = 64 * 64 << 10
				m := newModel(size)
				require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
				l := startLoad(r, m, rand.New(rand.NewPCG(1, 1)), 2, 5*time.Millisecond)
				time.Sleep(time.Second)
				id, err := r.v.Drain(t.Context(), []devices.ID{2, 4}, JobOptions{})
				require.NoError(t, err)
				_, err = r.v.Drain(t.Context(), []devices.ID{2}, JobOptions{})
				require.ErrorIs(t, err, ErrConflict)
				require.EqualError(t, err, "device d2 is being drained already")
				require.ErrorIs(t, r.v.RemoveDevice(t.Context(), 2), ErrNotEmpty)
				until(t, time.Minute, "drained", r.jobEnded(id))
				require.Equal(t, "done", r.job(id).State)
				l.stop.Store(true)
				l.wg.Wait()
				require.Empty(t, l.errs)
				for _, dev := range []devices.ID{2, 4} {
					h, err := r.v.holds(t.Context(), dev)
					require.NoError(t, err)
					require.Zero(t, h.Chunks)
					require.NoError(t, r.v.RemoveDevice(t.Context(), dev))
				}
				r.requireStamped(e, 96, 1)
				e.Close()
				require.NoError(t, r.v.checkCopies(t.Context()))
				require.NoError(t, r.close())
				r.open()
				require.Len(t, r.v.Status().Devices, 3)
				require.Zero(t, r.v.Status().Degraded)
				e = r.export("s")
				r.requireStamped(e, 96, 1)
				e.Close()
				verifyReopened(t, r, m, false)
				require.NoError(t, r.close())
			})
		})
	}
}

// TestDrainRefusals: what cannot end is not begun.
// TestDrainedDeviceIsTakenBack: a drained device can be put to use again, after a restart too; one that
// is being drained cannot.
func TestDrainedDeviceIsTakenBack(t *testing.T) {
	for _, auto := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 2, timing: gentle})
			e := r.fillExport(60)
			e.Close()
			id, err := r.v.Drain(t.Context(), []devices.ID{2}, JobOptions{})
			require.NoError(t, err)
			require.ErrorIs(t, r.v.SetOnline(t.Context(), 2, auto), ErrConflict)
			until(t, time.Minute, "drained", r.jobEnded(id))
			require.NoError(t, r.close())
			r.open()
			require.True(t, r.stateIs(1, "drained")())
			require.NoError(t, r.v.SetOnline(t.Context(), 2, auto))
			require.True(t, r.stateIs(1, "online")())
			id, err = r.v.Rebalance(t.Context(), JobOptions{})
			require.NoError(t, err)
			until(t, time.Minute, "rebalanced", r.jobEnded(id))
			h, err := r.v.holds(t.Context(), 2)
			require.NoError(t, err)
			require.InDelta(t, 40, h.Chunks, 5)
			require.NoError(t, r.close())
			r.open()
			require.True(t, r.stateIs(1, "online")())
			e = r.export("s")
			r.requireStamped(e, 60, 1)
			e.Close()
			require.NoError(t, r.close())
		})
	}
}

func TestDrainRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 4 << 20, copies: 2, timing: gentle})
		e := r.fillExport(80) // of 96 that fit
		ctx := t.Context()
		_, err := r.v.Drain(ctx, []devices.ID{9}, JobOptions{})
		require.ErrorIs(t, err, ErrNoDevice)
		_, err = r.v.Drain(ctx, []devices.ID{1, 1}, JobOptions{})
		require.ErrorIs(t, err, ErrConflict)
		_, err = r.v.Drain(ctx, []devices.ID{1, 2}, JobOptions{})
		require.ErrorIs(t, err, ErrNeeded)
		_, err = r.v.Drain(ctx, []devices.ID{1}, JobOptions{})
		require.ErrorIs(t, err, ErrNoSpace)
		require.ErrorIs(t, r.v.Offline(ctx, 9, false), ErrNoDevice)
		for _, d := range r.v.Status().Devices {
			require.Equal(t, "online", d.State)
		}
		_, err = r.v.Rebuild(ctx, JobOptions{})
		require.ErrorIs(t, err, ErrNoJob)
		e.Close()
		require.NoError(t, r.close())
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 2, size: 4 << 20, copies: 1, timing: gentle})
		e := r.fillExport(16)
		require.ErrorIs(t, r.v.Offline(t.Context(), 1, false), ErrNeeded)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestRebuildAfterFailure: a disk that dies costs its copies, which are made anew on the others.
func TestRebuildAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 4, size: 8 << 20, copies: 2, timing: gentle, opts: Options{ReadAhead: -1}})
		e := r.fillExport(96)
		r.disks[1].Disappear()
		r.requireStamped(e, 96, 1)
		until(t, time.Minute, "failed", func() bool { return r.v.Status().Devices[1].State == "failed" })
		until(t, time.Minute, "rebuilt", func() bool {
			s := r.v.Status()
			return s.Degraded == 0 && len(r.v.Jobs()) > 0 && r.v.Jobs()[0].Ended != nil
		})
		require.NoError(t, r.v.RemoveDevice(t.Context(), 2))
		r.requireStamped(e, 96, 1)
		e.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestReturnCostsWhatWasMissed: a disk that was away gets what was written meanwhile and no more.
func TestReturnCostsWhatWasMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 16 << 20, copies: 2, timing: gentle, opts: Options{ReadAhead: -1}})
		e := r.fillExport(192)
		require.NoError(t, r.v.Offline(t.Context(), 2, false))
		require.Equal(t, "missing", r.v.Status().Devices[1].State)
		n := int(r.cfg.chunk) / blockSize
		written := int64(0)
		for i := 0; i < 192; i += 3 { // half of a chunk, in place
			require.NoError(t, e.WriteAt(t.Context(), stamped(i*n, n/4, 2), int64(i)*int64(r.cfg.chunk), false))
			written += int64(n/4) * blockSize
		}
		require.NoError(t, e.Sync(t.Context()))
		time.Sleep(60 * time.Second)
		before := r.disks[1].Stats().WriteBytes
		require.NoError(t, r.v.ReturnDevice(t.Context(), r.member(2, 0, r.disks[1])))
		until(t, time.Minute, "whole again", func() bool { s := r.v.Status(); return s.Degraded == 0 && s.Devices[1].State == "online" })
		copied := r.disks[1].Stats().WriteBytes - before
		require.NotZero(t, copied)
		require.LessOrEqual(t, float64(copied), 1.05*float64(written))
		e.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestDrainThroughCrashes empties two of six disks while clients write and the power goes again and
// again: the job goes on by itself, no chunk ever has fewer copies than asked for, nothing that was
// promised is lost, and little is done twice.
func TestDrainThroughCrashes(t *testing.T) {
	campaign(t, *drainSeeds, 1, func(t *testing.T, seed uint64) { drainThroughCrashes(t, seed, 12) })
	require.NotZero(t, drainCuts.Load())
	fmt.Printf("drains: %d power cuts within them, no promise broken\n", drainCuts.Load())
}

// drainCuts counts the power cuts that came within a drain.
var drainCuts atomic.Int64

func drainThroughCrashes(t *testing.T, seed uint64, cuts int) {
	rng := rand.New(rand.NewPCG(seed, 21))
	timing := simdisk.Timing{ReadRate: 20e6, WriteRate: 10e6, PerOp: 50 * time.Microsecond, Latency: 200 * time.Microsecond}
	r := newRig(t, rigConfig{disks: 6, size: 8 << 20, copies: uint8(1 + seed%3), seed: seed, timing: timing, latency: time.Millisecond,
		opts: Options{DirtyLimit: 256 << 10, FlushInterval: 50 * time.Millisecond, WriteAge: 3 * time.Millisecond}})
	chunks := 240 / int(r.cfg.copies)
	s := r.fillExport(chunks)
	s.Close()
	const size = 24 * 64 << 10
	m := newModel(size)
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	started := false
	within := 0
	for range cuts {
		l := startLoad(r, m, rng, 2, 2*time.Millisecond)
		if !started {
			_, err := r.v.Drain(t.Context(), []devices.ID{2, 5}, JobOptions{})
			require.NoError(t, err)
			started = true
		}
		time.Sleep(time.Duration(rng.IntN(40_000)) * time.Microsecond)
		synctest.Wait()
		l.stop.Store(true)
		if !r.jobEnded("drain-1")() {
			within++
		}
		r.crash(rng, simdisk.Random)
		l.wg.Wait()
		require.Empty(t, l.errs)
		r.open()
		require.Zero(t, r.v.Status().Degraded, "fewer copies than asked for")
		require.Zero(t, r.v.Status().Lost)
		again := r.rest()
		verifyReopened(t, r, m, true)
		again()
	}
	drainCuts.Add(int64(within))
	until(t, 10*time.Minute, "drained", r.jobEnded("drain-1"))
	require.Equal(t, "done", r.job("drain-1").State)
	for _, id := range []devices.ID{2, 5} {
		require.NoError(t, r.v.RemoveDevice(t.Context(), id))
	}
	s = r.export("s")
	r.requireStamped(s, chunks, 1)
	s.Close()
	require.NoError(t, r.v.checkCopies(t.Context()))
	require.NoError(t, r.close())
}

// staleScans is a journal whose scans show one record as it was once.
type staleScans struct {
	journal.Journal
	key   journal.Key
	was   []byte
	scans atomic.Int64
}

func (s *staleScans) ScanFrom(from journal.Key, fn func(journal.Key, []byte) error) error {
	s.scans.Add(1)
	return s.Journal.ScanFrom(from, func(k journal.Key, val []byte) error {
		if s.was != nil && k == s.key {
			val = s.was
		}
		return fn(k, val)
	})
}

// TestDrainThatGetsNowhereRests: a chunk that seems to be where it is not, so that every pass finds
// it to be moved and none moves it, blocks the job. It must not spin.
func TestDrainThatGetsNowhereRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j *staleScans
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 1, timing: gentle, latency: time.Millisecond,
			wrapJ: func(inner journal.Journal) journal.Journal { j = &staleScans{Journal: inner}; return j }})
		s := r.fillExport(64)
		key, rec := journal.Key{}, []byte(nil)
		require.NoError(t, r.v.scanChunks(t.Context(), func(k chunkKey, c *journal.Chunk, places []place) {
			if places[0].dev == 1 {
				key = k.record()
				rec = c.Pack(key)
			}
		}))
		require.NotNil(t, rec)
		j.key, j.was = key, rec
		id, err := r.v.Drain(t.Context(), []devices.ID{1}, JobOptions{})
		require.NoError(t, err)
		until(t, time.Minute, "blocked", func() bool { return r.job(id).BlockedReason != nil })
		scans := j.scans.Load()
		time.Sleep(time.Minute)
		require.Less(t, j.scans.Load()-scans, int64(200))
		require.Contains(t, *r.job(id).BlockedReason, "has to be moved again")
		j.was = nil
		until(t, time.Minute, "drained", r.jobEnded(id))
		r.requireStamped(s, 64, 1)
		s.Close()
		require.NoError(t, r.close())
	})
}

// TestGrownDeviceIsUsed fills a volume, has a device grow, and fills what is new; also when a crash
// came before the journal had it.
func TestGrownDeviceIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{sizes: []int64{2 << 20, 2 << 20}, copies: 1})
		require.NoError(t, r.v.CreateExport(ctx, "e", 64<<20))
		fill := func(first int) int {
			e := r.export("e")
			defer e.Close()
			for i := first; ; i++ {
				err := e.WriteAt(ctx, stamped(i*fillChunk, fillChunk, 1), int64(i)*fillChunk*blockSize, false)
				if errors.Is(err, ErrNoSpace) {
					require.NoError(t, e.Sync(ctx))
					return i
				}
				require.NoError(t, err)
			}
		}
		n := fill(0)
		require.Equal(t, 64, n)
		require.Zero(t, r.v.Status().FreeBytes)

		r.disks[0].Resize(5 << 20)
		require.ErrorIs(t, r.v.GrowDevice(ctx, 7, 5<<20, 5<<20), ErrNoDevice)
		require.ErrorIs(t, r.v.GrowDevice(ctx, 1, 2<<20+60<<10, 2<<20+60<<10), ErrNotGrown)
		require.NoError(t, r.v.GrowDevice(ctx, 1, 5<<20, 5<<20))
		require.ErrorIs(t, r.v.GrowDevice(ctx, 1, 5<<20, 5<<20), ErrNotGrown)
		s := r.v.Status()
		require.EqualValues(t, 3<<20, s.FreeBytes)
		require.EqualValues(t, 7<<20, s.SizeBytes)
		require.EqualValues(t, 5<<20, s.Devices[0].SizeBytes)
		require.Equal(t, n+48, fill(n))

		r.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
		r.disks[1].Resize(3 << 20) // its label says so, the journal does not yet
		r.grown = map[int]int64{1: 3 << 20}
		r.open()
		require.EqualValues(t, 1<<20, r.v.Status().FreeBytes)
		require.Equal(t, n+48+16, fill(n+48))
		r.crash(rand.New(rand.NewPCG(2, 2)), simdisk.KeepNone)
		r.grown = nil
		r.disks[0] = nil // what it held is known from the journal alone
		r.cfg.opts.Degraded = true
		r.open()
		s = r.v.Status()
		require.EqualValues(t, 5<<20, s.Devices[0].SizeBytes)
		require.EqualValues(t, 3<<20, s.Devices[1].SizeBytes)
		require.EqualValues(t, 80, s.Lost)
		require.NoError(t, r.close())
	})
}

// TestDrainIsReversed: a drain is cancelled half way, and what it moved goes back, no more than that,
// also when the power goes meanwhile.
func TestDrainIsReversed(t *testing.T) {
	for _, crash := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			r := newRig(t, rigConfig{disks: 4, size: 16 << 20, copies: 2, timing: gentle})
			e := r.fillExport(192)
			held := func() int64 { used, _ := r.v.dev(2).alloc.usage(); return used }
			_, err := r.v.ReverseJob(ctx, "", "")
			require.ErrorIs(t, err, ErrNoJob)
			before := held()
			drain, err := r.v.Drain(ctx, []devices.ID{2}, JobOptions{Pace: 1 << 20})
			require.NoError(t, err)
			until(t, time.Minute, "half of it is drained", func() bool { return held() < before/2 })
			back, err := r.v.ReverseJob(ctx, drain, "")
			require.NoError(t, err)
			require.Equal(t, "cancelled", r.job(drain).State)
			s, _ := r.v.stateOf(r.v.dev(2))
			require.Equal(t, journal.Online, s)
			moved := r.job(drain).BytesDone
			if crash {
				time.Sleep(500 * time.Millisecond)
				e.Close()
				r.crash(rand.New(rand.NewPCG(3, 3)), simdisk.KeepNone)
				r.open()
				e = r.export("s")
			}
			_, err = r.v.ReverseJob(ctx, back, "")
			require.ErrorIs(t, err, ErrConflict, "a rebalance")
			until(t, time.Minute, "it is back", r.jobEnded(back))
			j := r.job(back)
			require.Equal(t, []string{"d2"}, j.Devices)
			if crash { // what was under way then is moved once more
				moved += 4 << 20
			}
			require.LessOrEqual(t, j.BytesDone, moved)
			require.InDelta(t, before, held(), 16*64<<10)
			r.requireStamped(e, 192, 1)
			e.Close()
			require.NoError(t, r.v.checkCopies(ctx))
			require.NoError(t, r.close())
		})
	}
}

// TestDataError: what a device holds is told as people read it.
func TestDataError(t *testing.T) {
	require.EqualError(t, &DataError{Chunks: 56, Bytes: 56 << 20}, "it still holds 56 chunks, 56.0 MiB")
	require.EqualError(t, &DataError{Chunks: 56, Bytes: 56 << 20, Only: 3}, "it still holds 56 chunks, 56.0 MiB, and the only good copy of 3 of them")
}
