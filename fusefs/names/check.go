package names

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"ballast/journal"
)

// Report is what Verify found.
type Report struct {
	Inodes, Entries, Xattrs int64 // attributes, not records of them
	// Orphans are inodes without names, and LooseChunks chunks that no file has or that lie behind
	// its end. A crash leaves them; the next open gives them back.
	Orphans, LooseChunks int64
	Found                int64    // problems
	Problems             []string // the first of them
}

// maxProblems is how many problems a report names.
const maxProblems = 100

func (r *Report) problem(format string, args ...any) {
	if r.Found++; r.Found <= maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Verify looks at all records of a name space, and of the chunks, of a volume that nobody has open:
// every name leads to an inode of its type, every inode has as many names as it says, every
// directory hangs below the root, every attribute is somebody's, every object is one file's. It
// changes nothing. An inode takes 48 bytes of memory.
func Verify(j journal.Journal) (*Report, error) {
	c := &checker{j: j, r: &Report{}, dirs: map[uint64]*checkedDir{}}
	val, err := j.Get(journal.TreeKey())
	if errors.Is(err, journal.ErrNotFound) {
		c.none = true
	} else if err != nil {
		return nil, err
	} else {
		rec, err := journal.ParseTree(journal.TreeKey(), val)
		if err != nil {
			return nil, err
		}
		c.seed = rec.Seed
	}
	for _, step := range []func() error{c.readInodes, c.readEntries, c.readXattrs, c.readChunks} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	c.judge()
	return c.r, nil
}

type checker struct {
	j    journal.Journal
	r    *Report
	seed [16]byte
	none bool // there is no name space

	inodes  []checkedInode // by ascending number
	dirs    map[uint64]*checkedDir
	objects []checkedObject // by ascending number, after readInodes
}

type checkedInode struct {
	number       uint64
	links, names uint32
	xattrs, have uint32
	typ          uint32
}

type checkedDir struct {
	parent  uint64
	subdirs uint32
	below   bool // the root; known after judge
	walked  bool
}

type checkedObject struct {
	number uint64
	size   int64
}

func (c *checker) inode(number uint64) *checkedInode {
	i, ok := slices.BinarySearchFunc(c.inodes, number, func(n checkedInode, number uint64) int { return cmp.Compare(n.number, number) })
	if !ok {
		return nil
	}
	return &c.inodes[i]
}

func (c *checker) readInodes() error {
	err := c.j.Scan(journal.SpaceInode, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseInode(k, val)
		if err != nil {
			return err
		}
		c.r.Inodes++
		c.inodes = append(c.inodes, checkedInode{number: rec.Number, links: rec.Links, xattrs: rec.Xattrs, typ: rec.Type()})
		switch rec.Type() {
		case journal.TypeDirectory:
			c.dirs[rec.Number] = &checkedDir{parent: rec.Parent}
		case journal.TypeRegular:
			size := rec.Size
			if rec.Links == 0 {
				size = 0 // its chunks are loose
			}
			c.objects = append(c.objects, checkedObject{rec.Object, size})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(c.objects, func(a, b checkedObject) int { return cmp.Compare(a.number, b.number) })
	for i := 1; i < len(c.objects); i++ {
		if c.objects[i].number == c.objects[i-1].number {
			c.r.problem("object %d is the data of two files", c.objects[i].number)
		}
	}
	if root := c.dirs[uint64(Root)]; root == nil && !c.none {
		c.r.problem("there is no root directory")
	}
	if c.none && len(c.inodes) > 0 {
		c.r.problem("%d inodes, but no name space", len(c.inodes))
	}
	return nil
}

func (c *checker) readEntries() error {
	return c.j.Scan(journal.SpaceEntry, func(k journal.Key, val []byte) error {
		list, err := journal.ParseEntries(k, val)
		if err != nil {
			return err
		}
		_, dir, hash := k.Parts()
		in := c.inode(dir)
		if in == nil || in.typ != journal.TypeDirectory {
			c.r.problem("inode %d has entries and is no directory", dir)
		} else if in.links == 0 {
			c.r.problem("directory %d was removed and has entries", dir)
		}
		for _, e := range list {
			c.r.Entries++
			c.entry(dir, hash, &e)
		}
		return nil
	})
}

func (c *checker) entry(dir, hash uint64, e *journal.Entry) {
	if hashName(&c.seed, e.Name) != hash {
		c.r.problem("directory %d: the name %q stands in a wrong place", dir, e.Name)
	}
	in := c.inode(e.Inode)
	if in == nil {
		c.r.problem("directory %d: the name %q leads to inode %d, which is not there", dir, e.Name, e.Inode)
		return
	}
	in.names++
	if in.typ != e.Type {
		c.r.problem("directory %d: the name %q is of type %o, inode %d of %o", dir, e.Name, e.Type, e.Inode, in.typ)
	}
	if d := c.dirs[e.Inode]; d != nil {
		if d.parent != dir {
			c.r.problem("directory %d: the name %q leads to directory %d, whose parent is %d", dir, e.Name, e.Inode, d.parent)
		}
		if p := c.dirs[dir]; p != nil {
			p.subdirs++
		}
	}
}

func (c *checker) readXattrs() error {
	return c.j.Scan(journal.SpaceXattr, func(k journal.Key, val []byte) error {
		list, err := journal.ParseXattrs(k, val)
		if err != nil {
			return err
		}
		_, number, hash := k.Parts()
		in := c.inode(number)
		if in == nil {
			c.r.problem("inode %d has attributes and is not there", number)
			return nil
		}
		for _, x := range list {
			c.r.Xattrs++
			in.have++
			if hashName(&c.seed, x.Name) != hash {
				c.r.problem("inode %d: the attribute %q stands in a wrong place", number, x.Name)
			}
		}
		return nil
	})
}

// readChunks looks whose the chunks are.
func (c *checker) readChunks() error {
	exports := map[uint64]bool{}
	err := c.j.Scan(journal.SpaceObject, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseObject(k, val)
		exports[rec.Number] = true
		return err
	})
	if err != nil {
		return err
	}
	var vol journal.Volume
	if val, err := c.j.Get(journal.VolumeKey()); err != nil {
		return err
	} else if vol, err = journal.ParseVolume(journal.VolumeKey(), val); err != nil {
		return err
	}
	for _, o := range c.objects {
		if exports[o.number] {
			c.r.problem("object %d is the data of a file and an export", o.number)
		}
	}
	return c.j.Scan(journal.SpaceChunk, func(k journal.Key, _ []byte) error {
		_, number, index := k.Parts()
		if exports[number] {
			return nil
		}
		i, ok := slices.BinarySearchFunc(c.objects, number, func(o checkedObject, number uint64) int { return cmp.Compare(o.number, number) })
		if !ok || index*uint64(vol.ChunkSize) >= uint64(c.objects[i].size) {
			c.r.LooseChunks++
		}
		return nil
	})
}

// judge looks at what the passes have counted.
func (c *checker) judge() {
	for i := range c.inodes {
		in := &c.inodes[i]
		want := in.links
		if d := c.dirs[in.number]; d != nil {
			if in.links > 0 && in.links != 2+d.subdirs {
				c.r.problem("directory %d has %d links and %d directories in it", in.number, in.links, d.subdirs)
			}
			if want = min(in.links, 1); in.number == uint64(Root) {
				want = 0
			}
		}
		if in.names != want {
			c.r.problem("inode %d has %d names, %d were expected", in.number, in.names, want)
		}
		if in.have != in.xattrs {
			c.r.problem("inode %d has %d attributes, %d were expected", in.number, in.have, in.xattrs)
		}
		if in.links == 0 {
			c.r.Orphans++
		} else if c.dirs[in.number] != nil && !c.reachable(in.number) {
			c.r.problem("directory %d does not hang below the root", in.number)
		}
	}
}

// reachable reports whether a directory hangs below the root.
func (c *checker) reachable(number uint64) bool {
	var path []*checkedDir
	below := false
	for d := c.dirs[number]; d != nil; d = c.dirs[d.parent] {
		if d.walked || number == uint64(Root) {
			below = d.below || number == uint64(Root)
			break
		}
		d.walked = true // in a circle it is met again, not below
		path = append(path, d)
		number = d.parent
	}
	for _, d := range path {
		d.below = below
	}
	return below
}
