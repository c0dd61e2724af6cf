package names

import (
	"context"
	"testing"
	"testing/synctest"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestVerifyFinds: each damage of a sound name space is named.
func TestVerifyFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{})
		d := r.mkdir(Root, "dir")
		sub := r.mkdir(d.Ino, "sub")
		a := r.file(d.Ino, "a")
		b := r.file(d.Ino, "b")
		r.write(a.Ino, 0, []byte("content"))
		require.NoError(t, r.SetXattr(t.Context(), a.Ino, "user.x", []byte("y"), 0))
		seed := r.seed
		require.NoError(t, r.close())
		inode := func(ino Ino, change func(*journal.Inode)) func(*journal.Batch) {
			return func(batch *journal.Batch) {
				key := journal.InodeKey(uint64(ino))
				val, err := r.j.Get(key)
				require.NoError(t, err)
				rec, err := journal.ParseInode(key, val)
				require.NoError(t, err)
				change(&rec)
				batch.Put(key, rec.Pack(key))
			}
		}
		entry := func(dir Ino, name string) journal.Key { return journal.EntryKey(uint64(dir), hashName(&seed, name)) }
		for what, damage := range map[string]func(*journal.Batch){
			"links too many":        inode(a.Ino, func(n *journal.Inode) { n.Links++ }),
			"an orphan with a name": inode(a.Ino, func(n *journal.Inode) { n.Links = 0 }),
			"links of a directory":  inode(d.Ino, func(n *journal.Inode) { n.Links-- }),
			"attributes":            inode(a.Ino, func(n *journal.Inode) { n.Xattrs = 0 }),
			"one object twice":      inode(a.Ino, func(n *journal.Inode) { n.Object = uint64(b.Ino) }),
			"another parent":        inode(sub.Ino, func(n *journal.Inode) { n.Parent = uint64(Root) }),
			"no inode":              func(x *journal.Batch) { x.Delete(journal.InodeKey(uint64(b.Ino))) },
			"no root":               func(x *journal.Batch) { x.Delete(journal.InodeKey(uint64(Root))) },
			"no tree":               func(x *journal.Batch) { x.Delete(journal.TreeKey()) },
			"no name":               func(x *journal.Batch) { x.Delete(entry(d.Ino, "a")) },
			"a name in a wrong place": func(x *journal.Batch) {
				x.Delete(entry(d.Ino, "a"))
				key := entry(d.Ino, "other")
				x.Put(key, journal.Entries{{Type: journal.TypeRegular, Inode: uint64(a.Ino), Name: "a"}}.Pack(key))
			},
			"another type": func(x *journal.Batch) {
				key := entry(d.Ino, "a")
				x.Put(key, journal.Entries{{Type: journal.TypeFIFO, Inode: uint64(a.Ino), Name: "a"}}.Pack(key))
			},
			"a circle": func(x *journal.Batch) {
				x.Delete(entry(Root, "dir"))
				key := entry(sub.Ino, "dir")
				x.Put(key, journal.Entries{{Type: journal.TypeDirectory, Inode: uint64(d.Ino), Name: "dir"}}.Pack(key))
				inode(d.Ino, func(n *journal.Inode) { n.Parent = uint64(sub.Ino) })(x)
				inode(sub.Ino, func(n *journal.Inode) { n.Links++ })(x)
				inode(Root, func(n *journal.Inode) { n.Links-- })(x)
			},
		} {
			j := r.j.Outcome(0)
			report, err := Verify(j)
			require.NoError(t, err)
			require.Empty(t, report.Problems, "before")
			batch := &journal.Batch{}
			damage(batch)
			require.NoError(t, j.Commit(context.Background(), batch))
			report, err = Verify(j)
			require.NoError(t, err)
			require.NotEmpty(t, report.Problems, what)
		}
	})
}
