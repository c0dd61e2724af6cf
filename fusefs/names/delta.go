package names

import (
	"context"
	"slices"
	"sync"

	"ballast/journal"
)

// delta has the operations that are done but not committed: an ordered list of layers, each a set
// of changes that is committed in one journal batch. An operation is wholly in one layer, and
// layers are committed in order; so what the journal holds is always the state after some
// operation. Within a layer a later value of a record replaces an earlier one.
//
// live has the newest value of each record that is in a layer; records that are in none may be in
// the cache.
type delta struct {
	limit int64 // bytes

	mu       sync.Mutex
	live     map[journal.Key]liveValue
	cache    cache
	fresh    fresh
	listings listings
	groups   map[groupKey]*group
	layers   []*layer // oldest first; the last one is open
	bytes    int64    // of all layers
	next     uint64   // number of the next layer
	room     []chan struct{}
	err      error // of the last commit

	kick chan struct{} // has one element when a commit is due before its time
}

type liveValue struct {
	value []byte // nil: deleted
	layer *layer
}

// layer is a set of changes.
type layer struct {
	number uint64
	ops    map[journal.Key][]byte
	bytes  int64
	waits  map[*node]bool // files whose data is to be durable before this is committed
	drops  []uint64       // objects that are nobody's once this is committed
}

// groupKey names the records that are listed together: the entries of a directory, the attributes
// of an inode.
type groupKey struct {
	space journal.Space
	ino   uint64
}

// group is the records of a group that are in live, by their second number.
type group struct {
	members map[uint64]bool
	sorted  []uint64 // nil: to be made
}

// Limits of a layer. There is room in a journal batch for the inodes of files that it waits for.
const (
	layerOps   = 8000
	layerBytes = 1 << 20
	opBytes    = 64  // what a change takes besides key and value
	waitBytes  = 400 // of the inode of a file that is waited for
)

func newDelta(limit, cached int64) *delta {
	d := &delta{limit: limit, live: map[journal.Key]liveValue{}, cache: newCache(cached), fresh: newFresh(freshNames), groups: map[groupKey]*group{}, next: 1, kick: make(chan struct{}, 1)}
	d.openLocked()
	return d
}

// openLocked appends a new layer.
func (d *delta) openLocked() *layer {
	l := &layer{number: d.next, ops: map[journal.Key][]byte{}, waits: map[*node]bool{}}
	d.next++
	d.layers = append(d.layers, l)
	return l
}

func (d *delta) poke() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// wait waits until operations may add to the delta. It is called before any lock is taken.
func (d *delta) wait(ctx context.Context) error {
	for {
		d.mu.Lock()
		if err := d.err; d.bytes <= d.limit || err != nil {
			if d.bytes <= d.limit {
				err = nil
			}
			d.mu.Unlock()
			return err
		}
		ch := make(chan struct{})
		d.room = append(d.room, ch)
		d.mu.Unlock()
		d.poke()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apply adds one operation and returns the number of its layer. wait, if not nil, are files whose
// data has to be durable before it.
func (d *delta) apply(b *journal.Batch, wait ...*node) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.layers[len(d.layers)-1]
	if n := len(l.ops) + len(b.Ops) + len(l.waits); n > 0 && len(l.ops) > 0 && (n > layerOps || l.bytes+int64(b.Bytes()) > layerBytes) {
		l = d.openLocked()
		d.poke()
	}
	for _, op := range b.Ops {
		d.setLocked(l, op.Key, op.Value)
	}
	for _, n := range wait {
		if !l.waits[n] {
			l.waits[n] = true
			l.bytes += waitBytes
			d.bytes += waitBytes
		}
	}
	if d.bytes > d.limit/2 {
		d.poke()
	}
	return l.number
}

// made notes that the journal has no record of an inode, and none of entries in it: it is being made.
func (d *delta) made(rec *journal.Inode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cache.put(journal.InodeKey(rec.Number), nil)
	if rec.Type() == journal.TypeDirectory {
		d.fresh.add(rec.Number)
	}
}

// unmade notes that an inode is gone.
func (d *delta) unmade(ino Ino) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh.remove(uint64(ino))
}

// empty tells whether a directory has no entries; known is false if that has to be looked for.
func (d *delta) empty(dir Ino) (empty, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fresh.empty(uint64(dir))
}

// setLocked puts a change into a layer that has none newer after it.
func (d *delta) setLocked(l *layer, key journal.Key, value []byte) {
	d.sizeLocked(l, key, value)
	l.ops[key] = value
	if _, ok := d.live[key]; !ok {
		d.joinLocked(key)
	}
	d.live[key] = liveValue{value, l}
	if space, dir, hash := key.Parts(); space == journal.SpaceEntry {
		d.fresh.set(dir, hash, value != nil)
		d.listings.forget(dir)
	}
}

func (d *delta) sizeLocked(l *layer, key journal.Key, value []byte) {
	n := int64(len(value))
	if old, ok := l.ops[key]; ok {
		n -= int64(len(old))
	} else {
		n += int64(len(key)) + opBytes
	}
	l.bytes += n
	d.bytes += n
}

func (d *delta) joinLocked(key journal.Key) {
	space, a, b := key.Parts()
	if space != journal.SpaceEntry && space != journal.SpaceXattr {
		return
	}
	g := d.groups[groupKey{space, a}]
	if g == nil {
		g = &group{members: map[uint64]bool{}}
		d.groups[groupKey{space, a}] = g
	}
	g.members[b], g.sorted = true, nil
}

func (d *delta) leaveLocked(key journal.Key) {
	space, a, b := key.Parts()
	g := d.groups[groupKey{space, a}]
	if g == nil {
		return
	}
	delete(g.members, b)
	g.sorted = nil
	if len(g.members) == 0 {
		delete(d.groups, groupKey{space, a})
	}
}

// get returns the newest value of a record, nil if there is none. known is false if only the
// journal can tell; then commits is for remember.
func (d *delta) get(key journal.Key) (value []byte, known bool, commits uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.live[key]; ok {
		return v.value, true, 0
	}
	if space, dir, hash := key.Parts(); space == journal.SpaceEntry && d.fresh.lacks(dir, hash) {
		return nil, true, 0
	}
	return d.committedLocked(key)
}

// committedValue is get for the value that the journal has.
func (d *delta) committedValue(key journal.Key) (value []byte, known bool, commits uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.committedLocked(key)
}

func (d *delta) committedLocked(key journal.Key) (value []byte, known bool, commits uint64) {
	value, known = d.cache.get(key)
	return value, known, d.cache.commits
}

// remember keeps what the journal said of a record, nil for nothing, after get.
func (d *delta) remember(key journal.Key, value []byte, commits uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cache.commits == commits {
		d.cache.put(key, value)
	}
}

// entries returns the records of directory entries that are in layers and not deleted.
func (d *delta) entries() map[journal.Key][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[journal.Key][]byte{}
	for key, v := range d.live {
		if key.Space() == journal.SpaceEntry && v.value != nil {
			all[key] = v.value
		}
	}
	return all
}

// listed is a record of a group.
type listed struct {
	b     uint64 // second number of its key
	value []byte // nil: deleted
}

// list returns up to limit records of a group from one on, in order. more tells that there are
// others behind.
func (d *delta) list(space journal.Space, ino Ino, from uint64, limit int) (list []listed, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.groups[groupKey{space, uint64(ino)}]
	if g == nil {
		return nil, false
	}
	if g.sorted == nil {
		g.sorted = make([]uint64, 0, len(g.members))
		for b := range g.members {
			g.sorted = append(g.sorted, b)
		}
		slices.Sort(g.sorted)
	}
	i, _ := slices.BinarySearch(g.sorted, from)
	for ; i < len(g.sorted); i++ {
		if len(list) == limit {
			return list, true
		}
		b := g.sorted[i]
		list = append(list, listed{b, d.live[journal.MakeKey(space, uint64(ino), b)].value})
	}
	return list, false
}

// seal closes the open layer, adds that many empty ones behind it, and returns all but the new open
// one, and which are the added ones.
func (d *delta) seal(extra int) (layers, added []*layer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.layers[len(d.layers)-1]
	if extra == 0 && len(last.ops) == 0 && len(last.waits) == 0 {
		return slices.Clone(d.layers[:len(d.layers)-1]), nil
	}
	for range extra {
		added = append(added, d.openLocked())
	}
	d.openLocked()
	return slices.Clone(d.layers[:len(d.layers)-1]), added
}

// revise changes a record in every layer that has it, and, in the first of these layers or in l,
// whichever is older, makes it have it. base is its value in the journal; nil: none. Nothing
// happens where the record is deleted. The caller holds the lock of the inode, and l is sealed.
func (d *delta) revise(l *layer, key journal.Key, base []byte, change func(l *layer, old []byte) []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reviseIn(d.layers, l, key, base, change, func(x *layer, value []byte) {
		d.sizeLocked(x, key, value)
		x.ops[key] = value
		v, ok := d.live[key]
		if !ok {
			d.joinLocked(key)
		}
		if !ok || v.layer.number <= x.number {
			d.live[key] = liveValue{value, x}
		}
	})
}

// reviseIn is revise in layers, for which it calls set.
func reviseIn(layers []*layer, l *layer, key journal.Key, base []byte, change func(l *layer, old []byte) []byte, set func(l *layer, value []byte)) {
	old := base
	for _, x := range layers {
		value, there := x.ops[key]
		if there {
			old = value
		}
		if !there && x != l || old == nil {
			continue
		}
		old = change(x, old)
		set(x, old)
	}
}

// committed moves the oldest layers, which the journal has now, to the cache.
func (d *delta) committed(layers []*layer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cache.commits++
	for _, l := range layers {
		if d.layers[0] != l {
			panic("names: layers committed out of order")
		}
		d.layers = d.layers[1:]
		d.bytes -= l.bytes
		for key, value := range l.ops {
			d.cache.put(key, value)
			if d.live[key].layer == l {
				delete(d.live, key)
				d.leaveLocked(key)
			}
		}
	}
	if d.bytes <= d.limit {
		d.wakeLocked()
	}
}

// failed notes the result of a commit. While it is an error, nobody waits for room.
func (d *delta) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err = err; err != nil {
		d.wakeLocked()
	}
}

func (d *delta) wakeLocked() {
	for _, ch := range d.room {
		close(ch)
	}
	d.room = nil
}

// oldest returns the number of the oldest layer that is not committed.
func (d *delta) oldest() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.layers[0].number
}
