package journal_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// places returns a place for each area.
func places(areas ...*journaltest.Area) (list []journal.Place) {
	for i, a := range areas {
		list = append(list, journal.Place{Device: [16]byte{0xd, byte(i + 1)}, Name: fmt.Sprintf("d%d", i+1), Area: a})
	}
	return list
}

func newAreas(n int, size int64) (areas []*journaltest.Area) {
	for range n {
		areas = append(areas, journaltest.NewArea(size))
	}
	return areas
}

// openCopied opens a journal with copies and starts them. Unless the test is about copies that hang, none
// is taken for one because this process got no processor for a while.
func openCopied(t testing.TB, dir string, at []journal.Place, o journal.CopyOptions) *journal.Store {
	s, err := tryOpen(t, dir, at)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	o.Places, o.Timeout = at, cmp.Or(o.Timeout, time.Minute)
	require.NoError(t, s.StartCopies(o))
	return s
}

func tryOpen(t testing.TB, dir string, at []journal.Place, anchors ...journal.State) (*journal.Store, error) {
	return journal.Open(dir, journal.Options{UUID: volume, Places: at, Anchors: anchors,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// model is what a journal must hold.
type model map[journal.Key]string

func (m model) commit(t testing.TB, s *journal.Store, b *journal.Batch) {
	require.NoError(t, s.Commit(context.Background(), b))
	m.apply(b)
}

func (m model) apply(b *journal.Batch) {
	for _, op := range b.Ops {
		if op.Value == nil {
			delete(m, op.Key)
		} else {
			m[op.Key] = string(op.Value)
		}
	}
}

// randomBatch changes some of n records, of up to size bytes.
func randomBatch(rng *rand.Rand, n, size int) *journal.Batch {
	b := &journal.Batch{}
	for range 1 + rng.IntN(6) {
		key := job(rng.IntN(n))
		if rng.IntN(5) == 0 {
			b.Delete(key)
			continue
		}
		v := make([]byte, 1+rng.IntN(size))
		for i := range v {
			v[i] = byte(rng.Uint32())
		}
		b.Put(key, v)
	}
	return b
}

// requireGood waits until n copies are good.
func requireGood(t testing.TB, s *journal.Store, n int) {
	require.Eventually(t, func() bool { return s.Copies().Good == n }, patience, time.Millisecond, "%+v", s.Copies())
}

func TestCopyAloneRestoresTheJournal(t *testing.T) {
	areas := newAreas(3, 256<<10)
	dir, m := create(t), model{}
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	requireGood(t, s, 3)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		m.commit(t, s, randomBatch(rng, 40, 300))
	}
	state := s.State()
	require.NoError(t, s.Close())
	for i := range areas {
		for _, v := range journal.SurveyAll(places(areas...), volume) {
			require.NoError(t, v.Err)
			require.Equal(t, state, v.State)
			got, err := v.Content()
			require.NoError(t, err)
			require.Equal(t, state, got)
		}
		// The store is gone, and all devices but one.
		fresh := t.TempDir() + "/journal"
		only := journaltest.AreaOf(areas[i].Bytes())
		at := []journal.Place{{Device: [16]byte{0xd, byte(i + 1)}, Name: "d", Area: only}}
		s := openCopied(t, fresh, at, journal.CopyOptions{})
		require.Equal(t, "d", s.Recovery().From)
		require.Equal(t, state, s.State())
		require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s))
		m.commit(t, s, put(1000, 1001, "more"))
		requireGood(t, s, 1)
		state2 := s.State()
		require.NoError(t, s.Close())
		v := journal.SurveyAll(at, volume)[0]
		got, err := v.Content()
		require.NoError(t, err)
		require.Equal(t, state2, got)
		delete(m, job(1000))
	}
}

// A ring goes round many times while records are overwritten, deleted and left alone, and holds
// all of them all the time.
func TestRingGoesRound(t *testing.T) {
	for _, size := range []int64{48 << 10, 512 << 10} {
		t.Run(fmt.Sprint(size>>10, "KiB"), func(t *testing.T) {
			a := journaltest.NewArea(size)
			s := openCopied(t, create(t), places(a), journal.CopyOptions{})
			requireGood(t, s, 1)
			m := model{}
			m.commit(t, s, put(5000, 5010, "stays")) // never touched again
			rng := rand.New(rand.NewPCG(2, uint64(size)))
			n := int(size / 4000)
			for i := range 1000 {
				m.commit(t, s, randomBatch(rng, n, 500))
				if i%100 == 99 {
					require.Equal(t, 1, s.Copies().Good, "%+v", s.Copies())
					v := journal.SurveyAll(places(journaltest.AreaOf(a.Bytes())), volume)[0]
					got, err := v.Content()
					require.NoError(t, err)
					require.Equal(t, s.State(), got)
				}
			}
			require.Greater(t, a.Written(), 4*size)
			t.Logf("%d bytes of groups, %d written", s.Stats().Bytes, a.Written())
		})
	}
}

// Groups of every size, up to the largest, with frames that end at the end of the ring.
func TestLargeGroups(t *testing.T) {
	areas := newAreas(2, 24<<20)
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{})
	rng := rand.New(rand.NewPCG(3, 3))
	m := model{}
	for i := range 60 {
		b := &journal.Batch{}
		for size := 1 << rng.IntN(22); b.Bytes() < min(size, journal.MaxBatchBytes-200<<10); {
			v := make([]byte, rng.IntN(150<<10))
			b.Put(job(rng.IntN(60)), append(v, byte(i)))
		}
		m.commit(t, s, b)
	}
	require.Equal(t, 2, s.Copies().Good, "%+v", s.Copies())
	for _, v := range journal.SurveyAll(places(areas...), volume) {
		got, err := v.Content()
		require.NoError(t, err)
		require.Equal(t, s.State(), got)
	}
}

func TestHungCopyStopsNobody(t *testing.T) {
	areas := newAreas(4, 256<<10)
	var hang atomic.Bool
	release := make(chan struct{})
	areas[0].Hook = func(op string, _ int64) error {
		if hang.Load() && op != "read" {
			<-release
		}
		return nil
	}
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Timeout: 300 * time.Millisecond, Retry: 50 * time.Millisecond})
	requireGood(t, s, 3)
	hang.Store(true)
	for i := range 50 {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "x")))
	}
	// The one that hangs is given up, and the reserve takes its place.
	require.Eventually(t, func() bool {
		st := s.Copies()
		return st.Good == 3 && st.Copies[0].State == journal.CopyFailed && st.Copies[3].State == journal.CopyGood
	}, patience, time.Millisecond)
	require.NoError(t, s.Commit(t.Context(), put(100, 101, "y")))
	requireWhole(t, s, places(areas...)[1:])
	close(release)
	require.NoError(t, s.Close())
}

// requireWhole waits until the places hold what the store holds: the last group may be under way in
// a copy that nobody waited for.
func requireWhole(t testing.TB, s *journal.Store, at []journal.Place) {
	for _, p := range at {
		a := p.Area.(*journaltest.Area)
		require.Eventually(t, func() bool {
			p.Area = journaltest.AreaOf(a.Bytes())
			v := journal.SurveyAll([]journal.Place{p}, volume)[0]
			got, err := v.Content()
			return err == nil && got == s.State()
		}, patience, 5*time.Millisecond, p.Name)
	}
}

// With two copies both have to have a group. One that hangs is given up after its time, and the
// volume goes on with the other.
func TestOneOfTwoHangs(t *testing.T) {
	areas := newAreas(2, 256<<10)
	var hang atomic.Bool
	release := make(chan struct{})
	areas[1].Hook = func(string, int64) error {
		if hang.Load() {
			<-release
		}
		return nil
	}
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Timeout: 200 * time.Millisecond, Retry: 50 * time.Millisecond})
	requireGood(t, s, 2)
	hang.Store(true)
	require.NoError(t, s.Commit(t.Context(), put(0, 10, "x")))
	require.Equal(t, 1, s.Copies().Good)
	hang.Store(false)
	close(release)
	requireGood(t, s, 2) // it is tried again
	require.NoError(t, s.Commit(t.Context(), put(10, 20, "y")))
	requireWhole(t, s, places(areas...)) // again, if a pause of this process was taken for a hang
}

// Every write and every sync of a copy fails in turn: commits go on, and the copy comes back.
func TestFailingCopy(t *testing.T) {
	for _, op := range []string{"write", "sync", "read"} {
		t.Run(op, func(t *testing.T) {
			areas := newAreas(2, 64<<10)
			var n, failAt atomic.Int64
			areas[0].Hook = func(o string, _ int64) error {
				if o == op && n.Add(1) == failAt.Load() {
					return journaltest.ErrDisk
				}
				return nil
			}
			s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Retry: time.Millisecond})
			rng := rand.New(rand.NewPCG(4, 4))
			m := model{}
			for i := range 30 {
				requireGood(t, s, 2)
				failAt.Store(n.Load() + int64(i%5) + 1)
				for range 20 {
					m.commit(t, s, randomBatch(rng, 20, 300))
				}
			}
			require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s))
		})
	}
}

// What becomes of a place that is not offered any more, and of one that is new.
func TestPlacesComeAndGo(t *testing.T) {
	areas := newAreas(4, 256<<10)
	at := places(areas...)
	s := openCopied(t, create(t), at[:2], journal.CopyOptions{})
	requireGood(t, s, 2)
	require.NoError(t, s.Commit(t.Context(), put(0, 10, "x")))
	s.SetPlaces(at[1:])
	requireGood(t, s, 3)
	require.NoError(t, s.Commit(t.Context(), put(10, 20, "x")))
	state := s.State()
	require.NoError(t, s.Close())
	surveys := journal.SurveyAll(at, volume)
	require.Less(t, surveys[0].State.Seq, state.Seq)
	for _, v := range surveys[1:] {
		require.Equal(t, state, v.State)
	}
}

// A journal too large for a device's area is copied to those where it fits.
func TestJournalOutgrowsAnArea(t *testing.T) {
	areas := []*journaltest.Area{journaltest.NewArea(64 << 10), journaltest.NewArea(2 << 20)}
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Retry: time.Millisecond})
	requireGood(t, s, 2)
	for i := range 20 {
		b := &journal.Batch{}
		b.Put(job(i), make([]byte, 10<<10))
		require.NoError(t, s.Commit(t.Context(), b))
	}
	require.Equal(t, journal.CopyGood, s.Copies().Copies[1].State)
	var c journal.CopyStatus // in one look: it is tried again and again, and being made it has no reason
	require.Eventually(t, func() bool {
		c = s.Copies().Copies[0]
		return c.State == journal.CopyFailed
	}, patience, time.Millisecond)
	require.Contains(t, c.Reason, "does not fit")
}

// One copy at a time lags; commits do not wait for it, and closing does.
func TestAsyncCopies(t *testing.T) {
	a := journaltest.NewArea(256 << 10)
	s := openCopied(t, create(t), places(a), journal.CopyOptions{Async: true, Delay: time.Hour})
	for i := range 20 {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "x")))
	}
	require.Less(t, journal.SurveyAll(places(a), volume)[0].State.Seq, s.State().Seq)
	state := s.State()
	require.NoError(t, s.Close())
	require.Equal(t, state, journal.SurveyAll(places(a), volume)[0].State)
}

func TestCopiesInDifferentDomains(t *testing.T) {
	at := places(newAreas(5, 256<<10)...)
	for i, d := range []string{"left", "left", "left", "right", ""} {
		at[i].Domain = d
	}
	s := openCopied(t, create(t), at, journal.CopyOptions{})
	requireGood(t, s, 3)
	used := ""
	for i, c := range s.Copies().Copies {
		if c.State == journal.CopyGood {
			used += fmt.Sprint(i)
		}
	}
	require.Equal(t, "034", used)
}

// Copies that lack the newest group, because a crash came between, are led on from the store, and
// need not be written anew.
func TestLaggingCopyIsLedOn(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, m := create(t), model{}
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	rng := rand.New(rand.NewPCG(5, 5))
	var old [][]byte
	for i := range 30 {
		m.commit(t, s, randomBatch(rng, 20, 200))
		if i == 26 {
			for _, a := range areas {
				old = append(old, a.Bytes())
			}
		}
	}
	state := s.State()
	require.NoError(t, s.Close())
	at := places(journaltest.AreaOf(old[0]), journaltest.AreaOf(old[1]))
	for i := range at {
		at[i].Area.(*journaltest.Area).Thick = true
	}
	s = openCopied(t, dir, at, journal.CopyOptions{})
	require.Equal(t, state, s.State())
	require.NoError(t, s.Close())
	for i, v := range journal.SurveyAll(at, volume) {
		got, err := v.Content()
		require.NoError(t, err)
		require.Equal(t, state, got)
		require.Less(t, at[i].Area.(*journaltest.Area).Written(), int64(40<<10), "written anew")
	}
}

// The store lacks the newest groups: they come from a copy.
func TestStoreIsLedOn(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, m := create(t), model{}
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	rng := rand.New(rand.NewPCG(6, 6))
	twin := t.TempDir() + "/twin"
	for i := range 30 {
		m.commit(t, s, randomBatch(rng, 20, 200))
		if i == 20 {
			copyTree(t, dir, twin)
		}
	}
	state := s.State()
	require.NoError(t, s.Close())
	s = openCopied(t, twin, places(areas...), journal.CopyOptions{})
	require.Equal(t, state, s.State())
	require.Equal(t, "", s.Recovery().From)
	require.Equal(t, 9, s.Recovery().LedOn)
	require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s))
	got, err := s.Verify()
	require.NoError(t, err)
	require.Equal(t, state, got)
}

// errFrom opens and must be refused.
func errFrom(t *testing.T, dir string, at []journal.Place, anchors ...journal.State) error {
	s, err := tryOpen(t, dir, at, anchors...)
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	return err
}

// grown makes a journal with copies and n commits, and closes it.
func grown(t *testing.T, n int, areas ...*journaltest.Area) (dir string, state journal.State) {
	dir = create(t)
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	for i := range n {
		require.NoError(t, s.Commit(t.Context(), put(i, i+3, "x")))
	}
	state = s.State()
	require.NoError(t, s.Close())
	return dir, state
}

func TestForkIsRefused(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, _ := grown(t, 10, areas...)
	// Served apart: the store with one device, the other device alone.
	one, two := places(areas...)[:1], places(areas...)[1:]
	s := openCopied(t, dir, one, journal.CopyOptions{})
	require.NoError(t, s.Commit(t.Context(), put(50, 60, "a")))
	require.NoError(t, s.Close())
	s = openCopied(t, t.TempDir()+"/other", two, journal.CopyOptions{})
	require.NoError(t, s.Commit(t.Context(), put(50, 61, "b")))
	require.NoError(t, s.Commit(t.Context(), put(50, 61, "c")))
	require.NoError(t, s.Close())
	require.ErrorIs(t, errFrom(t, dir, places(areas...)), journal.ErrForked)
	require.ErrorIs(t, errFrom(t, t.TempDir()+"/x", places(areas...)), journal.ErrForked)
}

// A device that was away while the others went on is no fork, even if it has a group that nobody
// else has: it was never acknowledged.
func TestDeviceThatWasAway(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, _ := grown(t, 10, areas...)
	twin := t.TempDir() + "/twin"
	copyTree(t, dir, twin)
	s := openCopied(t, twin, places(areas...)[1:], journal.CopyOptions{})
	require.NoError(t, s.Commit(t.Context(), put(70, 80, "never acknowledged")))
	require.NoError(t, s.Close())
	// As the same life of the store would have left it: the store without that group.
	copyTree(t, twin, t.TempDir()+"/unused")
	s = openCopied(t, twin, places(areas...)[:1], journal.CopyOptions{})
	for range 5 {
		require.NoError(t, s.Commit(t.Context(), put(90, 95, "y")))
	}
	state := s.State()
	require.NoError(t, s.Close())
	s = openCopied(t, twin, places(areas...), journal.CopyOptions{})
	require.Equal(t, state, s.State())
	requireGood(t, s, 2)
}

func TestAnchorBeyondAllCopies(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, state := grown(t, 10, areas...)
	require.NoError(t, os.RemoveAll(dir))
	ahead := state
	ahead.Seq++
	require.ErrorIs(t, errFrom(t, dir, places(areas...), ahead), journal.ErrRolledBack)
	other := state
	other.Digest[0]++
	require.ErrorIs(t, errFrom(t, dir, places(areas...), other), journal.ErrRolledBack)
	s, err := tryOpen(t, dir, places(areas...), state)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

func TestForeignStoreAndCopies(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, state := grown(t, 10, areas...)
	other := t.TempDir() + "/journal"
	require.NoError(t, journal.Create(other, [16]byte{9}))
	require.ErrorIs(t, errFrom(t, other, places(areas...)), journal.ErrForeign)
	// Copies of another volume, or of another device, are none.
	swapped := places(areas[1], areas[0])
	require.NoError(t, os.RemoveAll(dir))
	err := errFrom(t, dir, swapped)
	require.True(t, errors.Is(err, os.ErrNotExist), err)
	s, err := tryOpen(t, dir, places(areas...))
	require.NoError(t, err)
	require.Equal(t, state, s.State())
	require.NoError(t, s.Close())
}

func TestDamagedStoreIsKept(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, state := grown(t, 30, areas...)
	require.NoError(t, os.Remove(dir+"/badger/MANIFEST"))
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.Equal(t, state, s.State())
	r := s.Recovery()
	require.Contains(t, r.Why, "MANIFEST")
	require.DirExists(t, r.Kept)
	require.NoError(t, s.Close())
	// The next opening finds a store like any other.
	s = openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.Equal(t, journal.Recovery{Took: s.Recovery().Took}, s.Recovery())
}

func TestRebuild(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir, state := grown(t, 10, areas...)
	r, err := journal.Rebuild(dir, journal.Options{UUID: volume, Places: places(areas...)})
	require.NoError(t, err)
	require.Equal(t, state.Count, r.Records)
	s := open(t, dir)
	require.Equal(t, state, s.State())
	_, err = journal.Rebuild(t.TempDir()+"/x", journal.Options{UUID: volume, Places: places(newAreas(1, 64<<10)...)})
	require.ErrorIs(t, err, journal.ErrNotFound)
}

// A store that loses a record while it is in use is found out by the next check: from then on it
// answers nothing, and the next opening has all of it.
func TestRecheck(t *testing.T) {
	areas := newAreas(2, 256<<10)
	dir := create(t)
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.NoError(t, s.Commit(t.Context(), put(0, 20, "x")))
	require.NoError(t, s.Recheck())
	require.NoError(t, s.Commit(t.Context(), put(20, 30, "x")))
	state, want := s.State(), journaltest.Contents(t, s)
	require.NoError(t, s.Lose(job(7)))
	require.ErrorIs(t, s.Recheck(), journal.ErrCorrupt)
	_, err := s.Get(job(7))
	require.ErrorIs(t, err, journal.ErrCorrupt)
	require.ErrorIs(t, s.Commit(t.Context(), put(0, 1, "y")), journal.ErrDead)
	require.NoError(t, s.Close())
	s = openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.Equal(t, state, s.State())
	require.Equal(t, want, journaltest.Contents(t, s))
	require.NotEmpty(t, s.Recovery().From)
}

// Commits that are faster than an asynchronous copy are slowed down; the copy is not given up.
func TestAsyncCopyKeepsUp(t *testing.T) {
	a := journaltest.NewArea(128 << 20)
	s := openCopied(t, create(t), places(a), journal.CopyOptions{Async: true, Delay: time.Hour, Timeout: time.Minute, Retry: time.Hour})
	for i := range 30 {
		b := &journal.Batch{}
		for n := range 20 {
			b.Put(job(20*i+n), make([]byte, 100<<10-20))
		}
		require.NoError(t, s.Commit(t.Context(), b))
	}
	require.Equal(t, 1, s.Copies().Good)
	state := s.State()
	require.NoError(t, s.Close())
	got, err := journal.SurveyAll(places(a), volume)[0].Content()
	require.NoError(t, err)
	require.Equal(t, state, got)
}
