package names

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"syscall"

	"ballast/journal"
)

func (c *mClient) create() error {
	d, name := c.dir(), c.name()
	typ := []uint32{journal.TypeRegular, journal.TypeRegular, journal.TypeRegular, journal.TypeDirectory, journal.TypeSymlink, journal.TypeFIFO}[c.rng.IntN(6)]
	n := New{Mode: typ | 0o640}
	if typ == journal.TypeSymlink {
		n.Target = name + "target"
	}
	unlinked := typ == journal.TypeRegular && c.rng.IntN(4) == 0
	in := &mInode{typ: typ, mode: 0o640, links: 1, target: n.Target, xattrs: map[string]string{}}
	ctx := context.Background()
	if d.entries[name] != nil {
		_, err := c.t.Create(ctx, d.ino, name, n)
		return c.same("create", err, syscall.EEXIST)
	}
	// The number of the new inode is known only afterwards; so is the state, which a crash may
	// have left.
	var a Attr
	var err error
	if unlinked {
		if a, err = c.t.CreateUnlinked(ctx, d.ino, n); err == nil {
			c.m.files[a.Ino] = &mFile{versions: []mVersion{{}}}
			c.add(d, name, in, a.Ino)
			_, err = c.t.Link(ctx, a.Ino, d.ino, name)
			c.t.Forget(a.Ino, 2)
		}
	} else {
		if a, err = c.t.Create(ctx, d.ino, name, n); err == nil {
			if typ == journal.TypeRegular {
				c.m.files[a.Ino] = &mFile{versions: []mVersion{{}}}
			}
			c.add(d, name, in, a.Ino)
			c.t.Forget(a.Ino, 1)
		}
	}
	return c.same("create", err, nil)
}

func (c *mClient) add(d *mInode, name string, in *mInode, ino Ino) {
	in.ino = ino
	if in.typ == journal.TypeDirectory {
		in.links, in.parent, in.entries = 2, d, map[string]*mInode{}
		in.mode |= d.mode & syscall.S_ISGID
		d.links++
	}
	d.entries[name] = in
	c.m.note()
}

func (c *mClient) remove() error {
	d, name := c.dir(), c.name()
	n := d.entries[name]
	isDir := c.rng.IntN(3) == 0
	if n != nil && c.rng.IntN(3) > 0 {
		isDir = n.typ == journal.TypeDirectory
	}
	var want error
	switch {
	case n == nil:
		want = syscall.ENOENT
	case isDir && n.typ != journal.TypeDirectory:
		want = syscall.ENOTDIR
	case !isDir && n.typ == journal.TypeDirectory:
		want = syscall.EISDIR
	case len(n.entries) > 0:
		want = syscall.ENOTEMPTY
	default:
		delete(d.entries, name)
		c.m.drop(d, n)
		c.m.note()
	}
	if isDir {
		return c.same("rmdir", c.t.Rmdir(context.Background(), d.ino, name), want)
	}
	return c.same("unlink", c.t.Unlink(context.Background(), d.ino, name), want)
}

func (c *mClient) rename() error {
	from, to, oldName, newName := c.dir(), c.dir(), c.name(), c.name()
	if c.rng.IntN(2) == 0 {
		to = from
	}
	flags := []uint32{0, 0, 0, RenameNoReplace, RenameExchange}[c.rng.IntN(5)]
	want := c.m.rename(from, oldName, to, newName, flags)
	if want == nil {
		c.m.note()
	}
	err := c.t.Rename(context.Background(), from.ino, oldName, to.ino, newName, flags)
	return c.same(fmt.Sprintf("rename %d/%s to %d/%s, flags %d", from.ino, oldName, to.ino, newName, flags), err, want)
}

func (c *mClient) link() error {
	n, d, name := c.regular(), c.dir(), c.name()
	if n == nil {
		return nil
	}
	var want error
	if d.entries[name] != nil {
		want = syscall.EEXIST
	} else {
		d.entries[name] = n
		n.links++
		c.m.note()
	}
	_, err := c.t.Link(context.Background(), n.ino, d.ino, name)
	if err == nil {
		c.t.Forget(n.ino, 1)
	}
	return c.same("link", err, want)
}

func (c *mClient) attributes() error {
	n := c.dir()
	if f := c.regular(); f != nil && c.rng.IntN(3) > 0 {
		n = f
	}
	ctx := context.Background()
	name := "user." + c.name()
	switch c.rng.IntN(3) {
	case 0:
		n.mode = uint32(c.rng.IntN(0o7777))
		c.m.note()
		_, err := c.t.SetAttr(ctx, n.ino, Change{Set: SetMode, Mode: n.mode})
		return c.same("chmod", err, nil)
	case 1:
		n.xattrs[name] = fmt.Sprint(c.rng.IntN(1000))
		c.m.note()
		return c.same("setxattr", c.t.SetXattr(ctx, n.ino, name, []byte(n.xattrs[name]), 0), nil)
	default:
		var want error
		if _, ok := n.xattrs[name]; !ok {
			want = syscall.ENODATA
		}
		delete(n.xattrs, name)
		c.m.note()
		return c.same("removexattr", c.t.RemoveXattr(ctx, n.ino, name), want)
	}
}

// bytes returns random content that no other call returns.
func (c *mClient) bytes() []byte {
	p := make([]byte, 1+c.rng.IntN(1<<(4+c.rng.IntN(14))))
	word := c.rng.Uint64()
	for i := range p {
		p[i] = byte(word >> (i % 8 * 8))
		if i%8 == 7 {
			word = word*0x9E3779B97F4A7C15 + 1
		}
	}
	return p
}

func (c *mClient) write() error {
	n := c.regular()
	if n == nil {
		return nil
	}
	f, p := c.m.files[n.ino], c.bytes()
	off := len(f.last())
	switch c.rng.IntN(4) {
	case 0:
		off = c.rng.IntN(off + 1)
	case 1:
		off += c.rng.IntN(100_000)
	}
	if off+len(p) > 300_000 {
		return nil
	}
	content := make([]byte, max(len(f.last()), off+len(p)))
	copy(content, f.last())
	copy(content[off:], p)
	f.versions = append(f.versions, mVersion{content: content})
	ctx := context.Background()
	file, err := c.t.OpenFile(ctx, n.ino, true)
	if err == nil {
		err = file.WriteAt(ctx, p, int64(off))
		file.Close()
	}
	return c.same("write", err, nil)
}

func (c *mClient) truncate() error {
	n := c.regular()
	if n == nil {
		return nil
	}
	f := c.m.files[n.ino]
	size := c.rng.IntN(len(f.last()) + 20_000)
	content := make([]byte, size)
	copy(content, f.last())
	f.versions = append(f.versions, mVersion{content, size == 0})
	_, err := c.t.SetAttr(context.Background(), n.ino, Change{Set: SetSize, Size: int64(size)})
	return c.same("truncate", err, nil)
}

// rewrite replaces the content of a file in place, as open with O_TRUNC, write and close do.
func (c *mClient) rewrite() error {
	n := c.regular()
	if n == nil {
		return nil
	}
	f := c.m.files[n.ino]
	before := len(f.versions)
	ctx := context.Background()
	file, err := c.t.OpenFile(ctx, n.ino, true)
	if err != nil {
		return c.same("open", err, nil)
	}
	f.versions = append(f.versions, mVersion{anew: true})
	_, err = c.t.SetAttr(ctx, n.ino, Change{Set: SetSize})
	for i := 0; err == nil && i < 1+c.rng.IntN(3) && !c.stop(); i++ {
		p := c.bytes()
		f.versions = append(f.versions, mVersion{content: slices.Concat(f.last(), p)})
		err = file.WriteAt(ctx, p, int64(len(f.last())-len(p)))
	}
	file.Close()
	if c.stop() {
		return nil
	}
	f.versions = append(f.versions[:before], mVersion{f.last(), true})
	return c.same("rewrite", err, nil)
}

// check compares a file with the model.
func (c *mClient) check() error {
	n := c.regular()
	if n == nil {
		return nil
	}
	ctx := context.Background()
	file, err := c.t.OpenFile(ctx, n.ino, false)
	if err != nil {
		return c.same("open", err, nil)
	}
	defer file.Close()
	a, err := file.Attr(ctx)
	if err != nil {
		return c.same("stat", err, nil)
	}
	want := c.m.files[n.ino].last()
	got := make([]byte, a.Size)
	if _, err := file.ReadAt(ctx, got, 0); err != nil {
		return c.same("read", err, nil)
	}
	if !bytes.Equal(want, got) && !c.stop() {
		return fmt.Errorf("inode %d has %d bytes, the model %d, or others", n.ino, len(got), len(want))
	}
	return nil
}

func (c *mClient) sync() error {
	state, ctx := len(c.m.states)-1, context.Background()
	floors := map[Ino]int{}
	var err error
	switch n := c.regular(); c.rng.IntN(3) {
	case 0:
		for ino, f := range c.m.files {
			floors[ino] = len(f.versions) - 1
		}
		err = c.t.Sync(ctx)
	case 1:
		err = c.t.SyncDir(ctx, c.dir().ino)
	default:
		if n == nil {
			return nil
		}
		floors[n.ino] = len(c.m.files[n.ino].versions) - 1
		file, oerr := c.t.OpenFile(ctx, n.ino, false)
		if oerr != nil {
			return c.same("open", oerr, nil)
		}
		err = file.Sync(ctx)
		file.Close()
	}
	if err == nil && !c.stop() {
		c.m.synced = state
		for ino, floor := range floors {
			c.m.files[ino].floor = floor
		}
	}
	return c.same("sync", err, nil)
}
