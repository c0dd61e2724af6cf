package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// Jobs are work that goes on for hours beside the clients' and outlives the daemon: drain, rebuild,
// replace, rebalance, scrub. A job's record says what is wanted; what is left to do is found in the
// placements themselves, so a crash costs what was under way and nothing else, and two jobs never
// disagree about what is where.
//
// One goroutine, runJobs, carries out the job that comes first: rebuild (data with too few copies),
// then drain and replace, then rebalance, then scrub. The others wait and say so. A job that cannot
// go on sleeps until a device, space or an operator changes something, or blockedRetry has passed.

// JobOptions are how a job is started.
type JobOptions struct {
	Reason string
	Pace   int64     // bytes per second at most; 0: as the background rules permit
	Since  time.Time // of a scrub: leave out what has not changed since then, unless zero
}

// JobStatus is a job as people and scripts look at it.
type JobStatus struct {
	ID            string     `json:"id"` // drain-14
	Kind          string     `json:"kind"`
	State         string     `json:"state"` // running, paused, done, cancelled, failed
	Devices       []string   `json:"devices"`
	Target        string     `json:"target,omitempty"`
	BytesTotal    int64      `json:"bytes_total"`
	BytesDone     int64      `json:"bytes_done"`
	Percent       float64    `json:"percent"`
	Rate          float64    `json:"rate_bytes_per_second"`
	SecondsLeft   *float64   `json:"seconds_left"` // null until it is known
	BlockedReason *string    `json:"blocked_reason"`
	Since         *time.Time `json:"since,omitempty"` // a scrub reads only what has changed since then
	Errors        int64      `json:"errors"`          // blocks that no copy could give
	Healed        int64      `json:"healed_blocks"`
	Reason        string     `json:"reason,omitempty"`
	Started       time.Time  `json:"started"`
	Ended         *time.Time `json:"ended,omitempty"`
}

var (
	// ErrConflict is returned for a job that another one stands against.
	ErrConflict = errors.New("another job stands against it")
	// ErrNoJob is returned for a job that does not exist, or is over.
	ErrNoJob = errors.New("no such job")
	// ErrNotEmpty is returned when a device that holds data is to be removed.
	ErrNotEmpty = errors.New("the device still holds data")
)

// job is a job of an open volume. Guarded by jobTable.mu but for what is said otherwise.
type job struct {
	rec     journal.Job
	blocked string
	cancel  context.CancelFunc // ends what is under way for it; nil: nothing is
	started time.Time          // of the work under way
	paced   int64              // bytes begun since then
	samples []jobSample        // of bytes done, oldest first
	saved   time.Time
	sized   bool // rec.Total counts what is left
	urgent  bool // clients may feel it; not guarded, it is set before the movers of a batch begin
}

type jobSample struct {
	at   time.Time
	done uint64
}

// jobTable is the jobs of a volume.
type jobTable struct {
	mu   sync.Mutex
	list []*job // by number; those that are over are kept for a while
	next uint64
	kick chan struct{}

	ctx    context.Context
	stop   context.CancelFunc
	ended  chan struct{}
	looked int64 // degraded chunks when an automatic rebuild last found nothing to do; -1: never
}

const (
	keptJobs     = 50
	blockedRetry = 10 * time.Second
	rateWindow   = 60 * time.Second
	honestAfter  = 30 * time.Second // of samples before a time that is left is told
	saveInterval = 5 * time.Second
)

var jobKinds = map[journal.JobKind]string{journal.JobDrain: "drain", journal.JobRebuild: "rebuild", journal.JobRebalance: "rebalance",
	journal.JobScrub: "scrub", journal.JobReplace: "replace"}

var jobStates = map[journal.JobState]string{journal.JobRunning: "running", journal.JobPaused: "paused", journal.JobDone: "done",
	journal.JobCancelled: "cancelled", journal.JobFailed: "failed"}

func (j *job) id() string { return fmt.Sprintf("%s-%d", jobKinds[j.rec.Kind], j.rec.Number) }

func (j *job) over() bool { return j.rec.State >= journal.JobDone }

// about reports whether j is about that device.
func (j *job) about(id devices.ID) bool { return slices.Contains(j.rec.Devices, uint16(id)) }

// empties reports whether the devices that j is about are to leave.
func (j *job) empties() bool {
	return j.rec.Kind == journal.JobDrain || j.rec.Kind == journal.JobReplace
}

// urgency orders jobs: the least goes first.
func (j *job) urgency() int {
	switch j.rec.Kind {
	case journal.JobRebuild:
		return 0
	case journal.JobDrain, journal.JobReplace:
		return 1
	case journal.JobRebalance:
		if j.tidies() {
			return 4
		}
		return 2
	}
	return 3
}

// initJobs reads the journal's jobs; called while the volume is being opened.
func (v *Volume) initJobs() error {
	t := &v.jobs
	t.kick = make(chan struct{}, 1)
	t.ended = make(chan struct{})
	t.ctx, t.stop = context.WithCancel(v.ctx)
	t.next, t.looked = 1, -1
	err := v.j.ScanFrom(journal.JobKey(0), func(k journal.Key, val []byte) error {
		if k.Space() != journal.SpaceJob {
			return errStop
		}
		rec, err := journal.ParseJob(k, val)
		if err != nil {
			return err
		}
		t.list = append(t.list, &job{rec: rec})
		t.next = rec.Number + 1
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// wake has runJobs look again.
func (t *jobTable) wake() {
	if t.kick != nil {
		poke(t.kick)
	}
}

// stopJobs ends what is under way for jobs; their records stay.
func (v *Volume) stopJobs() {
	v.jobs.stop()
	<-v.jobs.ended
}

// addJob makes a job durable and then known.
func (v *Volume) addJob(ctx context.Context, rec journal.Job) (*job, error) {
	t := &v.jobs
	t.mu.Lock()
	rec.Number = t.next
	t.next++
	t.mu.Unlock()
	rec.State, rec.Created, rec.Ended = journal.JobRunning, time.Now().UTC(), time.Unix(0, 0)
	j := &job{rec: rec}
	if err := v.saveJob(ctx, j); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.list = append(t.list, j)
	t.mu.Unlock()
	text := j.id()
	if rec.Reason != "" {
		text += ": " + rec.Reason
	}
	v.eventAlways(0, "JOB_STARTED", 0, text)
	v.makeWay()
	t.wake()
	return j, nil
}

// saveJob writes a job's record, and drops the oldest of those that are over.
func (v *Volume) saveJob(ctx context.Context, j *job) error {
	t := &v.jobs
	b := &journal.Batch{}
	t.mu.Lock()
	key := journal.JobKey(j.rec.Number)
	b.Put(key, j.rec.Pack(key))
	j.saved = time.Now()
	over := 0
	for _, o := range t.list {
		if o.over() {
			over++
		}
	}
	t.list = slices.DeleteFunc(t.list, func(o *job) bool {
		drop := over > keptJobs && o.over() && o != j
		if drop {
			over--
			b.Delete(journal.JobKey(o.rec.Number))
		}
		return drop
	})
	t.mu.Unlock()
	return v.j.Commit(ctx, b)
}

// endJob says that a job is over, and how.
func (v *Volume) endJob(j *job, s journal.JobState, how string) {
	t := &v.jobs
	t.mu.Lock()
	j.rec.State, j.rec.Ended, j.blocked = s, time.Now().UTC(), ""
	if how != "" {
		j.rec.Reason = how
	}
	if s == journal.JobDone {
		j.rec.Total = j.rec.Done
	}
	text := fmt.Sprintf("%s: %s, %d bytes", j.id(), jobStates[s], j.rec.Done)
	lost := j.rec.Errors
	t.mu.Unlock()
	severity := uint8(0)
	if lost > 0 {
		severity = 1
		text += fmt.Sprintf("; %d blocks could not be read from any copy", lost)
	}
	v.eventAlways(severity, "JOB_ENDED", 0, text)
	if err := v.saveJob(context.WithoutCancel(v.ctx), j); err != nil {
		v.log.Error("journal", "op", "end of a job", "job", j.id(), "err", err)
	}
}

// runJobs carries out the job that comes first, until the volume closes.
func (v *Volume) runJobs() {
	t := &v.jobs
	defer close(t.ended)
	for t.ctx.Err() == nil {
		if v.rebuildDue.Load() {
			v.startRebuild()
		}
		j, ctx, cancel := v.firstJob()
		wait := blockedRetry
		if j == nil {
			wait = time.Hour
			if v.startRebuild() || v.startEvening() {
				continue
			}
			if v.graceRuns() {
				wait = blockedRetry
			}
		} else {
			err := v.runJob(ctx, j)
			cancel()
			t.mu.Lock()
			j.cancel = nil
			over, paused := j.over(), j.rec.State == journal.JobPaused
			if err != nil && !over && !paused && t.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				j.blocked = err.Error()
			}
			blocked := j.blocked != "" && !over
			t.mu.Unlock()
			if !blocked {
				continue
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-t.ctx.Done():
		case <-t.kick:
		case <-timer.C:
		}
		timer.Stop()
		t.mu.Lock()
		for _, o := range t.list {
			o.blocked = ""
		}
		t.mu.Unlock()
	}
}

// firstJob returns the running job that comes first, of those that are not blocked.
func (v *Volume) firstJob() (*job, context.Context, context.CancelFunc) {
	t := &v.jobs
	t.mu.Lock()
	defer t.mu.Unlock()
	var first *job
	for _, j := range t.list {
		if j.rec.State == journal.JobRunning && j.blocked == "" && (first == nil || j.urgency() < first.urgency()) {
			first = j
		}
	}
	if first == nil {
		return nil, nil, nil
	}
	ctx, cancel := context.WithCancel(t.ctx)
	first.cancel = cancel
	first.started, first.paced = time.Now(), 0
	first.samples = nil
	return first, ctx, cancel
}

// runJob works on j until it is done, is interrupted, or cannot go on.
func (v *Volume) runJob(ctx context.Context, j *job) error {
	switch j.rec.Kind {
	case journal.JobScrub:
		return v.runScrub(ctx, j)
	case journal.JobRebalance:
		return v.runRebalance(ctx, j)
	}
	return v.runMoves(ctx, j)
}

// count adds to what a job has done, and writes it down now and then.
func (v *Volume) countJob(j *job, n int64) {
	t := &v.jobs
	now := time.Now()
	t.mu.Lock()
	j.rec.Done += uint64(n)
	if k := len(j.samples); k == 0 || now.Sub(j.samples[k-1].at) >= time.Second {
		j.samples = append(j.samples, jobSample{now, j.rec.Done})
		for len(j.samples) > 2 && now.Sub(j.samples[1].at) > rateWindow {
			j.samples = j.samples[1:]
		}
	}
	due := now.Sub(j.saved) >= saveInterval
	if due {
		j.saved = now
	}
	t.mu.Unlock()
	if due {
		if err := v.saveJob(v.ctx, j); err != nil && v.ctx.Err() == nil {
			v.log.Warn("journal", "op", "progress of a job", "job", j.id(), "err", err)
		}
	}
}

func (v *Volume) jobErrors(j *job, errs, healed int64) {
	v.jobs.mu.Lock()
	defer v.jobs.mu.Unlock()
	j.rec.Errors += uint64(errs)
	j.rec.Healed += uint64(healed)
}

// Jobs lists the jobs: those that are under way first, then the newest that are over.
func (v *Volume) Jobs() []JobStatus {
	t := &v.jobs
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []JobStatus
	var running *job
	for _, j := range t.list {
		if j.cancel != nil {
			running = j
		}
	}
	for _, over := range []bool{false, true} {
		for i := range t.list {
			j := t.list[i]
			if over {
				j = t.list[len(t.list)-1-i]
			}
			if j.over() == over {
				list = append(list, j.statusLocked(running))
			}
		}
	}
	return list
}

func (j *job) statusLocked(running *job) JobStatus {
	s := JobStatus{ID: j.id(), Kind: jobKinds[j.rec.Kind], State: jobStates[j.rec.State], Devices: []string{}, BytesTotal: int64(max(j.rec.Total, j.rec.Done)),
		BytesDone: int64(j.rec.Done), Errors: int64(j.rec.Errors), Healed: int64(j.rec.Healed), Reason: j.rec.Reason, Started: j.rec.Created}
	for _, d := range j.rec.Devices {
		s.Devices = append(s.Devices, devices.ID(d).String())
	}
	if j.rec.Target != 0 {
		s.Target = devices.ID(j.rec.Target).String()
	}
	if since := j.rec.Since; !since.IsZero() {
		s.Since = &since
	}
	if s.BytesTotal > 0 {
		s.Percent = 100 * float64(s.BytesDone) / float64(s.BytesTotal)
	}
	if j.over() {
		ended := j.rec.Ended
		s.Ended = &ended
		return s
	}
	if j.rec.State != journal.JobRunning {
		return s
	}
	if j.blocked != "" {
		reason := j.blocked
		s.BlockedReason = &reason
	} else if running != nil && running != j {
		reason := "it waits for " + running.id()
		s.BlockedReason = &reason
	}
	if k := len(j.samples); k > 1 && j == running {
		first := j.samples[0]
		took := time.Since(first.at)
		s.Rate = float64(j.rec.Done-first.done) / took.Seconds()
		if j.sized && took >= honestAfter && s.Rate > 0 && j.blocked == "" {
			left := float64(s.BytesTotal-s.BytesDone) / s.Rate
			s.SecondsLeft = &left
		}
	}
	return s
}

// find returns the job of that name that is not over; "" means the only one of kind, 0 of any kind.
func (t *jobTable) findLocked(id string, kind journal.JobKind) (*job, error) {
	var found []*job
	for _, j := range t.list {
		if !j.over() && (id == "" || id == j.id()) && (kind == 0 || kind == j.rec.Kind) {
			found = append(found, j)
		}
	}
	switch {
	case len(found) == 0 && id == "":
		return nil, fmt.Errorf("%w is under way", ErrNoJob)
	case len(found) == 0:
		return nil, fmt.Errorf("%s: %w is under way", id, ErrNoJob)
	case len(found) > 1:
		return nil, fmt.Errorf("there are several jobs: %w", ErrConflict)
	}
	return found[0], nil
}

// PauseJob has a job rest until ResumeJob; the ID may be "" for the only job of that kind.
func (v *Volume) PauseJob(ctx context.Context, id, kind string) error {
	return v.changeJob(ctx, id, kind, func(j *job) error {
		j.rec.State = journal.JobPaused
		return nil
	})
}

// ResumeJob has a paused job go on.
func (v *Volume) ResumeJob(ctx context.Context, id, kind string) error {
	return v.changeJob(ctx, id, kind, func(j *job) error {
		j.rec.State = journal.JobRunning
		return nil
	})
}

func kindOf(name string) journal.JobKind {
	for k, n := range jobKinds {
		if n == name {
			return k
		}
	}
	return 0
}

func (v *Volume) changeJob(ctx context.Context, id, kind string, change func(*job) error) error {
	t := &v.jobs
	t.mu.Lock()
	j, err := t.findLocked(id, kindOf(kind))
	if err == nil {
		err = change(j)
	}
	if err == nil && j.cancel != nil && j.rec.State != journal.JobRunning {
		j.cancel()
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	defer t.wake()
	return v.saveJob(ctx, j)
}

// ReverseJob cancels a drain or a replacement, and begins to move back what that had moved: a rebalance
// that is about these devices, whose ID it returns; "" if nothing had been moved yet.
func (v *Volume) ReverseJob(ctx context.Context, id, kind string) (string, error) {
	t := &v.jobs
	t.mu.Lock()
	j, err := t.findLocked(id, kindOf(kind))
	if err == nil && !j.empties() {
		err = fmt.Errorf("%s cannot be reversed, only a drain or a replacement can: %w", j.id(), ErrConflict)
	}
	t.mu.Unlock()
	if err == nil {
		err = v.conflicts(journal.JobRebalance)
	}
	if err == nil {
		err = v.CancelJob(ctx, j.id(), "")
	}
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	back := journal.Job{Kind: journal.JobRebalance, Devices: j.rec.Devices, Total: j.rec.Done, Pace: j.rec.Pace, Reason: "what " + j.id() + " moved goes back"}
	t.mu.Unlock()
	if back.Total == 0 {
		return "", nil
	}
	n, err := v.addJob(ctx, back)
	if err != nil {
		return "", err
	}
	return n.id(), nil
}

// CancelJob ends a job. What it has moved stays where it is now; devices that were to leave take
// part again.
func (v *Volume) CancelJob(ctx context.Context, id, kind string) error {
	t := &v.jobs
	t.mu.Lock()
	j, err := t.findLocked(id, kindOf(kind))
	if err != nil {
		t.mu.Unlock()
		return err
	}
	j.rec.State, j.rec.Ended = journal.JobCancelled, time.Now().UTC()
	if j.cancel != nil {
		j.cancel()
	}
	rec := j.rec
	t.mu.Unlock()
	v.eventAlways(0, "JOB_CANCELLED", 0, j.id())
	if j.empties() {
		for _, d := range rec.Devices {
			if m := v.dev(devices.ID(d)); m != nil && !m.left {
				if s, _ := v.stateOf(m); s == journal.Draining {
					v.changeState(m, journal.Online, "its drain was cancelled", 0, "DEVICE_ONLINE")
				}
			}
		}
	}
	if rec.Kind == journal.JobRebuild {
		t.mu.Lock()
		t.looked = v.health.degraded.Load() // not at once again
		t.mu.Unlock()
	}
	defer t.wake()
	return v.saveJob(ctx, j)
}
