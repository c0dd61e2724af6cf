package striping

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"ballast/devices"
	"ballast/journal"
)

const maxCopies = 3

// chunkKey names a chunk of the volume.
type chunkKey struct {
	object uint64
	index  uint64
}

func (k chunkKey) String() string { return fmt.Sprintf("chunk %d of object %d", k.index, k.object) }
func (k chunkKey) record() journal.Key {
	return journal.MakeKey(journal.SpaceChunk, k.object, k.index)
}
func (k chunkKey) intent() journal.Key {
	return journal.MakeKey(journal.SpaceIntent, k.object, k.index)
}

// place is one copy of a chunk.
type place struct {
	dev   devices.ID
	stale bool
	off   int64  // of the slot on the device
	need  uint64 // the device's write count after our last write there: synced from then on
}

// deviceSet are devices of a chunk's copies; 0 is none.
type deviceSet [maxCopies]devices.ID

// slotRef is a slot that is given back later.
type slotRef struct {
	dev       devices.ID
	off, size int64
}

// chunk is what the volume knows of one chunk. It stands in the cache; it stays there while
// somebody holds a reference, and dirty or uncommitted chunks hold one themselves.
//
// Life of written data: WriteAt puts it into dirty; the write-back seals dirty to out, writes
// it to devices and moves the placement (gen, places, written, sums) on; a commit syncs the
// devices concerned and makes the placement durable.
type chunk struct {
	key  chunkKey
	refs atomic.Int32
	used atomic.Bool // for the cache's clock

	mu     sync.Mutex // never held over device I/O or waiting
	loaded bool

	// The placement as it is now. Slices are replaced, never changed, once out == nil: readers
	// use them after giving up mu.
	gen     uint64
	slot    int // blocks; 0: nothing is placed
	places  []place
	written bitmap   // blocks that hold data; others read as zeros
	sums    []uint32 // by block number; only those of written blocks count
	reserve bool     // the slot was asked for with NO_HOLE: keep it when all blocks are zero

	// The journal's view.
	version  uint64
	durable  bitmap              // written blocks as journaled; what overwriting in place needs an intent for
	pending  bool                // the placement differs from the journal's
	must     bool                // a flush is not done before the placement is committed
	intents  []journal.Candidate // as journaled (and in force) since the last commit
	keep     []journal.Candidate // of intents: those of blocks that recovery could not look at, or not on all copies; they outlive commits
	open     []int               // blocks of keep that no copy held which recovery could look at: one that is away may
	old      []slotRef           // slots to give back once the placement is durable
	fresh    bool                // the slot in places has never been committed
	inCommit bool                // a commit is under way: no write-out may start
	rated    rating              // as the volume's health counts it

	dirty  *overlay // being filled
	out    *overlay // being written out
	nextID uint64   // id of the next overlay
	doneID uint64   // every overlay up to this one is on the devices
	claim  int64    // bytes reserved for the slot that dirty will need
	change uint64   // grows whenever the content that readers see changes its place or value
	err    error    // of the last write-out, until one succeeds
	stuck  int64    // part of the dirty budget that its failed write-out holds
	lost   bool     // data that was acknowledged could not be made durable
	queued bool     // stands in the write-back queue
	holder bool     // being changed on the devices by a write-out or a heal
	wait   []*waiter
}

// waiter is told when all overlays up to id are on the devices, or could not be put there; with id
// 0, when nobody holds the chunk any more.
type waiter struct {
	id   uint64
	done func(error)
}

// wakeHoldersLocked takes out those that wait for the end of a commit, or of a heal, to hold the
// chunk themselves.
func (c *chunk) wakeHoldersLocked() (told []*waiter) {
	var keep []*waiter
	for _, w := range c.wait {
		if w.id == 0 {
			told = append(told, w)
		} else {
			keep = append(keep, w)
		}
	}
	c.wait = keep
	return told
}

// unkeepLocked forgets what recovery left open of blocks that are replaced. Called with c.mu.
func (c *chunk) unkeepLocked(replaced func(block int) bool) {
	if len(c.keep) == 0 {
		return
	}
	c.keep = slices.DeleteFunc(slices.Clone(c.keep), func(cand journal.Candidate) bool { return replaced(int(cand.Block)) })
	c.open = slices.DeleteFunc(c.open, replaced)
}

// setLocked makes rec the chunk's placement.
func (c *chunk) setLocked(rec *journal.Chunk) {
	c.gen, c.version, c.slot = rec.Generation, rec.Version, int(rec.Slot)
	c.places = placesOf(rec)
	c.written = newBitmap(c.slot)
	copy(c.written, rec.Written)
	c.sums = make([]uint32, c.slot)
	next := 0
	for i := 0; i < c.slot; i++ {
		if c.written.has(i) {
			c.sums[i] = rec.Sums[next]
			next++
		}
	}
	c.durable = c.written
	c.reserve = c.slot > 0 && c.written.empty()
}

// recordLocked returns the placement as a journal record of the next version.
func (c *chunk) recordLocked() *journal.Chunk {
	rec := &journal.Chunk{Generation: c.gen, Version: nextVersion(c.version, time.Now()), Slot: uint32(c.slot)}
	for _, p := range c.places {
		rec.Copies = append(rec.Copies, journal.Copy{Device: uint16(p.dev), Stale: p.stale, Off: p.off})
	}
	rec.Written = c.written
	for i := 0; i < c.slot; i++ {
		if c.written.has(i) {
			rec.Sums = append(rec.Sums, c.sums[i])
		}
	}
	return rec
}

// A version of a chunk's record grows with each of them, and tells when it was made: it is the second
// times versionsPerSecond, or one more than the last one if that is more.
const versionsPerSecond = 1 << 20

func nextVersion(old uint64, now time.Time) uint64 {
	return max(old+1, uint64(max(now.Unix(), 0))*versionsPerSecond)
}

// changedSince reports whether a chunk was written, or a copy of it made, at that time or later, as the
// version of its record has it. A version without a time, from before versions told it, may be of any.
func changedSince(version uint64, since time.Time) bool {
	return version < 1e6*versionsPerSecond || since.IsZero() || int64(version/versionsPerSecond) >= since.Unix()
}

// cleanLocked reports whether the journal knows all of the chunk.
func (c *chunk) cleanLocked() bool { return c.dirty == nil && c.out == nil && !c.pending && !c.lost }

const cacheShards = 64

// cache holds chunks by key. It keeps what is in use, and of the rest as much as fits its budget
// (a clock over the shard's chunks).
type cache struct {
	shards [cacheShards]cacheShard
	// perChunk is the memory of one cached chunk in bytes, sums included.
	perChunk int64
	limit    int // chunks per shard
}

type cacheShard struct {
	mu     sync.Mutex
	chunks map[chunkKey]*chunk
	ring   []*chunk
	hand   int
	_      [16]byte
}

func newCache(bytes int64, blocks int) *cache {
	c := &cache{perChunk: int64(unsafe.Sizeof(chunk{})) + int64(blocks)*4 + int64(blocks)/8 + 2*int64(unsafe.Sizeof(place{})) + 64}
	c.limit = max(int(bytes/c.perChunk/cacheShards), 4)
	for i := range c.shards {
		c.shards[i].chunks = map[chunkKey]*chunk{}
	}
	return c
}

func (c *cache) shard(k chunkKey) *cacheShard {
	h := (k.object*0x9E3779B97F4A7C15 ^ k.index) * 0xBF58476D1CE4E5B9
	return &c.shards[h>>58]
}

// get returns the chunk of that key, with a reference; it may not be loaded yet.
func (c *cache) get(k chunkKey) *chunk {
	s := c.shard(k)
	s.mu.Lock()
	ch := s.chunks[k]
	if ch == nil {
		if len(s.ring) >= c.limit {
			s.evictLocked()
		}
		ch = &chunk{key: k, nextID: 1}
		s.chunks[k] = ch
		s.ring = append(s.ring, ch)
	}
	ch.refs.Add(1)
	s.mu.Unlock()
	if !ch.used.Load() {
		ch.used.Store(true)
	}
	return ch
}

// evictLocked drops up to two chunks that nobody holds and that were not used since the hand
// last passed.
func (s *cacheShard) evictLocked() {
	for looked, dropped := 0, 0; looked < 2*len(s.ring) && dropped < 2; looked++ {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		ch := s.ring[s.hand]
		if ch.refs.Load() > 0 || ch.used.Swap(false) {
			s.hand++
			if looked > 64 {
				return // all in use: grow for now
			}
			continue
		}
		delete(s.chunks, ch.key)
		last := len(s.ring) - 1
		s.ring[s.hand] = s.ring[last]
		s.ring[last] = nil
		s.ring = s.ring[:last]
		dropped++
	}
}

// put gives a reference back.
func (c *cache) put(ch *chunk) {
	if ch.refs.Add(-1) < 0 {
		panic("striping: " + ch.key.String() + " released twice")
	}
}

// barrier waits until nobody holds the lock of a chunk of object that was locked before.
func (c *cache) barrier(object uint64) {
	for i := range c.shards {
		s := &c.shards[i]
		var list []*chunk
		s.mu.Lock()
		for _, ch := range s.ring {
			if ch.key.object == object {
				ch.refs.Add(1)
				list = append(list, ch)
			}
		}
		s.mu.Unlock()
		for _, ch := range list {
			ch.mu.Lock()
			ch.mu.Unlock() //nolint:staticcheck // the wait is all there is to it
			c.put(ch)
		}
	}
}

// len returns the number of cached chunks.
func (c *cache) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.ring)
		s.mu.Unlock()
	}
	return n
}
