package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// TestPathsTakeTheirTime: status waits for no search, also for one that somebody else asked for, and
// has its paths the next time.
func TestPathsTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		searches := 0
		f := &pathFinder{ctx: t.Context(), start: func(f func()) { go f() }}
		f.search = func(_ context.Context, objects []uint64) (map[uint64]string, error) {
			searches++
			time.Sleep(10 * time.Second)
			paths := map[uint64]string{}
			for _, o := range objects {
				paths[o] = "/there"
			}
			return paths, nil
		}
		loss := &striping.Loss{Objects: []striping.LossObject{{File: 7}, {Name: "export"}}}
		lost := make(chan struct{})
		go func() {
			f.fillLoss(t.Context(), loss)
			close(lost)
		}()
		synctest.Wait()
		status := func(file uint64) (string, time.Duration) {
			began := time.Now()
			bad := []striping.BadRange{{File: file}, {Export: "e"}}
			f.fillBad(t.Context(), bad)
			require.Empty(t, bad[1].Path)
			return bad[0].Path, time.Since(began)
		}
		path, took := status(7)
		require.Empty(t, path)
		require.Equal(t, pathsWait, took)
		<-lost
		require.Equal(t, "/there", loss.Objects[0].Path)
		require.Empty(t, loss.Objects[1].Path)
		path, took = status(7)
		require.Equal(t, "/there", path)
		require.Zero(t, took)
		require.Equal(t, 1, searches)

		path, _ = status(8) // another file: another search, which goes on alone
		require.Empty(t, path)
		time.Sleep(10 * time.Second)
		path, took = status(8)
		require.Equal(t, "/there", path)
		require.Zero(t, took)
		require.Equal(t, 2, searches)
	})
}

// TestPathsOfAFailedSearch are those that it found, and it is made again.
func TestPathsOfAFailedSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &pathFinder{ctx: t.Context(), start: func(f func()) { go f() }}
		searches := 0
		f.search = func(context.Context, []uint64) (map[uint64]string, error) {
			searches++
			return map[uint64]string{1: "/one"}, errors.New("a damaged record")
		}
		for n := 1; n < 3; n++ {
			require.Equal(t, map[uint64]string{1: "/one"}, f.find(t.Context(), []uint64{1, 2}))
			require.Equal(t, n, searches)
		}
	})
}
