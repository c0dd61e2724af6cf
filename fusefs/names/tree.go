package names

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/journal"
	"ballast/striping"
)

// Tree is the name space of an open volume.
type Tree struct {
	opts  Options
	v     *striping.Volume
	j     journal.Journal
	log   *slog.Logger
	seed  [16]byte
	delta *delta

	locks   lockTable
	renames chan struct{} // held while a directory may move: then nobody else's path changes

	inodes atomic.Int64 // records
	full   atomic.Bool  // the journal refuses new records
	dead   atomic.Bool  // the journal has failed

	// Inodes that somebody uses. Guarded by mu, which is a leaf but for node.mu.
	mu      sync.Mutex
	nodes   map[Ino]*node
	dirty   map[*node]bool  // each has a use in nodes
	refs    refs            // references given out
	orphans map[Ino]*orphan // without a name
	queue   []*orphan       // of these: those that nobody uses any more
	drops   []uint64        // objects that are nobody's any more, their end committed
	reaping int             // orphans and drops that are being given back
	reapErr error           // of the last attempt

	commits committer
	reaped  chan struct{} // closed, and replaced under mu, when the reaper has done a round
	reap    chan struct{} // has one element when there may be something to give back

	ctx    context.Context // ends when the tree closes
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// orphan is an inode without a name.
type orphan struct {
	ino     Ino
	layer   uint64 // in which it lost its last name
	reaping bool
}

// Open opens the name space of a volume; it makes one if there is none.
func Open(ctx context.Context, o Options) (*Tree, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 5 * time.Second
	}
	if o.DeltaLimit == 0 {
		o.DeltaLimit = 32 << 20
	}
	if o.CacheLimit == 0 {
		o.CacheLimit = 32 << 20
	}
	t := &Tree{opts: o, v: o.Volume, j: o.Journal, log: o.Logger, delta: newDelta(o.DeltaLimit, o.CacheLimit), renames: make(chan struct{}, 1),
		nodes: map[Ino]*node{}, dirty: map[*node]bool{}, refs: newRefs(), orphans: map[Ino]*orphan{},
		reaped: make(chan struct{}), reap: make(chan struct{}, 1)}
	t.locks.init()
	if err := t.load(ctx); err != nil {
		return nil, fmt.Errorf("name space: %w", err)
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.inodes.Add(t.v.FoundInodes())
	for _, n := range t.v.TakeOrphans() {
		t.queue = append(t.queue, &orphan{ino: Ino(n), reaping: true})
	}
	t.commits.init(t)
	t.wg.Go(t.reaper)
	poke(t.reap)
	return t, nil
}

// load reads the tree's record, or makes an empty tree.
func (t *Tree) load(ctx context.Context) error {
	val, err := t.j.Get(journal.TreeKey())
	if err == nil {
		rec, err := journal.ParseTree(journal.TreeKey(), val)
		t.seed = rec.Seed
		return err
	}
	if !errors.Is(err, journal.ErrNotFound) {
		return err
	}
	rec := journal.Tree{Created: time.Now().UTC()}
	if _, err := rand.Read(rec.Seed[:]); err != nil {
		return err
	}
	t.seed = rec.Seed
	now := rec.Created
	root := journal.Inode{Number: uint64(Root), Mode: journal.TypeDirectory | 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Links: 2, Parent: uint64(Root), Atime: now, Mtime: now, Ctime: now, Btime: now, Generation: 1}
	b := &journal.Batch{}
	b.Put(journal.TreeKey(), rec.Pack(journal.TreeKey()))
	b.Put(journal.InodeKey(uint64(Root)), root.Pack(journal.InodeKey(uint64(Root))))
	t.inodes.Add(1)
	return t.j.Commit(ctx, b)
}

// ForgetAll gives all references back, once nobody is there who has any.
func (t *Tree) ForgetAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refs = newRefs()
	for _, o := range t.orphans {
		t.releaseLocked(o.ino)
	}
}

// Close makes everything durable, gives back what nobody uses any more, and ends the tree's work.
// All files must be closed; references count no longer.
func (t *Tree) Close(ctx context.Context) error {
	t.ForgetAll()
	err := t.Sync(ctx)
	if rerr := t.reclaim(ctx); err == nil && rerr != nil {
		t.log.Warn("names: space is given back at the next open", "err", rerr)
	}
	t.commits.close()
	t.cancel()
	t.wg.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		n.data.file.Close()
	}
	clear(t.nodes)
	return err
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// hash is the place of a name in a directory, or among attributes.
func (t *Tree) hash(name string) uint64 { return hashName(&t.seed, name) }

// hashName is part of the format: the first 58 bits of the SHA-256 of seed and name; 1 stands for 0.
func hashName(seed *[16]byte, name string) uint64 {
	var buf [16 + MaxName]byte
	n := copy(buf[:], seed[:])
	n += copy(buf[n:], name)
	sum := sha256.Sum256(buf[:n])
	return max(binary.LittleEndian.Uint64(sum[:])>>6, 1)
}

// get returns the newest value of a record; journal.ErrNotFound if there is none.
func (t *Tree) get(key journal.Key) ([]byte, error) {
	value, known, commits := t.delta.get(key)
	if !known {
		return t.read(key, commits)
	}
	if value == nil {
		return nil, journal.ErrNotFound
	}
	return value, nil
}

// durable is get for what the journal has.
func (t *Tree) durable(key journal.Key) ([]byte, error) {
	value, known, commits := t.delta.committedValue(key)
	if !known {
		return t.read(key, commits)
	}
	if value == nil {
		return nil, journal.ErrNotFound
	}
	return value, nil
}

// read asks the journal, and remembers the answer.
func (t *Tree) read(key journal.Key, commits uint64) ([]byte, error) {
	value, err := t.j.Get(key)
	if err == nil || errors.Is(err, journal.ErrNotFound) {
		t.delta.remember(key, value, commits)
	}
	return value, err
}

// inode returns the record of an inode; ESTALE if there is none. Of a regular file it has what is
// known to be durable of its data, see node.
func (t *Tree) inode(ino Ino) (journal.Inode, error) {
	key := journal.InodeKey(uint64(ino))
	value, err := t.get(key)
	if errors.Is(err, journal.ErrNotFound) {
		return journal.Inode{}, syscall.ESTALE
	}
	if err != nil {
		return journal.Inode{}, err
	}
	return journal.ParseInode(key, value)
}

// directory returns the record of a directory.
func (t *Tree) directory(ino Ino) (journal.Inode, error) {
	rec, err := t.inode(ino)
	if err == nil && rec.Type() != journal.TypeDirectory {
		err = syscall.ENOTDIR
	}
	return rec, err
}

// entries returns the entries of a directory with that hash.
func (t *Tree) entries(dir Ino, hash uint64) (journal.Entries, error) {
	key := journal.EntryKey(uint64(dir), hash)
	value, err := t.get(key)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return journal.ParseEntries(key, value)
}

// find returns the entry of a name; ENOENT if there is none.
func (t *Tree) find(dir Ino, name string) (journal.Entry, error) {
	list, err := t.entries(dir, t.hash(name))
	if err != nil {
		return journal.Entry{}, err
	}
	for _, e := range list {
		if e.Name == name {
			return e, nil
		}
	}
	return journal.Entry{}, syscall.ENOENT
}

func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return syscall.ENAMETOOLONG
	case !journal.CheckEntryName(name):
		return syscall.EINVAL
	}
	return nil
}

// begin waits until an operation may change something; adds tells that it may need new records.
// It is called before any lock is taken.
func (t *Tree) begin(ctx context.Context, adds bool) error {
	if t.dead.Load() {
		return journal.ErrDead
	}
	if adds && t.full.Load() {
		return journal.ErrFull
	}
	return t.delta.wait(ctx)
}

// Forget gives n references to an inode back.
func (t *Tree) Forget(ino Ino, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(ino, n)
}

// forgetLocked is Forget, called with mu.
func (t *Tree) forgetLocked(ino Ino, n uint64) {
	if t.refs.sub(ino, n) == 0 {
		t.releaseLocked(ino)
	}
}

// refer gives out a reference; false if it is too late: the inode is being given back.
func (t *Tree) refer(ino Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.orphans[ino]; o != nil && o.reaping {
		return false
	}
	t.refs.add(ino, 1)
	return true
}

// releaseLocked hands an inode to the reaper if it has no name and nobody uses it. Called with mu.
func (t *Tree) releaseLocked(ino Ino) {
	o := t.orphans[ino]
	if o == nil || o.reaping || t.refs.get(ino) > 0 {
		return
	}
	if n := t.nodes[ino]; n != nil && n.opens > 0 {
		return
	}
	o.reaping = true
	t.queue = append(t.queue, o)
	if o.layer < t.delta.oldest() { // else the commit of its layer pokes
		poke(t.reap)
	}
}

// orphaned notes that an inode has lost its last name in an operation of that layer.
func (t *Tree) orphaned(ino Ino, layer uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.orphans[ino] = &orphan{ino: ino, layer: layer}
	t.releaseLocked(ino)
}

// named is orphaned's reverse; false if it is too late.
func (t *Tree) named(ino Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.orphans[ino]; o != nil {
		if o.reaping {
			return false
		}
		delete(t.orphans, ino)
	}
	return true
}

// Stat tells of space and inodes.
func (t *Tree) Stat() Stat {
	size, free := t.v.Space()
	return Stat{Size: size, Free: free, Inodes: t.inodes.Load()}
}
