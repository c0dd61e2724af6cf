package nbd

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const maxIovecs = 1024 // IOV_MAX

// writev is unix.Writev for vectors that are built already.
func writev(fd uintptr, iov []unix.Iovec) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
