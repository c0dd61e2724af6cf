package fusefs

import (
	"encoding/binary"
	"syscall"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The ioctls of chattr and lsattr. The kernel sends them as 32 bits, and checks who may.
const (
	ioctlGetFlags  = 0x80086601 // FS_IOC_GETFLAGS
	ioctlSetFlags  = 0x40086602 // FS_IOC_SETFLAGS
	ioctlGetXattrs = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetXattrs = 0x401c5820 // FS_IOC_FSSETXATTR
)

// xflags are the flags as struct fsxattr has them.
var xflags = []struct{ flag, xflag uint32 }{
	{names.FlagImmutable, 0x8}, {names.FlagAppend, 0x10}, {names.FlagNoAtime, 0x40}, {names.FlagNoDump, 0x80},
}

// Ioctl implements fuse.RawFileSystem.
func (f *fileSystem) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, _ *fuse.IoctlOut, outbuf []byte) fuse.Status {
	ino := names.Ino(in.NodeId)
	switch in.Cmd {
	case ioctlGetFlags, ioctlGetXattrs:
		a, err := f.tree.Attr(f.ctx, ino)
		if err != nil {
			return status(err)
		}
		if len(outbuf) < 4 {
			return fuse.EINVAL
		}
		value := a.Flags
		if in.Cmd == ioctlGetXattrs {
			value = 0
			for _, x := range xflags {
				if a.Flags&x.flag != 0 {
					value |= x.xflag
				}
			}
		}
		clear(outbuf)
		binary.NativeEndian.PutUint32(outbuf, value)
		return fuse.OK
	case ioctlSetFlags, ioctlSetXattrs:
		if len(inbuf) < 4 {
			return fuse.EINVAL
		}
		value := binary.NativeEndian.Uint32(inbuf)
		if in.Cmd == ioctlSetXattrs {
			var flags uint32
			for _, x := range xflags {
				if value&x.xflag != 0 {
					flags |= x.flag
					value &^= x.xflag
				}
			}
			if value != 0 {
				return fuse.Status(syscall.EOPNOTSUPP)
			}
			value = flags
		}
		return status(f.tree.SetFlags(f.ctx, ino, value))
	}
	return fuse.Status(syscall.ENOTTY)
}
