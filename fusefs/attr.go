package fusefs

import (
	"context"
	"syscall"
	"time"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// cacheTime is how long the kernel may keep entries and attributes: as long as it likes. writtenTime
// is how long attributes of a file that is open for writing: each write asks for them when they are
// out of date, and only st_blocks can be.
const (
	cacheTime   = time.Hour
	writtenTime = time.Second
)

// blockSize is what st_blksize and statfs name.
const blockSize = 4096

func split(t time.Time) (sec uint64, nsec uint32) { return uint64(t.Unix()), uint32(t.Nanosecond()) }

// fill makes an answer of attributes.
func fill(out *fuse.Attr, a *names.Attr) {
	out.Ino, out.Size, out.Blocks = uint64(a.Ino), uint64(a.Size), uint64(a.Blocks)
	out.Atime, out.Atimensec = split(a.Atime)
	out.Mtime, out.Mtimensec = split(a.Mtime)
	out.Ctime, out.Ctimensec = split(a.Ctime)
	out.Mode, out.Nlink, out.Uid, out.Gid, out.Rdev = a.Mode, a.Links, a.UID, a.GID, a.Rdev
	out.Blksize = blockSize
}

// forKernel makes attributes those that the kernel is to have, and returns how long it may cache them. A
// file that is open for writing has data: the kernel may hold some that it has not written yet, and GNU
// tar takes a file of no blocks for one of zeros.
func (f *fileSystem) forKernel(a *names.Attr) time.Duration {
	if a.Mode&syscall.S_IFMT == syscall.S_IFREG && f.handles.tell(a.Ino, &a.Blocks) {
		return writtenTime
	}
	return cacheTime
}

func (f *fileSystem) fillEntry(out *fuse.EntryOut, a *names.Attr) {
	out.NodeId, out.Generation = uint64(a.Ino), a.Generation
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(f.forKernel(a))
	fill(&out.Attr, a)
}

func (f *fileSystem) fillAttr(out *fuse.AttrOut, a *names.Attr) {
	out.SetTimeout(f.forKernel(a))
	fill(&out.Attr, a)
}

// GetAttr implements fuse.RawFileSystem.
func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := f.tree.Attr(f.ctx, names.Ino(in.NodeId))
	if err == nil {
		f.fillAttr(out, &a)
	}
	return status(err)
}

// Statx implements fuse.RawFileSystem; it is how the kernel asks for the time of birth.
func (f *fileSystem) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	a, err := f.tree.Attr(f.ctx, names.Ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	const basicAndBirth = 0xfff
	out.SetTimeout(f.forKernel(&a))
	s := &out.Statx
	s.Mask, s.Blksize = basicAndBirth, blockSize
	s.Ino, s.Size, s.Blocks, s.Nlink = uint64(a.Ino), uint64(a.Size), uint64(a.Blocks), a.Links
	s.Mode, s.Uid, s.Gid = uint16(a.Mode), a.UID, a.GID
	s.RdevMajor, s.RdevMinor = splitDevice(a.Rdev)
	s.Atime.Sec, s.Atime.Nsec = split(a.Atime)
	s.Mtime.Sec, s.Mtime.Nsec = split(a.Mtime)
	s.Ctime.Sec, s.Ctime.Nsec = split(a.Ctime)
	s.Btime.Sec, s.Btime.Nsec = split(a.Btime)
	s.AttributesMask = uint64(names.FlagImmutable | names.FlagAppend | names.FlagNoDump) // the bits of statx are those of chattr
	s.Attributes = uint64(a.Flags) & s.AttributesMask
	return fuse.OK
}

// splitDevice takes a device number apart that has the form of the kernel's new_encode_dev.
func splitDevice(dev uint32) (major, minor uint32) {
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}

// SetAttr implements fuse.RawFileSystem.
func (f *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ino := names.Ino(in.NodeId)
	c, err := change(in, time.Now())
	if err != nil {
		return status(err)
	}
	if c.Set&(names.SetMode|names.SetUID|names.SetGID|names.SetSize) != 0 {
		if err := f.dropCaps(f.ctx, ino, c.Set&names.SetMode != 0); err != nil {
			return status(err)
		}
	}
	a, err := f.tree.SetAttr(f.ctx, ino, c)
	if err == nil && c.Set&names.SetMode != 0 {
		err = f.chmodACL(f.ctx, ino, a.Mode)
	}
	switch {
	case err != nil:
	case c.Set&names.Cached != 0: // the kernel does not look at the answer: it is told nothing
		fill(&out.Attr, &a)
	default:
		f.fillAttr(out, &a)
	}
	return status(err)
}

// change translates what the kernel wants changed.
func change(in *fuse.SetAttrIn, now time.Time) (c names.Change, err error) {
	set := func(valid uint32, bit uint32) bool {
		if in.Valid&valid == 0 {
			return false
		}
		c.Set |= bit
		return true
	}
	if set(fuse.FATTR_MODE, names.SetMode) {
		c.Mode = in.Mode & 0o7777
	}
	if set(fuse.FATTR_UID, names.SetUID) {
		c.UID = in.Uid
	}
	if set(fuse.FATTR_GID, names.SetGID) {
		c.GID = in.Gid
	}
	if set(fuse.FATTR_SIZE, names.SetSize) {
		if c.Size = int64(in.Size); c.Size < 0 || c.Size > names.MaxSize {
			return c, syscall.EFBIG
		}
	}
	if set(fuse.FATTR_ATIME, names.SetAtime) {
		if c.Atime = now; in.Valid&fuse.FATTR_ATIME_NOW == 0 {
			c.Atime = time.Unix(int64(in.Atime), int64(in.Atimensec))
		}
	}
	if set(fuse.FATTR_MTIME, names.SetMtime) {
		if c.Mtime = now; in.Valid&fuse.FATTR_MTIME_NOW == 0 {
			c.Mtime = time.Unix(int64(in.Mtime), int64(in.Mtimensec))
		}
	}
	if set(fuse.FATTR_CTIME, names.SetCtime) {
		c.Ctime = time.Unix(int64(in.Ctime), int64(in.Ctimensec))
	}
	const written = fuse.FATTR_MTIME | fuse.FATTR_CTIME
	if in.Valid&^fuse.FATTR_LOCKOWNER == written|fuse.FATTR_FH {
		c.Set |= names.Cached // by an open file: the kernel's write-back, utimensat says no file
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 || in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 && in.Valid&fuse.FATTR_MODE == 0 {
		c.Set |= names.KillPriv // a change of owner does so for root too
	}
	return c, nil
}

// dropCaps takes file capabilities away, as every write, truncation and change of owner does. The
// kernel leaves it to us (HANDLE_KILLPRIV_V2).
func (f *fileSystem) dropCaps(ctx context.Context, ino names.Ino, onlyMode bool) error {
	if onlyMode || f.handles.capsGone(ino) {
		return nil
	}
	err := f.tree.DropXattr(ctx, ino, xattrCaps)
	if err == nil {
		f.handles.setCapsGone(ino, true)
	}
	return err
}

// touch moves the time of the last access where relatime would.
func (f *fileSystem) touch(ino names.Ino) {
	now := time.Now()
	a, err := f.tree.Attr(f.ctx, ino)
	if err != nil || f.flags.NoAtime || f.flags.ReadOnly || a.Flags&(names.FlagNoAtime|names.FlagImmutable) != 0 {
		return
	}
	if a.Atime.After(a.Mtime) && a.Atime.After(a.Ctime) && now.Sub(a.Atime) < 24*time.Hour {
		return
	}
	_, err = f.tree.SetAttr(f.ctx, a.Ino, names.Change{Set: names.SetAtime | names.SetCtime, Atime: now, Ctime: a.Ctime})
	if err == nil {
		f.forgetAttr(a.Ino)
	}
}

// StatFs implements fuse.RawFileSystem.
func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s := f.tree.Stat()
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, names.MaxName
	out.Blocks, out.Bfree = uint64(s.Size/blockSize), uint64(s.Free/blockSize)
	out.Bavail = out.Bfree
	out.Ffree = out.Bfree // inodes are made as needed; each takes at most that
	out.Files = uint64(s.Inodes) + out.Ffree
	return fuse.OK
}
