package striping

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ballast/devices"
	"ballast/journal"

	"golang.org/x/sync/errgroup"
)

// A disk that is an older image of a device may lack anything, not only what the journal says that the
// device missed. Before it is used again all copies on it are journaled as stale; the rebuild then keeps
// the blocks that are what they should be, and writes the others anew from other copies. A copy that is
// the last one is left as it is: block sums tell what of it is true.

const (
	resyncBatch   = 4096             // chunks that are looked up at once
	resyncAtOnce  = 128              // that are committed together
	resyncPatient = 30 * time.Second // with a chunk that is busy
)

// ReturnStale is ReturnDevice for a disk of which nothing is to be believed that was not compared.
func (v *Volume) ReturnStale(ctx context.Context, in Member) error {
	m, err := v.member(devices.ID(in.Record.ID))
	if err != nil {
		return err
	}
	if s, _ := v.stateOf(m); s != journal.Missing && s != journal.Failed {
		return &StateError{fmt.Sprintf("device %v is in use", m.id)}
	}
	if err := v.doubt(ctx, m.id); err != nil {
		return err
	}
	return v.ReturnDevice(ctx, in)
}

// doubt makes all copies on a device stale, durably, but those that are the last.
func (v *Volume) doubt(ctx context.Context, id devices.ID) error {
	next := func(places []place) *action {
		others := 0
		act := (*action)(nil)
		for i := range places {
			switch {
			case places[i].stale:
			case places[i].dev == id:
				act = &action{actDoubt, i}
			default:
				others++
			}
		}
		if others == 0 {
			return nil
		}
		return act
	}
	for from := journal.MakeKey(journal.SpaceChunk, 0, 0); ; {
		var keys []chunkKey
		err := v.scanChunksFrom(ctx, from, func(key chunkKey, _ *journal.Chunk, places []place) bool {
			if next(places) != nil {
				keys = append(keys, key)
			}
			return len(keys) < resyncBatch
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		from = keys[len(keys)-1].record()
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(resyncAtOnce)
		for _, key := range keys {
			g.Go(func() error { return v.doubtChunk(ctx, &moveTask{key: key, next: next}) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if len(keys) < resyncBatch {
			return nil
		}
	}
}

func (v *Volume) doubtChunk(ctx context.Context, t *moveTask) error {
	for began := time.Now(); ; {
		err := v.move(ctx, t)
		if !errors.Is(err, errLater) {
			return err
		}
		if time.Since(began) > resyncPatient {
			return fmt.Errorf("%v is being written, or a crash left it unsettled: %w", t.key, ErrConflict)
		}
		if err := pause(ctx, 10*holdPause); err != nil {
			return err
		}
	}
}
