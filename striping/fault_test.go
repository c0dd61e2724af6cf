package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

var gentle = simdisk.Timing{ReadRate: 200e6, WriteRate: 100e6, PerOp: 20 * time.Microsecond, Latency: 200 * time.Microsecond}

// TestMirrorSurvivesOneDisk runs a load over two copies while one disk goes wrong in every way:
// no client sees an error, and everything reads as the model says, also after a crash.
func TestMirrorSurvivesOneDisk(t *testing.T) {
	faults := map[string]func(d *simdisk.Disk){
		"read errors": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnRead, Rate: 0.3, Sticky: true, Effect: faultdisk.Fail})
		},
		"write errors": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Rate: 0.3, Sticky: true, Effect: faultdisk.Fail})
		},
		"sync error":  func(d *simdisk.Disk) { d.FailNth(faultdisk.OnSync, 1, syscall.EIO, true) },
		"vanished":    func(d *simdisk.Disk) { d.Disappear() },
		"hangs":       func(d *simdisk.Disk) { d.HangAll(faultdisk.OnRead | faultdisk.OnWrite | faultdisk.OnSync) },
		"reads hang":  func(d *simdisk.Disk) { d.HangAll(faultdisk.OnRead) },
		"writes hang": func(d *simdisk.Disk) { d.HangAll(faultdisk.OnWrite) },
		"syncs hang":  func(d *simdisk.Disk) { d.HangAll(faultdisk.OnSync) },
		"lost writes": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Rate: 0.3, Sticky: true, Effect: faultdisk.Lose, Target: -1})
		},
		"rotten reads": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnRead, Rate: 0.3, Sticky: true, Effect: faultdisk.Corrupt, Target: -1})
		},
		"rotten writes": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Rate: 0.3, Sticky: true, Effect: faultdisk.Corrupt, Target: -1})
		},
		"misdirected": func(d *simdisk.Disk) {
			d.Add(faultdisk.Fault{On: faultdisk.OnWrite, Rate: 0.3, Sticky: true, Effect: faultdisk.Misdirect, Target: -1})
		},
		"goes read-only": func(d *simdisk.Disk) { d.ReadOnly() },
	}
	for name, inject := range faults {
		for _, disks := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s/%d disks", name, disks), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(7, uint64(disks)))
					r := newRig(t, rigConfig{disks: disks, copies: 2, timing: gentle,
						opts: Options{DirtyLimit: 256 << 10, FlushInterval: 50 * time.Millisecond, WriteAge: 5 * time.Millisecond, ReadAhead: -1}})
					const size = 8 * 64 << 10
					require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
					m := newModel(size)
					l := startLoad(r, m, rng, 2, 10*time.Millisecond)
					time.Sleep(200 * time.Millisecond)
					inject(r.disks[1])
					time.Sleep(60 * time.Second)
					synctest.Wait()
					l.stop.Store(true)
					r.disks[1].Faults.Clear()
					l.wg.Wait()
					for _, err := range l.errs {
						require.NoError(t, err)
					}
					require.NotZero(t, m.seq)
					require.Less(t, l.longest, 2*mirrorTimeout, "a client waited for the bad disk")
					e := r.export("e")
					require.NoError(t, e.Sync(t.Context()))
					m.flushed(m.mark())
					e.Close()
					r.crash(rng, simdisk.Random)
					r.open()
					e = r.export("e")
					p := make([]byte, blockSize)
					for range 2 {
						for i := range m.blocks {
							require.NoError(t, e.ReadAt(context.Background(), p, int64(i)*blockSize))
							require.NoError(t, m.check(p, i))
						}
					}
					e.Close()
					require.NoError(t, r.close())
				})
			})
		}
	}
}

// TestRecoveryPrefersNewest loses all writes in place to one of two disks, each without a word,
// before a power cut: a flush that succeeded holds nevertheless.
func TestRecoveryPrefersNewest(t *testing.T) {
	for disk := range 2 {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour}})
			s.write(0, 32, false)
			require.NoError(t, s.v.Flush(s.ctx))
			s.disks[disk].Add(faultdisk.Fault{On: faultdisk.OnWrite, Sticky: true, Effect: faultdisk.Lose})
			s.write(3, 4, false)
			s.sync()
			s.write(5, 4, false)
			s.sync()
			s.e.Close()
			s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepAll)
			s.open()
			verifyReopened(t, s.rig, s.m, false)
			require.NoError(t, s.close())
		})
	}
}

// TestRecoveryWaitsForMissingDisk opens a volume of one copy after a crash without the disk that
// holds what was being overwritten, and then with it.
func TestRecoveryWaitsForMissingDisk(t *testing.T) {
	for _, policy := range []simdisk.Policy{simdisk.KeepNone, simdisk.KeepAll, simdisk.KeepOnly(0)} {
		for _, meanwhile := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, rigConfig{disks: 2, copies: 1, timing: gentle, opts: Options{Degraded: true, FlushInterval: time.Hour, WriteAge: time.Millisecond}})
				s.write(0, 32, false)
				s.zero(12, 4, "trim")
				require.NoError(t, s.v.Flush(s.ctx))
				s.m.flushed(s.m.mark())
				for range 2 {
					s.write(3, 4, false)
					s.pause()
					s.write(19, 4, false)
					s.pause()
				}
				s.e.Close()
				s.crash(rand.New(rand.NewPCG(3, 4)), policy)
				for i := range s.disks {
					away := s.disks[i]
					s.disks[i] = nil
					s.open()
					if meanwhile {
						s.e = s.export("e")
						s.zero(1, 1, "trim")
						s.zero(17, 1, "trim")
						s.e.Close()
						require.NoError(t, s.v.Flush(s.ctx))
						s.m.flushedOnly(s.m.mark(), 1, 1)
						s.m.flushedOnly(s.m.mark(), 17, 1)
					}
					require.NoError(t, s.rig.close())
					s.disks[i] = away
				}
				s.open()
				verifyReopened(t, s.rig, s.m, false)
				require.NoError(t, s.rig.close())
			})
		}
	}
}

// TestBeyondBudget breaks both copies of a block, in each of several ways: the reader gets an
// error, never wrong or older bytes, and the neighbours are served.
func TestBeyondBudget(t *testing.T) {
	noise := func(s *script, disk int) {
		require.NoError(s.t, s.j.Scan(journal.SpaceChunk, func(k journal.Key, val []byte) error {
			rec, err := journal.ParseChunk(k, val)
			for _, p := range rec.Copies {
				if _, _, index := k.Parts(); int(p.Device)-1 == disk && index == 0 {
					block := stamped(4, 1, 77+uint32(disk)) // what might have stood there
					s.disks[disk].Poke(p.Off+4*blockSize, block)
				}
			}
			return err
		}))
	}
	t.Run("both rotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: 2})
			s.write(0, 32, false)
			s.sync()
			s.e.Close()
			require.NoError(t, s.rig.close())
			noise(s, 0)
			noise(s, 1)
			s.open()
			s.e = s.export("e")
			for range 3 {
				p := make([]byte, blockSize)
				require.ErrorIs(t, s.e.ReadAt(s.ctx, p, 4*blockSize), ErrUnreadable)
				require.ErrorIs(t, s.e.ReadAt(s.ctx, make([]byte, 8*blockSize), 0), ErrUnreadable)
				s.read(0, 4)
				s.read(5, 27)
				time.Sleep(time.Minute)
			}
			require.Zero(t, s.v.Status().Healed)
			s.write(4, 1, false)
			s.sync()
			s.read(0, 32)
			require.Empty(t, s.v.Status().Bad)
			require.NoError(t, s.v.checkCopies(s.ctx))
			s.e.Close()
			require.NoError(t, s.rig.close())
		})
	})
	// One disk misses a write that is flushed then; the power goes, and with it the other disk.
	t.Run("only the stale copy is left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, Degraded: true}})
			s.write(0, 32, false)
			require.NoError(t, s.v.Flush(s.ctx))
			s.m.flushed(s.m.mark())
			s.disks[0].FailNth(faultdisk.OnWrite, 1, nil, false)
			s.write(4, 2, false)
			s.sync()
			s.e.Close()
			s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepAll)
			away := s.disks[1]
			s.disks[1] = nil
			s.open()
			s.e = s.export("e")
			p := make([]byte, blockSize)
			for i := 4; i < 6; i++ {
				if s.e.ReadAt(s.ctx, p, int64(i)*blockSize) == nil {
					require.NoError(t, s.m.check(p, i))
				}
			}
			s.read(16, 16)
			s.e.Close()
			require.NoError(t, s.rig.close())
			s.disks[1] = away
			s.open()
			verifyReopened(t, s.rig, s.m, false)
			require.NoError(t, s.rig.close())
		})
	})
}

// TestHealingFromThreeCopies damages a block on two of three disks, by turns the same and
// different ones.
func TestHealingFromThreeCopies(t *testing.T) {
	for good := range 3 {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 3, copies: 3})
			s.write(0, 32, false)
			require.NoError(t, s.v.Flush(s.ctx))
			for i, d := range s.disks {
				if i != good {
					d.CorruptMedia(0, s.cfg.size, faultdisk.Garbage, rand.New(rand.NewPCG(uint64(i), 2)))
				}
			}
			for _, m := range s.v.devs() {
				s.v.bal.SetReadable(m.id, int(m.id) != good+1)
			}
			s.read(0, 32)
			time.Sleep(time.Minute)
			for _, m := range s.v.devs() {
				s.v.bal.SetReadable(m.id, int(m.id) == good+1)
			}
			for _, m := range s.v.devs() {
				for _, o := range s.v.devs() {
					s.v.bal.SetReadable(o.id, o == m)
				}
				s.read(0, 32)
				time.Sleep(time.Minute)
			}
			require.NoError(t, s.v.checkCopies(s.ctx))
			require.Equal(t, int64(64), s.v.Status().Healed)
			s.e.Close()
			require.NoError(t, s.rig.close())
		})
	}
}

// TestHealingAgainstWrites lets the write of a heal take long while clients overwrite the block.
func TestHealingAgainstWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s.write(0, 16, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.disks[0].CorruptMedia(0, s.cfg.size, faultdisk.Garbage, rand.New(rand.NewPCG(1, 2)))
		s.v.bal.SetReadable(2, false)
		s.disks[0].Add(faultdisk.Fault{On: faultdisk.OnWrite, Effect: faultdisk.Hang, Delay: time.Second})
		s.read(4, 1)
		time.Sleep(10 * time.Millisecond)
		s.write(4, 1, false)
		time.Sleep(10 * time.Millisecond)
		s.read(4, 1)
		s.sync()
		s.read(0, 16) // heals the rest
		time.Sleep(time.Minute)
		require.NoError(t, s.v.checkCopies(s.ctx))
		s.e.Close()
		require.NoError(t, s.rig.close())
	})
}

// TestHealingOntoHungDisk lets the disk that is being healed stop answering: flushes of the same
// chunk go on within the time that a mirror waits for a disk.
func TestHealingOntoHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s.write(0, 16, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.disks[0].CorruptMedia(0, s.cfg.size, faultdisk.Garbage, rand.New(rand.NewPCG(1, 2)))
		s.v.bal.SetReadable(2, false)
		s.disks[0].HangAll(faultdisk.OnWrite)
		s.read(4, 1)
		time.Sleep(10 * time.Millisecond)
		begun := time.Now()
		s.write(4, 1, false)
		s.sync()
		require.Less(t, time.Since(begun), 2*mirrorTimeout)
		s.disks[0].Faults.Clear()
		s.e.Close()
		require.NoError(t, s.rig.close())
	})
}

// TestRecoveryNeverGoesBehindFlush overwrites a block twice in place, with a flush between, on a
// mirror of which one disk lost the first overwrite; the power cut tears the second on the other
// disk. What was before the flush must not come back.
func TestRecoveryNeverGoesBehindFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s.write(0, 32, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.m.flushed(s.m.mark())
		lost := s.disks[0].Add(faultdisk.Fault{On: faultdisk.OnWrite, Sticky: true, Effect: faultdisk.Lose})
		s.write(3, 2, false)
		s.sync()
		s.write(3, 2, false)
		s.pause()
		require.Positive(t, lost.Seen())
		s.e.Close()
		s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.TearWrite(0, func(sector, of int) bool { return sector%2 == 0 }, simdisk.KeepAll))
		s.open()
		verifyReopened(t, s.rig, s.m, true)
		require.NoError(t, s.rig.close())
	})
}

// TestFailedOverwriteKeepsVersions lets an overwrite in place fail, a flush fail with it, and the
// next overwrite begin before the power goes: what was flushed before is still known.
func TestFailedOverwriteKeepsVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{disks: 1, copies: 1, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s.write(0, 32, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.m.flushed(s.m.mark())
		s.write(3, 2, false)
		s.sync()
		s.strict = false
		// The chunk cannot move: nothing of it can be read at the moment.
		s.disks[0].Add(faultdisk.Fault{On: faultdisk.OnRead, Sticky: true, Effect: faultdisk.Fail})
		failing := s.disks[0].FailNth(faultdisk.OnWrite, 1, nil, false)
		s.write(3, 2, false)
		s.sync()
		require.NotZero(t, s.failed)
		require.Equal(t, int64(1), failing.Seen())
		s.disks[0].HangAll(faultdisk.OnWrite)
		s.write(3, 1, false)
		again := make(chan error, 1)
		go func() { again <- s.e.Sync(s.ctx) }() // which tries once more
		s.pause()
		s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
		<-again // answered or not, it comes too late
		s.e.Close()
		s.open()
		verifyReopened(t, s.rig, s.m, false)
		require.NoError(t, s.rig.close())
	})
}

// TestRecoveryCatchesUpOnReturnedDisk recovers without one of two disks, brings it back, and takes
// the other away: never is more than one disk missing, so everything must be there.
func TestRecoveryCatchesUpOnReturnedDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		s.write(0, 32, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.m.flushed(s.m.mark())
		s.write(3, 4, false)
		s.pause()
		s.e.Close()
		behind := s.disks[0].Crash(nil, simdisk.KeepNone) // only the other disk has anything of the overwrite
		s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepAll)
		s.disks[0] = nil
		s.open()
		verifyReopened(t, s.rig, s.m, false)
		require.NoError(t, s.v.Flush(s.ctx))
		s.m.flushed(s.m.mark())
		require.NoError(t, s.rig.close())
		s.disks[0] = behind
		s.open()
		require.NoError(t, s.v.checkCopies(s.ctx))
		require.NoError(t, s.rig.close())
		s.disks[1] = nil
		s.open()
		verifyReopened(t, s.rig, s.m, false)
		require.NoError(t, s.rig.close())
	})
}

// TestRecoveryWithHungDisk opens a mirror whose copies a power cut left unequal while one disk
// does not answer: it starts without that disk.
func TestRecoveryWithHungDisk(t *testing.T) {
	for _, on := range []faultdisk.Ops{faultdisk.OnRead, faultdisk.OnWrite, faultdisk.OnSync, faultdisk.OnAll} {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, rigConfig{disks: 2, copies: 2, timing: gentle, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
			s.write(0, 32, false)
			require.NoError(t, s.v.Flush(s.ctx))
			s.m.flushed(s.m.mark())
			s.write(3, 4, false)
			s.write(20, 4, false)
			s.pause()
			s.e.Close()
			behind := s.disks[0].Crash(nil, simdisk.KeepNone)
			s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepAll)
			s.disks[0] = behind
			hang := behind.HangAll(on)
			opened := make(chan error, 1)
			begun := time.Now()
			go func() { opened <- s.tryOpen() }()
			select {
			case err := <-opened:
				require.NoError(t, err)
			case <-time.After(time.Hour):
				panic("the volume does not start")
			}
			t.Logf("%v: open took %v", on, time.Since(begun))
			require.Less(t, time.Since(begun), 2*time.Minute)
			s.e = s.export("e")
			s.settle()
			s.write(1, 4, false)
			s.sync()
			hang.Lift()
			time.Sleep(time.Minute)
			s.write(2, 4, false)
			s.sync()
			s.e.Close()
			s.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone)
			s.open()
			verifyReopened(t, s.rig, s.m, false)
			require.NoError(t, s.rig.close())
		})
	}
}
