package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A full file system kills: Badger writes through memory maps, so that the kernel can answer a
// write only with SIGBUS. The journal therefore keeps away from the end of its file system.
const (
	memTableSize = 16 << 20
	// Below hardFloor nothing is committed: a memtable's log and table must find room.
	hardFloor = 3*memTableSize + 16<<20
	// openFloor is what opening needs: a log to replay into, and a table made of the old one.
	openFloor = 2 * memTableSize

	ballastSize      = 256 << 20
	ballastFullAbove = 10 << 30 // with less free the ballast is a smaller share: free/40
	sizeEvery        = 5 * time.Second
)

// memTable is memTableSize but in tests that open very many small stores.
var memTable int64 = memTableSize

// softFloor is the free space below which no records are added: three memtables, twice the
// store (a compaction of everything), and a reserve.
func softFloor(store int64) int64 { return 3*memTableSize + 2*store + 64<<20 }

// space watches the free bytes of the journal's file system; the committer alone uses it.
type space struct {
	dir     string
	name    string // of Badger's directory in it
	store   int64  // bytes the store takes, as of sized
	sized   time.Time
	free    int64
	ballast int64
	// statfs is replaced in tests.
	statfs func(path string, st *unix.Statfs_t) error
}

// room is what a group may do.
type room int

const (
	roomForAll     room = iota
	roomForChanges      // no new records
	roomForNothing
)

// check looks at the file system. It takes some microseconds. Below the hard floor the ballast is
// given back first.
func (s *space) check() (room, error) {
	if err := s.measure(); err != nil {
		return roomForNothing, err
	}
	if s.free < hardFloor && s.ballast > 0 {
		if err := s.dropBallast(); err != nil {
			return roomForNothing, err
		}
		if err := s.measure(); err != nil {
			return roomForNothing, err
		}
	}
	switch {
	case s.free < hardFloor:
		return roomForNothing, nil
	case s.free < softFloor(s.store):
		return roomForChanges, nil
	}
	return roomForAll, nil
}

func (s *space) measure() error {
	var st unix.Statfs_t
	if err := s.statfs(s.dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	s.free = int64(min(st.Bavail, 1<<62/uint64(st.Bsize))) * st.Bsize
	if now := time.Now(); s.sized.IsZero() || now.Sub(s.sized) > sizeEvery {
		size, err := diskSize(filepath.Join(s.dir, s.name))
		if err != nil {
			return err
		}
		s.store, s.sized = size, now
	}
	return nil
}

// prepare is check before the store is opened.
func (s *space) prepare() error {
	if info, err := os.Stat(filepath.Join(s.dir, ballastName)); err == nil {
		s.ballast = info.Size()
	}
	if _, err := s.check(); err != nil {
		return err
	}
	if s.free < openFloor {
		return fmt.Errorf("%w: %s has %d MiB free, opening needs %d; try: free space there",
			ErrFull, s.dir, s.free>>20, openFloor>>20)
	}
	return nil
}

// makeBallast reserves the ballast if there is none and space abounds.
func (s *space) makeBallast() error {
	size := int64(ballastSize)
	if s.free <= ballastFullAbove {
		size = s.free / 40 >> 20 << 20
	}
	if s.ballast > 0 || size == 0 || s.free-size < softFloor(s.store) {
		return nil
	}
	path := filepath.Join(s.dir, ballastName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	err = errors.Join(err, f.Close())
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSPC):
		return os.Remove(path)
	case err != nil:
		return &fs.PathError{Op: "fallocate", Path: path, Err: err}
	}
	s.ballast = size
	return nil
}

func (s *space) dropBallast() error {
	err := os.Remove(filepath.Join(s.dir, ballastName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.ballast = 0
	return nil
}
