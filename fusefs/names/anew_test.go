package names

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// anew opens a file, cuts it to nothing and writes p.
func (r *rig) anew(ino Ino, p []byte) *File {
	ctx := context.Background()
	f, err := r.OpenFile(ctx, ino, true)
	require.NoError(r.t, err)
	_, err = r.SetAttr(ctx, ino, Change{Set: SetSize})
	require.NoError(r.t, err)
	require.NoError(r.t, f.WriteAt(ctx, p, 0))
	return f
}

// TestWrittenAnewBetweenLookAndSettle: a file that the committer found ahead of its record, and that is
// cut to nothing before it settles it, is left alone until it is closed.
func TestWrittenAnewBetweenLookAndSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{tree: Options{FlushInterval: time.Hour}, volume: striping.Options{FlushInterval: time.Hour}})
		a := r.file(Root, "a")
		r.write(a.Ino, 0, []byte("first"))
		r.fsync(a.Ino)
		r.anew(a.Ino, []byte("second")).Close()
		c := &r.commits
		asked, idle := c.files(nil, true)
		require.Len(t, asked, 1)
		f := r.anew(a.Ino, []byte("thi")) // of "third"
		require.NoError(t, c.settle(nil, asked, idle))
		require.NoError(t, f.WriteAt(context.Background(), []byte("rd"), 3))
		f.Close()
		r.crash(rand.New(rand.NewPCG(1, 1)))
		r.open()
		require.Equal(t, "first", string(r.read(r.lookup(Root, "a").Ino)))
		require.NoError(t, r.close())
	})
}

// TestWrittenAnewWhileSettled: what a settle under way is about to name is not written over by what comes
// after a cut to nothing.
func TestWrittenAnewWhileSettled(t *testing.T) {
	for cut := range 40 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, rigConfig{latency: time.Millisecond, timing: simdisk.Timing{Latency: 2 * time.Millisecond},
				tree: Options{FlushInterval: time.Hour}, volume: striping.Options{FlushInterval: 50 * time.Millisecond, WriteAge: time.Millisecond}})
			a := r.file(Root, "a")
			r.fsync(a.Ino)
			r.write(a.Ino, 0, []byte("first"))
			synced := make(chan struct{})
			go func() {
				r.fsync(a.Ino)
				close(synced)
			}()
			synctest.Wait() // the settle is under way before the cut: one that began after it may name the empty file
			time.Sleep(time.Duration(cut) * 250 * time.Microsecond)
			again := strings.Repeat("second", 1000)
			r.anew(a.Ino, []byte(again)).Close()
			<-synced
			time.Sleep(time.Second) // the data is durable, its size is not
			r.crash(rand.New(rand.NewPCG(1, 1)))
			r.open()
			got := string(r.read(r.lookup(Root, "a").Ino))
			require.True(t, got == "first" || got == again, "cut %d: neither the old nor the new content, but %.20q, %d bytes", cut, got, len(got))
			require.NoError(t, r.close())
		})
	}
}
