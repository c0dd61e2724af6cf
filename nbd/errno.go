package nbd

import (
	"errors"
	"syscall"

	"ballast/nbd/wire"
	"ballast/striping"
)

// errnos is the one place where errors become numbers of the protocol. The first match counts;
// what is not in it is EIO, which is what file systems on the other side expect of a disk.
var errnos = []struct {
	err   error
	errno wire.Errno
}{
	{ErrRemoved, wire.EIO},
	{ErrNotSupported, wire.ENOTSUP},
	{striping.ErrNoSpace, wire.ENOSPC},
	{striping.ErrReadOnly, wire.EPERM},
	{striping.ErrUnreadable, wire.EIO},
	{striping.ErrNotExist, wire.EIO},
	{syscall.EPERM, wire.EPERM},
	{syscall.EACCES, wire.EPERM},
	{syscall.EROFS, wire.EPERM},
	{syscall.ENOSPC, wire.ENOSPC},
	{syscall.EDQUOT, wire.ENOSPC},
	{syscall.EFBIG, wire.ENOSPC},
	{syscall.EINVAL, wire.EINVAL},
	{syscall.EOVERFLOW, wire.EOVERFLOW},
	{syscall.ENOTSUP, wire.ENOTSUP},
}

// errnoOf returns the number that answers a request of type typ and flags with err.
func errnoOf(err error, typ, flags uint16) wire.Errno {
	if err == nil {
		return wire.OK
	}
	if e, ok := err.(wireError); ok {
		return e.errno
	}
	errno := wire.EIO
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			errno = e.errno
			break
		}
	}
	switch {
	case errno == wire.ENOTSUP && (typ != wire.CmdWriteZeroes || flags&wire.CmdFlagFastZero == 0):
		return wire.EIO // the protocol has it for FAST_ZERO alone
	case errno == wire.EOVERFLOW && (typ != wire.CmdRead || flags&wire.CmdFlagDF == 0):
		return wire.EIO // for DF alone
	}
	return errno
}

// wireError is an error that the server itself finds in a request.
type wireError struct {
	errno wire.Errno
	text  string
}

func (e wireError) Error() string { return e.text }

var (
	errPastEndRead  = wireError{wire.EINVAL, "range goes beyond the end of the export"}
	errPastEndWrite = wireError{wire.ENOSPC, "range goes beyond the end of the export"}
	errReadOnly     = wireError{wire.EPERM, "export is read-only"}
	errFlags        = wireError{wire.EINVAL, "flag is unknown or not allowed for this command"}
	errCommand      = wireError{wire.EINVAL, "command is unknown or was not offered"}
	errTooLong      = wireError{wire.EINVAL, "more than 64 MiB in one request"}
	errNoContext    = wireError{wire.EINVAL, "no metadata context was negotiated"}
	errNoLength     = wireError{wire.EINVAL, "length must not be 0"}
	errFlushRange   = wireError{wire.EINVAL, "offset and length of a flush must be 0"}
	errFragment     = wireError{wire.EOVERFLOW, "too long to answer in one chunk"}
	errBadExtents   = wireError{wire.EIO, "export told no extents"}
	errShortRead    = wireError{wire.EIO, "export returned less than was asked for"}
)
