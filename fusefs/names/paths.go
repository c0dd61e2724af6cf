package names

import (
	"context"
	"errors"
	"syscall"

	"ballast/journal"
)

// Object returns the number of the object with a regular file's data; EINVAL if it is no such file.
func (t *Tree) Object(ino Ino) (uint64, error) {
	if n := t.useIfThere(ino); n != nil {
		defer n.release()
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.data.file.Number(), nil
	}
	rec, err := t.inode(ino)
	if err == nil && rec.Type() != journal.TypeRegular {
		err = syscall.EINVAL
	}
	return rec.Object, err
}

// Paths returns a path from the root for files whose data is in these objects; of several links
// one. Files that have no name, and numbers that are no file's, are left out. Only directories
// know where they are, so it takes a pass over the entries of the whole name space, and, for files
// that were cut to nothing at some time, one over the inodes.
func (t *Tree) Paths(ctx context.Context, objects []uint64) (map[uint64]string, error) {
	p := &pathSearch{t: t, ctx: ctx, want: map[Ino]uint64{}, found: map[uint64]string{}, dirs: map[Ino]string{Root: ""}}
	err := p.inodes(objects)
	if err == nil {
		err = p.entries()
	}
	return p.found, err
}

// pathSearch is a search for paths under way.
type pathSearch struct {
	t     *Tree
	ctx   context.Context
	want  map[Ino]uint64 // objects of inodes that have no path yet
	found map[uint64]string
	dirs  map[Ino]string // paths of directories
}

// inodes finds out whose the objects are.
func (p *pathSearch) inodes(objects []uint64) error {
	left := map[uint64]bool{}
	for _, o := range objects {
		left[o] = true
	}
	p.t.mu.Lock()
	for _, n := range p.t.nodes {
		if o := n.data.file.Number(); left[o] {
			p.want[n.ino] = o
			delete(left, o)
		}
	}
	p.t.mu.Unlock()
	for o := range left { // most files have the object of their own number
		if rec, err := p.t.inode(Ino(o)); err == nil && rec.Object == o {
			p.want[Ino(o)] = o
			delete(left, o)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return p.t.j.Scan(journal.SpaceInode, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseInode(k, val)
		if err == nil && rec.Object != 0 && left[rec.Object] {
			p.want[Ino(rec.Number)] = rec.Object
		}
		return errors.Join(err, p.ctx.Err())
	})
}

// entries finds names of the wanted inodes.
func (p *pathSearch) entries() error {
	for key, value := range p.t.delta.entries() {
		if err := p.look(key, value); err != nil {
			return err
		}
	}
	err := p.t.j.Scan(journal.SpaceEntry, func(k journal.Key, val []byte) error {
		if len(p.want) == 0 {
			return errStop
		}
		return errors.Join(p.look(k, val), p.ctx.Err())
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// look takes what is wanted from a record of entries, if it still says so.
func (p *pathSearch) look(k journal.Key, val []byte) error {
	list, err := journal.ParseEntries(k, val)
	if err != nil {
		return err
	}
	_, dir, _ := k.Parts()
	for _, e := range list {
		object, ok := p.want[Ino(e.Inode)]
		if !ok {
			continue
		}
		if now, err := p.t.find(Ino(dir), e.Name); err != nil || now.Inode != e.Inode {
			continue // meanwhile it was removed
		}
		above, err := p.directory(Ino(dir))
		switch {
		case errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.ENOENT):
			continue
		case err != nil:
			return err
		}
		p.found[object] = above + "/" + e.Name
		delete(p.want, Ino(e.Inode))
	}
	return nil
}

// directory returns the path of a directory.
func (p *pathSearch) directory(dir Ino) (string, error) {
	if path, ok := p.dirs[dir]; ok {
		return path, nil
	}
	rec, err := p.t.directory(dir)
	if err != nil {
		return "", err
	}
	above, err := p.directory(Ino(rec.Parent))
	if err != nil {
		return "", err
	}
	err = p.t.ReadDir(p.ctx, Ino(rec.Parent), cookieDotDot, dirPage, func(e Entry) bool {
		if e.Ino == dir {
			p.dirs[dir] = above + "/" + e.Name
		}
		return e.Ino != dir
	})
	path, ok := p.dirs[dir]
	if err == nil && !ok {
		err = syscall.ENOENT // it moves
	}
	return path, err
}
