package striping

import (
	"context"
	"errors"
	"sync"
	"time"

	"ballast/journal"
)

// watchedJournal is the volume's journal, and notes when it refuses what is new for lack of space.
type watchedJournal struct {
	journal.Journal
	v    *Volume
	kick chan struct{} // has one element when it became full

	mu    sync.Mutex
	since time.Time // full since; zero: it is not, as far as is known
}

func newWatchedJournal(v *Volume, j journal.Journal) *watchedJournal {
	return &watchedJournal{Journal: j, v: v, kick: make(chan struct{}, 1)}
}

// Commit implements journal.Journal.
func (w *watchedJournal) Commit(ctx context.Context, b *journal.Batch) error {
	err := w.Journal.Commit(ctx, b)
	switch {
	case errors.Is(err, journal.ErrDead):
		w.v.events.journalDead.Store(true)
	case errors.Is(err, journal.ErrFull):
		w.mu.Lock()
		first := w.since.IsZero()
		if first {
			w.since = time.Now()
		}
		w.mu.Unlock()
		if first {
			poke(w.kick)
		}
	}
	return err
}

func (w *watchedJournal) fullSince() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since
}

// fullRetry is how often a full journal is tried.
const fullRetry = 5 * time.Second

// run tells that the journal is full, and that it no longer is. Changes to what is there are taken
// by a full journal, so they prove nothing: it has space again when it takes a new record, and the
// one that is tried is the event that says it was full.
func (w *watchedJournal) run() {
	v := w.v
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-w.kick:
		}
		n, ev := v.events.add(journal.Event{Time: time.Now().UTC(), Severity: 2, Code: "JOURNAL_FULL",
			Message: "the journal's disk has no space: nothing new becomes durable"})
		v.log.Error("event", "code", ev.Code, "message", ev.Message)
		for w.Journal.Commit(v.ctx, eventBatch(n, &ev)) != nil {
			t := time.NewTimer(fullRetry)
			select {
			case <-v.ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		w.mu.Lock()
		w.since = time.Time{}
		w.mu.Unlock()
		v.event(0, "JOURNAL_SPACE", 0, "the journal's disk has space again")
	}
}
