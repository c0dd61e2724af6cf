package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ballast/journal"
	"ballast/journal/journaltest"
	"ballast/journal/simjournal"
)

func TestSuite(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journal.Journal { return open(t, create(t)) })
}

func TestStateIsThatOfTheSimulation(t *testing.T) {
	s, sim := open(t, create(t)), simjournal.New(simjournal.Options{})
	rng := rand.New(rand.NewPCG(5, 6))
	model := map[journal.Key]string{}
	for range 200 {
		b := journaltest.RandomBatch(rng, 20, model)
		require.NoError(t, s.Commit(t.Context(), b))
		require.NoError(t, sim.Commit(t.Context(), b))
		require.Equal(t, sim.State(), s.State())
	}
}

// TestReopen also closes tables below the records (each Close flushes), compacts them, and so
// would see a deleted record come back (dgraph-io/badger issues 2143 and 2286).
func TestReopen(t *testing.T) {
	dir := create(t)
	rng := rand.New(rand.NewPCG(7, 8))
	model := map[journal.Key]string{}
	var last journal.State
	for round := range 12 {
		s := open(t, dir, last)
		require.Equal(t, last, s.State())
		require.Equal(t, volume, s.UUID())
		require.Equal(t, model, journaltest.Contents(t, s))
		for range 30 {
			require.NoError(t, s.Commit(t.Context(), journaltest.RandomBatch(rng, 30, model)))
		}
		if round == 8 { // all gone: nothing may come back
			b := &journal.Batch{}
			for k := range model {
				b.Delete(k)
				delete(model, k)
			}
			require.NoError(t, s.Commit(t.Context(), b))
		}
		if round%3 == 2 {
			require.NoError(t, s.Flatten())
		}
		journaltest.CheckState(t, s, model)
		state, err := s.Verify()
		require.NoError(t, err)
		last = s.State()
		require.Equal(t, last, state)
		require.Equal(t, model, journaltest.Contents(t, s))
		require.NoError(t, s.Close())
		require.NoError(t, s.Close(), "closing again does nothing")
	}
	state, err := journal.Preflight(dir, volume)
	require.NoError(t, err)
	require.Equal(t, last, state)
	state, err = journal.RunPreflight(t.Context(), []string{executable(t), "journal-preflight"}, dir)
	require.NoError(t, err)
	require.Equal(t, last, state)
}

// TestSyncWrites guards the one mode in which what Commit acknowledged is durable: DB.Sync after
// a rotation of the log leaves the old log unsynced.
func TestSyncWrites(t *testing.T) {
	require.True(t, open(t, create(t)).SyncWrites())
}

// TestValueLogIsEmpty: what a commit does not flush has nothing of it, and a larger value is refused.
func TestValueLogIsEmpty(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	require.False(t, s.SyncsValueLog())
	b := &journal.Batch{}
	b.Put(journal.MakeKey(journal.SpaceJob, 0, 1), bytes.Repeat([]byte("x"), journal.MaxValueBytes))
	require.NoError(t, s.Commit(t.Context(), b))
	logs, err := filepath.Glob(dir + "/badger/*.vlog")
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	for _, name := range logs {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		const header = 20 // Badger's
		require.Empty(t, bytes.TrimRight(content[header:], "\x00"), name)
	}
	b.Ops[0].Value = append(b.Ops[0].Value, 'x')
	require.ErrorIs(t, s.Commit(t.Context(), b), journal.ErrTooBig)
}

func TestCreateRefuses(t *testing.T) {
	dir := create(t)
	require.ErrorIs(t, journal.Create(dir, volume), fs.ErrExist)
	other := t.TempDir()
	require.NoError(t, os.WriteFile(other+"/precious", nil, 0o600))
	err := journal.Create(other, volume)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "precious")
	entries, err := os.ReadDir(other)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing was touched")
}

// TestLockOfTheDying opens a journal while somebody who is about to go has its lock, as the child of
// a daemon that was killed during its start.
func TestLockOfTheDying(t *testing.T) {
	defer journal.SetLockWait(time.Minute)()
	dir := create(t)
	f, err := os.OpenFile(dir+"/lock", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	waited := 0
	defer journal.SetLockPause(func() {
		waited++
		require.NoError(t, f.Close())
	})()
	require.True(t, open(t, dir).SyncWrites())
	require.Equal(t, 1, waited)
}

func TestSecondOpenerIsRefused(t *testing.T) {
	defer journal.SetLockWait(20 * time.Millisecond)()
	dir := create(t)
	s := open(t, dir)
	_, err := journal.Open(dir, journal.Options{})
	require.ErrorIs(t, err, journal.ErrBusy)
	require.ErrorIs(t, preflight(t)(dir), journal.ErrBusy)
	_, err = journal.Preflight(dir, volume)
	require.ErrorIs(t, err, journal.ErrBusy)
	require.NoError(t, s.Commit(t.Context(), put(0, 3, "goes on")))
	require.NoError(t, s.Close())
	require.Equal(t, uint64(3), open(t, dir).State().Count)
}

func TestAnchors(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	require.NoError(t, s.Commit(t.Context(), put(0, 5, "a")))
	old := s.State()
	require.NoError(t, s.Close())
	yesterday := t.TempDir() + "/yesterday"
	copyTree(t, dir, yesterday)
	s = open(t, dir, old, journal.State{})
	require.NoError(t, s.Commit(t.Context(), put(0, 5, "b")))
	now := s.State()
	require.NoError(t, s.Close())

	_, err := journal.Open(yesterday, journal.Options{Anchors: []journal.State{old, now}})
	require.ErrorIs(t, err, journal.ErrRolledBack)
	var rolled *journal.RolledBackError
	require.True(t, errors.As(err, &rolled))
	require.Equal(t, journal.RolledBackError{Have: old, Anchor: now}, *rolled)
	_, err = journal.Open(yesterday, journal.Options{Anchors: []journal.State{now}, Preflight: preflight(t)})
	require.ErrorIs(t, err, journal.ErrRolledBack)

	// Two futures of one past: as old, but different.
	s = open(t, yesterday)
	require.NoError(t, s.Commit(t.Context(), put(0, 5, "c")))
	require.Equal(t, now.Seq, s.State().Seq)
	require.NoError(t, s.Close())
	_, err = journal.Open(yesterday, journal.Options{Anchors: []journal.State{now}})
	require.ErrorIs(t, err, journal.ErrRolledBack)
	open(t, dir, old, now)
}

func TestForeignJournals(t *testing.T) {
	dir, other := create(t), t.TempDir()+"/other"
	require.NoError(t, journal.Create(other, [16]byte{9}))
	_, err := journal.Open(other, journal.Options{UUID: volume})
	require.ErrorIs(t, err, journal.ErrForeign)
	_, err = journal.Preflight(other, volume)
	require.ErrorIs(t, err, journal.ErrForeign)
	// Badger's directory alone comes from another volume.
	require.NoError(t, os.RemoveAll(dir+"/badger"))
	copyTree(t, other+"/badger", dir+"/badger")
	_, err = journal.Open(dir, journal.Options{UUID: volume})
	require.ErrorIs(t, err, journal.ErrForeign)
	_, err = journal.Open(dir, journal.Options{UUID: volume, Preflight: preflight(t)})
	require.ErrorIs(t, err, journal.ErrForeign)
	_, err = journal.Open(t.TempDir(), journal.Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestDirectory opens directories that somebody changed.
func TestDirectory(t *testing.T) {
	golden := create(t)
	s := open(t, golden)
	require.NoError(t, s.Commit(t.Context(), put(0, 50, "a")))
	require.NoError(t, s.Close())
	want := s.State()
	for name, c := range map[string]struct {
		change func(dir string) error
		err    error // nil: opens
		text   string
	}{
		"manifest deleted": {func(dir string) error { return os.Remove(dir + "/badger/MANIFEST") }, journal.ErrCorrupt, "MANIFEST.bak"},
		"manifest a link": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/badger/MANIFEST"), os.Symlink("../MANIFEST.bak", dir+"/badger/MANIFEST"))
		}, journal.ErrCorrupt, "MANIFEST"},
		"badger deleted": {func(dir string) error { return os.RemoveAll(dir + "/badger") }, journal.ErrCorrupt, "badger"},
		"badger empty": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/badger"), os.Mkdir(dir+"/badger", 0o700))
		}, journal.ErrCorrupt, "MANIFEST"},
		"badger a link": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/badger", dir+"/b"), os.Symlink("b", dir+"/badger"))
		}, journal.ErrCorrupt, "no directory"},
		"mark deleted":      {func(dir string) error { return os.Remove(dir + "/store") }, fs.ErrNotExist, "store"},
		"mark empty":        {func(dir string) error { return os.Truncate(dir+"/store", 0) }, journal.ErrCorrupt, "store"},
		"mark longer":       {appendTo("store", "x"), journal.ErrCorrupt, "store"},
		"x.sst":             {touch("x.sst"), journal.ErrCorrupt, "x.sst"},
		"abc.mem":           {touch("abc.mem"), journal.ErrCorrupt, "abc.mem"},
		"000001.sst.bak":    {touch("000001.sst.bak"), journal.ErrCorrupt, "000001.sst.bak"},
		"000009.sst a dir":  {func(dir string) error { return os.Mkdir(dir+"/badger/000009.sst", 0o700) }, journal.ErrCorrupt, "000009.sst"},
		"00099.mem empty":   {touch("00099.mem"), nil, ""},
		"000009.vlog empty": {touch("000009.vlog"), nil, ""},
		"000009.sst empty":  {touch("000009.sst"), nil, ""},
		"keys deleted":      {func(dir string) error { return os.Remove(dir + "/badger/KEYREGISTRY") }, nil, ""},
		"keys empty":        {func(dir string) error { return os.Truncate(dir+"/badger/KEYREGISTRY", 0) }, journal.ErrCorrupt, ""},
		"ballast deleted":   {func(dir string) error { return os.Remove(dir + "/ballast") }, nil, ""},
		"backup deleted":    {func(dir string) error { return os.Remove(dir + "/MANIFEST.bak") }, nil, ""},
		"lock deleted":      {func(dir string) error { return os.Remove(dir + "/lock") }, nil, ""},
		"odd name":          {func(dir string) error { return os.Rename(dir, dir+"[*?]") }, fs.ErrNotExist, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/j"
			copyTree(t, golden, dir)
			require.NoError(t, c.change(dir))
			s, err := journal.Open(dir, journal.Options{UUID: volume, Anchors: []journal.State{want}, Preflight: preflight(t)})
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, c.text)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, s.State())
			require.NoError(t, s.Close())
		})
	}
}

func touch(name string) func(string) error { return appendTo("badger/"+name, "") }

func appendTo(name, text string) func(string) error {
	return func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
}

func TestFirstFailureIsFinal(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	fail := false
	broken := errors.New("input/output error")
	s.SetCommit(func(real func() error) error {
		if fail {
			return broken
		}
		return real()
	})
	require.NoError(t, s.Commit(t.Context(), put(0, 5, "a")))
	before := s.State()
	fail = true
	err := s.Commit(t.Context(), put(5, 9, "b"))
	require.ErrorIs(t, err, journal.ErrDead)
	require.ErrorIs(t, err, broken)
	fail = false
	require.ErrorIs(t, s.Commit(t.Context(), put(0, 1, "c")), journal.ErrDead)
	require.ErrorIs(t, s.Stats().Failed, broken)
	require.Equal(t, before, s.State())
	v, err := s.Get(job(1))
	require.NoError(t, err, "reads go on")
	require.Equal(t, "a 1", string(v))
	require.Len(t, journaltest.Contents(t, s), 5)
	require.NoError(t, s.Close())
	require.Equal(t, before, open(t, dir, before).State())
}

func TestTripwire(t *testing.T) {
	for _, text := range []string{"error flushing memtable to disk: %v, retrying", "Error while curlf sync: %v\n", "writeRequests: %v"} {
		s := open(t, create(t))
		require.NoError(t, s.Commit(t.Context(), put(0, 1, "a")))
		s.Log(text, "no space")
		err := s.Commit(t.Context(), put(0, 1, "b"))
		require.ErrorIs(t, err, journal.ErrDead)
		require.ErrorContains(t, err, "no space")
		v, err := s.Get(job(0))
		require.NoError(t, err)
		require.Equal(t, "a 0", string(v))
		require.NoError(t, s.Close())
	}
	// One that trips while a group is committed: nobody in it is told that it is durable.
	s := open(t, create(t))
	s.SetCommit(func(real func() error) error {
		s.Log("error flushing memtable")
		return real()
	})
	require.ErrorIs(t, s.Commit(t.Context(), put(0, 1, "a")), journal.ErrDead)
}

func TestDirectoryDeletedWhileRunning(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	require.NoError(t, s.Commit(t.Context(), put(0, 1, "a")))
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.ErrorIs(t, s.Commit(t.Context(), put(0, 1, "b")), journal.ErrDead)
	require.NoError(t, os.Rename(dir+".away", dir))
	require.ErrorIs(t, s.Commit(t.Context(), put(0, 1, "b")), journal.ErrDead)
	require.NoError(t, s.Close())
	require.Equal(t, uint64(1), open(t, dir).State().Count)
}

// TestGroups holds the committer while others queue, and sees one flush for all of them.
func TestGroups(t *testing.T) {
	s := open(t, create(t))
	inside, release := make(chan struct{}), make(chan struct{})
	s.SetCommit(func(real func() error) error {
		inside <- struct{}{}
		<-release
		return real()
	})
	var wg sync.WaitGroup
	results := make(chan error, 100)
	commit := func(b *journal.Batch) { wg.Go(func() { results <- s.Commit(context.Background(), b) }) }
	commit(put(0, 1, "first"))
	<-inside
	for i := range 20 {
		commit(put(i, i+1, "second"))
	}
	waitQueued(t, s, 20)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- s.Commit(ctx, put(70, 80, "withdrawn")) }()
	waitQueued(t, s, 21)
	cancel()
	require.Equal(t, context.Canceled, <-left, "withdrawn from the queue")
	big := &journal.Batch{} // as large as a batch may be: has a group of its own
	for i := range journal.MaxBatchOps {
		big.Put(job(1000+i), nil2empty)
	}
	commit(big)
	waitQueued(t, s, 21)
	release <- struct{}{}
	<-inside
	require.Equal(t, uint64(1), s.State().Count)
	ctx, cancel = context.WithCancel(t.Context())
	release <- struct{}{}
	<-inside
	go func() { left <- s.Commit(ctx, put(90, 91, "last")) }()
	waitQueued(t, s, 1)
	require.Equal(t, uint64(20), s.State().Count)
	release <- struct{}{}
	<-inside // the last group is being committed
	cancel()
	require.ErrorIs(t, <-left, journal.ErrUnsettled)
	go func() { release <- struct{}{} }()
	wg.Wait()
	require.NoError(t, s.Close())
	close(results)
	for err := range results {
		require.NoError(t, err)
	}
	st := s.Stats()
	require.Equal(t, uint64(4), st.Groups)
	require.Equal(t, uint64(23), st.Batches)
	require.Equal(t, 20, st.GroupMax)
	require.Equal(t, uint64(journal.MaxBatchOps+22), st.Ops)
	require.Equal(t, journal.Seq(4), s.State().Seq)
	require.Equal(t, uint64(journal.MaxBatchOps+21), s.State().Count)
	var groups uint64
	for _, n := range st.Latency {
		groups += n
	}
	require.Equal(t, st.Groups, groups)
	require.Equal(t, []uint64{0, 3, 0, 0, 0, 1}, st.Sizes[:6])
	require.GreaterOrEqual(t, st.CommitTime, st.CommitMax)
	require.Positive(t, st.CommitMax)
	require.Positive(t, st.DiskBytes)
}

var nil2empty = []byte{}

// waitQueued returns when n batches are in the queue.
func waitQueued(t *testing.T, s *journal.Store, n int) {
	require.Eventually(t, func() bool { return s.Queued() == n }, patience, 100*time.Microsecond)
}

func TestCloseWaitsForReadersAndCommitsTheQueue(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	require.NoError(t, s.Commit(t.Context(), put(0, 3, "a")))
	closed := make(chan error, 1)
	n := 0
	require.NoError(t, s.Scan(journaltest.Free, func(journal.Key, []byte) error {
		if n == 0 {
			go func() { closed <- s.Close() }()
			require.Eventually(t, func() bool {
				_, err := s.Get(job(0))
				return errors.Is(err, journal.ErrClosed)
			}, patience, 100*time.Microsecond)
		}
		n++
		return nil
	}))
	require.Equal(t, 3, n)
	require.NoError(t, <-closed)
}

func TestGetKeepsItsValue(t *testing.T) {
	s := open(t, create(t))
	require.NoError(t, s.Commit(t.Context(), put(0, 100, "value")))
	var values [][]byte
	for i := range 100 {
		v, err := s.Get(job(i))
		require.NoError(t, err)
		values = append(values, v)
	}
	require.NoError(t, s.Commit(t.Context(), put(0, 100, "other")))
	dst := []byte("before ")
	for i, v := range values {
		require.Equal(t, fmt.Sprintf("value %d", i), string(v))
		out, err := s.GetAppend(dst, job(i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("before other %d", i), string(out))
	}
	out, err := s.GetAppend(dst, job(100))
	require.ErrorIs(t, err, journal.ErrNotFound)
	require.Equal(t, dst, out)
}

// TestBadRecordIsFound commits bytes that do not parse: the caller's fault, found at the next open.
func TestBadRecordIsFound(t *testing.T) {
	dir := create(t)
	s := open(t, dir)
	b := &journal.Batch{}
	b.Put(journal.MakeKey(journal.SpaceChunk, 1, 7), []byte("no chunk"))
	require.NoError(t, s.Commit(t.Context(), b))
	_, err := s.Verify()
	require.ErrorIs(t, err, journal.ErrCorrupt)
	require.ErrorContains(t, err, "C 1/7")
	require.NoError(t, s.Close())
	_, err = journal.Open(dir, journal.Options{Preflight: preflight(t)})
	require.ErrorIs(t, err, journal.ErrCorrupt)
	require.ErrorContains(t, err, "C 1/7")
}

func TestManifestBackupIsTheSameFile(t *testing.T) {
	dir := create(t)
	open(t, dir)
	var a, b unix.Stat_t
	require.NoError(t, unix.Stat(dir+"/badger/MANIFEST", &a))
	require.NoError(t, unix.Stat(dir+"/MANIFEST.bak", &b))
	require.Equal(t, a.Ino, b.Ino)
}

// fakePreflightMain is a child that does not do what it should.
func fakePreflightMain(how string) int {
	mode, _, _ := strings.Cut(filepath.Base(how), ".")
	if mode != "usage" {
		fmt.Println(`"ballast journal preflight"`)
	}
	switch mode {
	case "panic":
		panic("runtime error")
	case "killed":
		unix.Kill(unix.Getpid(), unix.SIGKILL)
		time.Sleep(time.Hour) // another thread may be the one that the signal meets
	case "bus":
		unix.Kill(unix.Getpid(), unix.SIGBUS)
		time.Sleep(time.Hour)
	case "hang":
		time.Sleep(time.Hour)
	case "usage":
		return 2
	case "junk":
		fmt.Println("{}}")
	}
	return 0
}

func TestPreflightChildren(t *testing.T) {
	for mode, want := range map[string]error{"panic": journal.ErrCorrupt, "bus": journal.ErrCorrupt, "killed": nil, "usage": nil, "junk": nil, "hang": nil} {
		t.Run(mode, func(t *testing.T) {
			ctx := context.Background()
			if mode == "hang" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
			}
			_, err := journal.RunPreflight(ctx, []string{executable(t), "fake-preflight"}, mode)
			require.Error(t, err)
			require.Equal(t, want != nil, errors.Is(err, journal.ErrCorrupt), err.Error())
			require.Equal(t, mode == "hang", errors.Is(err, context.DeadlineExceeded))
		})
	}
	_, err := journal.RunPreflight(context.Background(), []string{"/nonexistent/ballast"}, "dir")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A child that is being started has all locks of this process for a moment, that of Badger's directory
// too. It is waited for, and a lock that stays is no damage.
func TestLockOfBadgerIsWaitedFor(t *testing.T) {
	dir := create(t)
	hold := func() *os.File {
		d, err := os.Open(dir + "/badger")
		require.NoError(t, err)
		require.NoError(t, unix.Flock(int(d.Fd()), unix.LOCK_EX))
		return d
	}
	first := hold()
	waited := 0
	goOn := journal.SetLockPause(func() {
		waited++
		require.NoError(t, first.Close())
	})
	s, err := journal.Open(dir, journal.Options{UUID: volume})
	goOn()
	require.NoError(t, err)
	require.Equal(t, 1, waited)
	require.NoError(t, s.Close())
	d := hold()
	defer d.Close()
	defer journal.SetLockWait(10 * time.Millisecond)()
	_, err = journal.Open(dir, journal.Options{UUID: volume})
	require.ErrorIs(t, err, journal.ErrBusy)
	require.NotErrorIs(t, err, journal.ErrCorrupt)
}
