package names

import (
	"context"
	"syscall"
	"time"

	"ballast/journal"
)

// Attr returns the attributes of an inode, ESTALE if there is none.
func (t *Tree) Attr(ctx context.Context, ino Ino) (Attr, error) {
	// The node first: once it is up to its record and nobody's, it goes.
	if n := t.useIfThere(ino); n != nil {
		defer n.release()
	}
	rec, err := t.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	return t.attr(&rec), nil
}

// attr is what clients see of an inode with that record.
func (t *Tree) attr(rec *journal.Inode) Attr {
	a := recorded(rec)
	if rec.Type() == journal.TypeRegular {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.overlayLocked(&a)
	}
	return a
}

// recorded is what a record tells of its inode.
func recorded(rec *journal.Inode) Attr {
	a := Attr{Ino: Ino(rec.Number), Generation: uint64(rec.Generation), Mode: rec.Mode, UID: rec.UID, GID: rec.GID,
		Links: rec.Links, Rdev: rec.Rdev, Flags: rec.Flags, Size: rec.Size, Blocks: rec.Blocks * (journal.BlockSize / 512),
		Atime: rec.Atime, Mtime: rec.Mtime, Ctime: rec.Ctime, Btime: rec.Btime}
	switch rec.Type() {
	case journal.TypeSymlink:
		a.Size = int64(len(rec.Target))
	case journal.TypeDirectory:
		a.Size = journal.BlockSize
	}
	return a
}

// overlayLocked adds what is ahead of the record; only regular files have a node. Called with mu.
func (t *Tree) overlayLocked(a *Attr) {
	n := t.nodes[a.Ino]
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a.Size, a.Blocks = n.size, n.data.file.Used()/512
	if n.dirty {
		a.Mtime = n.mtime
		a.Ctime = later(a.Ctime, n.ctime)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// SetAttr changes attributes and returns them all.
func (t *Tree) SetAttr(ctx context.Context, ino Ino, c Change) (Attr, error) {
	if err := t.begin(ctx, false); err != nil {
		return Attr{}, err
	}
	if c.Set&SetSize != 0 {
		if err := t.setSize(ctx, ino, c.Size); err != nil {
			return Attr{}, err
		}
	}
	defer t.locks.lock(ino)()
	e := t.edit()
	rec, err := e.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	if c.Set&^SetSize == 0 {
		return t.attr(rec), nil
	}
	const times = SetAtime | SetMtime | SetCtime
	protected := rec.Flags&FlagImmutable != 0 || rec.Flags&FlagAppend != 0 && c.Set&^(SetSize|times) != 0
	if protected && c.Set&Cached == 0 {
		return Attr{}, syscall.EPERM
	}
	if c.Set&SetMode != 0 {
		rec.Mode = rec.Type() | c.Mode&journal.PermMask
	}
	if c.Set&SetUID != 0 {
		rec.UID = c.UID
	}
	if c.Set&SetGID != 0 {
		rec.GID = c.GID
	}
	if c.Set&KillPriv != 0 && rec.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		killPriv(rec)
	}
	if c.Set&SetAtime != 0 {
		rec.Atime = c.Atime.UTC()
	}
	if c.Set&SetMtime != 0 && !t.setMtime(ino, c.Mtime.UTC()) {
		rec.Mtime = c.Mtime.UTC()
	}
	if rec.Ctime = e.now; c.Set&SetCtime != 0 {
		rec.Ctime = c.Ctime.UTC()
	}
	e.commit()
	return t.attr(rec), nil
}

// killPriv takes away the bits that a change of content or owner takes.
func killPriv(rec *journal.Inode) {
	rec.Mode &^= syscall.S_ISUID
	if rec.Mode&syscall.S_IXGRP != 0 {
		rec.Mode &^= syscall.S_ISGID
	}
}

// setMtime sets the modification time of a file whose data is ahead of its record: it becomes
// durable with the data, for a time that is believed must not be that of other content.
func (t *Tree) setMtime(ino Ino, mtime time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.dirty {
		return false
	}
	n.mtime = mtime
	n.change++
	return true
}

// setSize cuts a file or makes it longer.
func (t *Tree) setSize(ctx context.Context, ino Ino, size int64) error {
	n, err := t.resizable(ino)
	if err != nil {
		return err
	}
	defer n.release()
	return n.retry(ctx, func() error { return n.resize(ctx, size) })
}

func (t *Tree) resizable(ino Ino) (*node, error) {
	defer t.locks.lock(ino)()
	rec, err := t.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case rec.Type() == journal.TypeDirectory:
		return nil, syscall.EISDIR
	case rec.Type() != journal.TypeRegular:
		return nil, syscall.EINVAL
	case rec.Flags&(FlagImmutable|FlagAppend) != 0:
		return nil, syscall.EPERM
	}
	return t.use(&rec), nil
}

// SetFlags sets the flags of an inode.
func (t *Tree) SetFlags(ctx context.Context, ino Ino, flags uint32) error {
	if flags&^(FlagImmutable|FlagAppend|FlagNoDump|FlagNoAtime) != 0 {
		return syscall.EOPNOTSUPP
	}
	if err := t.begin(ctx, false); err != nil {
		return err
	}
	defer t.locks.lock(ino)()
	e := t.edit()
	rec, err := e.inode(ino)
	if err != nil {
		return err
	}
	rec.Flags, rec.Ctime = flags, e.now
	e.commit()
	return nil
}

// Readlink returns the target of a symlink.
func (t *Tree) Readlink(ctx context.Context, ino Ino) (string, error) {
	rec, err := t.inode(ino)
	if err != nil {
		return "", err
	}
	if rec.Type() != journal.TypeSymlink {
		return "", syscall.EINVAL
	}
	return rec.Target, nil
}
