package striping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ballast/journal"
)

// A volume evens out by itself what its devices hold, once clients have been quiet for a minute and a
// device is more than rebalanceStart off its share: after one was added, or when clients wrote so much
// that the fast ones got more. The job is a rebalance like any other, but comes after every other job, and
// moves something only while clients are quiet. An operator's "rebalance start" makes it his own.
//
// What is less than rebalanceStart off is left: it is not worth the wear, and grows or goes with what is
// written next. Nor does one follow another within an hour, or one that was cancelled within a day.

const (
	quietFor     = time.Minute
	quietRate    = 256 << 10 // bytes per second up to which clients are quiet: a log is written somewhere always
	eveningApart = time.Hour
	eveningNever = 24 * time.Hour // after one was cancelled

	byItself = "by itself" // begins the reason of a job that the volume started for tidiness
)

// errClients blocks a job that waits for clients to be quiet.
var errClients = errors.New("it waits until clients have been quiet for a minute")

// quiet tells whether clients have been so for a while. The watch looks, every second.
type quiet struct {
	is    atomic.Bool
	moved int64         // bytes of clients when it looked last
	lasts time.Duration // since they moved more than that
	asked time.Duration // lasts, when the jobs were asked last
}

// lookForQuiet takes in what clients did in the time that passed, and has runJobs look whether there is
// something to even out.
func (v *Volume) lookForQuiet(passed time.Duration) {
	q := &v.quiet
	moved := v.stats.readBytes.Load() + v.stats.writtenBytes.Load()
	busy := float64(moved-q.moved) > quietRate*passed.Seconds()
	q.moved = moved
	if busy {
		q.lasts, q.asked = 0, 0
		q.is.Store(false)
		return
	}
	if q.lasts += passed; q.lasts < quietFor || q.lasts-q.asked < quietFor {
		return
	}
	q.asked = q.lasts
	q.is.Store(true)
	v.jobs.wake()
}

// startEvening starts a rebalance if clients are quiet and it is worth it, and reports whether it did.
func (v *Volume) startEvening() bool {
	if !v.opts.Rebalance || !v.quiet.is.Load() || v.health.degraded.Load() > 0 {
		return false
	}
	for _, m := range v.devs() {
		if s, _ := v.stateOf(m); s != journal.Online && s != journal.Drained {
			return false
		}
	}
	t := &v.jobs
	t.mu.Lock()
	busy := slices.ContainsFunc(t.list, func(j *job) bool {
		apart := eveningApart
		if j.rec.State == journal.JobCancelled {
			apart = eveningNever
		}
		return !j.over() || j.rec.Kind == journal.JobRebalance && time.Since(j.rec.Ended) < apart
	})
	t.mu.Unlock()
	if busy {
		return false
	}
	worst, move := imbalance(v.shares())
	if worst <= rebalanceStart || move < int64(v.info.ChunkSize) {
		return false
	}
	_, err := v.addJob(t.ctx, journal.Job{Kind: journal.JobRebalance, Total: uint64(move),
		Reason: fmt.Sprintf("%s: a device is %.0f %% of its space off its share", byItself, 100*worst)})
	return err == nil
}

// tidies reports whether the volume began j by itself for tidiness: it can wait for anything. Called with
// jobTable.mu.
func (j *job) tidies() bool {
	return j.rec.Kind == journal.JobRebalance && strings.HasPrefix(j.rec.Reason, byItself)
}

// mayGoOn returns why j must not begin to move another chunk now, if so.
func (v *Volume) mayGoOn(j *job) error {
	if j.rec.Kind != journal.JobRebuild && v.rebuildDue.Load() || j.rec.Kind == journal.JobRebalance && v.moreUrgent(j) {
		return errYield
	}
	v.jobs.mu.Lock()
	defer v.jobs.mu.Unlock()
	if j.tidies() && !v.quiet.is.Load() {
		return errClients
	}
	return nil
}

// makeWay lets a rebalance end what it has under way for a job that is more urgent: beside clients that never
// pause it would wait for ever, and the other job with it.
func (v *Volume) makeWay() {
	t := &v.jobs
	t.mu.Lock()
	runs := slices.ContainsFunc(t.list, func(j *job) bool { return j.cancel != nil && j.rec.Kind == journal.JobRebalance })
	t.mu.Unlock()
	if runs {
		v.setUrgency(&job{}, false)
	}
}
