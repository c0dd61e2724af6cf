package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// The test binary is also the children that tests start.
func TestMain(m *testing.M) {
	if os.Getenv(smallEnv) != "" {
		journal.SetSmallMemTable()
	}
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "journal-preflight":
			if len(os.Args) > 3 && os.Args[3] == journal.MakeFlag {
				os.Exit(journal.MakeMain(os.Args[2], os.Stdin, os.Stdout))
			} else if len(os.Args) > 3 && os.Args[3] == journal.SettleFlag {
				os.Exit(journal.SettleMain(os.Args[2], os.Stdout))
			}
			os.Exit(journal.PreflightMain(os.Args[2], os.Stdout))
		case "journal-writer":
			os.Exit(writerMain(os.Args[2], os.Args[3]))
		case "fake-preflight":
			os.Exit(fakePreflightMain(os.Args[2]))
		}
	}
	// A process with the race detector waits for a second before it ends, and many children are
	// started here.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	// Badger leaves these two behind when its Open fails; a store that is open has others as well.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreTopFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

// patience is for things that are to happen by themselves; a test that waits this long has failed.
const patience = 2 * time.Minute

var volume = [16]byte{1, 2, 3}

// create makes a journal in a new directory.
func create(t testing.TB) string {
	dir := t.TempDir() + "/journal"
	require.NoError(t, journal.Create(dir, volume))
	return dir
}

// open opens a journal and closes it at the end of the test.
func open(t testing.TB, dir string, anchors ...journal.State) *journal.Store {
	s, err := journal.Open(dir, journal.Options{UUID: volume, Anchors: anchors, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// preflight is Options.Preflight by a child of the test binary.
func preflight(t testing.TB) func(string) error {
	return func(dir string) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return journal.RunSettle(ctx, []string{executable(t), "journal-preflight"}, dir)
	}
}

// smallMemTable is for tests that open very many small stores, here and in children.
func smallMemTable(t testing.TB) {
	t.Setenv(smallEnv, "1")
	t.Cleanup(journal.SetSmallMemTable())
}

const smallEnv = "BALLAST_TEST_SMALL_MEMTABLE"

func executable(t testing.TB) string {
	path, err := os.Executable()
	require.NoError(t, err)
	return path
}

// job is the key of record n in a space without a record type.
func job(n int) journal.Key { return journal.MakeKey(journaltest.Free, 0, uint64(n)) }

// put returns a batch of records n to m-1, all of one value.
func put(n, m int, value string) *journal.Batch {
	b := &journal.Batch{}
	for ; n < m; n++ {
		b.Put(job(n), fmt.Appendf(nil, "%s %d", value, n))
	}
	return b
}
