package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

const (
	newName     = "badger.new"     // a store in the making
	damagedName = "badger.damaged" // the one before the last that was made from a copy
)

// fillBatch is how many bytes go into one transaction of a new store.
const fillBatch = 1 << 20

// fillStore makes a store beside the old one, of what a copy holds, and reads all of it again: its
// records must be those that the copy's last unit names.
func fillStore(dir string, uuid [16]byte, v *Survey) (err error) {
	path := filepath.Join(dir, newName)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	s := &Store{dir: dir, uuid: uuid, log: slog.New(slog.DiscardHandler), space: space{dir: dir, name: newName, statfs: unix.Statfs}}
	s.wire = &tripwire{log: s.log}
	if err := s.space.prepare(); err != nil {
		return err
	}
	options := badgerOptions(dir, s.wire)
	options.Dir, options.ValueDir = path, path
	if s.db, err = badger.Open(options); err != nil { // an empty directory: it is not what is read
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	err = s.fill(v)
	if err == nil {
		var found State
		if found, err = s.verify(); err == nil && found != v.State {
			err = fmt.Errorf("%w: the copy on device %s makes %v, it says %v", ErrCorrupt, v.Place.Name, found, v.State)
		}
	}
	err = errors.Join(err, s.db.Close())
	if err == nil {
		err = syncDir(path)
	}
	return err
}

// fill replays a copy into an empty store.
func (s *Store) fill(v *Survey) error {
	txn := s.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	bytes := 0
	set := func(key Key, value []byte) error {
		if bytes > fillBatch {
			if err := s.roomToFill(); err != nil {
				return err
			}
			if err := txn.Commit(); err != nil {
				return err
			}
			txn, bytes = s.db.NewTransaction(true), 0
		}
		bytes += len(key) + len(value) + 64
		if value == nil {
			return txn.Delete(key[:])
		}
		return txn.Set(key[:], value)
	}
	err := v.replay(func(u *unit) error {
		ops, err := parseOps(u.payload)
		if err != nil {
			return err
		}
		for i := range ops {
			if err := set(ops[i].Key, ops[i].Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := set(metaKey, (&meta{v.State, s.uuid}).pack()); err != nil {
		return err
	}
	if err := set(livesKey, packLives(v.lives)); err != nil {
		return err
	}
	if err := txn.Commit(); err != nil {
		return err
	}
	return nil
}

func (s *Store) roomToFill() error {
	room, err := s.space.check()
	if err == nil && room == roomForNothing {
		err = fmt.Errorf("%w: %s has %d MiB free, which is too little to make the journal anew", ErrFull, s.dir, s.space.free>>20)
	}
	return err
}

// Content reads a copy as a whole and returns what it comes to, with its records in no order:
// what its last unit names must come out. It takes some 100 bytes of memory per record.
func (v *Survey) Content() (State, error) {
	if v.Err != nil {
		return State{}, v.Err
	}
	hashes := map[Key]Digest{}
	err := v.replay(func(u *unit) error {
		ops, err := parseOps(u.payload)
		for i := range ops {
			if op := &ops[i]; op.Value == nil {
				delete(hashes, op.Key)
			} else {
				hashes[op.Key] = RecordDigest(op.Key, op.Value)
			}
		}
		return err
	})
	if err != nil {
		return State{}, err
	}
	found := State{Seq: v.State.Seq, Count: uint64(len(hashes))}
	for _, h := range hashes {
		found.Digest = found.Digest.Add(h)
	}
	if found != v.State {
		return found, fmt.Errorf("%w: the copy on device %s makes %v, it says %v", ErrCorrupt, v.Place.Name, found, v.State)
	}
	return found, nil
}

// Rebuild makes the journal in dir anew from the newest copy, whatever the store says. It is for a
// store that was found wanting; Open does it by itself where a store is damaged or not there.
func Rebuild(dir string, opts Options) (Recovery, error) {
	o := &opener{dir: dir, opts: opts, surveys: SurveyAll(opts.Places, opts.UUID), damage: errors.New("asked for")}
	var sources []source
	for _, v := range o.surveys {
		if v.Err == nil {
			sources = append(sources, v.source())
		}
	}
	if len(sources) == 0 {
		return o.rec, o.withCopies(fmt.Errorf("%w: no copy to make it from", ErrNotFound))
	}
	best, err := newest(sources)
	if err == nil {
		err = best.state.Check(opts.Anchors)
	}
	if err == nil {
		err = o.rebuild(best)
	}
	if err != nil {
		return o.rec, err
	}
	err = o.live()
	return o.rec, errors.Join(err, o.store.Close())
}
