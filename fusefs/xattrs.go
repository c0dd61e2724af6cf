package fusefs

import (
	"context"
	"strings"
	"syscall"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// xattrCaps is where the capabilities of a program are kept.
const xattrCaps = "security.capability"

// xattrSpaces are the name spaces of extended attributes; ACLs are what we keep of system.
var xattrSpaces = []string{"user.", "trusted.", "security."}

func checkXattr(name string) error {
	if name == aclAccess || name == aclDefault {
		return nil
	}
	for _, s := range xattrSpaces {
		if rest, ok := strings.CutPrefix(name, s); ok && rest != "" {
			return nil
		}
	}
	return syscall.EOPNOTSUPP
}

// GetXAttr implements fuse.RawFileSystem.
func (f *fileSystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if err := checkXattr(name); err != nil {
		return 0, status(err)
	}
	value, err := f.tree.GetXattr(f.ctx, names.Ino(in.NodeId), name)
	if err != nil {
		return 0, status(err)
	}
	return put(dest, value)
}

// put answers with b; a buffer of no length asks how long it is.
func put(dest, b []byte) (uint32, fuse.Status) {
	if len(dest) > 0 && len(dest) < len(b) {
		return uint32(len(b)), fuse.ERANGE
	}
	copy(dest, b)
	return uint32(len(b)), fuse.OK
}

// ListXAttr implements fuse.RawFileSystem.
func (f *fileSystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	list, err := f.tree.ListXattr(f.ctx, names.Ino(in.NodeId))
	if err != nil {
		return 0, status(err)
	}
	var b []byte
	for _, name := range list {
		if in.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue
		}
		b = append(append(b, name...), 0)
	}
	return put(dest, b)
}

// SetXAttr implements fuse.RawFileSystem.
func (f *fileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if err := checkXattr(name); err != nil {
		return status(err)
	}
	ino := names.Ino(in.NodeId)
	if name == aclAccess || name == aclDefault {
		return status(f.setACL(f.ctx, ino, name, value, in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0))
	}
	err := f.tree.SetXattr(f.ctx, ino, name, append([]byte(nil), value...), int(in.Flags))
	if name == xattrCaps {
		f.handles.setCapsGone(ino, false)
	}
	return status(err)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *fileSystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if err := checkXattr(name); err != nil {
		return status(err)
	}
	return status(f.tree.RemoveXattr(f.ctx, names.Ino(in.NodeId), name))
}

// setACL stores an ACL. An access ACL makes the mode what it says, and is not stored if the mode
// says all of it.
func (f *fileSystem) setACL(ctx context.Context, ino names.Ino, name string, value []byte, killSgid bool) error {
	list, ok := parseACL(value)
	if !ok {
		return syscall.EINVAL
	}
	a, err := f.tree.Attr(ctx, ino)
	if err != nil {
		return err
	}
	if name == aclDefault {
		if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return syscall.EACCES
		}
		return f.tree.SetXattr(ctx, ino, name, list.pack(), 0)
	}
	bits, all := list.mode()
	if all {
		if err := f.tree.RemoveXattr(ctx, ino, name); err != nil && err != syscall.ENODATA {
			return err
		}
	} else if err := f.tree.SetXattr(ctx, ino, name, list.pack(), 0); err != nil {
		return err
	}
	mode := a.Mode&0o7000 | bits
	if killSgid {
		mode &^= syscall.S_ISGID
	}
	_, err = f.tree.SetAttr(ctx, ino, names.Change{Set: names.SetMode, Mode: mode})
	return err
}

// chmodACL makes the ACL of an inode say what its new mode says.
func (f *fileSystem) chmodACL(ctx context.Context, ino names.Ino, mode uint32) error {
	value, err := f.tree.GetXattr(ctx, ino, aclAccess)
	if err == syscall.ENODATA {
		return nil
	}
	if err != nil {
		return err
	}
	list, ok := parseACL(value)
	if !ok {
		return syscall.EIO // it was checked when it was stored
	}
	list.chmod(mode)
	return f.tree.SetXattr(ctx, ino, aclAccess, list.pack(), 0)
}

// defaultACL returns the default ACL of a directory, nil if it has none.
func (f *fileSystem) defaultACL(ctx context.Context, dir names.Ino) (acl, error) {
	value, err := f.tree.GetXattr(ctx, dir, aclDefault)
	if err == syscall.ENODATA {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, ok := parseACL(value)
	if !ok {
		return nil, syscall.EIO
	}
	return list, nil
}
