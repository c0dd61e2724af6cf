package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	newName     = "badger.new"     // a store in the making
	damagedName = "badger.damaged" // the one before the last that was made from a copy
)

// fillStore makes a store beside the old one, of what a copy holds, and reads all of it again: its
// records must be those that the copy's last unit names. lock is that of dir.
func fillStore(dir string, opts Options, lock *os.File, v *Survey) (*contents, error) {
	path := filepath.Join(dir, newName)
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	sp := space{dir: dir, name: newName, statfs: unix.Statfs}
	if err := sp.prepare(); err != nil {
		return nil, err
	}
	err := maker(opts.Make).run(dir, lock, func(add func(*Op) error) error {
		// The store's own records have the lowest keys.
		meta := meta{v.State, opts.UUID}
		if err := add(&Op{metaKey, meta.pack()}); err != nil {
			return err
		}
		if err := add(&Op{livesKey, v.lives.pack()}); err != nil {
			return err
		}
		return v.records(path, sp.roomToFill, add)
	})
	if err != nil {
		return nil, err
	}
	found, err := readBack(path, opts.UUID)
	if err == nil && found.State != v.State {
		err = fmt.Errorf("%w: the copy on device %s makes %v, it says %v", ErrCorrupt, v.Place.Name, found.State, v.State)
	}
	return found, err
}

// fillCheck is after how many bytes free space is looked at.
const fillCheck = 16 << 20

func (s *space) roomToFill() error {
	room, err := s.check()
	if err == nil && room == roomForNothing {
		err = fmt.Errorf("%w: %s has %d MiB free, which is too little to make the journal anew", ErrFull, s.dir, s.free>>20)
	}
	return err
}

// Content reads a copy as a whole and returns what it comes to: what its last unit names must come
// out. Changes that it has to sort beyond 64 MiB of memory go to the directory for temporary files.
func (v *Survey) Content() (State, error) {
	if v.Err != nil {
		return State{}, v.Err
	}
	scratch, err := os.MkdirTemp("", "ballast-copy-")
	if err != nil {
		return State{}, err
	}
	defer os.RemoveAll(scratch)
	found := State{Seq: v.State.Seq}
	err = v.records(scratch, func() error { return nil }, func(op *Op) error {
		found.Count++
		found.Digest = found.Digest.Add(RecordDigest(op.Key, op.Value))
		return nil
	})
	if err != nil {
		return State{}, err
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
