package files

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestSqlite has a database written in transactions while the daemon is killed: each one that was
// reported is there afterwards, and the database is sound. With a rollback journal the removal of that
// file is the commit, and only synchronous=EXTRA has SQLite sync the directory after it.
func TestSqlite(t *testing.T) {
	harness.Need(t, "sqlite3", "stdbuf")
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			r := mount(t, 2)
			db := filepath.Join(r.dir, "db")
			r.run("sqlite3", db, "PRAGMA journal_mode="+mode+"; CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB);")
			told := 0
			for range 3 {
				told = max(told, r.insertUntilKilled(db, mode, told))
				r.crash()
				require.Equal(t, "ok", strings.TrimSpace(r.run("sqlite3", db, "PRAGMA integrity_check;")))
				there, err := strconv.Atoi(strings.TrimSpace(r.run("sqlite3", db, "SELECT count(*) FROM t;")))
				require.NoError(t, err)
				require.GreaterOrEqual(t, there, told, "transactions that were reported as done are missing")
				told = there
			}
			require.NotZero(t, told)
		})
	}
}

// insertUntilKilled inserts rows from first on, each in a transaction of its own, until the daemon,
// which is killed meanwhile, is gone, and returns how many were reported before the kill: SQLite takes
// a directory that it cannot open, to sync it, for one that needs no sync, also when the daemon has died.
func (r *rig) insertUntilKilled(db, mode string, first int) int {
	cmd := r.command(r.Context(), "stdbuf", "-oL", "sqlite3", "-batch", db)
	in, err := cmd.StdinPipe()
	require.NoError(r, err)
	out, err := cmd.StdoutPipe()
	require.NoError(r, err)
	require.NoError(r, cmd.Start())
	go func() {
		fmt.Fprintf(in, "PRAGMA journal_mode=%s; PRAGMA synchronous=EXTRA;\n", mode)
		for n := first + 1; ; n++ {
			if _, err := fmt.Fprintf(in, "INSERT INTO t VALUES(%d, randomblob(1000)); SELECT 'row ' || max(n) FROM t;\n", n); err != nil {
				return
			}
		}
	}()
	daemon := r.d.Ended()
	go func() { // it would go on asking a dead file system
		<-daemon
		cmd.Process.Kill()
	}()
	var told, before atomic.Int64
	told.Store(int64(first))
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "row "))
		if err != nil {
			continue
		}
		if timer == nil { // some are in
			timer = time.AfterFunc(300*time.Millisecond, func() {
				before.Store(told.Load())
				r.d.Kill()
			})
		}
		told.Store(max(told.Load(), int64(n)))
	}
	<-daemon
	in.Close()
	cmd.Wait()
	return int(before.Load())
}
