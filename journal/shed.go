package journal

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	badgertable "github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sys/unix"
)

// Badger maps its tables. What was read of them once counts as memory of the process until the kernel needs
// it, which on a large machine is never: a store of 3 GiB makes a process of 3 GiB. So the tables are shed
// now and again: their pages are no longer the process's, but stay in the kernel's cache, and the next
// access to one costs a minor fault.
//
// Advice by address must not meet anything else, and Badger may unmap a table at any moment, whereupon the
// Go runtime may put its heap there. But a table is unmapped by who gives back the last reference to it, a
// level has one to each of its tables, and an iterator over all keys, moved or not, takes one to each table
// that a level has then and gives them back when it is closed. Tables do not change their level, and no
// number is used twice; so what the levels have before the iterator is made and still have after that, it
// holds. These tables stay where they are mapped until it is closed. Only the end of Badger does not look at
// references, and that waits for readers, of which this is one.
//
// What else Badger has mapped (logs, tables in the making) is left alone, and so are the tables' indexes.

const (
	shedUses = 256                    // records read or changed between two looks at the memory
	shedLook = 250 * time.Millisecond // between looks while it changes: what compactions read is not counted
)

// shedBudget is how many bytes of files may be resident beyond those that shedding leaves.
var shedBudget int64 = 64 << 20

// shedder sheds a store's tables.
type shedder struct {
	uses atomic.Int64  // records since the last look
	kick chan struct{} // has one element when a look is due
	quit chan struct{} // closed to end it
	done chan struct{} // closed when it has ended

	mu   sync.Mutex        // held while tables are shed
	left int64             // bytes of files that were resident when it had shed
	at   map[uint64]region // where tables are mapped, of those that were held last; zero: unknown
	// listed is called by tests between two looks at which tables there are.
	listed func()
}

// region is a range of addresses.
type region struct{ start, end uintptr }

func newShedder() shedder {
	return shedder{kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

// used counts records that were read or changed.
func (s *shedder) used(n int) {
	if s.uses.Add(int64(n)) < shedUses {
		return
	}
	s.uses.Store(0)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// shedLoop looks at the resident memory while the store is in use, until it is closed.
func (s *Store) shedLoop() {
	d := &s.shedder
	defer close(d.done)
	timer := time.NewTimer(shedLook)
	defer timer.Stop()
	var was int64
	for {
		select {
		case <-d.quit:
			return
		case <-d.kick:
		case <-timer.C:
		}
		view, err := s.enter()
		var now int64
		if err == nil {
			now, err = s.look(view.txn)
			s.leave(view)
		}
		if err != nil {
			select {
			case <-d.quit:
			default:
				s.log.Warn("the journal's mapped files are left to the kernel", "error", err)
			}
			return
		}
		if now != was {
			timer.Reset(shedLook)
		}
		was = now
	}
}

// look sheds the tables if it is time to, and returns how many bytes of files are resident then. Whoever calls
// it reads in txn, so that Badger stays open.
func (s *Store) look(txn *badger.Txn) (int64, error) {
	d := &s.shedder
	d.mu.Lock()
	defer d.mu.Unlock()
	now, err := residentFiles()
	if err != nil || now <= d.left+shedBudget {
		return now, err
	}
	if _, err := s.shedLocked(txn); err != nil {
		return now, err
	}
	d.left, err = residentFiles()
	return d.left, err
}

// scanned counts n records of a scan, which reads a store faster than another goroutine may get to run.
func (s *Store) scanned(n int, txn *badger.Txn) {
	if n%(16*shedUses) == 0 {
		s.look(txn) // an error ends shedLoop, which tells of it
	}
}

// residentFiles returns how many bytes of files are resident.
func residentFiles() (int64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	if fields := bytes.Fields(b); len(fields) > 2 {
		if pages, err := strconv.ParseInt(string(fields[2]), 10, 64); err == nil {
			return pages * int64(os.Getpagesize()), nil
		}
	}
	return 0, fmt.Errorf("memory of this process: %q", b)
}

// shedLocked gives back the pages of the tables, and returns of how many. Called with shedder.mu.
func (s *Store) shedLocked(txn *badger.Txn) (n int, err error) {
	d := &s.shedder
	held, release := s.holdTables(txn)
	defer release()
	if slices.ContainsFunc(held, func(t badger.TableInfo) bool { _, known := d.at[t.ID]; return !known }) {
		if d.at, err = s.mappedTables(held); err != nil {
			return 0, err
		}
	}
	for i := range held {
		r := d.at[held[i].ID].blocks(held[i].IndexSz)
		if r == (region{}) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED); errno != 0 {
			return n, fmt.Errorf("give back the memory of table %d: %w", held[i].ID, errno)
		}
		n++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Sheds++
	return n, nil
}

// blocks returns where a table's blocks are, without its index: that stands behind them and is looked at for
// every record, so it would be back at once, in each table 64 KiB for the first of its pages.
func (r region) blocks(index int) region {
	const behind = 64 // two lengths and a checksum
	page := uintptr(os.Getpagesize())
	kept := uintptr(index) + behind + page // the file ends anywhere in the last page
	if r.end-r.start < kept+page {
		return region{}
	}
	return region{r.start, (r.end - kept) &^ (page - 1)}
}

// holdTables returns tables that stay mapped until release is called: all but those that come or go meanwhile.
func (s *Store) holdTables(txn *badger.Txn) (held []badger.TableInfo, release func()) {
	before := map[uint64]bool{}
	for _, t := range s.db.Tables() {
		before[t.ID] = true
	}
	if s.shedder.listed != nil {
		s.shedder.listed()
	}
	it := txn.NewIterator(badger.IteratorOptions{}) // reads nothing before it is moved
	held = slices.DeleteFunc(s.db.Tables(), func(t badger.TableInfo) bool { return !before[t.ID] })
	return held, it.Close
}

// mappedTables returns where tables that are held are mapped, zero for those that it does not find.
func (s *Store) mappedTables(held []badger.TableInfo) (map[uint64]region, error) {
	// The kernel names a mapping by the path of its file, as it does a file that is open.
	lock, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.lock.Fd()))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(lock), badgerName)
	at, ids := map[uint64]region{}, map[string]uint64{}
	for i := range held {
		id := held[i].ID
		at[id] = region{}
		ids[strings.ReplaceAll(badgertable.NewFilename(id, dir), "\n", `\012`)] = id
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); ; {
		if !lines.Scan() {
			return at, lines.Err()
		}
		where, path, ok := parseMapping(lines.Text())
		if id, mine := ids[path]; ok && mine {
			at[id] = where
		}
	}
}

// parseMapping returns the addresses and the path of a line of /proc/PID/maps:
//
//	7f1c2a400000-7f1c2a600000 rw-s 00000000 fe:00 1573092                    /var/lib/ballast/v/journal/badger/000012.sst
func parseMapping(line string) (r region, path string, ok bool) {
	slash := strings.IndexByte(line, '/')
	addresses, _, _ := strings.Cut(line, " ")
	from, to, found := strings.Cut(addresses, "-")
	if slash < 0 || !found {
		return region{}, "", false
	}
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return region{}, "", false
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil || end <= start {
		return region{}, "", false
	}
	return region{uintptr(start), uintptr(end)}, line[slash:], true
}
