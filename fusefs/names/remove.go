package names

import (
	"context"
	"errors"
	"syscall"

	"ballast/journal"
)

// lockEntry locks a directory and the inode that a name in it has.
func (t *Tree) lockEntry(parent Ino, name string) (e journal.Entry, unlock func(), err error) {
	for {
		if e, err = t.find(parent, name); err != nil {
			if _, derr := t.directory(parent); derr != nil {
				err = derr
			}
			return e, nil, err
		}
		unlock = t.locks.lock(parent, Ino(e.Inode))
		again, err := t.find(parent, name)
		if err == nil && again.Inode == e.Inode {
			return e, unlock, nil
		}
		unlock()
	}
}

// Unlink removes a name that is not of a directory, Rmdir one that is of an empty directory.
func (t *Tree) Unlink(ctx context.Context, parent Ino, name string) error {
	return t.remove(ctx, parent, name, false)
}

// Rmdir removes an empty directory.
func (t *Tree) Rmdir(ctx context.Context, parent Ino, name string) error {
	switch name {
	case ".":
		return syscall.EINVAL
	case "..":
		return syscall.ENOTEMPTY
	}
	return t.remove(ctx, parent, name, true)
}

func (t *Tree) remove(ctx context.Context, parent Ino, name string, isDir bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := t.begin(ctx, false); err != nil {
		return err
	}
	entry, unlock, err := t.lockEntry(parent, name)
	if err != nil {
		return err
	}
	defer unlock()
	e := t.edit()
	dir, err := e.directory(parent, true)
	if err != nil {
		return err
	}
	rec, err := e.inode(Ino(entry.Inode))
	if err != nil {
		return err
	}
	switch {
	case isDir && rec.Type() != journal.TypeDirectory:
		return syscall.ENOTDIR
	case !isDir && rec.Type() == journal.TypeDirectory:
		return syscall.EISDIR
	}
	if err := e.unlink(dir, rec); err != nil {
		return err
	}
	if err := e.remove(parent, name); err != nil {
		return err
	}
	e.touch(dir)
	t.noteOrphan(rec, e.commit())
	return nil
}

// unlink takes a name from an inode that had it in dir; the entry is the caller's business.
func (e *edit) unlink(dir, rec *journal.Inode) error {
	if rec.Flags&(FlagImmutable|FlagAppend) != 0 {
		return syscall.EPERM
	}
	if rec.Type() == journal.TypeDirectory {
		if empty, err := e.t.isEmpty(Ino(rec.Number)); err != nil {
			return err
		} else if !empty {
			return syscall.ENOTEMPTY
		}
		dir.Links--
		rec.Links = 0
	} else {
		rec.Links--
	}
	rec.Ctime = e.now
	return nil
}

// noteOrphan tells the reaper of an inode that lost its last name in an operation of that layer.
func (t *Tree) noteOrphan(rec *journal.Inode, layer uint64) {
	if rec.Links == 0 {
		t.orphaned(Ino(rec.Number), layer)
	}
}

// isEmpty reports whether a directory has no entries.
func (t *Tree) isEmpty(dir Ino) (bool, error) {
	if empty, known := t.delta.empty(dir); known {
		return empty, nil
	}
	for from := uint64(0); ; {
		list, next, err := t.listRecords(journal.SpaceEntry, dir, from, 256)
		if err != nil || len(list) > 0 || next == 0 {
			return len(list) == 0, err
		}
		from = next
	}
}

// Rename moves a name, with flags RenameNoReplace or RenameExchange.
func (t *Tree) Rename(ctx context.Context, oldParent Ino, oldName string, newParent Ino, newName string, flags uint32) error {
	if err := errors.Join(checkName(oldName), checkName(newName)); err != nil {
		if errors.Is(err, syscall.ENAMETOOLONG) {
			return syscall.ENAMETOOLONG
		}
		return syscall.EINVAL
	}
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return syscall.EINVAL
	}
	if err := t.begin(ctx, true); err != nil {
		return err
	}
	if oldParent != newParent {
		t.renames <- struct{}{}
		defer func() { <-t.renames }()
	}
	r := &renaming{t: t, from: oldParent, to: newParent, oldName: oldName, newName: newName, exchange: flags == RenameExchange}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case r.exchange && !r.replaces:
		return syscall.ENOENT
	case flags == RenameNoReplace && r.replaces:
		return syscall.EEXIST
	case r.replaces && r.src.Inode == r.dst.Inode:
		return nil // two names of one file, or the same name twice
	}
	return r.run()
}

// renaming is a rename under way.
type renaming struct {
	t                *Tree
	from, to         Ino
	oldName, newName string
	exchange         bool

	src, dst journal.Entry
	replaces bool // dst is there

	e              *edit
	fromDir, toDir *journal.Inode
	srcRec, dstRec *journal.Inode
}

// lock finds what the two names have and locks all of it.
func (r *renaming) lock() (unlock func(), err error) {
	look := func() (src, dst journal.Entry, replaces bool, err error) {
		if src, err = r.t.find(r.from, r.oldName); err == nil {
			dst, err = r.t.find(r.to, r.newName)
			replaces = err == nil
			if errors.Is(err, syscall.ENOENT) {
				err = nil
			}
		}
		return src, dst, replaces, err
	}
	for {
		if r.src, r.dst, r.replaces, err = look(); err != nil {
			if _, derr := r.t.directory(r.from); derr != nil {
				err = derr
			}
			return nil, err
		}
		unlock = r.t.locks.lock(r.from, r.to, Ino(r.src.Inode), Ino(r.dst.Inode))
		src, dst, replaces, err := look()
		if err == nil && src.Inode == r.src.Inode && dst.Inode == r.dst.Inode && replaces == r.replaces {
			return unlock, nil
		}
		unlock()
	}
}

// run checks and carries out the rename, with everything locked.
func (r *renaming) run() (err error) {
	r.e = r.t.edit()
	if r.fromDir, err = r.e.directory(r.from, true); err != nil {
		return err
	}
	if r.toDir, err = r.e.directory(r.to, r.replaces); err != nil {
		return err
	}
	if r.srcRec, err = r.e.inode(Ino(r.src.Inode)); err != nil {
		return err
	}
	if r.replaces {
		if r.dstRec, err = r.e.inode(Ino(r.dst.Inode)); err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	if r.exchange {
		return r.swap()
	}
	return r.move()
}

func (r *renaming) check() error {
	if r.srcRec.Flags&(FlagImmutable|FlagAppend) != 0 {
		return syscall.EPERM
	}
	srcDir := r.srcRec.Type() == journal.TypeDirectory
	dstDir := r.replaces && r.dstRec.Type() == journal.TypeDirectory
	switch {
	case r.exchange && r.dstRec.Flags&(FlagImmutable|FlagAppend) != 0:
		return syscall.EPERM
	case !r.exchange && r.replaces && srcDir && !dstDir:
		return syscall.ENOTDIR
	case !r.exchange && !srcDir && dstDir:
		return syscall.EISDIR
	}
	if r.from == r.to {
		return nil
	}
	if srcDir {
		if below, err := r.t.isBelow(r.to, Ino(r.src.Inode)); err != nil || below {
			return errOr(err, syscall.EINVAL)
		}
	}
	if dstDir {
		below, err := r.t.isBelow(r.from, Ino(r.dst.Inode))
		if err != nil || below && r.exchange {
			return errOr(err, syscall.EINVAL)
		}
		if below {
			return syscall.ENOTEMPTY
		}
	}
	return nil
}

func errOr(err error, other syscall.Errno) error {
	if err != nil {
		return err
	}
	return other
}

// isBelow reports whether a directory is top or in it, however deep.
func (t *Tree) isBelow(dir, top Ino) (bool, error) {
	for dir != Root && dir != top {
		rec, err := t.inode(dir)
		if err != nil {
			return false, err
		}
		dir = Ino(rec.Parent)
	}
	return dir == top, nil
}

func (r *renaming) move() error {
	if r.replaces {
		if err := r.e.unlink(r.toDir, r.dstRec); err != nil {
			return err
		}
		if err := r.e.remove(r.to, r.newName); err != nil {
			return err
		}
		r.waitFor(r.srcRec)
	}
	if err := r.e.remove(r.from, r.oldName); err != nil {
		return err
	}
	if err := r.e.add(r.to, r.newName, r.srcRec.Type(), Ino(r.src.Inode)); err != nil {
		return err
	}
	r.reparent(r.srcRec, r.fromDir, r.toDir)
	r.finish()
	if r.replaces {
		r.t.noteOrphan(r.dstRec, r.e.commit())
		return nil
	}
	r.e.commit()
	return nil
}

func (r *renaming) swap() error {
	for _, step := range []func() error{
		func() error { return r.e.remove(r.from, r.oldName) },
		func() error { return r.e.remove(r.to, r.newName) },
		func() error { return r.e.add(r.to, r.newName, r.srcRec.Type(), Ino(r.src.Inode)) },
		func() error { return r.e.add(r.from, r.oldName, r.dstRec.Type(), Ino(r.dst.Inode)) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	r.reparent(r.srcRec, r.fromDir, r.toDir)
	r.reparent(r.dstRec, r.toDir, r.fromDir)
	r.waitFor(r.srcRec)
	r.waitFor(r.dstRec)
	r.dstRec.Ctime = r.e.now
	r.finish()
	r.e.commit()
	return nil
}

// waitFor lets the operation be committed only with the data that a file has now.
func (r *renaming) waitFor(rec *journal.Inode) {
	if n := r.t.dirtyNode(Ino(rec.Number)); n != nil {
		r.e.waits = append(r.e.waits, n)
	}
}

// reparent notes that a directory moved.
func (r *renaming) reparent(rec, from, to *journal.Inode) {
	if rec.Type() == journal.TypeDirectory && from != to {
		from.Links--
		to.Links++
		rec.Parent = to.Number
	}
}

func (r *renaming) finish() {
	r.srcRec.Ctime = r.e.now
	r.e.touch(r.fromDir)
	r.e.touch(r.toDir)
}
