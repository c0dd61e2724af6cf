package names

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestPaths finds files by their data: durable or not, moved, linked, cut to nothing and written
// anew, and not those without a name.
func TestPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{})
		ctx := context.Background()
		d := r.mkdir(Root, "dir")
		e := r.mkdir(d.Ino, "deep")
		top, deep, moved, anew, gone := r.file(Root, "top"), r.file(e.Ino, "deep"), r.file(Root, "moved"), r.file(d.Ino, "anew"), r.file(d.Ino, "gone")
		for _, a := range []Attr{top, deep, moved, anew, gone} {
			r.write(a.Ino, 0, []byte("content"))
		}
		object := func(a Attr) uint64 {
			n := r.useIfThere(a.Ino)
			if n == nil {
				rec, err := r.inode(a.Ino)
				require.NoError(t, err)
				return rec.Object
			}
			defer n.release()
			return n.data.file.Number()
		}
		require.NoError(t, r.Sync(ctx))
		before := object(anew)
		_, err := r.SetAttr(ctx, anew.Ino, Change{Set: SetSize})
		require.NoError(t, err)
		r.write(anew.Ino, 0, []byte("other"))
		require.NotEqual(t, before, object(anew))
		require.NoError(t, r.Rename(ctx, Root, "moved", e.Ino, "here", 0))
		require.NoError(t, r.Unlink(ctx, d.Ino, "gone"))
		want := map[uint64]string{object(top): "/top", object(deep): "/dir/deep/deep", object(moved): "/dir/deep/here", object(anew): "/dir/anew"}
		objects := []uint64{object(gone), 1 << 40}
		for o := range want {
			objects = append(objects, o)
		}
		for range 2 {
			got, err := r.Paths(ctx, objects)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.NoError(t, r.close())
			r.open()
		}
		require.NoError(t, r.close())
	})
}
