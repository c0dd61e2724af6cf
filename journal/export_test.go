package journal

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// SetCommit replaces the commit of a group's transaction; real is Badger's. Call it before the
// first Commit.
func (s *Store) SetCommit(f func(real func() error) error) {
	s.commit = func(txn *badger.Txn) error { return f(txn.Commit) }
}

// SetFree makes the file system seem to have free() bytes. Call it before the first Commit.
func (s *Store) SetFree(free func() int64) {
	s.space.statfs = func(_ string, st *unix.Statfs_t) error {
		*st = unix.Statfs_t{Bsize: 4096, Bavail: uint64(free() / 4096)}
		return nil
	}
}

// Flatten compacts everything.
func (s *Store) Flatten() error { return s.db.Flatten(2) }

// SyncWrites says whether each transaction is made durable.
func (s *Store) SyncWrites() bool { return s.db.Opts().SyncWrites }

// SyncsValueLog says whether each transaction flushes the value log as well.
func (s *Store) SyncsValueLog() bool { return *syncsValueLog(s.db) }

// Log makes Badger log an error.
func (s *Store) Log(format string, args ...any) { s.wire.Errorf(format, args...) }

// The floors of free space.
const (
	HardFloor = hardFloor
	OpenFloor = openFloor
)

func SoftFloor(store int64) int64 { return softFloor(store) }

// Queued returns how many batches wait for the committer.
func (s *Store) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// SetLockWait changes how long a lock is waited for, and returns what undoes that.
func SetLockWait(d time.Duration) (undo func()) {
	old := lockWait
	lockWait = d
	return func() { lockWait = old }
}

// SetLockPause has fn called instead of a pause between two attempts to get a lock, and returns what undoes
// that.
func SetLockPause(fn func()) (undo func()) {
	old := lockPause
	lockPause = fn
	return func() { lockPause = old }
}

// SetSmallMemTable makes Badger's memtables and logs a sixteenth of their size, and returns what undoes
// that. Their format is the same; the time to open a store is not, least of all with the race
// detector. Batches may have 100 KiB then.
func SetSmallMemTable() (undo func()) {
	memTable = memTableSize / 16
	return func() { memTable = memTableSize }
}

// Lose makes the store forget a record, as damage does.
func (s *Store) Lose(key Key) error {
	return s.db.Update(func(txn *badger.Txn) error { return txn.Delete(key[:]) })
}

// SetSortMemory changes how much is sorted in memory, and returns what undoes that.
func SetSortMemory(n int) (undo func()) {
	old := sortMemory
	sortMemory = n
	return func() { sortMemory = old }
}

// Dir returns where the store is.
func (s *Store) Dir() string { return s.dir }

// Made returns how many bytes of a ring are of its making.
func (s *Survey) Made(t testing.TB) uint64 {
	end, err := s.dumpEnd()
	if err != nil {
		t.Fatal(err)
	}
	// Each unit says which it is.
	for _, u := range s.units(t) {
		if dump := u.kind == unitBegin || u.kind == unitDump; dump != (u.start < end) {
			t.Fatalf("unit of kind %d at %d, the making ends at %d", u.kind, u.start, end)
		}
	}
	return end - s.head.tail
}

func (s *Survey) units(t testing.TB) (units []unit) {
	last, err := s.walk(s.head.tail, s.head.end, nil, func(u *unit) error {
		units = append(units, *u)
		return nil
	})
	if err == nil {
		err = s.checkHead(last)
	}
	if err != nil {
		t.Fatal(err)
	}
	return units
}

// Tail returns the position of the first unit.
func (s *Survey) Tail() uint64 { return s.head.tail }

// Frames returns where in the area the frames of units with a payload are.
func (s *Survey) Frames(t testing.TB) (offs []int64) {
	for _, u := range s.units(t) {
		for pos := u.start; pos < u.end && len(u.payload) > 0; {
			f, _, err := s.reader.frame(pos)
			if err != nil {
				t.Fatal(err)
			}
			offs = append(offs, int64(ringStart+pos%s.reader.size))
			pos += f.size()
		}
	}
	return offs
}

// ReadTables reads a settled store past Badger.
func ReadTables(dir string, uuid [16]byte) (State, error) {
	c, err := readTables(filepath.Join(dir, badgerName), uuid)
	if err != nil {
		return State{}, err
	}
	return c.State, nil
}

// TablesByLevel returns how many tables each level has.
func (s *Store) TablesByLevel() (n [8]int) {
	for _, t := range s.db.Tables() {
		n[t.Level]++
	}
	return n
}

// SetPlacementsMax bounds the placements that Open keeps.
func SetPlacementsMax(n int64) (undo func()) {
	was := placementsMax
	placementsMax = n
	return func() { placementsMax = was }
}

// Shed gives back the memory of the tables, and returns of how many.
func (s *Store) Shed() (int, error) {
	view, err := s.enter()
	if err != nil {
		return 0, err
	}
	defer s.leave(view)
	s.shedder.mu.Lock()
	defer s.shedder.mu.Unlock()
	return s.shedLocked(view.txn)
}

// SetShedListed has fn called where a table may go that was seen.
func (s *Store) SetShedListed(fn func()) {
	s.shedder.mu.Lock()
	defer s.shedder.mu.Unlock()
	s.shedder.listed = fn
}

// HoldTables keeps tables mapped until release is called.
func (s *Store) HoldTables() (held []badger.TableInfo, release func()) {
	txn := s.db.NewTransaction(false)
	held, closeIt := s.holdTables(txn)
	return held, func() {
		closeIt()
		txn.Discard()
	}
}

// MappedTables returns where tables are mapped.
func (s *Store) MappedTables(held []badger.TableInfo) (map[uint64][2]uintptr, error) {
	at, err := s.mappedTables(held)
	addresses := map[uint64][2]uintptr{}
	for id, r := range at {
		addresses[id] = [2]uintptr{r.start, r.end}
	}
	return addresses, err
}

// ParseMapping parses a line of /proc/PID/maps; zero: it names no file.
func ParseMapping(line string) (start, end uintptr, path string) {
	r, path, _ := parseMapping(line)
	return r.start, r.end, path
}

// TableIDs returns the numbers of the tables.
func (s *Store) TableIDs() (ids []uint64) {
	for _, t := range s.db.Tables() {
		ids = append(ids, t.ID)
	}
	return ids
}

// SetShedBudget changes how much may be resident, and returns what undoes that. Call it while no store is open.
func SetShedBudget(n int64) (undo func()) {
	was := shedBudget
	shedBudget = n
	return func() { shedBudget = was }
}

// BlocksOf returns where the blocks are of a table that is mapped from start to end.
func BlocksOf(start, end uintptr, index int) (uintptr, uintptr) {
	r := region{start, end}.blocks(index)
	return r.start, r.end
}

// SetTableCut sets where large tables are cut.
func SetTableCut(n int64) (undo func()) {
	was := tableCut
	tableCut = n
	return func() { tableCut = was }
}
