package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/journal"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

func TestFilesAndDirectoriesSurviveReopening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{})
		d := r.mkdir(Root, "dir")
		a := r.file(d.Ino, "letter")
		r.write(a.Ino, 0, []byte("hello"))
		r.write(a.Ino, 200_000, []byte("far"))
		require.EqualValues(t, 200_003, r.lookup(d.Ino, "letter").Size)
		ctx := context.Background()
		_, err := r.Create(ctx, d.Ino, "link", New{Mode: journal.TypeSymlink | 0o777, Target: "letter"})
		require.NoError(t, err)
		require.NoError(t, r.SetXattr(ctx, a.Ino, "user.x", []byte("y"), 0))
		_, err = r.Link(ctx, a.Ino, Root, "second")
		require.NoError(t, err)
		for range 2 {
			require.ElementsMatch(t, []string{"letter", "link"}, r.list(d.Ino))
			require.ElementsMatch(t, []string{"dir", "second"}, r.list(Root))
			got := r.read(a.Ino)
			want := make([]byte, 200_003)
			copy(want, "hello")
			copy(want[200_000:], "far")
			require.Equal(t, want, got)
			x, err := r.GetXattr(ctx, a.Ino, "user.x")
			require.NoError(t, err)
			require.Equal(t, "y", string(x))
			at := r.lookup(Root, "second")
			require.EqualValues(t, 2, at.Links)
			require.EqualValues(t, 16, at.Blocks) // two slots of a block
			target, err := r.Readlink(ctx, r.lookup(d.Ino, "link").Ino)
			require.NoError(t, err)
			require.Equal(t, "letter", target)
			require.EqualValues(t, 3, r.lookup(Root, ".").Links)
			require.Equal(t, d.Ino, r.lookup(Root, "dir").Ino)
			require.Equal(t, Root, r.lookup(d.Ino, "..").Ino)
			require.NoError(t, r.close())
			r.open()
		}
		require.NoError(t, r.close())
	})
}

func TestFsyncSurvivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{})
		a := r.file(Root, "a")
		r.write(a.Ino, 0, []byte("content"))
		r.fsync(a.Ino)
		b := r.file(Root, "b")
		r.write(b.Ino, 0, []byte("other"))
		r.crash(rand.New(rand.NewPCG(1, 1)))
		r.open()
		require.Equal(t, "content", string(r.read(r.lookup(Root, "a").Ino)))
		require.NoError(t, r.close())
	})
}

// TestFsyncIsOneCommit: of the name, the size and the place of the data, in a new file, in one that grows
// and in one that is written anew, and of many together.
func TestFsyncIsOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{latency: time.Millisecond, tree: Options{FlushInterval: time.Hour},
			volume: striping.Options{FlushInterval: time.Hour, WriteAge: time.Hour}})
		ctx := context.Background()
		commits := func(do func()) int {
			time.Sleep(time.Second) // what is given back is committed
			before := r.j.Counters().Commits
			do()
			return int(r.j.Counters().Commits - before)
		}
		a := r.file(Root, "a")
		content := []byte(strings.Repeat("content ", 512))
		for i := range 3 {
			r.write(a.Ino, int64(i*len(content)), content)
			require.Equal(t, 1, commits(func() { r.fsync(a.Ino) }), "write %d", i)
		}
		_, err := r.SetAttr(ctx, a.Ino, Change{Set: SetSize})
		require.NoError(t, err)
		r.write(a.Ino, 0, content)
		require.Equal(t, 1, commits(func() { r.fsync(a.Ino) }), "written anew")

		var many []Attr
		for i := range 50 {
			b := r.file(Root, fmt.Sprint("b", i))
			r.write(b.Ino, 0, content)
			many = append(many, b)
		}
		require.LessOrEqual(t, commits(func() {
			var wg sync.WaitGroup
			for _, b := range many {
				wg.Go(func() { r.fsync(b.Ino) })
			}
			wg.Wait()
		}), 2)
		r.crash(rand.New(rand.NewPCG(1, 1)))
		r.open()
		require.Equal(t, content, r.read(r.lookup(Root, "a").Ino))
		for i := range many {
			require.Equal(t, content, r.read(r.lookup(Root, fmt.Sprint("b", i)).Ino))
		}
		require.NoError(t, r.close())
	})
}

func TestUnlinkGivesSpaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{})
		ctx := context.Background()
		_, free := r.v.Space()
		a := r.file(Root, "a")
		f, err := r.OpenFile(ctx, a.Ino, true)
		require.NoError(t, err)
		require.NoError(t, f.WriteAt(ctx, make([]byte, 1<<20), 0))
		require.NoError(t, f.Sync(ctx))
		require.NoError(t, r.Unlink(ctx, Root, "a"))
		r.Forget(a.Ino, 1)
		require.NoError(t, r.Sync(ctx))
		p := make([]byte, 10)
		n, err := f.ReadAt(ctx, p, 1<<19) // still open
		require.NoError(t, err)
		require.Equal(t, 10, n)
		_, now := r.v.Space()
		require.Equal(t, free-1<<20, now)
		f.Close()
		require.NoError(t, r.reclaim(ctx))
		_, now = r.v.Space()
		require.Equal(t, free, now)
		_, err = r.Attr(ctx, a.Ino)
		require.ErrorIs(t, err, syscall.ESTALE)
		require.NoError(t, r.close())
		count := 0
		require.NoError(t, r.j.Scan(journal.SpaceChunk, func(journal.Key, []byte) error { count++; return nil }))
		require.Zero(t, count)
		r.open()
		require.NoError(t, r.close())
	})
}
