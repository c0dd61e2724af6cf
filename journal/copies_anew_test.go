package journal_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// A copy that is made anew overwrites the ring that was there from its begin on, and the power fails
// at any moment of it. Whatever reached the disk, the next opening takes the ring for a copy only if
// it is one: once it calls it good, the store may go.
func TestPowerFailsWhileACopyIsMadeAnew(t *testing.T) {
	smallMemTable(t)
	dir, area := create(t), journaltest.NewArea(96<<10)
	s := openCopied(t, dir, places(area), journal.CopyOptions{})
	rng, m := rand.New(rand.NewPCG(*seed, 21)), model{}
	for range 30 {
		m.commit(t, s, randomBatch(rng, 20, 500))
	}
	state := s.State()
	var cuts [][]byte
	area.SetHook(func(op string, _ int64) error {
		if op != "read" {
			for range 4 {
				cuts = append(cuts, area.PowerCut(rng))
			}
		}
		return nil
	})
	s.SetPlaces(nil)
	s.SetPlaces(places(area))
	requireGood(t, s, 1)
	require.NoError(t, s.Close())
	require.Greater(t, len(cuts), 16)
	for i, cut := range cuts {
		again := t.TempDir() + "/journal"
		copyTree(t, dir, again)
		left := places(journaltest.AreaOf(cut))
		s := openCopied(t, again, left, journal.CopyOptions{Timeout: time.Minute})
		require.Equal(t, state, s.State())
		requireGood(t, s, 1)
		require.NoError(t, s.Close())
		alone, err := tryOpen(t, t.TempDir()+"/journal", left)
		require.NoError(t, err, "cut %d of %d", i, len(cuts))
		require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, alone))
		require.NoError(t, alone.Close())
	}
}

// A session without any device goes on from the store, and the copies know that it is newer.
func TestSessionWithoutDevicesIsNewer(t *testing.T) {
	smallMemTable(t)
	dir, areas, m := create(t), newAreas(2, 96<<10), model{}
	for n := range 3 {
		s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
		m.commit(t, s, put(n, n+1, "with"))
		require.NoError(t, s.Close())
	}
	s := openCopied(t, dir, nil, journal.CopyOptions{})
	m.commit(t, s, put(10, 20, "without"))
	require.NoError(t, s.Close())
	s = openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s))
	requireGood(t, s, 2)
	require.NoError(t, s.Close())
}

// An older image of a device is served by itself, for less long than the others or for longer. It has the
// later opening, but that began before the others had ended: nobody can tell which of them is right.
func TestOlderImageServedAloneIsAFork(t *testing.T) {
	t.Run("shorter", func(t *testing.T) { olderImageServedAlone(t, 1) })
	t.Run("longer", func(t *testing.T) { olderImageServedAlone(t, 30) })
}

func olderImageServedAlone(t *testing.T, commits int) {
	smallMemTable(t)
	dir, areas, m := create(t), newAreas(2, 96<<10), model{}
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	m.commit(t, s, put(0, 1, "both"))
	older := journaltest.AreaOf(areas[0].Bytes())
	for range 9 {
		m.commit(t, s, put(0, 1, "acknowledged"))
	}
	require.NoError(t, s.Close())
	alone := openCopied(t, t.TempDir()+"/journal", places(older), journal.CopyOptions{})
	for range commits {
		model{}.commit(t, alone, put(7, 8, "apart"))
	}
	require.NoError(t, alone.Close())
	require.ErrorIs(t, errFrom(t, dir, places(older, areas[1])), journal.ErrForked)
	require.ErrorIs(t, errFrom(t, t.TempDir()+"/journal", places(older, areas[1])), journal.ErrForked)
	s = openCopied(t, dir, places(areas...), journal.CopyOptions{})
	require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s))
}

// A device takes its time for a sync, and groups gather behind it until the ring has gone round. If the
// power fails while they are written, in any order, the copy still holds what was durable there before:
// none of them took the place of the tail that the newest durable group needs.
func TestGatheredGroupsSpareTheDurableTail(t *testing.T) {
	smallMemTable(t)
	dir, area := create(t), journaltest.NewArea(256<<10)
	s := openCopied(t, dir, places(area), journal.CopyOptions{Async: true, Delay: time.Millisecond, Timeout: time.Minute})
	requireGood(t, s, 1)
	rng := rand.New(rand.NewPCG(*seed, 22))
	durable := func() journal.Seq { return s.Copies().Copies[0].Seq }
	for round := range 10 {
		held, release := make(chan bool, 1), make(chan bool)
		var once sync.Once
		area.SetHook(func(op string, _ int64) error {
			if op == "sync" {
				once.Do(func() { held <- true; <-release })
			}
			return nil
		})
		require.NoError(t, s.Commit(t.Context(), put(0, 1, "begin")))
		<-held
		committed, count := make(chan error, 1), new(atomic.Int64)
		go func() { // ends with the last batch; those that find no room wait for the device
			var err error
			for i := 0; i < 30 && err == nil; i++ {
				b := put(i%5*4, i%5*4+4, "gathered")
				for k := range b.Ops {
					b.Ops[k].Value = bytes.Repeat([]byte{byte(round), byte(i)}, 1500)
				}
				err = s.Commit(context.Background(), b)
				count.Add(1)
			}
			committed <- err
		}()
		wait := time.NewTicker(time.Millisecond)
		for n := 0; n < 100 && count.Load() < 25; n++ { // as many as find room, and some time for more
			<-wait.C
		}
		wait.Stop()
		var mu sync.Mutex // a sync may be under way when the hook is taken off
		var cuts [][]byte
		var least []journal.Seq
		area.SetHook(func(op string, _ int64) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "sync" && len(cuts) < 20 {
				for range 4 {
					least, cuts = append(least, durable()), append(cuts, area.PowerCut(rng))
				}
			}
			return nil
		})
		close(release)
		require.NoError(t, <-committed)
		area.SetHook(nil)
		require.Equal(t, 1, s.Copies().Good, "%+v", s.Copies())
		mu.Lock()
		taken, atLeast := slices.Clone(cuts), slices.Clone(least)
		mu.Unlock()
		for i, cut := range taken {
			v := journal.SurveyAll(places(journaltest.AreaOf(cut)), volume)[0]
			found, err := v.Content()
			require.NoError(t, err, "round %d, cut %d", round, i)
			require.GreaterOrEqual(t, found.Seq, atLeast[i], "round %d, cut %d", round, i)
		}
	}
}
