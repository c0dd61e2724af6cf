package journal_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// A store is made of a ring that begins with the records of its making, of one whose tail has passed
// some of them, and of one that has only groups; with all changes sorted in memory, and in many runs.
func TestStoreIsMadeOfAnyRing(t *testing.T) {
	smallMemTable(t)
	dir, m := create(t), model{}
	s := open(t, dir)
	rng := rand.New(rand.NewPCG(7, 7))
	const n = 3000
	for i := 0; i < n; i += 100 {
		b := put(i, i+100, "as it was made")
		for range 10 {
			b.Ops[rng.IntN(len(b.Ops))].Value = make([]byte, 3000)
		}
		m.commit(t, s, b)
	}
	require.NoError(t, s.Close())
	a := journaltest.NewArea(3 << 20)
	s = openCopied(t, dir, places(a), journal.CopyOptions{})
	requireGood(t, s, 1)
	kinds := map[string]int{}
	for kind := ""; kind != "groups only"; {
		v := journal.SurveyAll(places(journaltest.AreaOf(a.Bytes())), volume)[0]
		switch made := v.Made(t); {
		case made == 0:
			kind = "groups only"
		case v.Tail() == 0:
			kind = "all of the making"
		default:
			kind = "some of the making"
		}
		if kinds[kind]++; kinds[kind]%8 != 1 {
			for range 10 {
				m.commit(t, s, randomBatch(rng, n, 1500))
			}
			continue
		}
		for _, memory := range []int{64 << 20, 20_000} {
			undo := journal.SetSortMemory(memory)
			content, err := v.Content()
			require.NoError(t, err)
			require.Equal(t, s.State(), content)
			again := openCopied(t, t.TempDir()+"/journal", places(journaltest.AreaOf(a.Bytes())), journal.CopyOptions{})
			undo()
			require.Equal(t, "d1", again.Recovery().From)
			require.Equal(t, s.State(), again.State())
			require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, again))
			lives, err := again.Lives()
			require.NoError(t, err)
			require.Len(t, lives, 2)
			m2 := model{}
			m2.commit(t, again, randomBatch(rng, n, 100)) // it is a store like any other
			require.NoError(t, again.Close())
			require.Empty(t, runs(t, filepath.Dir(filepath.Dir(again.Dir()))))
		}
	}
	require.Len(t, kinds, 3, "%v", kinds)
}

// runs returns what is left of sorting anywhere below a directory.
func runs(t *testing.T, dir string) (list []string) {
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if ok, _ := filepath.Match("run*", filepath.Base(path)); ok {
			list = append(list, path)
		}
		return err
	}))
	return list
}

// Wherever one block of a ring is damaged, no store is made of it, and nothing is left that could be
// taken for one.
func TestNoStoreIsMadeOfADamagedRing(t *testing.T) {
	smallMemTable(t)
	dir := create(t)
	s := open(t, dir)
	for i := 0; i < 2000; i += 100 {
		b := put(i, i+100, "x")
		for k := range b.Ops {
			b.Ops[k].Value = make([]byte, 600)
		}
		require.NoError(t, s.Commit(context.Background(), b))
	}
	require.NoError(t, s.Close())
	a := journaltest.NewArea(3 << 20)
	s = openCopied(t, dir, places(a), journal.CopyOptions{})
	requireGood(t, s, 1)
	for i := range 5 {
		require.NoError(t, s.Commit(context.Background(), put(i, i+100, "y")))
	}
	state := s.State()
	require.NoError(t, s.Close())
	v := journal.SurveyAll(places(journaltest.AreaOf(a.Bytes())), volume)[0]
	for _, off := range v.Frames(t) {
		b := a.Bytes()
		at := off + 200 + int64(binary.LittleEndian.Uint32(b[off+12:])/2) // in the middle of its payload
		b[at] ^= 1
		fresh := t.TempDir() + "/journal"
		got, err := tryOpen(t, fresh, places(journaltest.AreaOf(b)), state)
		require.Error(t, err, "frame at %d", off)
		require.Nil(t, got)
		for _, name := range []string{"badger", "badger.new", "store"} {
			require.NoFileExists(t, filepath.Join(fresh, name))
			require.NoDirExists(t, filepath.Join(fresh, name))
		}
	}
}

// TestBuild: what was built is a journal like any other; records that do not come by key are refused,
// and nothing is left that would pass for a journal.
func TestBuild(t *testing.T) {
	b, dir := put(0, 500, "built"), filepath.Join(t.TempDir(), "journal")
	add := func(order func(i int) int) func(func(journal.Key, []byte) error) error {
		return func(add func(journal.Key, []byte) error) error {
			for i := range b.Ops {
				op := b.Ops[order(i)]
				if err := add(op.Key, op.Value); err != nil {
					return err
				}
			}
			return nil
		}
	}
	require.NoError(t, journal.Build(dir, volume, add(func(i int) int { return i })))
	s := open(t, dir)
	m := model{}
	m.apply(b)
	require.True(t, equalContents(t, s, m))
	m.commit(t, s, put(100, 600, "after that"))
	require.NoError(t, s.Close())
	s = open(t, dir)
	require.True(t, equalContents(t, s, m))
	require.NoError(t, s.Close())

	wrong := filepath.Join(t.TempDir(), "journal")
	require.Error(t, journal.Build(wrong, volume, add(func(i int) int { return len(b.Ops) - 1 - i })))
	_, err := journal.Open(wrong, journal.Options{UUID: volume})
	require.Error(t, err)
}
