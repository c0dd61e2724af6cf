package names

import (
	"context"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"ballast/journal"
	"ballast/striping"
)

// node is a regular file that somebody uses, or whose data is ahead of its record.
//
// The record of a file (in the delta and the journal) has the size and times that its durable
// data had; a node has what clients see. A settle brings the record up to the node: it makes the
// data durable, and then changes the record in the delta. In between, other operations on the inode
// go on with the record as it is.
//
// A file that is cut to nothing gets a new object for its data: the old one stays what the record
// speaks of until the new content is settled, so a crash leaves the one or the other.
type node struct {
	t   *Tree
	ino Ino

	io *semaphore.Weighted // shared by reads and writes; cutting has it alone

	uses  int // guarded by Tree.mu; so is opens
	opens int

	mu         sync.Mutex // a leaf
	writers    int        // open for writing
	data       *data
	size       int64
	mtime      time.Time // of what was written, while dirty
	ctime      time.Time
	dirty      bool
	change     uint64    // grows with each change of the above
	replacedAt time.Time // when the content was taken away; zero: what came then is in the record
	old        []uint64  // objects that were replaced
	settles    uint64    // how many began and how many ended: odd while one is under way
}

// data is the object of a file.
type data struct {
	file *striping.File
	// low is the least size that the file has had since the snapshot of the settle under way.
	low int64
}

const ioAll = 1 << 30

// use returns the node of a regular file, and keeps it until release.
func (t *Tree) use(rec *journal.Inode) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[Ino(rec.Number)]
	if n == nil {
		n = &node{t: t, ino: Ino(rec.Number), io: semaphore.NewWeighted(ioAll), size: rec.Size,
			data: &data{t.v.OpenFile(rec.Object, rec.Size, rec.Blocks*journal.BlockSize), rec.Size}}
		t.nodes[n.ino] = n
	}
	n.uses++
	return n
}

// useIfThere is use for an inode that has a node; nil if it has none.
func (t *Tree) useIfThere(ino Ino) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	if n != nil {
		n.uses++
	}
	return n
}

func (n *node) release() {
	n.t.mu.Lock()
	defer n.t.mu.Unlock()
	n.t.unuseLocked(n)
}

// unuseLocked gives a use up. Called with mu.
func (t *Tree) unuseLocked(n *node) {
	if n.uses--; n.uses == 0 {
		n.data.file.Close()
		if t.nodes[n.ino] == n {
			delete(t.nodes, n.ino)
		}
	}
}

// dirtyNode returns the node of a file whose data is ahead of its record, or nil.
func (t *Tree) dirtyNode(ino Ino) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[ino]; n != nil && t.dirty[n] {
		return n
	}
	return nil
}

// changed notes that the node is ahead of its record from now on. The caller has changed it under
// n.mu and given that up.
func (n *node) changed() {
	t := n.t
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	dirty := n.dirty
	n.mu.Unlock()
	if dirty && !t.dirty[n] {
		t.dirty[n] = true
		n.uses++
	}
}

// wroteLocked notes a change of content. Called with n.mu.
func (n *node) wroteLocked(now time.Time) {
	n.dirty = true
	n.change++
	n.mtime, n.ctime = now, now
}

// OpenFile opens a regular file. It may be open many times; data goes on to exist until the last
// Close even without a name. writes tells that it may be written to.
func (t *Tree) OpenFile(ctx context.Context, ino Ino, writes bool) (*File, error) {
	return t.OpenFileIf(ctx, ino, writes, func(uint32) error { return nil })
}

// OpenFileIf is OpenFile unless check returns an error for the flags of the inode.
func (t *Tree) OpenFileIf(ctx context.Context, ino Ino, writes bool, check func(flags uint32) error) (*File, error) {
	defer t.locks.lock(ino)()
	rec, err := t.inode(ino)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.Type() == journal.TypeDirectory:
		return nil, syscall.EISDIR
	case rec.Type() != journal.TypeRegular:
		return nil, syscall.EINVAL
	case writes && rec.Flags&FlagImmutable != 0:
		return nil, syscall.EPERM
	}
	if err := check(rec.Flags); err != nil {
		return nil, err
	}
	n := t.use(&rec)
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.orphans[ino]; o != nil && o.reaping {
		t.unuseLocked(n)
		return nil, syscall.ESTALE
	}
	n.opens++
	if writes {
		n.mu.Lock()
		n.writers++
		n.mu.Unlock()
	}
	return &File{n: n, writes: writes}, nil
}

// Close ends the use of the file.
func (f *File) Close() {
	if f.closed.Swap(true) {
		return
	}
	if f.writes {
		f.n.mu.Lock()
		f.n.writers--
		last, data := f.n.writers == 0, f.n.data
		f.n.mu.Unlock()
		if last {
			data.file.Rest()
		}
	}
	t := f.n.t
	t.mu.Lock()
	defer t.mu.Unlock()
	f.n.opens--
	ino := f.n.ino
	t.unuseLocked(f.n)
	t.releaseLocked(ino)
}

// resize changes the size of a file.
func (n *node) resize(ctx context.Context, size int64) error {
	if size < 0 || size > MaxSize {
		return syscall.EFBIG
	}
	if err := n.io.Acquire(ctx, ioAll); err != nil {
		return err
	}
	defer n.io.Release(ioAll)
	n.mu.Lock()
	old := n.size
	n.mu.Unlock()
	var err error
	switch {
	case size > old:
		err = n.extend(ctx, size)
	case size == 0 && old > 0:
		err = n.empty(ctx, old)
	case size < old:
		err = n.data.file.Cut(ctx, size)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.size = size
	n.data.low = min(n.data.low, size)
	n.wroteLocked(time.Now().UTC())
	n.mu.Unlock()
	n.changed()
	return nil
}

// extend lets the file's object reach to size; what lies between reads as zeros. Called with n.io
// alone.
func (n *node) extend(ctx context.Context, size int64) error {
	n.mu.Lock()
	old := n.size
	n.mu.Unlock()
	n.data.file.Grow(size)
	// Behind the end there may be what a crash left in the last chunk: data whose size never
	// became durable. Chunks wholly behind it were dropped.
	cs := n.t.v.ChunkSize()
	if end := min((old+cs-1)/cs*cs, size); end > old {
		return n.data.file.Zero(ctx, old, end-old, false)
	}
	return nil
}

// empty takes all content away, of size old. Called with n.io alone.
func (n *node) empty(ctx context.Context, old int64) error {
	n.mu.Lock()
	settles := n.settles
	n.mu.Unlock()
	rec, err := n.t.inode(n.ino)
	if err != nil {
		return err
	}
	if (rec.Size == 0 || rec.Links == 0) && n.emptyAsOf(settles) { // nothing that a crash should leave
		err := n.data.file.Cut(ctx, 0)
		if err != nil {
			n.mu.Lock()
			n.size = old
			n.mu.Unlock()
		}
		return err
	}
	number, err := n.t.v.NewFileNumber(ctx)
	if err != nil {
		return err
	}
	file := n.t.v.OpenFile(number, 0, 0)
	n.t.mu.Lock()
	n.mu.Lock()
	before := n.data
	n.data, n.size = &data{file: file}, 0
	n.old = append(n.old, before.file.Number())
	n.replacedAt = time.Now()
	n.mu.Unlock()
	n.t.mu.Unlock()
	before.file.Close()
	return nil
}

// emptyAsOf makes the file empty for whoever takes a snapshot, unless a settle was under way at the given
// count or has begun since: then the record is about to speak of what is there.
func (n *node) emptyAsOf(settles uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if settles%2 > 0 || n.settles != settles {
		return false
	}
	n.size, n.data.low, n.replacedAt = 0, 0, time.Now()
	return true
}

// anewLocked tells whether the file is being written anew, after it was cut to nothing.
func (n *node) anewLocked() bool {
	return n.writers > 0 && !n.replacedAt.IsZero() && time.Since(n.replacedAt) < replaceWait
}
