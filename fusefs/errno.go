package fusefs

import (
	"context"
	"errors"
	"syscall"

	"ballast/journal"
	"ballast/striping"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// errnos is the one place where errors become errnos. The first match counts; an error that is or
// holds a syscall.Errno is that, and anything else is EIO.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{striping.ErrNoSpace, syscall.ENOSPC},
	{journal.ErrFull, syscall.ENOSPC},
	{striping.ErrReadOnly, syscall.EROFS},
	{striping.ErrUnreadable, syscall.EIO},
	{striping.ErrLost, syscall.EIO},
	{striping.ErrRange, syscall.EFBIG},
	{striping.ErrRemoved, syscall.ESTALE},
	{journal.ErrDead, syscall.EIO},
	{context.Canceled, syscall.EIO}, // only when the daemon is ending
	{context.DeadlineExceeded, syscall.EIO},
}

// status answers a request with err.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return fuse.Status(e.errno)
		}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno != 0 {
		return fuse.Status(errno)
	}
	return fuse.EIO
}
