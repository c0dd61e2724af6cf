package fusefs

import (
	"syscall"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open implements fuse.RawFileSystem.
func (f *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ino := names.Ino(in.NodeId)
	writes := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	truncates := in.Flags&unix.O_TRUNC != 0
	h, err := f.openFile(ino, in.Flags, func(flags uint32) error {
		if (writes || truncates) && flags&names.FlagImmutable != 0 {
			return syscall.EPERM
		}
		if flags&names.FlagAppend != 0 && (writes && in.Flags&unix.O_APPEND == 0 || truncates) {
			return syscall.EPERM
		}
		return nil
	})
	if err != nil {
		return status(err)
	}
	if truncates {
		if err := f.truncate(ino, in.Mode&fuse.OPEN_KILL_SUIDGID != 0); err != nil {
			h.file.Close()
			return status(err)
		}
	}
	f.opened(h, out)
	return fuse.OK
}

// truncate is O_TRUNC.
func (f *fileSystem) truncate(ino names.Ino, killPriv bool) error {
	if err := f.dropCaps(f.ctx, ino, false); err != nil {
		return err
	}
	c := names.Change{Set: names.SetSize}
	if killPriv {
		c.Set |= names.KillPriv
	}
	_, err := f.tree.SetAttr(f.ctx, ino, c)
	return err
}

// openFile opens a file unless check returns an error for its flags.
func (f *fileSystem) openFile(ino names.Ino, flags uint32, check func(flags uint32) error) (*handle, error) {
	h := &handle{ino: ino, writes: flags&unix.O_ACCMODE != unix.O_RDONLY}
	// The kernel reads on handles that programs only write to, for the rest of a page.
	h.touched.Store(flags&unix.O_ACCMODE == unix.O_WRONLY || flags&unix.O_NOATIME != 0)
	var err error
	h.file, err = f.tree.OpenFileIf(f.ctx, ino, h.writes, check)
	return h, err
}

// opened answers with an open file. Pages stay cached: nobody but the kernel changes files.
func (f *fileSystem) opened(h *handle, out *fuse.OpenOut) {
	out.Fh = f.handles.add(h)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
}

// Create implements fuse.RawFileSystem.
func (f *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	n, err := f.newInode(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, in.Umask)
	if err != nil {
		return status(err)
	}
	a, err := f.tree.Create(f.ctx, names.Ino(in.NodeId), name, n)
	if err != nil {
		return status(err)
	}
	return f.openNew(&a, in.Flags, out)
}

// Tmpfile implements fuse.RawFileSystem.
func (f *fileSystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	n, err := f.newInode(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, in.Umask)
	if err != nil {
		return status(err)
	}
	a, err := f.tree.CreateUnlinked(f.ctx, names.Ino(in.NodeId), n)
	if err != nil {
		return status(err)
	}
	return f.openNew(&a, in.Flags, out)
}

// openNew opens what was just made.
func (f *fileSystem) openNew(a *names.Attr, flags uint32, out *fuse.CreateOut) fuse.Status {
	h, err := f.openFile(a.Ino, flags, func(uint32) error { return nil })
	if err != nil {
		f.tree.Forget(a.Ino, 1)
		return status(err)
	}
	f.opened(h, &out.OpenOut)
	f.fillEntry(&out.EntryOut, a) // now that it is open
	return fuse.OK
}

// Release implements fuse.RawFileSystem.
func (f *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if h := f.handles.remove(in.Fh); h != nil {
		h.file.Close()
	}
}

// Flush implements fuse.RawFileSystem. The kernel has written the file back when it asks, and has
// its own locks; ENOSYS lets it not ask again.
func (f *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync implements fuse.RawFileSystem; fdatasync is the same.
func (f *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	err := h.file.Sync(f.ctx)
	if err == nil && h.writes { // all blocks are known now
		// If that changes anything: who forgets asks, and for capabilities as well, before the next write.
		if a, aerr := h.file.Attr(f.ctx); aerr != nil || !f.handles.knows(h.ino, a.Blocks) {
			f.forgetAttr(h.ino)
		}
	}
	return status(err)
}

// zeros is what holes are answered with.
var zeros [1 << 20]byte

// readResult hands buffers of the volume to the kernel without a copy, and gives them back.
type readResult struct {
	parts  [][]byte
	owners []interface{ Release() }
	size   int
}

// Append implements striping.Sink.
func (r *readResult) Append(b []byte, owner interface{ Release() }) {
	r.parts = append(r.parts, b)
	r.size += len(b)
	if owner != nil {
		r.owners = append(r.owners, owner)
	}
}

// AppendHole implements striping.Sink.
func (r *readResult) AppendHole(size int64) {
	for size > 0 {
		n := min(size, int64(len(zeros)))
		r.parts = append(r.parts, zeros[:n:n])
		r.size += int(n)
		size -= n
	}
}

// Bytes implements fuse.ReadResult.
func (r *readResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	buf = buf[:0]
	for _, p := range r.parts {
		buf = append(buf, p...)
	}
	return buf, fuse.OK
}

// Slices lets go-fuse write the parts as they are.
func (r *readResult) Slices() ([][]byte, fuse.Status) { return r.parts, fuse.OK }

// Size implements fuse.ReadResult.
func (r *readResult) Size() int { return r.size }

// Done implements fuse.ReadResult.
func (r *readResult) Done() {
	for _, o := range r.owners {
		o.Release()
	}
	r.owners = nil
}

// Read implements fuse.RawFileSystem.
func (f *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	r := &readResult{}
	if _, err := h.file.Read(f.ctx, int64(in.Offset), int64(in.Size), r); err != nil {
		r.Done()
		return nil, status(err)
	}
	if !h.touched.Load() && h.touched.CompareAndSwap(false, true) {
		f.touch(h.ino)
	}
	f.readBytes.Add(uint64(r.size))
	return r, fuse.OK
}

// Write implements fuse.RawFileSystem; requests come to Writev.
func (f *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return f.Writev(nil, in, [][]byte{data})
}

// Writev implements fuse.RawFileSystem.
func (f *fileSystem) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if in.Offset+uint64(in.Size) > names.MaxSize {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if _, err := f.tree.SetAttr(f.ctx, h.ino, names.Change{Set: names.KillPriv | names.Cached}); err != nil {
			return 0, status(err)
		}
	}
	if err := f.dropCaps(f.ctx, h.ino, false); err != nil {
		return 0, status(err)
	}
	var n int
	for _, p := range data {
		if err := h.file.WriteAt(f.ctx, p, int64(in.Offset)+int64(n)); err != nil {
			return 0, status(err)
		}
		n += len(p)
	}
	f.writtenBytes.Add(uint64(n))
	return uint32(n), fuse.OK
}

// Lseek implements fuse.RawFileSystem; only SEEK_DATA and SEEK_HOLE come here. The kernel asks
// without writing back first, so that what it holds would look like a hole.
func (f *fileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	if f.handles.mayBeDirty(h.ino) {
		f.writeBack(h.ino)
	}
	at, err := h.file.Seek(f.ctx, int64(in.Offset), in.Whence == unix.SEEK_DATA)
	out.Offset = uint64(at)
	return status(err)
}

// writeBack makes the kernel write back what it holds of a file. It forgets the pages too; there
// is no other way to make it write.
func (f *fileSystem) writeBack(ino names.Ino) { f.server.InodeNotify(uint64(ino), 0, 0) }

// forgetAttr makes the kernel forget attributes.
func (f *fileSystem) forgetAttr(ino names.Ino) { f.server.InodeNotify(uint64(ino), -1, 0) }

// Fallocate implements fuse.RawFileSystem.
func (f *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := f.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	a, err := f.tree.Attr(f.ctx, h.ino)
	if err != nil {
		return status(err)
	}
	if a.Flags&names.FlagImmutable != 0 || a.Flags&names.FlagAppend != 0 && in.Mode&^names.KeepSize != 0 {
		return fuse.EPERM
	}
	if in.Offset+in.Length > names.MaxSize {
		return fuse.Status(syscall.EFBIG)
	}
	if err := f.dropCaps(f.ctx, h.ino, false); err != nil {
		return status(err)
	}
	if in.Uid != 0 { // the kernel does not say, and file_remove_privs is not called for this
		if _, err := f.tree.SetAttr(f.ctx, h.ino, names.Change{Set: names.KillPriv}); err != nil {
			return status(err)
		}
	}
	return status(h.file.Allocate(f.ctx, in.Mode, int64(in.Offset), int64(in.Length)))
}

// copyLimit bounds what one request copies; the kernel asks again for the rest.
const copyLimit = 64 << 20

// CopyFileRange implements fuse.RawFileSystem. The kernel has written both ranges back.
func (f *fileSystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := f.handles.get(in.FhIn), f.handles.get(in.FhOut)
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	if in.Flags != 0 {
		return 0, fuse.EINVAL
	}
	if in.OffOut+min(in.Len, copyLimit) > names.MaxSize {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if err := f.dropCaps(f.ctx, to.ino, false); err != nil {
		return 0, status(err)
	}
	n, err := from.file.CopyTo(f.ctx, to.file, int64(in.OffIn), int64(in.OffOut), int64(min(in.Len, copyLimit)))
	return uint32(n), status(err)
}
