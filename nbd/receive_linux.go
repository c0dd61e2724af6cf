package nbd

import (
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A payload comes in pieces of what a socket holds, a sixth of a MiB on a unix socket, and the rest of
// it within microseconds. To wait for each piece as the runtime does (another thread finds it, and
// wakes one to go on) takes more processor time than to copy it. So for a moment the thread itself
// waits; nothing else can be done with the connection anyhow.
const payloadWait = 2 * time.Millisecond

// receiver reads payloads from a socket.
type receiver struct {
	raw syscall.RawConn
	p   []byte
	n   int
	err error
	fds [1]unix.PollFd
	f   func(fd uintptr) bool
}

func (r *receiver) init(raw syscall.RawConn) {
	r.raw = raw
	r.f = r.read
}

// Read is the connection's Read.
func (r *receiver) Read(p []byte) (int, error) {
	r.p, r.n, r.err = p, 0, nil
	err := r.raw.Read(r.f)
	r.p = nil
	if r.err != nil {
		err = r.err
	}
	return r.n, err
}

// read is called by the runtime with the descriptor, which does not block. It returns false to be
// called again once there is something.
func (r *receiver) read(fd uintptr) bool {
	for waited := false; ; {
		n, err := unix.Read(int(fd), r.p)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && waited:
			return false
		case errors.Is(err, unix.EAGAIN):
			r.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
			_, _ = unix.Poll(r.fds[:], int(payloadWait/time.Millisecond))
			waited = true
		case err != nil:
			r.err = err
			return true
		case n == 0:
			r.err = io.EOF
			return true
		default:
			r.n = n
			return true
		}
	}
}
