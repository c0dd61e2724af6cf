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
