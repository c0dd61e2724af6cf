package names

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"ballast/journal"
)

func checkXattr(name string, value []byte) error {
	switch {
	case name == "" || len(name) > journal.MaxXattrName:
		return syscall.ERANGE
	case len(value) > MaxXattr:
		return syscall.E2BIG
	}
	return nil
}

// xattrs returns the attributes of an inode that share a name's hash.
func (t *Tree) xattrs(ino Ino, name string) (journal.Key, journal.Xattrs, error) {
	key := journal.XattrKey(uint64(ino), t.hash(name))
	value, err := t.get(key)
	if errors.Is(err, journal.ErrNotFound) {
		return key, nil, nil
	}
	if err != nil {
		return key, nil, err
	}
	list, err := journal.ParseXattrs(key, value)
	return key, list, err
}

func indexXattr(list journal.Xattrs, name string) int {
	return slices.IndexFunc(list, func(x journal.Xattr) bool { return x.Name == name })
}

// GetXattr returns the value of an extended attribute; ENODATA if there is none.
func (t *Tree) GetXattr(ctx context.Context, ino Ino, name string) ([]byte, error) {
	rec, err := t.inode(ino)
	if err != nil {
		return nil, err
	}
	if rec.Xattrs == 0 || len(name) > journal.MaxXattrName {
		return nil, syscall.ENODATA
	}
	_, list, err := t.xattrs(ino, name)
	if err != nil {
		return nil, err
	}
	if i := indexXattr(list, name); i >= 0 {
		return slices.Clone(list[i].Value), nil
	}
	return nil, syscall.ENODATA
}

// xattrEdit says how a list of attributes changes.
type xattrEdit struct {
	adds   bool // needs space
	forced bool // not refused by the flags of the inode
	change func(list journal.Xattrs) (journal.Xattrs, error)
}

// changeXattr changes the list of attributes that share a name's hash.
func (t *Tree) changeXattr(ctx context.Context, ino Ino, name string, x xattrEdit) error {
	if err := t.begin(ctx, x.adds); err != nil {
		return err
	}
	defer t.locks.lock(ino)()
	e := t.edit()
	rec, err := e.inode(ino)
	if err != nil {
		return err
	}
	if !x.forced && rec.Flags&(FlagImmutable|FlagAppend) != 0 {
		return syscall.EPERM
	}
	key, list, err := t.xattrs(ino, name)
	if err != nil {
		return err
	}
	before := len(list)
	list, err = x.change(slices.Clone(list))
	if err != nil {
		return err
	}
	rec.Xattrs += uint32(len(list) - before)
	rec.Ctime = e.now
	if len(list) == 0 {
		e.batch.Delete(key)
	} else {
		e.batch.Put(key, list.Pack(key))
	}
	e.commit()
	return nil
}

// SetXattr sets an extended attribute, with flags XattrCreate or XattrReplace.
func (t *Tree) SetXattr(ctx context.Context, ino Ino, name string, value []byte, flags int) error {
	if err := checkXattr(name, value); err != nil {
		return err
	}
	return t.changeXattr(ctx, ino, name, xattrEdit{adds: true, change: func(list journal.Xattrs) (journal.Xattrs, error) {
		i := indexXattr(list, name)
		switch {
		case flags&XattrCreate != 0 && i >= 0:
			return nil, syscall.EEXIST
		case flags&XattrReplace != 0 && i < 0:
			return nil, syscall.ENODATA
		case i < 0 && len(list) == journal.MaxSharing:
			return nil, syscall.ENOSPC
		case i < 0:
			return append(list, journal.Xattr{Name: name, Value: slices.Clone(value)}), nil
		}
		list[i].Value = slices.Clone(value)
		return list, nil
	}})
}

// RemoveXattr removes an extended attribute; ENODATA if there is none.
func (t *Tree) RemoveXattr(ctx context.Context, ino Ino, name string) error {
	if len(name) > journal.MaxXattrName {
		return syscall.ENODATA
	}
	return t.changeXattr(ctx, ino, name, xattrEdit{change: withoutXattr(name)})
}

// DropXattr removes an extended attribute, if there is one, also of an inode whose flags protect
// it: what is written already, and comes from a cache only now, may take attributes with it.
func (t *Tree) DropXattr(ctx context.Context, ino Ino, name string) error {
	rec, err := t.inode(ino)
	if err != nil || rec.Xattrs == 0 {
		return err
	}
	err = t.changeXattr(ctx, ino, name, xattrEdit{forced: true, change: withoutXattr(name)})
	if err == syscall.ENODATA {
		return nil
	}
	return err
}

func withoutXattr(name string) func(journal.Xattrs) (journal.Xattrs, error) {
	return func(list journal.Xattrs) (journal.Xattrs, error) {
		i := indexXattr(list, name)
		if i < 0 {
			return nil, syscall.ENODATA
		}
		return slices.Delete(list, i, i+1), nil
	}
}

// ListXattr returns the names of the extended attributes.
func (t *Tree) ListXattr(ctx context.Context, ino Ino) (names []string, err error) {
	rec, err := t.inode(ino)
	if err != nil || rec.Xattrs == 0 {
		return nil, err
	}
	err = t.eachXattrs(ino, func(_ journal.Key, list journal.Xattrs) {
		for _, x := range list {
			names = append(names, x.Name)
		}
	})
	return names, err
}

// eachXattrs calls fn for the records of attributes that an inode has.
func (t *Tree) eachXattrs(ino Ino, fn func(journal.Key, journal.Xattrs)) error {
	for from := uint64(0); ; {
		list, next, err := t.listRecords(journal.SpaceXattr, ino, from, 16)
		if err != nil {
			return err
		}
		for _, x := range list {
			key := journal.XattrKey(uint64(ino), x.b)
			rec, err := journal.ParseXattrs(key, x.value)
			if err != nil {
				return err
			}
			fn(key, rec)
		}
		if next == 0 {
			return nil
		}
		from = next
	}
}
