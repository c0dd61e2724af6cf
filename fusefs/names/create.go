package names

import (
	"context"
	"errors"
	"syscall"

	"ballast/journal"
)

// Lookup returns the inode that name has in directory parent, also for "." and "..". It and the
// calls that make inodes (Create, CreateUnlinked, Link) give the caller one reference to the
// inode, which keeps it from being reclaimed when its last name goes; Forget gives it back.
func (t *Tree) Lookup(ctx context.Context, parent Ino, name string) (Attr, error) {
	dir, err := t.directory(parent)
	if err != nil {
		return Attr{}, err
	}
	if name == "." || name == ".." {
		ino := parent
		if name == ".." {
			ino = Ino(dir.Parent)
		}
		return t.Refer(ino)
	}
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	for range 100 {
		e, err := t.find(parent, name)
		if err != nil {
			return Attr{}, err
		}
		a, err := t.Refer(Ino(e.Inode))
		if !errors.Is(err, syscall.ESTALE) {
			return a, err
		} // else it went meanwhile, the name too
	}
	return Attr{}, syscall.ESTALE
}

// Refer is Lookup for an inode that a listing of its directory has just named; ESTALE if it is gone.
func (t *Tree) Refer(ino Ino) (Attr, error) {
	if !t.refer(ino) {
		return Attr{}, syscall.ESTALE
	}
	a, err := t.Attr(t.ctx, ino)
	if err != nil {
		t.Forget(ino, 1)
	}
	return a, err
}

// Create makes an inode of any type (also directories and symlinks) with a name; EEXIST if the
// name is there. Group and setgid bit are inherited from a setgid directory.
func (t *Tree) Create(ctx context.Context, parent Ino, name string, n New) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	rec, err := t.newInode(ctx, n)
	if err != nil {
		return Attr{}, err
	}
	defer t.locks.lock(parent)()
	e := t.edit()
	dir, err := e.directory(parent, false)
	if err != nil {
		return Attr{}, err
	}
	switch _, err := t.find(parent, name); {
	case err == nil:
		return Attr{}, syscall.EEXIST
	case !errors.Is(err, syscall.ENOENT):
		return Attr{}, err
	}
	if rec.Links = 1; rec.Type() == journal.TypeDirectory {
		rec.Links, rec.Parent = 2, uint64(parent)
		dir.Links++
	}
	if err := e.add(parent, name, rec.Type(), Ino(rec.Number)); err != nil {
		return Attr{}, err
	}
	e.touch(dir)
	t.place(e, dir, rec, n.Xattrs)
	e.commit()
	return t.attr(rec), nil
}

// CreateUnlinked makes a regular file without a name (O_TMPFILE) in the file system of parent.
func (t *Tree) CreateUnlinked(ctx context.Context, parent Ino, n New) (Attr, error) {
	rec, err := t.newInode(ctx, n)
	if err != nil {
		return Attr{}, err
	}
	if rec.Type() != journal.TypeRegular {
		return Attr{}, syscall.EINVAL
	}
	defer t.locks.lock(parent)()
	dir, err := t.directory(parent)
	if err != nil {
		return Attr{}, err
	}
	e := t.edit()
	t.place(e, &dir, rec, n.Xattrs)
	t.orphaned(Ino(rec.Number), e.commit())
	return t.attr(rec), nil
}

// newInode checks what a new inode is to be, and makes the record of it.
func (t *Tree) newInode(ctx context.Context, n New) (*journal.Inode, error) {
	if err := t.begin(ctx, true); err != nil {
		return nil, err
	}
	rec := &journal.Inode{Mode: n.Mode & (journal.TypeMask | journal.PermMask), UID: n.UID, GID: n.GID, Generation: 1}
	switch rec.Type() {
	case journal.TypeSymlink:
		if n.Target == "" {
			return nil, syscall.ENOENT
		}
		if len(n.Target) > MaxTarget {
			return nil, syscall.ENAMETOOLONG
		}
		rec.Target = n.Target
	case journal.TypeBlock, journal.TypeCharacter:
		rec.Rdev = n.Rdev
	case journal.TypeRegular, journal.TypeDirectory, journal.TypeFIFO, journal.TypeSocket:
	default:
		return nil, syscall.EINVAL
	}
	for _, x := range n.Xattrs {
		if err := checkXattr(x.Name, x.Value); err != nil {
			return nil, err
		}
	}
	number, err := t.v.NewFileNumber(ctx)
	if err != nil {
		return nil, err
	}
	rec.Number = number
	if rec.Type() == journal.TypeRegular {
		rec.Object = number
	}
	return rec, nil
}

// place adds a new inode, with what it inherits, to an operation, and gives out a reference.
func (t *Tree) place(e *edit, dir, rec *journal.Inode, xattrs []Xattr) {
	if dir.Mode&syscall.S_ISGID != 0 {
		rec.GID = dir.GID
		if rec.Type() == journal.TypeDirectory {
			rec.Mode |= syscall.S_ISGID
		}
	}
	rec.Atime, rec.Mtime, rec.Ctime, rec.Btime = e.now, e.now, e.now, e.now
	byHash := map[uint64]journal.Xattrs{}
	for _, x := range xattrs {
		h := t.hash(x.Name)
		byHash[h] = append(byHash[h], journal.Xattr(x))
		rec.Xattrs++
	}
	for h, list := range byHash {
		key := journal.XattrKey(rec.Number, h)
		e.batch.Put(key, list.Pack(key))
	}
	t.delta.made(rec)
	e.inodes = append(e.inodes, rec)
	t.inodes.Add(1)
	t.refer(Ino(rec.Number))
}

// Link gives an inode another name.
func (t *Tree) Link(ctx context.Context, ino, parent Ino, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if err := t.begin(ctx, true); err != nil {
		return Attr{}, err
	}
	defer t.locks.lock(parent, ino)()
	e := t.edit()
	dir, err := e.directory(parent, false)
	if err != nil {
		return Attr{}, err
	}
	rec, err := e.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	switch {
	case rec.Type() == journal.TypeDirectory, rec.Flags&(FlagImmutable|FlagAppend) != 0:
		return Attr{}, syscall.EPERM
	case rec.Links >= MaxLinks:
		return Attr{}, syscall.EMLINK
	}
	switch _, err := t.find(parent, name); {
	case err == nil:
		return Attr{}, syscall.EEXIST
	case !errors.Is(err, syscall.ENOENT):
		return Attr{}, err
	}
	if err := e.add(parent, name, rec.Type(), ino); err != nil {
		return Attr{}, err
	}
	if rec.Links == 0 && !t.named(ino) {
		return Attr{}, syscall.ENOENT
	}
	rec.Links++
	rec.Ctime = e.now
	e.touch(dir)
	t.refer(ino)
	e.commit()
	return t.attr(rec), nil
}
