package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// externalMagic is in Badger's MANIFEST and keeps foreign stores out. Part of the format.
const externalMagic = 0xba11

// closeWait bounds how long Close waits for a store that has failed: Badger retries a flush that
// cannot succeed for ever.
const closeWait = 10 * time.Second

// Options of Open; the zero value works.
type Options struct {
	// UUID of the volume; zero takes any.
	UUID [16]byte
	// Anchors are states of this journal noted elsewhere, as in the labels of devices. Open
	// returns ErrRolledBack if the journal is older than one of them.
	Anchors []State
	// Preflight, if set, has Badger open the store in dir and close it again in another process, because it
	// kills its process over some damages; see RunSettle. Open then reads and verifies the store before it
	// opens it, and much faster than through Badger, as it does if this is nil.
	Preflight func(dir string) error
	// Make, if set, makes a store in dir of the records that it reads, in a process that a bad disk may
	// kill, which has to keep the lock as long as it lives; see RunMake. If it is nil, Open does it.
	Make func(dir string, lock *os.File, records io.Reader) error
	// Places are where copies of the journal may be. Open takes the newest of store and copies, and
	// makes the store anew from a copy if it is damaged or not there; see StartCopies. UUID must be
	// given then.
	Places []Place
	// Logger gets what Badger logs, and why a journal has failed; nil discards.
	Logger *slog.Logger
}

// Store is a Journal on disk, in a directory of its own.
type Store struct {
	dir  string
	uuid [16]byte
	log  *slog.Logger
	wire *tripwire
	lock *os.File
	db   *badger.DB

	kick    chan struct{} // has one element when the queue may have grown
	stopped chan struct{} // closed when the committer has ended
	spoiled chan struct{} // closed with the first setting of damaged
	idle    chan struct{} // closed when the store is closed and no reader is inside

	// Of the committer alone.
	space  space
	hashes hashCache

	// What Open found out.
	lives      lives
	surveys    []*Survey
	recovery   Recovery
	placements atomic.Pointer[Placements] // nil: not known, taken, or no longer true

	shedder shedder

	// commit replaces (*badger.Txn).Commit in tests.
	commit func(*badger.Txn) error

	mu      sync.Mutex
	state   State
	queue   []*pending
	dead    error // why commits fail for good
	damaged error // why reads do
	closed  bool
	readers int // inside Get, Scan or Verify
	view    *view
	stats   Stats
	copies  *keeper // nil: none are kept
}

var _ Journal = (*Store)(nil)

// baseTable is the size of the smallest tables; each level's are twice those above. A compaction has up to 13
// in the making while the disk is slow to take them, each in memory of twice its size.
const baseTable = 1 << 20

// badgerOptions are those under which Badger keeps what it promised; changing one needs the crash
// tests again.
func badgerOptions(dir string, wire *tripwire) badger.Options {
	return badger.DefaultOptions(filepath.Join(dir, badgerName)).
		WithSyncWrites(true). // the only durable mode; DB.Sync misses a rotated log
		WithMemTableSize(memTable).WithNumMemtables(2).WithValueThreshold(min(2*MaxValueBytes, memTable/8)).
		WithValueLogFileSize(1 << 20). // unused: all values are below the threshold
		WithCompression(options.None).WithBlockCacheSize(0).WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.OnTableRead). // the others lose keys silently, or crash
		WithBaseTableSize(baseTable).
		WithNumCompactors(2).WithCompactL0OnClose(false).WithNumVersionsToKeep(1).
		WithDetectConflicts(false). // one committer
		WithMetricsEnabled(false).
		WithExternalMagic(externalMagic).
		WithLogger(wire)
}

// Create makes an empty journal for a volume in dir, which is made if it is not there. It refuses
// a directory with anything in it.
func Create(dir string, uuid [16]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return fmt.Errorf("journal directory %s is not empty, it has %q: %w", dir, e.Name(), fs.ErrExist)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := create(dir, uuid); err != nil {
		// What was made above is ours, as the directory was empty and locked.
		return errors.Join(fmt.Errorf("create journal in %s: %w", dir, err),
			os.RemoveAll(filepath.Join(dir, badgerName)), os.Remove(filepath.Join(dir, lockName)))
	}
	return nil
}

func create(dir string, uuid [16]byte) error {
	if err := os.Mkdir(filepath.Join(dir, badgerName), 0o700); err != nil {
		return err
	}
	sp := space{dir: dir, name: badgerName, statfs: unix.Statfs}
	if err := sp.prepare(); err != nil {
		return err
	}
	db, err := badger.Open(badgerOptions(dir, &tripwire{log: slog.New(slog.DiscardHandler)}))
	if err != nil {
		return err
	}
	err = db.Update(func(txn *badger.Txn) error {
		return txn.Set(metaKey[:], (&meta{UUID: uuid}).pack())
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(dir, badgerName)); err != nil {
		return err
	}
	// The mark comes last: a journal without it was never finished.
	return writeDurably(filepath.Join(dir, storeName), packStoreFile(uuid, time.Now()))
}

// Open opens the journal in dir and verifies all of it: every record's checksum, the number of
// records, their digest, and the anchors.
func Open(dir string, opts Options) (*Store, error) {
	if len(opts.Places) > 0 {
		return openWithCopies(dir, opts)
	}
	uuid, err := readStoreFile(dir, opts.UUID)
	if err != nil {
		return nil, err
	}
	if err := checkBadgerDir(dir); err != nil {
		return nil, err
	}
	if opts.Preflight != nil {
		if err := opts.Preflight(dir); err != nil {
			return nil, fmt.Errorf("verify journal in %s: %w", dir, err)
		}
	}
	var read func() (*contents, error)
	if opts.Preflight != nil {
		read = func() (*contents, error) { return readTables(filepath.Join(dir, badgerName), uuid) }
	}
	s, verified, err := open(dir, uuid, opts.Logger, read)
	if err != nil {
		return nil, err
	}
	if err := s.start(opts, verified); err != nil {
		return nil, errors.Join(err, s.shut())
	}
	return s, nil
}

// open locks the directory, makes it fit for Badger, and opens Badger. read, if it is not nil, reads and
// verifies all of a store that is settled before that.
func open(dir string, uuid [16]byte, log *slog.Logger, read func() (*contents, error)) (*Store, *State, error) {
	s := newStore(dir, uuid, log)
	if err := s.enterDir(); err != nil {
		return nil, nil, err
	}
	o := badgerOptions(dir, s.wire)
	var verified *State
	if read != nil {
		found, err := read()
		if err != nil {
			s.lock.Close()
			return nil, nil, fmt.Errorf("verify journal in %s: %w", dir, err)
		}
		verified = &found.State
		s.placements.Store(found.placements)
		// Not once more. Of tables that are made later Badger would read again what it has just written.
		o = o.WithChecksumVerificationMode(options.NoVerification)
	}
	if err := s.openDB(o); err != nil {
		return nil, nil, err
	}
	trip := s.die
	s.wire.trip.Store(&trip)
	return s, verified, nil
}

func newStore(dir string, uuid [16]byte, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		dir: dir, uuid: uuid, log: log, wire: &tripwire{log: log},
		kick: make(chan struct{}, 1), stopped: make(chan struct{}), idle: make(chan struct{}), spoiled: make(chan struct{}),
		space:  space{dir: dir, name: badgerName, statfs: unix.Statfs},
		commit: (*badger.Txn).Commit, shedder: newShedder(),
	}
}

// enterDir locks the directory and makes it fit for Badger.
func (s *Store) enterDir() (err error) {
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	err = checkBadgerDir(s.dir)
	if err == nil {
		err = removeEmptyLogs(s.dir)
	}
	if err == nil {
		err = s.space.prepare()
	}
	if err != nil {
		s.lock.Close()
	}
	return err
}

// openDB opens Badger in the directory that was entered, which is left if that fails.
func (s *Store) openDB(o badger.Options) (err error) {
	if s.db, err = openBadger(o); err == nil {
		return nil
	}
	s.lock.Close()
	if isLocked(err) {
		return fmt.Errorf("%s: %w: %w", s.dir, ErrBusy, err)
	}
	return fmt.Errorf("%w: open store in %s: %w", ErrCorrupt, s.dir, err)
}

// openBadger waits for Badger's own lock: who has that of the journal may have closed the store just now,
// and a child that was being started then has what was open until it runs.
func openBadger(options badger.Options) (db *badger.DB, err error) {
	err = awaitLock(func() error {
		db, err = badger.Open(options)
		return err
	}, isLocked)
	if err == nil {
		*syncsValueLog(db) = false
	}
	return db, err
}

// syncsValueLog is Badger's own switch: whether each commit flushes the value log too, before the log that
// has all our values. The value log is empty, but a flush of the disk is what that costs. No option
// turns it off alone, so the name goes with Badger's version; a test and this panic tell of a change.
func syncsValueLog(db *badger.DB) *bool {
	sync := reflect.ValueOf(db).Elem().FieldByName("vlog").FieldByName("opt").FieldByName("SyncWrites")
	return (*bool)(sync.Addr().UnsafePointer())
}

// isLocked goes by Badger's text: it does not wrap the error.
func isLocked(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Cannot acquire directory lock") && strings.Contains(err.Error(), unix.EWOULDBLOCK.Error())
}

// start checks what was opened and starts the committer.
func (s *Store) start(opts Options, verified *State) error {
	var err error
	if verified == nil {
		s.state, err = s.verify()
	} else if s.state, err = s.readState(); err == nil && s.state != *verified {
		err = fmt.Errorf("%w: it has %v, verified was %v", ErrCorrupt, s.state, *verified)
	}
	if err != nil {
		return fmt.Errorf("verify journal in %s: %w", s.dir, err)
	}
	if err := s.state.Check(opts.Anchors); err != nil {
		return err
	}
	if err := backUpManifest(s.dir); err != nil {
		return err
	}
	if err := s.space.makeBallast(); err != nil {
		return err
	}
	s.noteSpace()
	s.warnOfFileSystem()
	s.show(s.newView())
	go s.commitLoop() // ends by Close, which waits for it
	go s.shedLoop()   // so does this
	return nil
}

// warnOfFileSystem says so if the journal stands where its promises are not known to hold.
func (s *Store) warnOfFileSystem() {
	var st unix.Statfs_t
	if unix.Statfs(s.dir, &st) != nil {
		return
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
	case unix.TMPFS_MAGIC:
		s.log.Warn("the journal is on a file system in memory: a restart of the machine loses it", "dir", s.dir)
	default:
		s.log.Warn("the journal should be on ext4 or XFS", "dir", s.dir, "type", fmt.Sprintf("%#x", st.Type))
	}
}

// State is as in Journal; after Close it is the last one.
func (s *Store) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// UUID returns the UUID of the volume.
func (s *Store) UUID() [16]byte { return s.uuid }

// Close commits what is queued, waits for readers, and closes the store. That it returns nil is
// no proof that the store can be opened again; only opening it is.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if s.readers == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	s.wake()
	close(s.shedder.quit)
	<-s.stopped
	<-s.idle
	<-s.shedder.done
	if k := s.keeper(); k != nil && !k.close() {
		// A device hangs while the store is read for it: the end of the process has to close it.
		return fmt.Errorf("store in %s is left open: %w", s.dir, ErrBusy)
	}
	return s.shut()
}

// shut closes Badger and gives the lock back.
func (s *Store) shut() error {
	s.wire.trip.Store(nil)
	s.show(nil)
	done := make(chan error, 1)
	go func() { done <- errors.Join(s.db.Close(), s.lock.Close()) }() // ends with Badger's Close
	s.mu.Lock()
	dead := s.dead
	s.mu.Unlock()
	if dead == nil {
		return <-done
	}
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return fmt.Errorf("store in %s does not close after %w", s.dir, dead)
	}
}

// die makes the first failure final.
func (s *Store) die(why error) {
	s.mu.Lock()
	first := s.dead == nil
	if first {
		s.dead = fmt.Errorf("%w: %w", ErrDead, why)
	}
	s.mu.Unlock()
	if first {
		s.log.Error("the journal has failed, nothing is committed any more", "dir", s.dir, "error", why)
	}
}
