package fusefs

import (
	"syscall"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Lookup implements fuse.RawFileSystem. That there is no such name is told as an entry without
// inode, which the kernel keeps too.
func (f *fileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > names.MaxName {
		return fuse.Status(syscall.ENAMETOOLONG) // the kernel's own limit is 1024
	}
	a, err := f.tree.Lookup(f.ctx, names.Ino(in.NodeId), name)
	switch {
	case err == syscall.ENOENT:
		out.NodeId = 0
		out.SetEntryTimeout(cacheTime)
		return fuse.OK
	case err != nil:
		return status(err)
	}
	f.fillEntry(out, &a)
	return fuse.OK
}

// Forget implements fuse.RawFileSystem.
func (f *fileSystem) Forget(ino, n uint64) { f.tree.Forget(names.Ino(ino), n) }

// newInode describes what a caller makes in parent; the umask is applied here, because a default
// ACL takes its place.
func (f *fileSystem) newInode(in *fuse.InHeader, mode, umask uint32) (names.New, error) {
	n := names.New{Mode: mode, UID: in.Uid, GID: in.Gid}
	if mode&syscall.S_IFMT == syscall.S_IFLNK {
		return n, nil
	}
	inherited, err := f.defaultACL(f.ctx, names.Ino(in.NodeId))
	if err != nil {
		return n, err
	}
	if inherited == nil {
		n.Mode &^= umask & 0o777
		return n, nil
	}
	var own acl
	own, n.Mode = inherited.inherit(mode)
	if own != nil {
		n.Xattrs = append(n.Xattrs, names.Xattr{Name: aclAccess, Value: own.pack()})
	}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.Xattrs = append(n.Xattrs, names.Xattr{Name: aclDefault, Value: inherited.pack()})
	}
	return n, nil
}

// create makes an inode and fills the answer.
func (f *fileSystem) create(in *fuse.InHeader, name string, n names.New, out *fuse.EntryOut) (names.Attr, error) {
	a, err := f.tree.Create(f.ctx, names.Ino(in.NodeId), name, n)
	if err == nil {
		f.fillEntry(out, &a)
	}
	return a, err
}

// Mknod implements fuse.RawFileSystem.
func (f *fileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	n, err := f.newInode(&in.InHeader, in.Mode, in.Umask)
	if err == nil {
		n.Rdev = in.Rdev
		_, err = f.create(&in.InHeader, name, n, out)
	}
	return status(err)
}

// Mkdir implements fuse.RawFileSystem.
func (f *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	n, err := f.newInode(&in.InHeader, in.Mode|syscall.S_IFDIR, in.Umask)
	if err == nil {
		_, err = f.create(&in.InHeader, name, n, out)
	}
	return status(err)
}

// Symlink implements fuse.RawFileSystem.
func (f *fileSystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	n, err := f.newInode(in, syscall.S_IFLNK|0o777, 0)
	if err == nil {
		n.Target = target
		_, err = f.create(in, name, n, out)
	}
	return status(err)
}

// Readlink implements fuse.RawFileSystem.
func (f *fileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.tree.Readlink(f.ctx, names.Ino(in.NodeId))
	return []byte(target), status(err)
}

// Link implements fuse.RawFileSystem.
func (f *fileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := f.tree.Link(f.ctx, names.Ino(in.Oldnodeid), names.Ino(in.NodeId), name)
	if err == nil {
		f.fillEntry(out, &a)
	}
	return status(err)
}

// Unlink implements fuse.RawFileSystem.
func (f *fileSystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(f.tree.Unlink(f.ctx, names.Ino(in.NodeId), name))
}

// Rmdir implements fuse.RawFileSystem.
func (f *fileSystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(f.tree.Rmdir(f.ctx, names.Ino(in.NodeId), name))
}

// Rename implements fuse.RawFileSystem.
func (f *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^(names.RenameNoReplace|names.RenameExchange) != 0 {
		return fuse.EINVAL
	}
	return status(f.tree.Rename(f.ctx, names.Ino(in.NodeId), oldName, names.Ino(in.Newdir), newName, in.Flags))
}

// OpenDir implements fuse.RawFileSystem. Listings need no state here: ENOSYS lets the kernel do
// without the request, and keep listings in its page cache.
func (f *fileSystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// ReadDir implements fuse.RawFileSystem.
func (f *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	const least = 24 + 8 // of an entry in the answer
	return status(f.tree.ReadDir(f.ctx, names.Ino(in.NodeId), in.Offset, int(in.Size)/least, func(e names.Entry) bool {
		return out.AddDirEntry(direntOf(&e))
	}))
}

func direntOf(e *names.Entry) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cookie}
}

// ReadDirPlus implements fuse.RawFileSystem: with the attributes of what it lists, and a reference
// to each but . and .., which the kernel wants none of.
func (f *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	room := int(in.Size)
	const least = 128 + 24 // of an entry in the answer
	err := f.tree.ReadDirPlus(f.ctx, names.Ino(in.NodeId), in.Offset, room/(least+8), func(name string) bool {
		room -= least + (len(name)+7)&^7
		return room >= 0
	}, func(e *names.Entry, a *names.Attr) bool {
		plus := out.AddDirLookupEntry(direntOf(e))
		if plus != nil && a.Ino != 0 { // one that is gone by now stays in the listing without attributes
			f.fillEntry(plus, a)
			out.FixMode(a.Mode)
		}
		return plus != nil
	})
	return status(err)
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *fileSystem) ReleaseDir(*fuse.ReleaseIn) {}

// FsyncDir implements fuse.RawFileSystem.
func (f *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return status(f.tree.SyncDir(f.ctx, names.Ino(in.NodeId)))
}
