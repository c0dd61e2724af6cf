package names

import (
	"context"
	"syscall"

	"ballast/striping"
)

// Tree is the name space of an open volume.
type Tree struct{}

// Open opens the name space of a volume; it makes one if there is none.
func Open(ctx context.Context, o Options) (*Tree, error) { return nil, syscall.ENOSYS }

// Close makes everything durable and ends the tree's work. All files must be closed.
func (t *Tree) Close(ctx context.Context) error { return syscall.ENOSYS }

// Lookup returns the inode that name has in directory parent, also for "." and "..". It and the
// calls that make inodes (Create, CreateUnlinked, Link) give the caller one reference to the
// inode, which keeps it from being reclaimed when its last name goes; Forget gives it back.
func (t *Tree) Lookup(ctx context.Context, parent Ino, name string) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}

// Forget gives n references to an inode back.
func (t *Tree) Forget(ino Ino, n uint64) {}

// Attr returns the attributes of an inode, ESTALE if there is none.
func (t *Tree) Attr(ctx context.Context, ino Ino) (Attr, error) { return Attr{}, syscall.ENOSYS }

// SetAttr changes attributes and returns them all.
func (t *Tree) SetAttr(ctx context.Context, ino Ino, c Change) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}

// SetFlags sets the flags of an inode.
func (t *Tree) SetFlags(ctx context.Context, ino Ino, flags uint32) error { return syscall.ENOSYS }

// Create makes an inode of any type (also directories and symlinks) with a name; EEXIST if the
// name is there. Group and setgid bit are inherited from a setgid directory.
func (t *Tree) Create(ctx context.Context, parent Ino, name string, n New) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}

// CreateUnlinked makes a regular file without a name (O_TMPFILE) in the file system of parent.
func (t *Tree) CreateUnlinked(ctx context.Context, parent Ino, n New) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}

// Link gives an inode another name.
func (t *Tree) Link(ctx context.Context, ino, parent Ino, name string) (Attr, error) {
	return Attr{}, syscall.ENOSYS
}

// Unlink removes a name that is not of a directory, Rmdir one that is of an empty directory.
func (t *Tree) Unlink(ctx context.Context, parent Ino, name string) error { return syscall.ENOSYS }

// Rmdir removes an empty directory.
func (t *Tree) Rmdir(ctx context.Context, parent Ino, name string) error { return syscall.ENOSYS }

// Rename moves a name, with flags RenameNoReplace or RenameExchange.
func (t *Tree) Rename(ctx context.Context, oldParent Ino, oldName string, newParent Ino, newName string, flags uint32) error {
	return syscall.ENOSYS
}

// Readlink returns the target of a symlink.
func (t *Tree) Readlink(ctx context.Context, ino Ino) (string, error) { return "", syscall.ENOSYS }

// ReadDir calls fn for the entries of a directory behind cookie after (0: from the start, "." and
// ".." first), until fn returns false. What is there all the while is listed exactly once, however
// often the listing is interrupted.
func (t *Tree) ReadDir(ctx context.Context, ino Ino, after uint64, fn func(Entry) bool) error {
	return syscall.ENOSYS
}

// GetXattr returns the value of an extended attribute; ENODATA if there is none.
func (t *Tree) GetXattr(ctx context.Context, ino Ino, name string) ([]byte, error) {
	return nil, syscall.ENOSYS
}

// SetXattr sets an extended attribute, with flags XattrCreate or XattrReplace.
func (t *Tree) SetXattr(ctx context.Context, ino Ino, name string, value []byte, flags int) error {
	return syscall.ENOSYS
}

// ListXattr returns the names of the extended attributes.
func (t *Tree) ListXattr(ctx context.Context, ino Ino) ([]string, error) { return nil, syscall.ENOSYS }

// RemoveXattr removes an extended attribute; ENODATA if there is none.
func (t *Tree) RemoveXattr(ctx context.Context, ino Ino, name string) error { return syscall.ENOSYS }

// Sync makes everything durable that was done before it was called: data and names.
func (t *Tree) Sync(ctx context.Context) error { return syscall.ENOSYS }

// SyncDir makes the operations on names durable that were done before it was called, of this and
// all other directories; with a rename over an existing name also what it promises of data.
func (t *Tree) SyncDir(ctx context.Context, ino Ino) error { return syscall.ENOSYS }

// Stat tells of space and inodes.
func (t *Tree) Stat() Stat { return Stat{} }

// File is an open regular file.
type File struct{}

// OpenFile opens a regular file. It may be open many times; data goes on to exist until the last
// Close even without a name. writes tells that it may be written to.
func (t *Tree) OpenFile(ctx context.Context, ino Ino, writes bool) (*File, error) {
	return nil, syscall.ENOSYS
}

// Close ends the use of the file.
func (f *File) Close() {}

// Attr returns the file's attributes.
func (f *File) Attr(ctx context.Context) (Attr, error) { return Attr{}, syscall.ENOSYS }

// ReadAt fills p from off on; n < len(p) only at the end of the file, without an error.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	return 0, syscall.ENOSYS
}

// Read delivers [off, off+size), as far as the file reaches, to sink and returns how much that is.
func (f *File) Read(ctx context.Context, off, size int64, sink striping.Sink) (int64, error) {
	return 0, syscall.ENOSYS
}

// WriteAt writes p at off; the file grows as needed.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error { return syscall.ENOSYS }

// Sync makes the file's data and attributes durable, with all operations on names before it.
func (f *File) Sync(ctx context.Context) error { return syscall.ENOSYS }

// Allocate is fallocate: 0 and KeepSize reserve space, PunchHole|KeepSize makes a hole, ZeroRange
// (with or without KeepSize) makes zeros.
func (f *File) Allocate(ctx context.Context, mode uint32, off, size int64) error {
	return syscall.ENOSYS
}

// Seek returns where the next data, or the next hole, is from off on; ENXIO behind the end.
func (f *File) Seek(ctx context.Context, off int64, data bool) (int64, error) {
	return 0, syscall.ENOSYS
}

// CopyTo copies size bytes from off to dst at dstOff, holes as holes, and returns how much was
// copied: less at the end of the file.
func (f *File) CopyTo(ctx context.Context, dst *File, off, dstOff, size int64) (int64, error) {
	return 0, syscall.ENOSYS
}
