package nbd

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
)

// PeerListener passes on only connections of root, of the user this process runs as and of Users;
// others are closed without an answer. Who is there is what the kernel says (SO_PEERCRED).
type PeerListener struct {
	*net.UnixListener
	Users []uint32
}

// Accept returns the next connection that may come in.
func (l *PeerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if cred := peerCred(conn); cred != nil && l.allows(cred.Uid) {
			return conn, nil
		}
		conn.Close()
	}
}

func (l *PeerListener) allows(uid uint32) bool {
	return uid == 0 || int(uid) == os.Geteuid() || slices.Contains(l.Users, uid)
}

// peerName describes who is on the other side, for logs and Stats.
func peerName(nc net.Conn) string {
	if u, ok := nc.(*net.UnixConn); ok {
		if cred := peerCred(u); cred != nil {
			return fmt.Sprintf("unix pid %d uid %d", cred.Pid, cred.Uid)
		}
		return "unix"
	}
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return "unknown"
}

func peerCred(u *net.UnixConn) *syscall.Ucred {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *syscall.Ucred
	_ = raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil {
		return nil
	}
	return cred
}
