package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"ballast/journal"
)

// large is the value of record n in these tests.
func large(n int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", n), 64) }

// fillLarge puts records n to m-1.
func fillLarge(t testing.TB, s *journal.Store, n, m int) {
	for n < m {
		b := &journal.Batch{}
		for ; n < m && len(b.Ops) < 100; n++ {
			b.Put(job(n), large(n))
		}
		require.NoError(t, s.Commit(context.Background(), b))
	}
}

func readLarge(t testing.TB, s *journal.Store, n int) {
	v, err := s.Get(job(n))
	require.NoError(t, err)
	require.Equal(t, large(n), v)
}

// mapped returns how many tables of a store are mapped, and how many bytes of them are resident.
func mapped(t testing.TB, s *journal.Store) (tables int, resident int64) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	mine := false
	for line := range strings.Lines(string(smaps)) {
		var kb int64
		var start, end uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &start, &end); n == 2 {
			if mine = strings.Contains(line, " "+s.Dir()+"/") && strings.HasSuffix(line, ".sst\n"); mine {
				tables++
			}
		} else if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kb); n == 1 && mine {
			resident += kb << 10
		}
	}
	return tables, resident
}

func TestShedGivesTheMemoryOfTablesBack(t *testing.T) {
	const records = 10_000 // 5 MiB
	dir := create(t)
	s := open(t, dir)
	fillLarge(t, s, 0, records)
	require.NoError(t, s.Close())
	s = open(t, dir) // reads all, and has it in tables
	tables, before := mapped(t, s)
	require.Positive(t, tables)
	require.Greater(t, before, int64(records*512/2))
	n, err := s.Shed()
	require.NoError(t, err)
	require.InDelta(t, tables, n, 1) // one may be too small for that
	_, after := mapped(t, s)
	require.Less(t, after, before/10)
	for n := range records {
		readLarge(t, s, n)
	}
	_, again := mapped(t, s)
	require.Greater(t, again, before/2)
	require.NoError(t, s.Close())
	_, err = s.Shed()
	require.ErrorIs(t, err, journal.ErrClosed)
}

// tablesNow returns the numbers of a store's tables.
func tablesNow(s *journal.Store) map[uint64]bool {
	there := map[uint64]bool{}
	for _, id := range s.TableIDs() {
		there[id] = true
	}
	return there
}

// replaceTable changes records until a table is gone that there is.
func replaceTable(t testing.TB, s *journal.Store, records int) {
	for n, before := 0, tablesNow(s); ; n++ {
		require.Less(t, n, 1000)
		fillLarge(t, s, 0, records)
		now := tablesNow(s)
		for id := range before {
			if !now[id] {
				return
			}
		}
	}
}

// TestShedWhileInUse sheds all the time while records are read, changed and compacted.
func TestShedWhileInUse(t *testing.T) {
	t.Cleanup(journal.SetSmallMemTable())
	const records, rounds = 4000, 3
	s := open(t, create(t))
	fillLarge(t, s, 0, records)
	var wg sync.WaitGroup
	var over atomic.Bool
	for range 2 {
		wg.Go(func() {
			for !over.Load() {
				readLarge(t, s, rand.IntN(records))
			}
		})
	}
	shed := 0
	wg.Go(func() {
		for !over.Load() {
			n, err := s.Shed()
			if err != nil {
				t.Error(err)
				return
			}
			shed += n
		}
	})
	for range rounds {
		replaceTable(t, s, records)
	}
	over.Store(true)
	wg.Wait()
	require.Positive(t, shed)
	_, err := s.Verify()
	require.NoError(t, err)
}

// TestShedLeavesTablesThatGo: what is compacted away between the two looks at which tables there are may be
// unmapped, and is not held.
func TestShedLeavesTablesThatGo(t *testing.T) {
	t.Cleanup(journal.SetSmallMemTable())
	const records = 4000
	s := open(t, create(t))
	replaceTable(t, s, records)
	_, err := s.Shed()
	require.NoError(t, err)
	var before map[uint64]bool
	s.SetShedListed(func() {
		before = tablesNow(s)
		replaceTable(t, s, records)
	})
	held, release := s.HoldTables()
	now := tablesNow(s)
	for i := range held {
		require.True(t, before[held[i].ID], "table %d is new", held[i].ID)
	}
	gone := 0
	for id := range before {
		if !now[id] {
			gone++
			require.False(t, slices.ContainsFunc(held, func(t badger.TableInfo) bool { return t.ID == id }), "table %d is held", id)
		}
	}
	require.Positive(t, gone)
	release()
}

// TestTablesThatAreHeldStayMapped: Badger keeps what an iterator that is never moved has a reference to.
func TestTablesThatAreHeldStayMapped(t *testing.T) {
	t.Cleanup(journal.SetSmallMemTable())
	const records = 4000
	s := open(t, create(t))
	replaceTable(t, s, records)
	held, release := s.HoldTables()
	require.NotEmpty(t, held)
	was, err := s.MappedTables(held)
	require.NoError(t, err)
	for range 3 {
		replaceTable(t, s, records)
	}
	there := tablesNow(s)
	gone := slices.DeleteFunc(slices.Clone(held), func(t badger.TableInfo) bool { return there[t.ID] })
	require.NotEmpty(t, gone)
	now, err := s.MappedTables(held)
	require.NoError(t, err)
	require.Equal(t, was, now)
	release()
	now, err = s.MappedTables(gone)
	require.NoError(t, err)
	for id, at := range now {
		require.Zero(t, at, "table %d", id)
	}
}

// TestMemoryIsShedByItself: reading and committing make the store look at its memory.
func TestMemoryIsShedByItself(t *testing.T) {
	t.Cleanup(journal.SetShedBudget(1 << 20))
	const records = 20_000
	dir := create(t)
	s := open(t, dir)
	fillLarge(t, s, 0, records)
	require.NoError(t, s.Close())
	s = open(t, dir)
	for n := 0; s.Stats().Sheds < 3; n++ {
		readLarge(t, s, n%records)
	}
	sheds := s.Stats().Sheds
	for n := 0; s.Stats().Sheds == sheds; n++ {
		fillLarge(t, s, n%records, n%records+100)
	}
}

func TestMappingsAreParsed(t *testing.T) {
	for _, c := range []struct {
		line       string
		start, end uintptr
		path       string
	}{
		{"7f1c2a400000-7f1c2a600000 rw-s 00000000 fe:00 1573092                    /var/lib/b/000012.sst", 0x7f1c2a400000, 0x7f1c2a600000, "/var/lib/b/000012.sst"},
		{"7f1c2a400000-7f1c2a600000 rw-s 00000000 fe:00 1573092                    /a b/000012.sst (deleted)", 0x7f1c2a400000, 0x7f1c2a600000, "/a b/000012.sst (deleted)"},
		{"c000000000-c000400000 rw-p 00000000 00:00 0                              [anon: Go: heap]", 0, 0, ""},
		{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]", 0, 0, ""},
		{"7f1c2a400000 rw-s 00000000 fe:00 1573092 /var/lib/b/000012.sst", 0, 0, ""},
		{"7f1c2a600000-7f1c2a400000 rw-s 00000000 fe:00 1573092 /var/lib/b/000012.sst", 0, 0, ""},
		{"x-7f1c2a400000 rw-s 00000000 fe:00 1573092 /var/lib/b/000012.sst", 0, 0, ""},
		{"", 0, 0, ""},
	} {
		start, end, path := journal.ParseMapping(c.line)
		require.Equal(t, []any{c.start, c.end, c.path}, []any{start, end, path}, c.line)
	}
}

func TestBlocksOfATable(t *testing.T) {
	page := os.Getpagesize()
	for _, c := range []struct {
		size, index int
		kept        int // pages at the end; -1: all
	}{
		{1024 * page, 10 * page, 12}, // one for the end of the file, one for what stands behind the index
		{1024 * page, 10*page - 64, 11},
		{14 * page, 10 * page, 12},
		{12 * page, 10 * page, -1},
		{page, 40, -1},
	} {
		start, end := journal.BlocksOf(uintptr(page), uintptr(page+c.size), c.index)
		if c.kept < 0 {
			require.Zero(t, end, "%+v", c)
			continue
		}
		require.Equal(t, uintptr(page), start, "%+v", c)
		require.Equal(t, uintptr(page+c.size-c.kept*page), end, "%+v", c)
	}
}
