package journal_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// countSyncs counts the syncs of each area; those of the slow one take their time.
func countSyncs(areas []*journaltest.Area, slow int) []atomic.Int64 {
	n := make([]atomic.Int64, len(areas))
	for i, a := range areas {
		a.Hook = func(op string, _ int64) error {
			if op == "sync" {
				n[i].Add(1)
				if i == slow {
					time.Sleep(20 * time.Millisecond)
				}
			}
			return nil
		}
	}
	return n
}

// Commits wait for the two fastest copies. The slow one writes groups together, all of them in the end.
func TestSlowCopyIsLazy(t *testing.T) {
	areas := newAreas(3, 1<<20)
	for _, a := range areas {
		a.Thick = true // no syncs but those of groups
	}
	syncs := countSyncs(areas, 0)
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Delay: time.Hour})
	requireGood(t, s, 3)
	const commits = 200
	before := [3]int64{syncs[0].Load(), syncs[1].Load(), syncs[2].Load()}
	for i := range commits {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "x")))
	}
	took := [3]int64{syncs[0].Load() - before[0], syncs[1].Load() - before[1], syncs[2].Load() - before[2]}
	t.Logf("%d commits: %d syncs", commits, took)
	require.Less(t, took[0], int64(commits/4))
	require.GreaterOrEqual(t, took[1], int64(commits*3/4))
	require.GreaterOrEqual(t, took[2], int64(commits*3/4))
	for _, c := range s.Copies().Copies[1:] {
		require.Equal(t, s.State().Seq, c.Seq)
	}
	require.Less(t, s.Copies().Copies[0].Seq, s.State().Seq)
	require.NoError(t, s.Close())
	for _, v := range journal.SurveyAll(places(areas...), volume) {
		require.NoError(t, v.Err)
		require.Equal(t, s.State(), v.State)
	}
}

// A commit is durable in different failure domains, however slow the only copy in one of them is.
func TestCommitIsInDifferentDomains(t *testing.T) {
	areas := newAreas(3, 1<<20)
	countSyncs(areas, 2)
	at := places(areas...)
	at[0].Domain, at[1].Domain, at[2].Domain = "left", "left", "right"
	s := openCopied(t, create(t), at, journal.CopyOptions{Delay: time.Hour})
	requireGood(t, s, 3)
	for i := range 20 {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "x")))
		require.Equal(t, s.State().Seq, s.Copies().Copies[2].Seq)
	}
}

// A copy that a commit waits for hangs: a lazy one takes its part, slow as it is, and long before the other is
// given up.
func TestLazyCopyTakesOver(t *testing.T) {
	areas := newAreas(3, 1<<20)
	countSyncs(areas, 2)
	var hang atomic.Bool
	release := make(chan struct{})
	areas[0].Hook = func(op string, _ int64) error {
		if hang.Load() && op != "read" {
			<-release
		}
		return nil
	}
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Delay: time.Hour, Timeout: time.Hour})
	requireGood(t, s, 3)
	for s.Copies().Copies[2].Seq < 40 { // so that it is known to be slow
		require.NoError(t, s.Commit(t.Context(), put(0, 1, "x")))
	}
	hang.Store(true)
	for i := range 20 {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "y")))
		for _, c := range s.Copies().Copies[1:] {
			require.Equal(t, s.State().Seq, c.Seq)
		}
	}
	require.Equal(t, 3, s.Copies().Good)
	close(release)
	require.NoError(t, s.Close())
}

// When a copy ends that commits waited for, the lazy ones write at once what they have gathered.
func TestLazyCopyFollowsAtOnce(t *testing.T) {
	areas := newAreas(3, 1<<20)
	countSyncs(areas, 2)
	s := openCopied(t, create(t), places(areas...), journal.CopyOptions{Delay: time.Hour})
	requireGood(t, s, 3)
	for i := range 10 {
		require.NoError(t, s.Commit(t.Context(), put(i, i+1, "x")))
	}
	require.Less(t, s.Copies().Copies[2].Seq, s.State().Seq)
	s.SetPlaces(places(areas...)[1:])
	require.Eventually(t, func() bool { return s.Copies().Copies[1].Seq == s.State().Seq }, patience, time.Millisecond)
}
