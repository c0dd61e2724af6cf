package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"

	"ballast/journal"
	"ballast/striping"
)

// model is a name space in memory, with every state that it went through since the last sync.
type model struct {
	root   *mInode
	files  map[Ino]*mFile
	states []string // dumps; a crash may leave any from synced on
	synced int
	over   []mRename
}

// mRename is a rename over an existing name: states from one on have at least that version.
type mRename struct {
	state   int
	file    Ino
	version int
}

type mInode struct {
	ino     Ino
	typ     uint32
	mode    uint32
	links   int
	target  string
	xattrs  map[string]string
	entries map[string]*mInode // of a directory
	parent  *mInode
}

// mFile is the content of a file in all versions, of which a crash may leave blocks from floor on.
type mFile struct {
	versions []mVersion
	floor    int
}

type mVersion struct {
	content []byte
	anew    bool // none of the blocks of earlier versions are in it
}

func (m *model) note() { m.states = append(m.states, m.root.dump("/", map[Ino]bool{})) }

// dump is all that there is to be seen of a tree, but for content, sizes and times.
func (n *mInode) dump(path string, seen map[Ino]bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s ino=%d mode=%o links=%d target=%q", path, n.ino, n.typ|n.mode, n.links, n.target)
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		fmt.Fprintf(&b, " %s=%q", k, n.xattrs[k])
	}
	b.WriteByte('\n')
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		b.WriteString(n.entries[name].dump(path+name+"/", seen))
	}
	return b.String()
}

// readTree makes a model of what a tree holds.
func readTree(t *Tree, ino Ino, inodes map[Ino]*mInode) (*mInode, error) {
	ctx := context.Background()
	if n := inodes[ino]; n != nil {
		return n, nil
	}
	a, err := t.Attr(ctx, ino)
	if err != nil {
		return nil, err
	}
	n := &mInode{ino: ino, typ: a.Mode & journal.TypeMask, mode: a.Mode & journal.PermMask, links: int(a.Links), xattrs: map[string]string{}}
	inodes[ino] = n
	names, err := t.ListXattr(ctx, ino)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		v, err := t.GetXattr(ctx, ino, name)
		if err != nil {
			return nil, err
		}
		n.xattrs[name] = string(v)
	}
	switch n.typ {
	case journal.TypeSymlink:
		if n.target, err = t.Readlink(ctx, ino); err != nil {
			return nil, err
		}
	case journal.TypeDirectory:
		n.entries = map[string]*mInode{}
		var list []Entry
		if err := t.ReadDir(ctx, ino, 2, dirPage, func(e Entry) bool { list = append(list, e); return true }); err != nil {
			return nil, err
		}
		for _, e := range list {
			found, err := t.Lookup(ctx, ino, e.Name)
			if err != nil {
				return nil, err
			}
			t.Forget(found.Ino, 1)
			if found.Ino != e.Ino || n.entries[e.Name] != nil {
				return nil, fmt.Errorf("%q of directory %d is listed as %d, found as %d", e.Name, ino, e.Ino, found.Ino)
			}
			child, err := readTree(t, e.Ino, inodes)
			if err != nil {
				return nil, err
			}
			if child.typ == journal.TypeDirectory {
				child.parent = n
			}
			n.entries[e.Name] = child
		}
	}
	return n, nil
}

// adopt checks what a crash left, and makes it what the model goes on with.
func (m *model) adopt(t *Tree, torn bool) error {
	inodes := map[Ino]*mInode{}
	root, err := readTree(t, Root, inodes)
	if err != nil {
		return err
	}
	dump := root.dump("/", map[Ino]bool{})
	state := slices.Index(m.states[m.synced:], dump) + m.synced
	if state < m.synced {
		return fmt.Errorf("found\n%s\nwhich is none of the %d states since the last sync, at which there was\n%s\nand at last\n%s",
			dump, len(m.states)-m.synced, m.states[m.synced], m.states[len(m.states)-1])
	}
	files := map[Ino]*mFile{}
	for ino, n := range inodes {
		if n.typ != journal.TypeRegular {
			continue
		}
		f := m.files[ino]
		for _, r := range m.over {
			if r.file == ino && r.state <= state {
				f.floor = max(f.floor, r.version)
			}
		}
		content, err := f.read(t, ino, torn)
		if err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		files[ino] = &mFile{versions: []mVersion{{content: content}}}
	}
	*m = model{root: root, files: files, states: []string{dump}}
	return nil
}

// read reads a file and checks that it is one that a crash may leave.
func (f *mFile) read(t *Tree, ino Ino, torn bool) ([]byte, error) {
	ctx := context.Background()
	file, err := t.OpenFile(ctx, ino, true)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	a, err := file.Attr(ctx)
	if err != nil {
		return nil, err
	}
	content := make([]byte, a.Size)
	bad := map[int]bool{}
	for off := 0; off < len(content); off += journal.BlockSize {
		end := min(off+journal.BlockSize, len(content))
		_, err := file.ReadAt(ctx, content[off:end], int64(off))
		if torn && errors.Is(err, striping.ErrUnreadable) && len(f.versions)-f.floor > 1 {
			bad[off] = true // torn on its only copy: written again by the client
			err = file.WriteAt(ctx, make([]byte, end-off), int64(off))
			clear(content[off:end])
		}
		if err != nil {
			return nil, err
		}
	}
	if len(bad) > 0 {
		if err := file.Sync(ctx); err != nil {
			return nil, err
		}
	}
	for from := f.floor; from < len(f.versions); {
		to := from + 1
		for to < len(f.versions) && !f.versions[to].anew {
			to++
		}
		if mixed(content, f.versions[from:to], bad) {
			return content, nil
		}
		from = to
	}
	sizes := ""
	for _, v := range f.versions[f.floor:] {
		sizes += fmt.Sprintf(" %d", len(v.content))
		if v.anew {
			sizes += "(anew)"
		}
	}
	return nil, fmt.Errorf("%d bytes are none of its versions since the last sync, of%s bytes", len(content), sizes)
}

// mixed reports whether content has the size of one version and each block is of one of them.
func mixed(content []byte, versions []mVersion, bad map[int]bool) bool {
	if !slices.ContainsFunc(versions, func(v mVersion) bool { return len(v.content) == len(content) }) {
		return false
	}
	for off := 0; off < len(content); off += journal.BlockSize {
		end := min(off+journal.BlockSize, len(content))
		if !bad[off] && !slices.ContainsFunc(versions, func(v mVersion) bool {
			block := make([]byte, end-off)
			if off < len(v.content) {
				copy(block, v.content[off:])
			}
			return bytes.Equal(block, content[off:end])
		}) {
			return false
		}
	}
	return true
}

func (f *mFile) last() []byte { return f.versions[len(f.versions)-1].content }

// dirs returns all directories, the root first.
func (m *model) dirs() (list []*mInode) {
	list = []*mInode{m.root}
	for i := 0; i < len(list); i++ {
		for _, name := range slices.Sorted(maps.Keys(list[i].entries)) {
			if c := list[i].entries[name]; c.typ == journal.TypeDirectory {
				list = append(list, c)
			}
		}
	}
	return list
}

func (n *mInode) below(top *mInode) bool {
	for ; n != nil; n = n.parent {
		if n == top {
			return true
		}
	}
	return false
}

// rename is what rename does to the model.
func (m *model) rename(from *mInode, oldName string, to *mInode, newName string, flags uint32) error {
	src, dst := from.entries[oldName], to.entries[newName]
	isDir := func(n *mInode) bool { return n != nil && n.typ == journal.TypeDirectory }
	exchange := flags == RenameExchange
	switch {
	case src == nil:
		return syscall.ENOENT
	case exchange && dst == nil:
		return syscall.ENOENT
	case flags == RenameNoReplace && dst != nil:
		return syscall.EEXIST
	case dst == src:
		return nil
	case !exchange && dst != nil && isDir(src) && !isDir(dst):
		return syscall.ENOTDIR
	case !exchange && !isDir(src) && isDir(dst):
		return syscall.EISDIR
	case isDir(src) && to.below(src):
		return syscall.EINVAL
	case isDir(dst) && from.below(dst) && exchange:
		return syscall.EINVAL
	case !exchange && isDir(dst) && len(dst.entries) > 0:
		return syscall.ENOTEMPTY
	}
	if exchange {
		from.entries[oldName], to.entries[newName] = dst, src
	} else {
		delete(from.entries, oldName)
		to.entries[newName] = src
		if dst != nil {
			m.drop(to, dst)
		}
	}
	if isDir(src) && from != to {
		from.links--
		to.links++
		src.parent = to
	}
	if exchange && isDir(dst) && from != to {
		to.links--
		from.links++
		dst.parent = from
	}
	for _, n := range []*mInode{src, dst} {
		if n != nil && n.typ == journal.TypeRegular && (exchange || n == src && dst != nil) {
			m.over = append(m.over, mRename{len(m.states), n.ino, len(m.files[n.ino].versions) - 1})
		}
	}
	return nil
}

// drop takes a name away from an inode.
func (m *model) drop(dir, n *mInode) {
	if n.typ == journal.TypeDirectory {
		n.links = 0
		dir.links--
	} else {
		n.links--
	}
}

// mClient does random operations on a tree and its model.
type mClient struct {
	t    *Tree
	m    *model
	rng  *rand.Rand
	stop func() bool
}

func (c *mClient) name() string { return string(rune('a' + c.rng.IntN(6))) }

func (c *mClient) dir() *mInode {
	list := c.m.dirs()
	return list[c.rng.IntN(len(list))]
}

// regular returns a file that has a name, or nil.
func (c *mClient) regular() *mInode {
	var list []*mInode
	for _, d := range c.m.dirs() {
		for _, name := range slices.Sorted(maps.Keys(d.entries)) {
			if n := d.entries[name]; n.typ == journal.TypeRegular {
				list = append(list, n)
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[c.rng.IntN(len(list))]
}

// same compares the result of an operation with what the model says.
func (c *mClient) same(what string, err, want error) error {
	if c.stop() {
		return nil
	}
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		return fmt.Errorf("%s: %v, the model says %v", what, err, want)
	}
	return nil
}

// step does one operation.
func (c *mClient) step() error {
	switch c.rng.IntN(20) {
	case 0, 1, 2:
		return c.create()
	case 3, 4:
		return c.remove()
	case 5, 6, 7:
		return c.rename()
	case 8:
		return c.link()
	case 9:
		return c.attributes()
	case 10, 11, 12, 13:
		return c.write()
	case 14:
		return c.truncate()
	case 15, 16:
		return c.rewrite()
	case 17:
		return c.check()
	default:
		return c.sync()
	}
}
