package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// maxSocketPath is the longest path that fits an address of a unix socket.
const maxSocketPath = 107

// ListenOptions tell Listen what to allow.
type ListenOptions struct {
	// Insecure allows TCP addresses beyond loopback, where anybody can read and write exports.
	Insecure bool
	// Users may connect to a unix socket besides root and the user of this process; see
	// PeerListener. A socket for others has mode 0666, and a directory of mode 0711 if it has none.
	Users []uint32
}

// Listen listens on spec, which is unix:PATH or tcp:HOST:PORT.
//
// A unix socket gets mode 0600, and a directory of mode 0700 if it has none; a socket that is
// left over at PATH is replaced if it is ours and nobody answers, else Listen fails with
// ErrInUse. TCP is for loopback addresses; others fail with ErrInsecure unless allowed.
func Listen(spec string, opts ListenOptions) (net.Listener, error) {
	kind, addr, ok := strings.Cut(spec, ":")
	switch {
	case ok && kind == "unix" && addr != "":
		l, err := listenUnix(addr, opts.Users)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", spec, err)
		}
		return l, nil
	case ok && kind == "tcp" && addr != "":
		l, err := listenTCP(addr, opts)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", spec, err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("listen on %q: want unix:PATH or tcp:HOST:PORT", spec)
}

var umask sync.Mutex // of the whole process

func listenUnix(path string, users []uint32) (net.Listener, error) {
	switch {
	case path[0] == '@' || path[0] == 0:
		return nil, errors.New("abstract sockets have no permissions")
	case len(path) > maxSocketPath:
		return nil, fmt.Errorf("path has %d bytes, a unix socket allows %d", len(path), maxSocketPath)
	}
	dirMode, mask := os.FileMode(0o700), 0o177
	if len(users) > 0 {
		dirMode, mask = 0o711, 0o111
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	umask.Lock()
	defer umask.Unlock()
	old := syscall.Umask(mask)
	defer syscall.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &PeerListener{UnixListener: l, Users: users}, nil
}

// removeStale removes a socket at path that nobody answers on.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return errors.New("there is something that is not a socket")
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return errors.New("there is a socket of another user")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrInUse, err) // a full backlog is an answer, too
	}
	return os.Remove(path)
}

func listenTCP(addr string, opts ListenOptions) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !opts.Insecure && !a.IP.IsLoopback() {
		return nil, ErrInsecure
	}
	var lc net.ListenConfig
	return lc.Listen(context.Background(), "tcp", a.String())
}

// Inherited returns the stream sockets that a service manager has opened for this process
// (LISTEN_FDS); none if it was started otherwise.
func Inherited() ([]net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	var ls []net.Listener
	for _, l := range all {
		if l != nil {
			ls = append(ls, l)
		}
	}
	return ls, nil
}

// URI is what clients such as nbdinfo, qemu and fio take to reach an export on l.
func URI(l net.Listener, export string) string {
	u := url.URL{Scheme: "nbd", Host: l.Addr().String(), Path: "/" + export}
	if a, ok := l.Addr().(*net.UnixAddr); ok {
		u.Scheme, u.Host = "nbd+unix", ""
		return u.Scheme + "://" + u.EscapedPath() + "?socket=" + strings.ReplaceAll(url.QueryEscape(a.Name), "%2F", "/")
	}
	return u.String()
}
