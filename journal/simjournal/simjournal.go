package simjournal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"ballast/journal"
)

// Options of a journal; the zero value commits at once.
type Options struct {
	// Latency returns how long the flush takes that b is the first to wait for; nil is no time.
	// It is called with the journal's lock held, so one at a time.
	Latency func(b *journal.Batch) time.Duration
}

// ErrInjected is the cause of the failures that FailAt makes.
var ErrInjected = errors.New("injected failure")

// Counters count what a journal was asked for since New or Crash.
type Counters struct {
	Commits  uint64 // acknowledged
	Refused  uint64 // with ErrFull or ErrTooBig
	Failed   uint64 // with ErrDead
	Ops      uint64 // of acknowledged commits
	Bytes    uint64 // of acknowledged commits
	Gets     uint64
	Scans    uint64
	InFlight int // now
}

// Journal is a journal in memory.
type Journal struct {
	opts Options

	mu       sync.Mutex
	records  map[journal.Key][]byte // durable; values are never changed
	state    journal.State
	inFlight []*commit // in order; INVARIANT: due never decreases along it
	dead     error     // why Commit fails for good
	died     chan struct{}
	closed   bool
	full     bool
	failAt   uint64 // the number of the commit that fails; 0: none
	begun    uint64
	hang     chan struct{} // nil: no hang; closed when it ends
	running  time.Time     // end of the flush that runs
	queued   time.Time     // end of the one after it
	counters Counters
}

var _ journal.Journal = (*Journal)(nil)

// commit is a batch in flight.
type commit struct {
	ops  []journal.Op
	due  time.Time
	fail bool
	done bool // applied, or dead
}

// New returns an empty journal.
func New(opts Options) *Journal {
	return &Journal{opts: opts, records: map[journal.Key][]byte{}, died: make(chan struct{})}
}

// Commit is as in journal.Journal.
func (j *Journal) Commit(ctx context.Context, b *journal.Batch) error {
	if err := b.Check(); err != nil {
		j.mu.Lock()
		j.counters.Refused++
		j.mu.Unlock()
		return err
	}
	c, err := j.begin(ctx, b)
	if c == nil {
		return err
	}
	if err := j.wait(ctx, c); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for !c.done {
		j.settleFirstLocked()
	}
	if c.fail {
		j.counters.Failed++
		return j.dead
	}
	j.counters.Commits++
	j.counters.Ops += uint64(len(c.ops))
	j.counters.Bytes += uint64(b.Bytes())
	return nil
}

// begin puts b in flight; it returns no commit if there is nothing to wait for.
func (j *Journal) begin(ctx context.Context, b *journal.Batch) (*commit, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return nil, journal.ErrClosed
	case j.dead != nil:
		j.counters.Failed++
		return nil, j.dead
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case len(b.Ops) == 0:
		return nil, nil
	case j.full && j.addsLocked(b):
		j.counters.Refused++
		return nil, journal.ErrFull
	}
	j.begun++
	c := &commit{ops: slices.Clone(b.Ops), fail: j.begun == j.failAt}
	for i, op := range c.ops {
		if op.Value != nil {
			c.ops[i].Value = append([]byte{}, op.Value...)
		}
	}
	if j.opts.Latency != nil {
		c.due = j.dueLocked(b)
	}
	j.inFlight = append(j.inFlight, c)
	return c, nil
}

// dueLocked returns the end of the flush that takes b along: one that starts now, or the one
// after that which runs.
func (j *Journal) dueLocked(b *journal.Batch) time.Time {
	now := time.Now()
	if !now.Before(j.queued) {
		j.queued = now.Add(j.opts.Latency(b))
		j.running = j.queued
		return j.queued
	}
	if !now.Before(j.running) {
		j.running = j.queued
	}
	if j.queued.Equal(j.running) {
		j.queued = j.running.Add(j.opts.Latency(b))
	}
	return j.queued
}

// addsLocked says whether b puts records that are not there, neither durable nor in flight.
func (j *Journal) addsLocked(b *journal.Batch) bool {
	there := map[journal.Key]bool{}
	note := func(ops []journal.Op) (adds bool) {
		for _, op := range ops {
			old, known := there[op.Key]
			if !known {
				_, old = j.records[op.Key]
			}
			adds = adds || op.Value != nil && !old
			there[op.Key] = op.Value != nil
		}
		return adds
	}
	for _, c := range j.inFlight {
		note(c.ops)
	}
	return note(b.Ops)
}

// wait returns when c is due and nothing hangs, or the journal died, or ctx ended.
func (j *Journal) wait(ctx context.Context, c *commit) error {
	var due <-chan time.Time
	if wait := time.Until(c.due); !c.due.IsZero() && wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	for {
		if due != nil {
			select {
			case <-due:
				due = nil
			case <-j.died:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", journal.ErrUnsettled, context.Cause(ctx))
			}
		}
		j.mu.Lock()
		hang, done := j.hang, c.done
		j.mu.Unlock()
		if hang == nil || done {
			return nil
		}
		select {
		case <-hang:
		case <-j.died:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", journal.ErrUnsettled, context.Cause(ctx))
		}
	}
}

// settleFirstLocked makes the oldest batch in flight durable, or fails.
func (j *Journal) settleFirstLocked() {
	c := j.inFlight[0]
	if c.fail {
		j.dieLocked(fmt.Errorf("%w: %w", journal.ErrDead, ErrInjected))
		return
	}
	j.applyLocked(c.ops)
	c.done = true
	j.inFlight = j.inFlight[1:]
}

func (j *Journal) applyLocked(ops []journal.Op) {
	for _, op := range ops {
		if old, ok := j.records[op.Key]; ok {
			j.state.Digest = j.state.Digest.Sub(journal.RecordDigest(op.Key, old))
			j.state.Count--
			delete(j.records, op.Key)
		}
		if op.Value != nil {
			j.state.Digest = j.state.Digest.Add(journal.RecordDigest(op.Key, op.Value))
			j.state.Count++
			j.records[op.Key] = op.Value
		}
	}
	j.state.Seq++
}

// dieLocked fails all that is in flight and all that comes; what is in flight stays for Crash.
func (j *Journal) dieLocked(why error) {
	if j.dead != nil {
		return
	}
	j.dead = why
	for _, c := range j.inFlight {
		c.fail, c.done = true, true
	}
	close(j.died)
}

// Get is as in journal.Journal.
func (j *Journal) Get(key journal.Key) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counters.Gets++
	if j.closed {
		return nil, journal.ErrClosed
	}
	v, ok := j.records[key]
	if !ok {
		return nil, journal.ErrNotFound
	}
	return append([]byte{}, v...), nil
}

// GetAppend is Get into the memory behind dst.
func (j *Journal) GetAppend(dst []byte, key journal.Key) ([]byte, error) {
	v, err := j.Get(key)
	return append(dst, v...), err
}

// Scan is as in journal.Journal.
func (j *Journal) Scan(space journal.Space, fn func(journal.Key, []byte) error) error {
	return j.ScanFrom(journal.MakeKey(space, 0, 0), fn)
}

// ScanFrom is as in journal.Journal.
func (j *Journal) ScanFrom(from journal.Key, fn func(journal.Key, []byte) error) error {
	j.mu.Lock()
	j.counters.Scans++
	if j.closed {
		j.mu.Unlock()
		return journal.ErrClosed
	}
	type record struct {
		key   journal.Key
		value []byte
	}
	var found []record
	for k, v := range j.records {
		if k.Space() == from.Space() && slices.Compare(k[:], from[:]) >= 0 {
			found = append(found, record{k, v})
		}
	}
	j.mu.Unlock()
	slices.SortFunc(found, func(a, b record) int { return slices.Compare(a.key[:], b.key[:]) })
	for _, r := range found {
		if err := fn(r.key, slices.Clone(r.value)); err != nil {
			return err
		}
	}
	return nil
}

// Cuts is as in journal.Store: it parts the records of a space into four.
func (j *Journal) Cuts(space journal.Space) (cuts []journal.Key, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var keys []journal.Key
	for k := range j.records {
		if k.Space() == space {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b journal.Key) int { return slices.Compare(a[:], b[:]) })
	for i := 1; i < 4 && len(keys) >= 4; i++ {
		cuts = append(cuts, keys[len(keys)*i/4])
	}
	return cuts, nil
}

// State is as in journal.Journal.
func (j *Journal) State() journal.State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Close is as in journal.Journal. Batches in flight fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dieLocked(journal.ErrClosed)
	j.closed = true
	return nil
}

// Crash is a power cut: it returns the journal that is found afterwards, with its own options
// and no injected faults. Commits that wait get ErrDead.
func (j *Journal) Crash(rng *rand.Rand) *Journal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.crashLocked(rng.IntN(len(j.inFlight) + 1))
}

// CrashKeeping is Crash with the first keep batches in flight; see Counters.InFlight.
func (j *Journal) CrashKeeping(keep int) *Journal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.crashLocked(keep)
}

// Outcome returns what CrashKeeping would, and goes on as if nothing had happened, so that many
// outcomes of one moment can be looked at.
func (j *Journal) Outcome(keep int) *Journal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.outcomeLocked(keep)
}

func (j *Journal) crashLocked(keep int) *Journal {
	j.dieLocked(fmt.Errorf("%w: crashed", journal.ErrDead))
	return j.outcomeLocked(keep)
}

func (j *Journal) outcomeLocked(keep int) *Journal {
	after := New(j.opts)
	after.records, after.state = maps.Clone(j.records), j.state
	for _, c := range j.inFlight[:keep] {
		after.applyLocked(c.ops)
	}
	return after
}

// FailAt makes the n-th Commit from now (1: the next) the one with which the journal dies.
// Batches of no changes and refused ones do not count.
func (j *Journal) FailAt(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failAt = j.begun + uint64(n)
}

// SetFull makes the journal refuse batches that add records, or take them again.
func (j *Journal) SetFull(full bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.full = full
}

// Hang makes all commits, also those in flight, wait until resume is called.
func (j *Journal) Hang() (resume func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.hang != nil {
		panic("simjournal: Hang during Hang")
	}
	j.hang = make(chan struct{})
	return sync.OnceFunc(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		close(j.hang)
		j.hang = nil
	})
}

// Counters returns what was counted so far.
func (j *Journal) Counters() Counters {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.counters
	c.InFlight = len(j.inFlight)
	return c
}
