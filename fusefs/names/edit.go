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
	inodes  []*journal.Inode // a handful at most, so are entries
	entries []editEntries
	batch   journal.Batch // other records
	waits   []*node

	room struct { // for the above, of most operations
		inodes  [2]*journal.Inode
		entries [1]editEntries
		ops     [4]journal.Op
	}
}

// editEntries are the entries with one hash.
type editEntries struct {
	key  journal.Key
	list journal.Entries
}

func (t *Tree) edit() *edit {
	e := &edit{t: t, now: time.Now().UTC()}
	e.inodes, e.entries, e.batch.Ops = e.room.inodes[:0], e.room.entries[:0], e.room.ops[:0]
	return e
}

// inode returns a record to be changed.
func (e *edit) inode(ino Ino) (*journal.Inode, error) {
	for _, rec := range e.inodes {
		if rec.Number == uint64(ino) {
			return rec, nil
		}
	}
	rec, err := e.t.inode(ino)
	if err != nil {
		return nil, err
	}
	e.inodes = append(e.inodes, &rec)
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

// list returns the entries that have a name's hash, to be replaced.
func (e *edit) list(dir Ino, name string) (*journal.Entries, error) {
	hash := e.t.hash(name)
	key := journal.EntryKey(uint64(dir), hash)
	for i := range e.entries {
		if e.entries[i].key == key {
			return &e.entries[i].list, nil
		}
	}
	list, err := e.t.entries(dir, hash)
	if err != nil {
		return nil, err
	}
	e.entries = append(e.entries, editEntries{key, list})
	return &e.entries[len(e.entries)-1].list, nil
}

// add gives an inode a name, which is not there.
func (e *edit) add(dir Ino, name string, typ uint32, ino Ino) error {
	list, err := e.list(dir, name)
	if err != nil {
		return err
	}
	slot := 0
	for slot < len(*list) && int((*list)[slot].Slot) == slot {
		slot++
	}
	if slot == journal.MaxSharing {
		return syscall.ENOSPC // sixteen names with the same hash of 58 bits
	}
	*list = slices.Insert(slices.Clone(*list), slot, journal.Entry{Slot: uint8(slot), Type: typ, Inode: uint64(ino), Name: name})
	return nil
}

// remove takes a name away, which is there.
func (e *edit) remove(dir Ino, name string) error {
	list, err := e.list(dir, name)
	if err != nil {
		return err
	}
	*list = slices.DeleteFunc(slices.Clone(*list), func(x journal.Entry) bool { return x.Name == name })
	return nil
}

// touch sets the times of a directory whose entries changed.
func (e *edit) touch(dir *journal.Inode) { dir.Mtime, dir.Ctime = e.now, e.now }

// commit writes the operation into the delta, and returns the layer it is in.
func (e *edit) commit() uint64 {
	for _, rec := range e.inodes {
		key := journal.InodeKey(rec.Number)
		e.batch.Put(key, rec.Pack(key))
	}
	for _, x := range e.entries {
		if len(x.list) == 0 {
			e.batch.Delete(x.key)
		} else {
			e.batch.Put(x.key, x.list.Pack(x.key))
		}
	}
	return e.t.delta.apply(&e.batch, e.waits...)
}
