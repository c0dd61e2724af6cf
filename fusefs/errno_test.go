package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
)

func TestErrnos(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{syscall.ENOENT, syscall.ENOENT},
		{fmt.Errorf("lookup: %w", syscall.ENOTEMPTY), syscall.ENOTEMPTY},
		{&os.PathError{Op: "x", Path: "y", Err: syscall.EXDEV}, syscall.EXDEV},
		{fmt.Errorf("chunk 7: %w", striping.ErrNoSpace), syscall.ENOSPC},
		{fmt.Errorf("commit: %w: %w", journal.ErrFull, syscall.EIO), syscall.ENOSPC},
		{errors.Join(striping.ErrLost, syscall.ENOSPC), syscall.EIO},
		{striping.ErrUnreadable, syscall.EIO},
		{striping.ErrReadOnly, syscall.EROFS},
		{striping.ErrRange, syscall.EFBIG},
		{striping.ErrRemoved, syscall.ESTALE},
		{journal.ErrDead, syscall.EIO},
		{devices.ErrTimeout, syscall.EIO},
		{context.Canceled, syscall.EIO},
		{errors.New("anything else"), syscall.EIO},
		{syscall.Errno(0), syscall.EIO},
	} {
		require.Equal(t, fuse.Status(c.want), status(c.err), "%v", c.err)
	}
}
