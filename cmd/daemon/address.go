package daemon

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ballast/cmd/control"
	"ballast/nbd"
)

// maxSocketPath is what fits in a sockaddr_un with its final zero.
const maxSocketPath = 107

// Address is where NBD is served.
type Address struct {
	Network string // unix or tcp
	Addr    string // path, or host:port
}

func (a Address) String() string { return a.Network + ":" + a.Addr }

// URI is what clients are told to open for an export.
func (a Address) URI(export string) string {
	if a.Network == "unix" {
		return "nbd+unix:///" + url.PathEscape(export) + "?socket=" + strings.ReplaceAll(url.QueryEscape(a.Addr), "%2F", "/")
	}
	return "nbd://" + a.Addr + "/" + url.PathEscape(export)
}

// ParseAddress reads unix:PATH or tcp:HOST:PORT. TCP is not encrypted yet, so it is refused beyond
// this machine.
func ParseAddress(s string) (Address, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case kind == "unix" && rest != "":
		if strings.HasPrefix(rest, "@") || strings.ContainsRune(rest, 0) {
			return Address{}, control.Refuse("E_ADDRESS", "%q: only sockets in the file system have permissions", s).WithTry("unix:PATH")
		}
		return Address{"unix", rest}, checkSocketPath(rest)
	case kind == "tcp" && rest != "":
		host, port, err := net.SplitHostPort(rest)
		if err != nil || port == "" {
			return Address{}, control.Refuse("E_ADDRESS", "%q is not tcp:HOST:PORT", s).WithTry("tcp:127.0.0.1:10809")
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return Address{}, control.Refuse("E_ADDRESS", "%q: %q is not a port", s, port).WithTry("tcp:127.0.0.1:10809")
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return Address{}, control.Refuse("E_ADDRESS", "%q is not on this machine, and what it would carry is not encrypted", s).
				WithTry("tcp:127.0.0.1:%s, reached through an SSH tunnel", port)
		}
		return Address{"tcp", rest}, nil
	}
	return Address{}, control.Refuse("E_ADDRESS", "%q is no address", s).WithTry("unix:PATH").WithTry("tcp:127.0.0.1:10809")
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return control.Refuse("E_ADDRESS", "the socket path %s has %d bytes, the kernel takes %d", path, len(path), maxSocketPath).
			WithTry("--run-dir DIR, or unix:PATH, with a shorter path")
	}
	return nil
}

// listen listens on a; see nbd.Listen for what becomes of sockets that are there already.
// users may connect to a unix socket besides root and the daemon's own.
func (a Address) listen(users ...uint32) (net.Listener, error) {
	if a.Network == "unix" {
		if err := checkSocketPath(a.Addr); err != nil {
			return nil, err
		}
	}
	l, err := nbd.Listen(a.String(), nbd.ListenOptions{Users: users})
	switch {
	case errors.Is(err, nbd.ErrInUse), errors.Is(err, syscall.EADDRINUSE):
		return nil, control.Refuse("E_BUSY", "somebody listens on %s already", a).WithTry("another address")
	case errors.Is(err, os.ErrPermission):
		return nil, control.Refuse("E_NOT_PERMITTED", "cannot listen on %s: permission denied", a).WithTry("--run-dir DIR, or another address")
	case err != nil:
		return nil, control.Refuse("E_ADDRESS", "%v", err).WithTry("another address")
	}
	if a.Network == "unix" && len(users) > 0 {
		if err := reachable(filepath.Dir(a.Addr)); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// reachable refuses a directory that other users cannot get through.
func reachable(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if fi.Mode()&0o001 == 0 {
			return control.Refuse("E_ADDRESS", "the users of --nbd-user cannot get through %s (mode %04o)", dir, fi.Mode().Perm()).
				WithTry("--nbd unix:PATH with a directory that is open to them")
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
