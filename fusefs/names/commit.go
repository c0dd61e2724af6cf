package names

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"ballast/journal"
	"ballast/striping"
)

// committer commits layers of the delta, in rounds. Requests that arrive while a round is under
// way share the next one: one flush of all their files, and, if nothing is in the way, one journal
// commit of all that has changed, where data lies and what it is called.
//
// A round closes the open layer, makes the data durable of the files that are asked for or waited
// for, changes their records (in the layer that waits for them, or in one behind the closed ones),
// and commits the closed layers in order.
type committer struct {
	t *Tree

	mu     sync.Mutex
	queue  []*request
	closed bool
	work   chan struct{}
	quit   chan struct{}

	tries map[*node]int // failed settles of files that a layer waits for
}

// request asks for a round.
type request struct {
	nodes []*node // settle these
	all   bool    // settle all
	done  chan error
}

// Limits of a round.
const (
	settleAtOnce = 4000 // files in one layer
	waitTries    = 10   // rounds that a rename waits for data that cannot be made durable
	// replaceWait is how long a file that was cut to nothing may stay open, being written anew,
	// before what it has by then is settled.
	replaceWait = 30 * time.Second
)

var errClosed = errors.New("name space is closed")

func (c *committer) init(t *Tree) {
	c.t = t
	c.work, c.quit = make(chan struct{}, 1), make(chan struct{})
	c.tries = map[*node]int{}
	t.wg.Go(c.run)
}

func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.quit)
}

func (c *committer) ask(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errClosed
	}
	c.queue = append(c.queue, r)
	c.mu.Unlock()
	poke(c.work)
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sync makes everything durable that was done before it was called: data and names.
func (t *Tree) Sync(ctx context.Context) error { return t.commits.ask(ctx, &request{all: true}) }

// SyncDir makes the operations on names durable that were done before it was called, of this and
// all other directories; with a rename over an existing name also what it promises of data.
func (t *Tree) SyncDir(ctx context.Context, ino Ino) error {
	return t.commits.ask(ctx, &request{})
}

func (c *committer) run() {
	timer := time.NewTicker(c.t.opts.FlushInterval)
	defer timer.Stop()
	for {
		tick := false
		select {
		case <-c.quit:
			c.refuse()
			return
		case <-c.work:
		case <-c.t.delta.kick:
		case <-timer.C:
			tick = true
		}
		c.mu.Lock()
		requests := c.queue
		c.queue = nil
		c.mu.Unlock()
		if err := c.round(requests, tick); err != nil && len(requests) == 0 && !errors.Is(err, journal.ErrDead) {
			c.t.log.Error("names: background commit", "err", err)
		}
	}
}

// refuse answers what came too late.
func (c *committer) refuse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.queue {
		r.done <- errClosed
	}
	c.queue = nil
}

// round serves requests together and tells each its own result.
func (c *committer) round(requests []*request, tick bool) error {
	asked, idle := c.files(requests, tick)
	return c.settle(requests, asked, idle)
}

// files returns the files that a round is to settle, and which of them nobody asked for: these are not, if
// they turn out to be being written anew.
func (c *committer) files(requests []*request, tick bool) (asked map[*node]error, idle map[*node]bool) {
	asked, idle = map[*node]error{}, map[*node]bool{}
	all := false
	for _, r := range requests {
		all = all || r.all
		for _, n := range r.nodes {
			asked[n] = nil
		}
	}
	if all || tick {
		for _, n := range c.t.dirtyNodes(all) {
			if _, is := asked[n]; !is {
				asked[n], idle[n] = nil, !all
			}
		}
	}
	return asked, idle
}

func (c *committer) settle(requests []*request, asked map[*node]error, idle map[*node]bool) error {
	layers, added := c.t.delta.seal((len(asked) + settleAtOnce - 1) / settleAtOnce)
	s := &settling{t: c.t, layers: layers, into: map[*node]*layer{}, idle: idle}
	i := 0
	for n := range asked {
		s.into[n] = added[i/settleAtOnce]
		i++
	}
	for _, l := range layers {
		for n := range l.waits {
			delete(idle, n)
			if x := s.into[n]; x == nil || l.number < x.number {
				s.into[n] = l
			}
		}
	}
	failed := s.run()
	ready := c.ready(layers, failed)
	var err error
	if s.joined {
		c.done(ready, nil)
	} else {
		err = c.commit(ready)
	}
	if err == nil && len(ready) < len(layers) {
		for n := range layers[len(ready)].waits {
			err = errors.Join(err, failed[n])
		}
	}
	for _, r := range requests {
		errs := []error{err}
		if r.all {
			for n := range asked {
				errs = append(errs, failed[n])
			}
		}
		for _, n := range r.nodes {
			errs = append(errs, failed[n])
		}
		r.done <- errors.Join(errs...)
	}
	poke(c.t.reap)
	return err
}

// ready returns the layers that may be committed: those before the first that waits for data which
// is not durable. One that has waited often enough goes without: the file keeps its last durable
// content.
func (c *committer) ready(layers []*layer, failed map[*node]error) []*layer {
	for i, l := range layers {
		for n := range l.waits {
			err := failed[n]
			if err == nil {
				delete(c.tries, n)
				continue
			}
			if c.tries[n]++; c.tries[n] < waitTries && !errors.Is(err, striping.ErrLost) {
				return layers[:i]
			}
			c.t.log.Error("names: a rename is committed without the data of its file", "inode", n.ino, "err", err)
		}
	}
	return layers
}

// commit commits layers, as many at once as fit into a journal batch.
func (c *committer) commit(layers []*layer) error {
	for len(layers) > 0 {
		n, ops, bytes := 0, 0, int64(0)
		for n < len(layers) {
			l := layers[n]
			if n > 0 && (ops+len(l.ops) > journal.MaxBatchOps || bytes+l.bytes > journal.MaxBatchBytes) {
				break
			}
			ops, bytes, n = ops+len(l.ops), bytes+l.bytes, n+1
		}
		err := c.t.j.Commit(context.WithoutCancel(c.t.ctx), batchOf(merged(layers[:n])))
		c.done(layers[:n], err)
		if err != nil {
			return fmt.Errorf("names: %w", err)
		}
		layers = layers[n:]
	}
	return nil
}

// done notes what became of the commit of the oldest layers.
func (c *committer) done(layers []*layer, err error) {
	t := c.t
	t.delta.failed(err)
	t.full.Store(errors.Is(err, journal.ErrFull))
	if err != nil {
		t.dead.Store(t.dead.Load() || errors.Is(err, journal.ErrDead) || errors.Is(err, journal.ErrClosed))
		return
	}
	t.dropLater(layers)
	t.delta.committed(layers)
}

// merged returns what the records that layers change become. They are sealed: only revise changes them,
// and only the committer calls it.
func merged(layers []*layer) map[journal.Key][]byte {
	n := 0
	for _, l := range layers {
		n += len(l.ops)
	}
	values := make(map[journal.Key][]byte, n)
	for _, l := range layers {
		maps.Copy(values, l.ops)
	}
	return values
}

func batchOf(values map[journal.Key][]byte) *journal.Batch {
	b := &journal.Batch{Ops: make([]journal.Op, 0, len(values))}
	for key, value := range values {
		b.Ops = append(b.Ops, journal.Op{Key: key, Value: value})
	}
	return b
}

// dirtyNodes returns the files that are ahead of their records, but not, unless all is set, those
// that are being written anew.
func (t *Tree) dirtyNodes(all bool) (list []*node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.dirty {
		n.mu.Lock()
		anew := n.anewLocked()
		n.mu.Unlock()
		if t.orphans[n.ino] == nil && (all || !anew) {
			list = append(list, n)
		}
	}
	return list
}

// settling makes the data of files durable and brings their records up to it.
type settling struct {
	t      *Tree
	layers []*layer         // all that are sealed
	into   map[*node]*layer // where each record goes
	idle   map[*node]bool   // of these, those that are left as they are while being written anew
	list   []*snapshot
	joined bool // layers are committed, with what the records are to be
}

// snapshot is a node at the begin of a settle.
type snapshot struct {
	n            *node
	data         *data
	size         int64
	mtime, ctime time.Time
	dirty        bool
	change       uint64
	old          []uint64
	told         *extent // what the journal has been told, if that is so already
}

// extent is how long a file is, and how much room it takes, in blocks.
type extent struct{ size, blocks int64 }

// extent returns that of the file with the data of the snapshot, or what has not been cut off since.
func (x *snapshot) extent() extent {
	x.n.mu.Lock()
	defer x.n.mu.Unlock()
	return extent{min(x.size, x.data.low), (x.data.file.Used() + journal.BlockSize - 1) / journal.BlockSize}
}

// run settles all files and returns what failed.
func (s *settling) run() (failed map[*node]error) {
	failed = map[*node]error{}
	var files []*striping.File
	for n := range s.into {
		x := n.snapshot(s.idle[n])
		if x == nil {
			continue
		}
		s.list = append(s.list, x)
		files = append(files, x.data.file)
	}
	errs, joined := s.t.v.SyncFilesWith(context.WithoutCancel(s.t.ctx), files, s.all)
	s.joined = joined
	for i, err := range errs {
		x := s.list[i]
		if !joined {
			x.told = nil
		}
		if err == nil && x.dirty {
			err = s.record(x)
		}
		if err != nil {
			failed[x.n] = fmt.Errorf("inode %d: %w", x.n.ino, err)
		}
		x.n.mu.Lock()
		x.n.settles++
		x.n.mu.Unlock()
		x.n.release()
	}
	return failed
}

// snapshot takes one, with a use of the node, and begins its settle; nil if it is idle and being written
// anew.
func (n *node) snapshot(idle bool) *snapshot {
	n.t.mu.Lock()
	defer n.t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if idle && n.anewLocked() {
		return nil
	}
	n.uses++
	n.settles++
	n.data.low = n.size
	return &snapshot{n: n, data: n.data, size: n.size, mtime: n.mtime, ctime: n.ctime, dirty: n.dirty, change: n.change, old: n.old}
}

// all returns what the layers become with the records of all files as they will be. It changes nothing
// yet: nobody knows whether it will be committed.
func (s *settling) all() *journal.Batch {
	values := merged(s.layers)
	for _, x := range s.list {
		if !x.dirty {
			continue
		}
		told := x.extent()
		x.told = &told
		key := journal.InodeKey(uint64(x.n.ino))
		if value, there := values[key]; there && value == nil {
			continue // deleted in the end
		}
		base, err := s.t.durable(key)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return nil
		}
		err = nil
		reviseIn(s.layers, s.into[x.n], key, base, func(_ *layer, old []byte) []byte {
			rec, perr := x.revised(key, old, told)
			err = errors.Join(err, perr)
			return rec
		}, func(_ *layer, value []byte) { values[key] = value })
		if err != nil {
			return nil
		}
	}
	return batchOf(values)
}

// record brings the record of a file up to a snapshot whose data is durable.
func (s *settling) record(x *snapshot) error {
	n := x.n
	defer s.t.locks.lock(n.ino)()
	key := journal.InodeKey(uint64(n.ino))
	base, err := s.t.durable(key)
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		return err
	}
	err = nil
	now := x.extent()
	s.t.delta.revise(s.into[n], key, base, func(l *layer, old []byte) []byte {
		e := now
		if x.told != nil && l.number <= s.layers[len(s.layers)-1].number {
			e = *x.told
		}
		rec, perr := x.revised(key, old, e)
		err = errors.Join(err, perr)
		return rec
	})
	if err != nil {
		return err
	}
	s.into[n].drops = append(s.into[n].drops, x.old...)
	n.settled(x)
	return nil
}

// revised is a record of the file with the data of the snapshot.
func (x *snapshot) revised(key journal.Key, old []byte, e extent) ([]byte, error) {
	rec, err := journal.ParseInode(key, old)
	if err != nil {
		return old, err
	}
	rec.Size, rec.Object, rec.Blocks = e.size, x.data.file.Number(), e.blocks
	rec.Mtime, rec.Ctime = x.mtime, later(rec.Ctime, x.ctime)
	return rec.Pack(key), nil
}

// settled notes that the record has what the snapshot had.
func (n *node) settled(x *snapshot) {
	t := n.t
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	n.old = n.old[len(x.old):]
	if n.data == x.data {
		n.replacedAt = time.Time{}
	}
	clean := n.change == x.change
	if clean {
		n.dirty = false
	}
	n.mu.Unlock()
	if clean && t.dirty[n] {
		delete(t.dirty, n)
		t.unuseLocked(n)
	}
}
