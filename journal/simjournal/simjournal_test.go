package simjournal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ballast/journal"
	"ballast/journal/journaltest"
	"ballast/journal/simjournal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const flush = 5 * time.Millisecond

func slow(*journal.Batch) time.Duration { return flush }

func TestSuite(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		journaltest.Run(t, func(*testing.T) journal.Journal { return simjournal.New(simjournal.Options{}) })
	})
	t.Run("slow", func(t *testing.T) {
		journaltest.Run(t, func(*testing.T) journal.Journal {
			return simjournal.New(simjournal.Options{Latency: func(*journal.Batch) time.Duration { return 20 * time.Microsecond }})
		})
	})
}

func one(key uint64, value string) *journal.Batch {
	b := &journal.Batch{}
	b.Put(journal.MakeKey(journaltest.Free, 0, key), []byte(value))
	return b
}

// inFlight starts n commits of one record each, in order, and returns their results.
func inFlight(j *simjournal.Journal, n int) []chan error {
	results := make([]chan error, n)
	for i := range results {
		results[i] = make(chan error, 1)
		go func() { results[i] <- j.Commit(context.Background(), one(uint64(i), fmt.Sprint(i))) }()
		synctest.Wait()
	}
	return results
}

func TestCrashKeepsAPrefixOfWhatIsInFlight(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			j := simjournal.New(simjournal.Options{Latency: slow})
			require.NoError(t, j.Commit(t.Context(), one(100, "acknowledged")))
			results := inFlight(j, 5)
			require.Equal(t, 5, j.Counters().InFlight)
			after := j.Crash(rand.New(rand.NewPCG(seed, 0)))
			for _, r := range results {
				require.ErrorIs(t, <-r, journal.ErrDead)
			}
			require.ErrorIs(t, j.Commit(t.Context(), one(1, "")), journal.ErrDead)
			n := after.State().Count - 1
			seen[n] = true
			want := map[journal.Key]string{journal.MakeKey(journaltest.Free, 0, 100): "acknowledged"}
			for i := range n {
				want[journal.MakeKey(journaltest.Free, 0, i)] = fmt.Sprint(i)
			}
			require.Equal(t, want, journaltest.Contents(t, after))
			journaltest.CheckState(t, after, want)
			require.Equal(t, journal.Seq(n+1), after.State().Seq)
			require.NoError(t, after.Commit(t.Context(), one(200, "goes on")))
			require.Equal(t, uint64(1), j.State().Count, "the old journal stays as it was")
		})
	}
	require.Len(t, seen, 6, "every prefix happens")
}

func TestCommitsShareFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := simjournal.New(simjournal.Options{Latency: slow})
		start := time.Now()
		results := inFlight(j, 10) // the first starts a flush, nine wait for the next
		require.NoError(t, <-results[0])
		require.Equal(t, flush, time.Since(start))
		late := make(chan error, 1)
		go func() { late <- j.Commit(t.Context(), one(50, "late")) }()
		for _, r := range results[1:] {
			require.NoError(t, <-r)
		}
		require.Equal(t, 2*flush, time.Since(start))
		require.NoError(t, <-late)
		require.Equal(t, 3*flush, time.Since(start))
		time.Sleep(time.Second)
		start = time.Now()
		require.NoError(t, j.Commit(t.Context(), one(51, "")))
		require.Equal(t, flush, time.Since(start))
	})
}

func TestAcknowledgedIsDurableAtAnyMoment(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			speed := rand.New(rand.NewPCG(seed, 2))
			j := simjournal.New(simjournal.Options{Latency: func(*journal.Batch) time.Duration {
				return time.Duration(1+speed.IntN(5)) * time.Millisecond
			}})
			acked := make([]int, 4) // per writer, written by it alone
			done := make(chan struct{})
			for w := range acked {
				go func() {
					defer func() { done <- struct{}{} }()
					for i := 1; ; i++ {
						if j.Commit(context.Background(), one(uint64(w), fmt.Sprint(i))) != nil {
							return
						}
						acked[w] = i
					}
				}()
			}
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
			after := j.Crash(rng)
			for range acked {
				<-done
			}
			for w, n := range acked {
				v, err := after.Get(journal.MakeKey(journaltest.Free, 0, uint64(w)))
				have := 0
				if err == nil {
					_, err = fmt.Sscan(string(v), &have)
				}
				if n > 0 || have > 0 {
					require.NoError(t, err)
				}
				require.True(t, have == n || have == n+1, "writer %d: acknowledged %d, found %d, seed %d", w, n, have, seed)
			}
			journaltest.CheckState(t, after, journaltest.Contents(t, after))
		})
	}
}

func TestFailureIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := simjournal.New(simjournal.Options{Latency: slow})
		require.NoError(t, j.Commit(t.Context(), one(0, "a")))
		j.FailAt(3)
		results := inFlight(j, 5)
		for i, r := range results {
			err := <-r
			if i < 2 {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, journal.ErrDead)
			require.ErrorIs(t, err, simjournal.ErrInjected)
		}
		require.ErrorIs(t, j.Commit(t.Context(), one(7, "")), journal.ErrDead)
		v, err := j.Get(journal.MakeKey(journaltest.Free, 0, 1))
		require.NoError(t, err)
		require.Equal(t, "1", string(v))
		require.Equal(t, uint64(2), j.State().Count)
		require.Equal(t, uint64(2), j.CrashKeeping(0).State().Count)
		require.Equal(t, uint64(5), j.CrashKeeping(3).State().Count, "what failed may be found")
	})
}

func TestOutcomeLeavesTheJournalAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := simjournal.New(simjournal.Options{Latency: slow})
		results := inFlight(j, 3)
		var after *simjournal.Journal
		for keep := range 4 {
			after = j.Outcome(keep)
			require.Equal(t, uint64(keep), after.State().Count)
		}
		require.NoError(t, after.Commit(t.Context(), one(100, "elsewhere")))
		for _, r := range results {
			require.NoError(t, <-r)
		}
		require.Equal(t, uint64(3), j.State().Count)
	})
}

func TestFull(t *testing.T) {
	ctx := t.Context()
	j := simjournal.New(simjournal.Options{})
	require.NoError(t, j.Commit(ctx, one(1, "a")))
	j.SetFull(true)
	require.ErrorIs(t, j.Commit(ctx, one(2, "b")), journal.ErrFull)
	require.NoError(t, j.Commit(ctx, one(1, "replaced")))
	mixed := one(1, "again")
	mixed.Put(journal.MakeKey('X', 0, 0), nil)
	require.NoError(t, j.Commit(ctx, mixed), "deletes what is not there")
	mixed.Put(journal.MakeKey('X', 0, 0), []byte("new"))
	require.ErrorIs(t, j.Commit(ctx, mixed), journal.ErrFull)
	free := &journal.Batch{}
	free.Delete(journal.MakeKey(journaltest.Free, 0, 1))
	require.NoError(t, j.Commit(ctx, free))
	require.ErrorIs(t, j.Commit(ctx, one(1, "a")), journal.ErrFull)
	require.Zero(t, j.State().Count)
	j.SetFull(false)
	require.NoError(t, j.Commit(ctx, one(1, "a")))
	c := j.Counters()
	require.Equal(t, simjournal.Counters{Commits: 5, Refused: 3, Ops: 6, Bytes: c.Bytes}, c)
}

func TestHang(t *testing.T) {
	for _, opts := range []simjournal.Options{{}, {Latency: slow}} {
		synctest.Test(t, func(t *testing.T) {
			j := simjournal.New(opts)
			resume := j.Hang()
			results := inFlight(j, 3)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := j.Commit(ctx, one(9, "unsettled"))
			require.ErrorIs(t, err, journal.ErrUnsettled)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Zero(t, j.State().Count)
			resume()
			for _, r := range results {
				require.NoError(t, <-r)
			}
			require.Equal(t, uint64(3), j.CrashKeeping(0).State().Count)
			require.Equal(t, uint64(4), j.CrashKeeping(1).State().Count)
		})
		synctest.Test(t, func(t *testing.T) {
			j := simjournal.New(opts)
			j.Hang()
			results := inFlight(j, 3)
			after := j.CrashKeeping(2)
			for _, r := range results {
				require.ErrorIs(t, <-r, journal.ErrDead)
			}
			require.NoError(t, after.Commit(t.Context(), one(9, "goes on")))
			require.Equal(t, uint64(3), after.State().Count)
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	j := simjournal.New(simjournal.Options{})
	batch := one(1, string(make([]byte, 1064)))
	for b.Loop() {
		if err := j.Commit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
