package names

import (
	"context"
	"errors"
	"syscall"
	"time"

	"ballast/journal"
)

// What has no name and no user any more is given back in the background, in two steps: the space
// of the data, once the journal knows that the name is gone (or that other content has replaced
// it); then the records. A crash in between leaves an inode without names, which the next open
// finds.

// reapAtOnce is how many inodes are given back with one flush.
const reapAtOnce = 256

// reapRetry is how long to wait after a failure.
const reapRetry = time.Second

func (t *Tree) reaper() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.reap:
		}
		more, err := true, error(nil)
		for more && err == nil {
			more, err = t.reapSome()
		}
		t.mu.Lock()
		close(t.reaped)
		t.reaped = make(chan struct{})
		t.mu.Unlock()
		if err != nil && t.ctx.Err() == nil && !t.dead.Load() {
			t.log.Error("names: giving space back", "err", err)
			timer := time.NewTimer(reapRetry)
			select {
			case <-t.ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
			poke(t.reap)
		}
	}
}

// dropLater hands the objects to the reaper that committed layers have made nobody's.
func (t *Tree) dropLater(layers []*layer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range layers {
		t.drops = append(t.drops, l.drops...)
	}
}

// take returns what can be given back now.
func (t *Tree) take() (orphans []*orphan, drops []uint64) {
	oldest := t.delta.oldest()
	t.mu.Lock()
	defer t.mu.Unlock()
	i, kept := 0, []*orphan(nil)
	for ; i < len(t.queue) && len(orphans) < reapAtOnce; i++ {
		if o := t.queue[i]; o.layer < oldest {
			orphans = append(orphans, o)
		} else {
			kept = append(kept, o)
		}
	}
	t.queue = append(t.queue[i:], kept...)
	n := min(len(t.drops), reapAtOnce)
	drops, t.drops = t.drops[:n:n], t.drops[n:]
	t.reaping = len(orphans) + len(drops)
	return orphans, drops
}

// reapSome gives something back; more tells that it did.
func (t *Tree) reapSome() (more bool, err error) {
	if t.dead.Load() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.reapErr = journal.ErrDead
		return false, t.reapErr
	}
	orphans, drops := t.take()
	if len(orphans)+len(drops) == 0 {
		return false, nil
	}
	defer func() {
		t.mu.Lock()
		t.reaping, t.reapErr = 0, err
		if err != nil { // again later
			t.dead.Store(t.dead.Load() || errors.Is(err, journal.ErrDead))
			t.queue = append(t.queue, orphans...)
			t.drops = append(t.drops, drops...)
		}
		t.mu.Unlock()
	}()
	objects := drops
	for _, o := range orphans {
		list, err := t.abandon(o)
		if err != nil {
			return false, err
		}
		objects = append(objects, list...)
	}
	if len(objects) > 0 {
		if err := t.v.DropFiles(t.ctx, objects); err != nil {
			return false, err
		}
	}
	for _, o := range orphans {
		if err := t.forgetInode(o); err != nil {
			return false, err
		}
	}
	return true, nil
}

// abandon ends the use of an orphan's data and returns its objects.
func (t *Tree) abandon(o *orphan) (objects []uint64, err error) {
	defer t.locks.lock(o.ino)()
	rec, err := t.inode(o.ino)
	if errors.Is(err, syscall.ESTALE) {
		return nil, nil // an attempt before went so far
	}
	if err != nil {
		return nil, err
	}
	if rec.Object != 0 {
		objects = append(objects, rec.Object)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[o.ino]
	if n == nil {
		return objects, nil
	}
	n.mu.Lock()
	objects = append(objects, n.old...)
	if number := n.data.file.Number(); number != rec.Object {
		objects = append(objects, number)
	}
	n.dirty, n.old = false, nil
	n.mu.Unlock()
	if t.dirty[n] {
		delete(t.dirty, n)
		t.unuseLocked(n)
	}
	return objects, nil
}

// forgetInode deletes the records of an inode whose data is gone.
func (t *Tree) forgetInode(o *orphan) error {
	if err := t.delta.wait(t.ctx); err != nil {
		return err
	}
	defer t.locks.lock(o.ino)()
	b := &journal.Batch{}
	rec, err := t.inode(o.ino)
	if errors.Is(err, syscall.ESTALE) {
		return nil
	}
	if err != nil {
		return err
	}
	if rec.Xattrs > 0 {
		if err := t.eachXattrs(o.ino, func(key journal.Key, _ journal.Xattrs) { b.Delete(key) }); err != nil {
			return err
		}
	}
	b.Delete(journal.InodeKey(uint64(o.ino)))
	t.delta.apply(b)
	t.delta.unmade(o.ino)
	t.inodes.Add(-1)
	t.mu.Lock()
	delete(t.orphans, o.ino)
	t.mu.Unlock()
	return nil
}

// reclaimable reports whether there is something to give back.
func (t *Tree) reclaimable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue)+len(t.drops)+t.reaping > 0
}

// reclaim waits until what nobody uses has been given back, and that is committed.
func (t *Tree) reclaim(ctx context.Context) error {
	if err := t.SyncDir(ctx, Root); err != nil {
		return err
	}
	for t.reclaimable() {
		t.mu.Lock()
		done := t.reaped
		t.mu.Unlock()
		poke(t.reap)
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.ctx.Done():
			return errClosed
		}
		t.mu.Lock()
		err := t.reapErr
		t.mu.Unlock()
		if err == nil {
			err = t.SyncDir(ctx, Root) // what came meanwhile
		}
		if err != nil {
			return err
		}
	}
	return t.SyncDir(ctx, Root)
}
