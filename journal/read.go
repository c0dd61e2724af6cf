package journal

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"
)

// Get is as in Journal.
func (s *Store) Get(key Key) ([]byte, error) {
	var v []byte
	err := s.get(key, func(value []byte) {
		// Badger has copied an inline value for this item alone, so it can be kept.
		v = value
	})
	return v, err
}

// GetAppend is Get into the memory behind dst; after an error it returns dst.
func (s *Store) GetAppend(dst []byte, key Key) ([]byte, error) {
	err := s.get(key, func(value []byte) { dst = append(dst, value...) })
	return dst, err
}

func (s *Store) get(key Key, use func([]byte)) error {
	view, err := s.enter()
	if err != nil {
		return err
	}
	defer s.leave(view)
	s.shedder.used(1)
	item, err := view.txn.Get(key[:])
	if errors.Is(err, badger.ErrKeyNotFound) {
		return ErrNotFound
	}
	if err == nil {
		err = item.Value(func(v []byte) error {
			use(v)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read record %v: %w", key, err)
	}
	return nil
}

// Scan is as in Journal.
func (s *Store) Scan(space Space, fn func(key Key, value []byte) error) error {
	return s.ScanFrom(MakeKey(space, 0, 0), fn)
}

// ScanFrom is as in Journal.
func (s *Store) ScanFrom(from Key, fn func(key Key, value []byte) error) error {
	view, err := s.enter()
	if err != nil {
		return err
	}
	defer s.leave(view)
	return s.iterate(view.txn, from[:1], from[:], nil, fn)
}

// iterate calls fn for the records that begin with prefix, from one on and before another (nil: no
// end), in key order.
func (s *Store) iterate(txn *badger.Txn, prefix, from []byte, before *Key, fn func(key Key, value []byte) error) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	n := 0
	defer func() { s.shedder.used(n) }()
	for it.Seek(from); it.Valid(); it.Next() {
		n++
		s.scanned(n, txn)
		item := it.Item()
		var key Key
		if len(item.Key()) != len(key) {
			return fmt.Errorf("%w: key %x of %d bytes", ErrCorrupt, item.Key(), len(item.Key()))
		}
		copy(key[:], item.Key())
		if before != nil && compareKeys(&key, before) >= 0 {
			return nil
		}
		if err := item.Value(func(v []byte) error { return fn(key, v) }); err != nil {
			return err
		}
	}
	return nil
}

// Verify reads all records as they are at one moment and compares their checksums, number and
// digest with what the journal has noted.
func (s *Store) Verify() (State, error) {
	view, err := s.enter()
	if err != nil {
		return State{}, err
	}
	defer s.leave(view)
	return s.verify()
}

// Recheck is Verify for a store in use, to be called now and again: Badger propagates damage of its
// files as it compacts them, and says nothing. If the store is not what it should be, nothing is
// read from it and nothing is committed any more, as what is missing there would read as zeros; the
// next Open makes it anew from a copy.
func (s *Store) Recheck() error {
	_, err := s.Verify()
	if errors.Is(err, ErrCorrupt) {
		s.mu.Lock()
		if s.damaged == nil {
			s.damaged = err
			close(s.spoiled)
		}
		s.mu.Unlock()
		s.die(err)
	}
	return err
}

// Damaged is closed when Recheck has found the store damaged.
func (s *Store) Damaged() <-chan struct{} { return s.spoiled }

func (s *Store) verify() (State, error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	m, err := readMeta(txn, s.uuid)
	if err != nil {
		return State{}, err
	}
	found := State{Seq: m.Seq}
	var mu sync.Mutex
	err = s.iterateParts(txn, func(from []byte, before *Key) error {
		part, err := s.verifyPart(txn, from, before)
		mu.Lock()
		defer mu.Unlock()
		found.Count += part.Count
		found.Digest = found.Digest.Add(part.Digest)
		return err
	})
	if err == nil && found != m.State {
		err = fmt.Errorf("%w: there is %v, noted is %v", ErrCorrupt, found, m.State)
	}
	return found, err
}

// verifyPart checks the records of a range of keys and sums them up.
func (s *Store) verifyPart(txn *badger.Txn, from []byte, before *Key) (found State, err error) {
	var check recordChecker
	err = s.iterate(txn, nil, from, before, func(key Key, value []byte) error {
		if key.Space() == SpaceReserve {
			return nil
		}
		found.Count++
		found.Digest = found.Digest.Add(RecordDigest(key, value))
		return check.check(key, value)
	})
	return found, err
}

// iterateParts calls fn for ranges of keys that make up all of them, as many at once as there are
// processors. The first error ends it.
func (s *Store) iterateParts(txn *badger.Txn, fn func(from []byte, before *Key) error) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	var failed atomic.Bool
	part := func(from []byte, before *Key) {
		g.Go(func() error {
			err := fn(from, before)
			if err != nil {
				failed.Store(true)
			}
			return err
		})
	}
	var from []byte
	for _, cut := range s.cuts() {
		if failed.Load() {
			return g.Wait()
		}
		part(from, &cut)
		from = cut[:]
	}
	part(from, nil)
	return g.Wait()
}

// cuts returns keys that part the records into ranges of some MiB each: where Badger's tables end.
func (s *Store) cuts() (cuts []Key) {
	for _, t := range s.db.Tables() {
		if key := t.Right; len(key) >= len(Key{}) { // behind it stands its version
			cuts = append(cuts, Key(key[:len(Key{})]))
		}
	}
	slices.SortFunc(cuts, func(a, b Key) int { return compareKeys(&a, &b) })
	return slices.Compact(cuts)
}

// Cuts returns keys, by ascending key, that part the records of a space into ranges of some MiB each,
// so that several can be read at once.
func (s *Store) Cuts(space Space) ([]Key, error) {
	view, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer s.leave(view)
	return slices.DeleteFunc(s.cuts(), func(k Key) bool { return k.Space() != space }), nil
}

// readState returns what the journal has noted.
func (s *Store) readState() (State, error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	m, err := readMeta(txn, s.uuid)
	return m.State, err
}

func readMeta(txn *badger.Txn, uuid [16]byte) (m meta, err error) {
	item, err := txn.Get(metaKey[:])
	if errors.Is(err, badger.ErrKeyNotFound) {
		return m, fmt.Errorf("%w: it has lost its own record", ErrCorrupt)
	}
	if err != nil {
		return m, err
	}
	err = item.Value(func(v []byte) error {
		m, err = parseMeta(v)
		return err
	})
	if err == nil && m.UUID != uuid {
		err = fmt.Errorf("%w: %x, want %x", ErrForeign, m.UUID, uuid)
	}
	return m, err
}

// recordChecker parses records of the known spaces; those of others are covered by the digest.
type recordChecker struct {
	chunk Chunk
}

func (c *recordChecker) check(key Key, value []byte) error {
	var err error
	switch key.Space() {
	case SpaceVolume:
		_, err = ParseVolume(key, value)
	case SpaceDevice:
		_, err = ParseDevice(key, value)
	case SpaceObject:
		_, err = ParseObject(key, value)
	case SpaceChunk:
		err = c.chunk.ParsePlacement(key, value)
	case SpaceIntent:
		_, err = ParseIntent(key, value)
	case SpaceEvent:
		_, err = ParseEvent(key, value)
	case SpaceTree:
		_, err = ParseTree(key, value)
	case SpaceInode:
		_, err = ParseInode(key, value)
	case SpaceEntry:
		_, err = ParseEntries(key, value)
	case SpaceXattr:
		_, err = ParseXattrs(key, value)
	case SpaceJob:
		_, err = ParseJob(key, value)
	}
	return err
}
