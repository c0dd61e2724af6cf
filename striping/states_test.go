package striping

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

var everyState = flag.Bool("states", false, "all numbers of disks with all factors, not just each of them once")

func (r *rig) stateIs(i int, state string) func() bool {
	return func() bool { return r.v.Status().Devices[i].State == state }
}

// slowRig is a mirror over disks that clients work on all the time.
func slowRig(t *testing.T, disks int, pause time.Duration) (*rig, *model, *load) {
	timing := simdisk.Timing{ReadRate: 100e6, WriteRate: 50e6, PerOp: 100 * time.Microsecond}
	r := newRig(t, rigConfig{disks: disks, size: 8 << 20, copies: 2, timing: timing,
		opts: Options{DirtyLimit: 1 << 20, FlushInterval: 500 * time.Millisecond, WriteAge: 5 * time.Millisecond, ReadAhead: -1}})
	const size = 32 * 64 << 10
	require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
	m := newModel(size)
	l := startLoad(r, m, rand.New(rand.NewPCG(uint64(disks), 5)), 3, pause)
	for _, d := range r.devs {
		d.StartProbes()
	}
	s := r.fillExport(32) // until the disks are known: half a second of work of each kind
	p := stamped(0, 16, 1)
	for range 30 * disks {
		for i := range int64(32) {
			require.NoError(t, s.WriteAt(t.Context(), p, i*64<<10, false))
		}
		require.NoError(t, s.Sync(t.Context()))
		for i := range int64(32) { // of all sizes that clients use
			require.NoError(t, s.ReadAt(t.Context(), p, i*64<<10))
			require.NoError(t, s.ReadAt(t.Context(), p[:blockSize<<(i%4)], i*64<<10))
			require.NoError(t, s.WriteAt(t.Context(), p[:blockSize<<(i%4)], i*64<<10, false))
		}
		require.NoError(t, s.Sync(t.Context()))
	}
	s.Close()
	time.Sleep(10 * time.Second)
	return r, m, l
}

func (r *rig) endLoad(m *model, l *load) {
	r.t.Helper()
	l.stop.Store(true)
	r.disks[1].Faults.Clear()
	l.wg.Wait()
	require.Empty(r.t, l.errs)
	until(r.t.(*testing.T), 3*time.Minute, "whole", func() bool { return r.v.Status().Degraded == 0 })
	again := r.rest()
	require.NoError(r.t, r.v.checkCopies(context.Background()))
	again()
	require.NoError(r.t, r.close())
}

// TestSlowDiskSitsOut: a disk that is 5x or 20x slower than it was is seen to be within 5 s and sits out within
// 15 s, also when there are only two. Clients read nothing there then, nothing is lost by its sitting out,
// and it is back within 40 s of being well.
func TestSlowDiskSitsOut(t *testing.T) {
	for _, disks := range []int{2, 4} {
		for _, factor := range []float64{5, 20} {
			if !*everyState && (disks == 2) == (factor == 5) {
				continue
			}
			t.Run(fmt.Sprintf("%d disks/%.0fx", disks, factor), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, m, l := slowRig(t, disks, 15*time.Millisecond)
					for i := range disks {
						require.Equal(t, "online", r.v.Status().Devices[i].State)
					}
					r.disks[1].SetSlow(factor)
					seen := until(t, 5*time.Second, "seen", func() bool { return r.v.Status().Devices[1].Slowdown > 2 })
					found := seen + until(t, 15*time.Second-seen, "found", r.stateIs(1, "slow"))
					time.Sleep(time.Second)
					before := r.devs[1].Stats().Read
					time.Sleep(time.Minute)
					require.True(t, r.stateIs(1, "slow")())
					require.Equal(t, before, r.devs[1].Stats().Read, "clients read there")
					r.disks[1].SetSlow(1)
					back := until(t, 40*time.Second, "back", func() bool { s := r.v.Status().Devices[1].State; return s == "online" || s == "rebuilding" })
					until(t, time.Minute, "has what it missed", r.stateIs(1, "online"))
					t.Logf("seen after %v, found after %v, back after %v", seen, found, back)
					r.endLoad(m, l)
				})
			})
		}
	}
}

// TestHostThatIsSlow: when all disks are slow at once none of them is blamed, and it is said once.
func TestHostThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, l := slowRig(t, 3, 15*time.Millisecond)
		for _, d := range r.disks {
			d.SetSlow(5)
		}
		time.Sleep(2 * time.Minute)
		told := 0
		for _, e := range r.v.Events(0) {
			require.NotEqual(t, "DEVICE_SLOW", e.Code)
			if e.Code == "HOST_SLOW" {
				told++
			}
		}
		require.Equal(t, 1, told)
		for _, d := range r.disks {
			d.SetSlow(1)
		}
		r.endLoad(m, l)
	})
}

// TestSlowForGoodIsEmptied: a disk that stays slow is drained after ten minutes.
func TestSlowForGoodIsEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, l := slowRig(t, 4, 50*time.Millisecond)
		r.disks[1].SetSlow(20)
		until(t, 15*time.Second, "found", r.stateIs(1, "slow"))
		until(t, 15*time.Minute, "emptied", r.stateIs(1, "drained"))
		r.endLoad(m, l)
	})
}

// TestHungDisk: one of three disks completes nothing for a minute. No client sees an error, reads are
// answered by the others, the volume closes at once with the disk still hung, and what the disk does
// late changes nothing.
func TestHungDisk(t *testing.T) {
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("closed meanwhile=%v", closes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, m, l := slowRig(t, 3, 15*time.Millisecond)
				hung := r.disks[1].HangAll(faultdisk.OnRead | faultdisk.OnWrite | faultdisk.OnSync)
				time.Sleep(mirrorTimeout + 2*time.Second) // writes wait for the deadline
				l.mu.Lock()
				l.longest = 0
				l.mu.Unlock()
				time.Sleep(20 * time.Second)
				l.mu.Lock()
				longest := l.longest
				l.mu.Unlock()
				require.Less(t, longest, 250*time.Millisecond, "a client waits for the hung disk")
				if closes {
					l.stop.Store(true)
					l.wg.Wait()
					began := time.Now()
					require.NoError(t, r.v.Close(t.Context()))
					require.Less(t, time.Since(began), 5*time.Second)
					hung.Lift()
					for _, d := range r.devs {
						require.NoError(t, d.Close())
					}
					for i, d := range r.disks { // with what the hung disk did late
						r.disks[i] = d.Crash(nil, simdisk.KeepAll)
					}
					r.open()
					verifyReopened(t, r, m, false)
					require.Empty(t, l.errs)
					require.NoError(t, r.close())
					return
				}
				until(t, time.Minute, "given up", r.stateIs(1, "failed"))
				time.Sleep(20 * time.Second)
				hung.Lift()
				until(t, time.Minute, "back", r.stateIs(1, "online"))
				r.endLoad(m, l)
			})
		})
	}
}

// TestDrainOverBadSectors: bad sectors do not stop a drain. With another copy they are repaired on
// the way; without one the job lists exactly them.
func TestDrainOverBadSectors(t *testing.T) {
	for _, copies := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, rigConfig{disks: 4, size: 8 << 20, copies: copies, timing: gentle, opts: Options{ReadAhead: -1}})
				const chunks = 64
				s := r.fillExport(chunks)
				// Ten blocks on the disk that is to leave.
				bad := map[int64]bool{} // by offset in the export
				require.NoError(t, r.v.scanChunks(t.Context(), func(key chunkKey, _ *journal.Chunk, places []place) {
					for i := range places {
						if places[i].dev == 2 && len(bad) < 10 {
							off := places[i].off + 3*blockSize
							r.disks[1].Add(faultdisk.Fault{On: faultdisk.OnRead, Off: off, Size: blockSize, Sticky: true, Effect: faultdisk.Fail})
							bad[int64(key.index)*64<<10+3*blockSize] = true
						}
					}
				}))
				require.Len(t, bad, 10)
				id, err := r.v.Drain(t.Context(), []devices.ID{2}, JobOptions{})
				require.NoError(t, err)
				until(t, time.Minute, "drained", r.jobEnded(id))
				require.True(t, r.stateIs(1, "drained")())
				lost := 0
				if copies == 1 {
					lost = 10
				}
				require.Equal(t, int64(lost), r.job(id).Errors)
				p := make([]byte, blockSize)
				for b := range chunks * 16 {
					off := int64(b) * blockSize
					err := s.ReadAt(t.Context(), p, off)
					if copies == 1 && bad[off] {
						require.ErrorIs(t, err, ErrUnreadable)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, stamped(b, 1, 1), p)
				}
				require.Len(t, r.v.Status().Bad, lost)
				for _, x := range r.v.Status().Bad {
					require.True(t, bad[x.Off])
				}
				s.Close()
				require.NoError(t, r.close())
			})
		})
	}
}

// TestScrubSince: with a date, a scrub reads what was written or overwritten since, and nothing else, also
// over a restart.
func TestScrubSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 2, size: 8 << 20, copies: 2, timing: gentle})
		e := r.fillExport(40)
		require.NoError(t, r.v.Flush(t.Context()))
		time.Sleep(time.Hour)
		since := time.Now()
		require.NoError(t, e.WriteAt(t.Context(), stamped(3*16, 16, 2), 3*64<<10, false)) // a whole chunk
		require.NoError(t, e.WriteAt(t.Context(), stamped(7*16+2, 1, 2), (7*16+2)*blockSize, false))
		require.NoError(t, e.Sync(t.Context()))
		scrub := func(o JobOptions) int64 {
			f, err := r.v.ForecastScrub(t.Context(), o.Since)
			require.NoError(t, err)
			id, err := r.v.Scrub(t.Context(), o)
			require.NoError(t, err)
			until(t, time.Minute, "scrubbed", r.jobEnded(id))
			require.Equal(t, f.Bytes, r.job(id).BytesDone)
			return r.job(id).BytesDone
		}
		require.Equal(t, int64(2*2*64<<10), scrub(JobOptions{Since: since}))
		require.Equal(t, int64(2*40*64<<10), scrub(JobOptions{Since: since.Add(-2 * time.Hour)}))
		require.Equal(t, int64(2*40*64<<10), scrub(JobOptions{}))
		time.Sleep(time.Hour)
		require.Zero(t, scrub(JobOptions{Since: time.Now()}))
		id, err := r.v.Scrub(t.Context(), JobOptions{Since: since, Pace: 1})
		require.NoError(t, err)
		require.NoError(t, r.v.PauseJob(t.Context(), id, ""))
		e.Close()
		require.NoError(t, r.close())
		r.open()
		require.Equal(t, since.Unix(), r.job(id).Since.Unix())
		require.NoError(t, r.close())
	})
}

// TestScrubHeals: a scrub finds what reads never see, and repairs it.
func TestScrubHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 2, timing: gentle, opts: Options{ReadAhead: -1}})
		s := r.fillExport(64)
		rng := rand.New(rand.NewPCG(1, 1))
		spoilt := 0
		require.NoError(t, r.v.scanChunks(t.Context(), func(key chunkKey, _ *journal.Chunk, places []place) {
			if key.index%4 == 0 {
				p := places[rng.IntN(2)]
				r.disks[p.dev-1].CorruptMedia(p.off+int64(rng.IntN(16))*blockSize, blockSize, faultdisk.Flip, rng)
				spoilt++
			}
		}))
		id, err := r.v.Scrub(t.Context(), JobOptions{})
		require.NoError(t, err)
		_, err = r.v.Scrub(t.Context(), JobOptions{})
		require.ErrorIs(t, err, ErrConflict)
		until(t, time.Minute, "scrubbed", r.jobEnded(id))
		j := r.job(id)
		require.Equal(t, int64(spoilt), j.Healed)
		require.Zero(t, j.Errors)
		require.Equal(t, int64(2*64*64<<10), j.BytesDone)
		r.requireStamped(s, 64, 1)
		s.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}

// TestNoSpaceIsWaitedFor: a drain that finds no space any more says so, sleeps, and goes on when there
// is some.
func TestNoSpaceIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 1, timing: gentle})
		s := r.fillExport(200)
		id, err := r.v.Drain(t.Context(), []devices.ID{1}, JobOptions{})
		require.NoError(t, err)
		require.NoError(t, r.v.PauseJob(t.Context(), id, ""))
		require.NoError(t, r.v.CreateExport(t.Context(), "x", 60*64<<10))
		x := r.export("x")
		for i := int64(0); ; i++ { // until there is no more
			if err := x.WriteAt(t.Context(), make([]byte, 64<<10), i*64<<10, false); err != nil || i == 59 {
				break
			}
		}
		_ = x.Sync(t.Context())
		require.NoError(t, r.v.ResumeJob(t.Context(), id, ""))
		until(t, time.Minute, "blocked", func() bool { return r.job(id).BlockedReason != nil })
		commits := r.v.stats.commits.Load()
		time.Sleep(time.Minute)
		require.LessOrEqual(t, r.v.stats.commits.Load()-commits, int64(20), "it does not sleep")
		require.Contains(t, *r.job(id).BlockedReason, "space")
		r.addDisk(8<<20, gentle)
		until(t, time.Minute, "drained", r.jobEnded(id))
		r.requireStamped(s, 200, 1)
		s.Close()
		x.Close()
		require.NoError(t, r.close())
	})
}

// TestLastCopyOnASlowDiskIsSynced: what was written to a disk that is put aside for being slow, before
// it was, is made durable there when no other disk has it.
func TestLastCopyOnASlowDiskIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 3, size: 8 << 20, copies: 2, timing: gentle, opts: Options{ReadAhead: -1, FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s := r.fillExport(48)
		require.NoError(t, r.v.Offline(t.Context(), 2, false))
		for i := range int64(48) {
			require.NoError(t, s.WriteAt(t.Context(), stamped(int(i)*16, 1, 2), i*64<<10, false))
		}
		require.NoError(t, s.Sync(t.Context()))
		for i := range int64(48) {
			require.NoError(t, s.WriteAt(t.Context(), stamped(int(i)*16, 1, 3), i*64<<10, false))
		}
		time.Sleep(100 * time.Millisecond) // they are written out, and not synced
		r.v.changeState(r.v.dev(3), journal.Slow, "for a test", 1, "DEVICE_SLOW")
		require.NoError(t, s.Sync(t.Context()))
		for i := range int64(48) {
			p := make([]byte, blockSize)
			require.NoError(t, s.ReadAt(t.Context(), p, i*64<<10))
			require.Equal(t, stamped(int(i)*16, 1, 3), p)
		}
		require.NoError(t, r.v.SetOnline(t.Context(), 3, true))
		require.NoError(t, r.v.ReturnDevice(t.Context(), r.member(2, 0, r.disks[1])))
		require.False(t, r.v.maySitOut(r.v.dev(1)), "while others are catching up")
		until(t, time.Minute, "whole", func() bool { return r.v.Status().Degraded == 0 })
		require.Zero(t, r.v.Status().Lost)
		s.Close()
		require.NoError(t, r.v.checkCopies(t.Context()))
		require.NoError(t, r.close())
	})
}
