package striping

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

func (r *rig) deviceRecord(id devices.ID) journal.Device {
	r.t.Helper()
	_, recs, err := LoadConfig(r.j)
	require.NoError(r.t, err)
	return recs[id-1]
}

// fill writes the first size bytes of an export anew, in one go, and flushes.
func (r *rig) fill(e *Export, size int) {
	r.t.Helper()
	require.NoError(r.t, e.WriteAt(context.Background(), stamped(0, size/blockSize, 1), 0, false))
	require.NoError(r.t, e.Sync(context.Background()))
}

// TestSpeedsSurviveACrash: what was measured is known a minute later whatever happens, is written
// again only when it has changed, and the next life begins with it.
func TestSpeedsSurviveACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		const slow = 40e6
		var saved atomic.Int32
		r := newRig(t, rigConfig{disks: 2, size: 64 << 20, copies: 2, timing: simdisk.SSD(slow, slow), wrapJ: func(j journal.Journal) journal.Journal {
			return &hookJournal{Journal: j, beforeCommit: func(b *journal.Batch) {
				for _, op := range b.Ops {
					if space, _, _ := op.Key.Parts(); space == journal.SpaceDevice {
						saved.Add(1)
					}
				}
			}}
		}})
		require.Greater(t, r.devs[0].Rate(devices.Write), 10*slow, "a device that is not known looks good")
		require.NoError(t, r.v.CreateExport(ctx, "e", 16<<20))
		e := r.export("e")
		for range 4 {
			r.fill(e, 16<<20)
		}
		require.Zero(t, saved.Load())
		time.Sleep(learnInterval)
		synctest.Wait()
		require.EqualValues(t, 2, saved.Load(), "one record for each device")
		r.fill(e, 16<<20)
		time.Sleep(10 * learnInterval)
		synctest.Wait()
		require.EqualValues(t, 2, saved.Load(), "nothing has changed")

		e.Close()
		r.crash(rand.New(rand.NewPCG(1, 2)), simdisk.KeepNone)
		r.open()
		for _, d := range r.devs {
			require.InEpsilon(t, slow, d.Rate(devices.Write), 0.1)
		}
		require.NoError(t, r.close())
		require.EqualValues(t, 2, saved.Load(), "still as it was")
	})
}

// TestSpeedsSurviveAClose: a life of less than a minute is remembered as well.
func TestSpeedsSurviveAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 1, size: 64 << 20, timing: simdisk.SSD(40e6, 40e6)})
		require.NoError(t, r.v.CreateExport(context.Background(), "e", 16<<20))
		e := r.export("e")
		r.fill(e, 16<<20)
		e.Close()
		require.NoError(t, r.close())
		r.open()
		require.InEpsilon(t, 40e6, r.devs[0].Rate(devices.Write), 0.1)
		require.NoError(t, r.close())
	})
}

// TestFullJournalIsTold: status says so, and no longer a few seconds after there is space.
func TestFullJournalIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{disks: 2, opts: Options{WriteAge: time.Millisecond}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 1<<20))
		e := r.export("e")
		health := func() (codes []string) {
			for _, h := range r.v.Status().Health {
				codes = append(codes, h.Severity+" "+h.Code)
			}
			return codes
		}
		require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, true))
		for range 2 {
			r.j.SetFull(true)
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 2), 0, true), "an overwrite adds nothing")
			require.Empty(t, health())
			require.ErrorIs(t, r.v.CreateExport(ctx, "f", 1<<20), journal.ErrFull)
			require.Equal(t, []string{"critical JOURNAL_FULL"}, health())
			require.Equal(t, "critical", r.v.Status().State)
			require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 3), 0, true))
			time.Sleep(time.Minute)
			require.Equal(t, []string{"critical JOURNAL_FULL"}, health())
			r.j.SetFull(false)
			time.Sleep(fullRetry + time.Second)
			require.Empty(t, health())
			require.Equal(t, "ok", r.v.Status().State)
			time.Sleep(repeatAfter)
		}
		var codes []string
		for _, ev := range r.v.Events(0) {
			codes = append(codes, ev.Code)
		}
		require.Equal(t, []string{"JOURNAL_FULL", "JOURNAL_SPACE", "JOURNAL_FULL", "JOURNAL_SPACE"}, codes)
		e.Close()
		require.NoError(t, r.close())
		r.open()
		require.Len(t, r.v.Events(0), 4, "they were journaled when there was space")
		require.NoError(t, r.close())
	})
}

// TestRecordKeepsStateAndSpeeds: journaling one thing about a device does not undo another.
func TestRecordKeepsStateAndSpeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{disks: 3, size: 64 << 20, copies: 2, latency: 3 * time.Millisecond, timing: simdisk.SSD(40e6, 40e6)})
		require.NoError(t, r.v.CreateExport(ctx, "e", 16<<20))
		e := r.export("e")
		r.fill(e, 16<<20)
		r.v.learn(ctx)
		speeds := r.deviceRecord(1).SecondsPerByte
		require.NotZero(t, speeds)

		// A failure after the speeds.
		r.disks[0].Faults.Add(faultdisk.Fault{On: faultdisk.OnWrite | faultdisk.OnSync, Sticky: true, Effect: faultdisk.Fail, Err: syscall.ENXIO})
		r.fill(e, 16<<20)
		time.Sleep(time.Second)
		rec := r.deviceRecord(1)
		require.Equal(t, journal.Failed, rec.State)
		require.NotEmpty(t, rec.Reason)
		require.Equal(t, speeds, rec.SecondsPerByte)

		// Speeds after a failure, and at the same time as another.
		r.v.mu.Lock()
		r.v.dev(1).record.saved.SecondsPerOp = [4]float64{1, 1, 1, 1}
		r.v.dev(2).record.saved.SecondsPerOp = [4]float64{1, 1, 1, 1}
		r.v.mu.Unlock()
		go r.v.learn(ctx)
		go r.v.takeOut(r.v.dev(2), "pulled")
		time.Sleep(time.Second)
		require.Equal(t, rec, r.deviceRecord(1))
		rec = r.deviceRecord(2)
		require.Equal(t, journal.Failed, rec.State)
		require.Equal(t, "pulled", rec.Reason)
		require.NotZero(t, rec.SecondsPerByte)

		e.Close()
		require.NoError(t, r.close())
		require.Equal(t, rec, r.deviceRecord(2))
		r.open()
		require.Equal(t, "failed", r.v.Status().Devices[1].State)
		require.NoError(t, r.close())
	})
}
