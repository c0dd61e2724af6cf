package striping

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// slowly is of disks that take seconds to even out.
var slowly = simdisk.SSD(2e6, 2e6)

// unevenRig is a volume whose first disks hold all it has, for another one was added.
func unevenRig(t *testing.T, copies uint8, even bool) (*rig, *Export) {
	r := newRig(t, rigConfig{disks: 3, size: 16 << 20, copies: copies, timing: slowly, opts: Options{ReadAhead: -1, Rebalance: even}})
	e := r.fillExport(360 / int(copies))
	r.addDisk(16<<20, slowly)
	return r, e
}

// off is how far the fractions of free space lie apart.
func (r *rig) off() float64 {
	least, most := 1.0, 0.0
	for _, s := range r.v.shares() {
		free := 1 - float64(s.have)/float64(s.capacity)
		least, most = min(least, free), max(most, free)
	}
	return most - least
}

// TestRivalsQuietVolumeEvensOut: a volume that is left alone for ten minutes has the same share of each disk
// free, within two points, and moved no more than that took; one that was told not to has not.
func TestRivalsQuietVolumeEvensOut(t *testing.T) {
	t.Parallel() // see TestReturningDiskCatchesUp
	for _, copies := range []uint8{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			r, e := unevenRig(t, copies, true)
			require.Greater(t, r.off(), 0.3)
			f, err := r.v.ForecastRebalance(t.Context())
			require.NoError(t, err)
			time.Sleep(10 * time.Minute)
			require.LessOrEqual(t, r.off(), 0.02)
			jobs := r.v.Jobs()
			require.Len(t, jobs, 1)
			require.Equal(t, "done", jobs[0].State)
			require.Contains(t, jobs[0].Reason, byItself)
			require.LessOrEqual(t, float64(jobs[0].BytesDone), 1.05*float64(f.Bytes))
			time.Sleep(2 * time.Hour)
			require.Len(t, r.v.Jobs(), 1, "what is even is left alone")
			r.addDisk(16<<20, slowly)
			time.Sleep(10 * time.Minute)
			require.Len(t, r.v.Jobs(), 2)
			require.LessOrEqual(t, r.off(), 0.02)
			r.addDisk(16<<20, slowly)
			time.Sleep(45 * time.Minute)
			require.Len(t, r.v.Jobs(), 2, "one follows another within an hour")
			time.Sleep(15 * time.Minute)
			require.Len(t, r.v.Jobs(), 3)
			require.LessOrEqual(t, r.off(), 0.02)
			r.requireStamped(e, 360/int(copies), 1)
			e.Close()
			require.NoError(t, r.v.checkCopies(t.Context()))
			require.NoError(t, r.close())
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, e := unevenRig(t, 1, false)
		time.Sleep(3 * time.Hour)
		require.Empty(t, r.v.Jobs())
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestEveningWaitsForClients: it neither begins nor goes on while clients are at work, and says so; a
// trickle of requests does not stop it.
func TestEveningWaitsForClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, e := unevenRig(t, 2, true)
		busy := func(d time.Duration, chunks int) {
			rng := rand.New(rand.NewPCG(1, 1))
			p := make([]byte, r.cfg.chunk)
			for began := time.Now(); time.Since(began) < d; time.Sleep(500 * time.Millisecond) {
				for range chunks {
					require.NoError(t, e.ReadAt(t.Context(), p, rng.Int64N(180)*int64(len(p))))
				}
			}
		}
		busy(5*time.Minute, 4)
		require.Empty(t, r.v.Jobs())
		until(t, 2*time.Minute, "begun", func() bool { return len(r.v.Jobs()) == 1 && r.v.Jobs()[0].BytesDone > 0 })
		id := r.v.Jobs()[0].ID
		require.Equal(t, "running", r.job(id).State)
		busy(5*time.Second, 4)
		done := r.job(id).BytesDone
		busy(time.Minute, 4)
		require.Equal(t, done, r.job(id).BytesDone)
		require.NotNil(t, r.job(id).BlockedReason)
		require.Contains(t, *r.job(id).BlockedReason, "clients")
		_, err := r.v.Scrub(t.Context(), JobOptions{})
		require.NoError(t, err)
		until(t, time.Minute, "scrubbed beside it", r.jobEnded("scrub-2"))
		busy(5*time.Minute, 1)
		require.True(t, r.jobEnded(id)(), "a trickle stops it")
		require.LessOrEqual(t, r.off(), 0.02)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestEveningIsTheOperators: "rebalance start" makes it the operator's, which waits for nobody; one that is
// cancelled does not begin again within a day, a paused one goes on when it is resumed, also after a
// restart; none begins while a disk sits out.
func TestEveningIsTheOperators(t *testing.T) {
	begun := func(r *rig) string {
		until(r.t.(*testing.T), 3*time.Minute, "begun", func() bool { return len(r.v.Jobs()) > 0 && r.v.Jobs()[0].Ended == nil })
		return r.v.Jobs()[0].ID
	}
	synctest.Test(t, func(t *testing.T) {
		r, e := unevenRig(t, 2, true)
		id := begun(r)
		require.NoError(t, r.v.PauseJob(t.Context(), id, ""))
		e.Close()
		require.NoError(t, r.close())
		r.open()
		time.Sleep(10 * time.Minute)
		require.Len(t, r.v.Jobs(), 1)
		require.Equal(t, "paused", r.job(id).State)
		again, err := r.v.Rebalance(t.Context(), JobOptions{})
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Equal(t, "asked for", r.job(id).Reason)
		_, err = r.v.Rebalance(t.Context(), JobOptions{})
		require.ErrorIs(t, err, ErrConflict)
		until(t, 30*time.Second, "done before anybody is quiet", r.jobEnded(id))
		require.NoError(t, r.close())
	})
	synctest.Test(t, func(t *testing.T) {
		r, e := unevenRig(t, 2, true)
		id := begun(r)
		require.NoError(t, r.v.CancelJob(t.Context(), id, ""))
		e.Close()
		require.NoError(t, r.close())
		r.open()
		time.Sleep(2 * time.Hour)
		require.Len(t, r.v.Jobs(), 1)
		r.v.jobs.mu.Lock()
		r.v.jobs.list[0].rec.Ended = time.Now().Add(-23*time.Hour - 30*time.Minute)
		r.v.jobs.mu.Unlock()
		time.Sleep(20 * time.Minute)
		require.Len(t, r.v.Jobs(), 1)
		require.NoError(t, r.v.SetSlow(t.Context(), 2))
		time.Sleep(time.Hour)
		require.Len(t, r.v.Jobs(), 1)
		require.NoError(t, r.v.SetOnline(t.Context(), 2, true))
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, r.off(), 0.02)
		require.NoError(t, r.close())
	})
}

// TestRebuildGoesFirst: a rebuild does not wait for what a rebalance has under way beside clients that
// never pause.
func TestRebuildGoesFirst(t *testing.T) {
	t.Parallel() // see TestReturningDiskCatchesUp
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 4, size: 64 << 20, chunk: 256 << 10, copies: 2, timing: simdisk.SSD(50e6, 50e6), opts: Options{ReadAhead: -1}})
		e := r.fillExport(200)
		r.addDisk(64<<20, simdisk.SSD(50e6, 50e6))
		balance, err := r.v.Rebalance(t.Context(), JobOptions{})
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
		l := startReaders(e, 64, 16<<10)
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, r.v.Offline(t.Context(), devices.ID(4), false))
		rebuild, err := r.v.Rebuild(t.Context(), JobOptions{})
		require.NoError(t, err)
		until(t, 5*time.Second, "the rebuild gets on", func() bool { return r.job(rebuild).BytesDone > 0 })
		require.False(t, r.jobEnded(balance)())
		l.end(t)
		until(t, time.Minute, "rebuilt", r.jobEnded(rebuild))
		until(t, time.Minute, "even", r.jobEnded(balance))
		e.Close()
		require.NoError(t, r.close())
	})
}
