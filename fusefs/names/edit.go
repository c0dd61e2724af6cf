package names

import (
	"slices"
	"syscall"
	"time"

	"ballast/journal"
)

// edit gathers the changes of one operation: records are read once, changed in place, and written
// with the end of it. The caller holds the locks of all inodes that it changes.
type edit struct {
	t       *Tree
	now     time.Time
	inodes  map[Ino]*journal.Inode
	entries map[journal.Key]journal.Entries
	batch   journal.Batch // other records
	waits   []*node
}

func (t *Tree) edit() *edit {
	return &edit{t: t, now: time.Now().UTC(), inodes: map[Ino]*journal.Inode{}, entries: map[journal.Key]journal.Entries{}}
}

// inode returns a record to be changed.
func (e *edit) inode(ino Ino) (*journal.Inode, error) {
	if rec := e.inodes[ino]; rec != nil {
		return rec, nil
	}
	rec, err := e.t.inode(ino)
	if err != nil {
		return nil, err
	}
	e.inodes[ino] = &rec
	return &rec, nil
}

// directory is inode for a directory whose entries are about to change. removes tells that one is
// to go.
func (e *edit) directory(ino Ino, removes bool) (*journal.Inode, error) {
	rec, err := e.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case rec.Type() != journal.TypeDirectory:
		return nil, syscall.ENOTDIR
	case rec.Links == 0:
		return nil, syscall.ENOENT
	case rec.Flags&FlagImmutable != 0 || removes && rec.Flags&FlagAppend != 0:
		return nil, syscall.EPERM
	}
	return rec, nil
}

// list returns the entries that have a name's hash, to be changed.
func (e *edit) list(dir Ino, name string) (journal.Key, journal.Entries, error) {
	hash := e.t.hash(name)
	key := journal.EntryKey(uint64(dir), hash)
	if list, ok := e.entries[key]; ok {
		return key, list, nil
	}
	list, err := e.t.entries(dir, hash)
	return key, list, err
}

// add gives an inode a name, which is not there.
func (e *edit) add(dir Ino, name string, typ uint32, ino Ino) error {
	key, list, err := e.list(dir, name)
	if err != nil {
		return err
	}
	slot := 0
	for slot < len(list) && int(list[slot].Slot) == slot {
		slot++
	}
	if slot == journal.MaxSharing {
		return syscall.ENOSPC // sixteen names with the same hash of 58 bits
	}
	e.entries[key] = slices.Insert(slices.Clone(list), slot, journal.Entry{Slot: uint8(slot), Type: typ, Inode: uint64(ino), Name: name})
	return nil
}

// remove takes a name away, which is there.
func (e *edit) remove(dir Ino, name string) error {
	key, list, err := e.list(dir, name)
	if err != nil {
		return err
	}
	e.entries[key] = slices.DeleteFunc(slices.Clone(list), func(x journal.Entry) bool { return x.Name == name })
	return nil
}

// touch sets the times of a directory whose entries changed.
func (e *edit) touch(dir *journal.Inode) { dir.Mtime, dir.Ctime = e.now, e.now }

// commit writes the operation into the delta, and returns the layer it is in.
func (e *edit) commit() uint64 {
	for ino, rec := range e.inodes {
		key := journal.InodeKey(uint64(ino))
		e.batch.Put(key, rec.Pack(key))
	}
	for key, list := range e.entries {
		if len(list) == 0 {
			e.batch.Delete(key)
		} else {
			e.batch.Put(key, list.Pack(key))
		}
	}
	return e.t.delta.apply(&e.batch, e.waits...)
}
