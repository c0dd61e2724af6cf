package control

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// PeerListener passes on only connections of root and of the user this process runs as; others
// are closed without an answer.
type PeerListener struct{ *net.UnixListener }

// Accept returns the next connection that may come in.
func (l PeerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && allowed(uid, os.Geteuid()) {
			return conn, nil
		}
		conn.Close()
	}
}

func allowed(uid uint32, self int) bool { return uid == 0 || int(uid) == self }

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
