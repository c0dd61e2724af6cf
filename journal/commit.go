package journal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger flushes once per transaction, not per group of them. So all commits go through one
// goroutine: while it commits a group, callers queue, and all that queued, up to the limits of one
// batch, is the next group. Under load a group grows until the flush is paid for; alone a batch
// waits for nobody.

// pending is a batch in the queue.
type pending struct {
	batch *Batch
	bytes int
	done  chan error // has room for the one result
}

// Commit is as in Journal. It returns ErrTooBig beyond the limits of a batch, ErrFull while the
// file system is too full for this batch (nothing was committed), the context's error if it ended
// while b was queued (nothing was committed) and ErrUnsettled beside it if it ended later. None
// of these is final. Once Commit has returned, unless with ErrUnsettled, the values' memory is
// the caller's again.
func (s *Store) Commit(ctx context.Context, b *Batch) error {
	if err := b.Check(); err != nil {
		return err
	}
	p := &pending{batch: b, bytes: b.Bytes(), done: make(chan error, 1)}
	s.mu.Lock()
	var err error
	switch {
	case s.closed:
		err = ErrClosed
	case s.dead != nil:
		err = s.dead
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case len(b.Ops) > 0:
		s.queue = append(s.queue, p)
		s.mu.Unlock()
		return s.await(ctx, p)
	}
	s.mu.Unlock()
	return err
}

func (s *Store) await(ctx context.Context, p *pending) error {
	s.wake()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.queue, p)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 {
		return context.Cause(ctx)
	}
	select {
	case err := <-p.done:
		return err
	default:
		return fmt.Errorf("%w: %w", ErrUnsettled, context.Cause(ctx))
	}
}

func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// commitLoop commits groups until the store is closed and the queue is empty.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	for {
		group, closed := s.take()
		if k := s.keeper(); k != nil && !closed {
			k.adoptMore()
		}
		if len(group) > 0 {
			s.commitGroup(group)
			continue
		}
		if closed {
			return
		}
		<-s.kick
	}
}

// take returns the next group: the front of the queue within the limits of one batch.
func (s *Store) take() (group []*pending, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ops, bytes := 0, 0, 0
	for _, p := range s.queue {
		ops += len(p.batch.Ops)
		bytes += p.bytes
		if n > 0 && (ops > MaxBatchOps || bytes > MaxBatchBytes) {
			break
		}
		n++
	}
	group = slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return group, s.closed
}

// commitGroup commits a group and tells its callers.
func (s *Store) commitGroup(group []*pending) {
	start := time.Now()
	s.mu.Lock()
	dead, before := s.dead, s.state
	s.mu.Unlock()
	if dead == nil {
		ops := 0
		for _, p := range group {
			ops += len(p.batch.Ops)
		}
		g := newGroupTxn(s, before, ops)
		err := g.run(group)
		g.txn.Discard()
		s.shedder.used(g.ops)
		if err != nil {
			s.die(err)
		} else if len(g.taken) > 0 {
			s.show(s.newView())
		}
		s.noteSpace()
		s.mu.Lock()
		dead = s.dead // also if Badger tripped the wire meanwhile: then nobody knows
		if dead == nil && len(g.taken) > 0 {
			s.state = g.after
			s.stats.count(len(g.taken), g.ops, g.bytes, time.Since(start))
		}
		s.stats.Refused += uint64(len(g.refused))
		s.mu.Unlock()
		if dead == nil {
			for _, p := range g.refused {
				p.done <- fmt.Errorf("%w: %s has %d MiB free", ErrFull, s.dir, s.space.free>>20)
			}
			group = g.taken
		}
	}
	for _, p := range group {
		p.done <- dead
	}
}

// keeper returns who keeps the copies, nil if there are none.
func (s *Store) keeper() *keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies
}

func (s *Store) noteSpace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.DiskBytes, s.stats.FreeBytes, s.stats.BallastBytes = s.space.store, s.space.free, s.space.ballast
}

// groupTxn is the transaction of one group. It knows of each key it touched whether there is a
// record now, and its hash, because state sums over these.
type groupTxn struct {
	s          *Store
	txn        *badger.Txn
	known      map[Key]held
	entries    []badger.Entry // room for those of the ops
	keys       []byte         // and for their keys
	before     State
	after      State
	taken      []*pending
	refused    []*pending
	ops, bytes int // of taken
}

// held is what the committer knows of a key.
type held struct {
	there bool
	hash  Digest // if there
}

func newGroupTxn(s *Store, before State, ops int) *groupTxn {
	return &groupTxn{s: s, txn: s.db.NewTransaction(true), known: make(map[Key]held, ops), before: before, after: before,
		entries: make([]badger.Entry, 0, ops), keys: make([]byte, 0, ops*len(Key{}))}
}

// run commits the batches of the group that there is room for.
func (g *groupTxn) run(group []*pending) error {
	room, err := g.s.space.check()
	if err != nil {
		return err
	}
	for _, p := range group {
		ok := room == roomForAll
		if room == roomForChanges {
			adds, err := g.adds(p.batch)
			if err != nil {
				return err
			}
			ok = !adds
		}
		if !ok {
			g.refused = append(g.refused, p)
			continue
		}
		g.taken = append(g.taken, p)
		g.ops += len(p.batch.Ops)
		g.bytes += p.bytes
		for i := range p.batch.Ops {
			if err := g.apply(&p.batch.Ops[i]); err != nil {
				return err
			}
		}
	}
	if len(g.taken) == 0 {
		return nil
	}
	return g.finish()
}

// adds says whether b puts records that are not there.
func (g *groupTxn) adds(b *Batch) (bool, error) {
	mine := map[Key]bool{}
	for i := range b.Ops {
		op := &b.Ops[i]
		there, ok := mine[op.Key]
		if !ok {
			h, err := g.look(op.Key)
			if err != nil {
				return false, err
			}
			there = h.there
		}
		if op.Value != nil && !there {
			return true, nil
		}
		mine[op.Key] = op.Value != nil
	}
	return false, nil
}

// look returns what is at key now, within the group.
func (g *groupTxn) look(key Key) (held, error) {
	if h, ok := g.known[key]; ok {
		return h, nil
	}
	h, ok := g.s.hashes.get(key)
	if !ok {
		item, err := g.txn.Get(key[:])
		switch {
		case err == badger.ErrKeyNotFound:
		case err != nil:
			return h, err
		default:
			h.there = true
			if err := item.Value(func(v []byte) error {
				h.hash = RecordDigest(key, v)
				return nil
			}); err != nil {
				return h, err
			}
		}
	}
	g.known[key] = h
	return h, nil
}

func (g *groupTxn) apply(op *Op) error {
	if op.Key.Space() == SpaceChunk && g.s.placements.Load() != nil {
		g.s.placements.Store(nil)
	}
	old, err := g.look(op.Key)
	if err != nil {
		return err
	}
	if old.there {
		g.after.Count--
		g.after.Digest = g.after.Digest.Sub(old.hash)
	}
	if op.Value == nil {
		g.known[op.Key] = held{}
		if !old.there { // also spares a tombstone
			return nil
		}
		return g.txn.Delete(g.key(op))
	}
	h := held{true, RecordDigest(op.Key, op.Value)}
	g.after.Count++
	g.after.Digest = g.after.Digest.Add(h.hash)
	g.known[op.Key] = h
	g.entries = append(g.entries, badger.Entry{Key: g.key(op), Value: op.Value})
	return g.txn.SetEntry(&g.entries[len(g.entries)-1])
}

// key returns the op's key in memory that the transaction may keep.
func (g *groupTxn) key(op *Op) []byte {
	g.keys = append(g.keys, op.Key[:]...)
	return slices.Clip(g.keys[len(g.keys)-len(op.Key):])
}

// finish makes the group durable: in the store, and beside it in the copies.
func (g *groupTxn) finish() error {
	g.after.Seq++
	ops := make([]Op, 0, g.ops)
	for _, p := range g.taken {
		ops = append(ops, p.batch.Ops...)
	}
	if err := g.trace(ops); err != nil {
		return err
	}
	k := g.s.keeper()
	if k != nil {
		if err := k.group(g, ops); err != nil {
			return err
		}
	}
	if err := g.write(); err != nil {
		return err
	}
	if k != nil {
		k.wait(g.after.Seq)
	}
	return nil
}

// trace notes which keys the group changes.
func (g *groupTxn) trace(ops []Op) error {
	t := trace{seq: g.after.Seq, before: g.before}
	if len(ops) <= traceMax {
		for i := range ops {
			t.keys = append(t.keys, ops[i].Key)
		}
	} else {
		t.seq = 0 // it tells of nothing
	}
	key := traceKey(g.after.Seq)
	return g.txn.Set(key[:], t.pack(key))
}

// write adds the journal's own record and commits to the store.
func (g *groupTxn) write() error {
	own := metaKey
	if err := g.txn.Set(own[:], (&meta{g.after, g.s.uuid}).pack()); err != nil {
		return err
	}
	if err := g.s.commit(g.txn); err != nil {
		return err
	}
	for key, h := range g.known {
		g.s.hashes.put(key, h)
	}
	return nil
}

// hashCache keeps the hashes of keys changed lately, so that changing them again need not read
// them: two maps, of which the older goes when the newer is full.
type hashCache struct {
	young, old map[Key]held
}

// hashCacheSize is the size of one of the maps; both take some 5 MiB.
const hashCacheSize = 32 << 10

func (c *hashCache) get(key Key) (held, bool) {
	if h, ok := c.young[key]; ok {
		return h, true
	}
	h, ok := c.old[key]
	return h, ok
}

func (c *hashCache) put(key Key, h held) {
	if c.young == nil || len(c.young) >= hashCacheSize {
		c.old, c.young = c.young, c.old
		if clear(c.young); c.young == nil {
			c.young = make(map[Key]held, 64)
		}
	}
	c.young[key] = h
}
