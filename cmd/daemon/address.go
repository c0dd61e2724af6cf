package daemon

import (
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"ballast/cmd/control"
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
		return "nbd+unix:///" + url.PathEscape(export) + "?socket=" + (&url.URL{Path: a.Addr}).EscapedPath()
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

// listen listens on a. A unix socket is made 0600 and replaces one that nobody listens on.
func (a Address) listen() (net.Listener, error) {
	if a.Network == "unix" {
		return listenUnix(a.Addr)
	}
	l, err := net.Listen("tcp", a.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, control.Refuse("E_BUSY", "somebody listens on %s already", a.Addr).WithTry("another port")
	}
	if err != nil {
		return nil, control.Refuse("E_ADDRESS", "%s: %v", a, err)
	}
	return l, nil
}

func listenUnix(path string) (*net.UnixListener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mask makes it 0600 from the first moment; nothing else makes files just now.
	old := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, control.Refuse("E_NOT_PERMITTED", "cannot make the socket %s: permission denied", path).WithTry("--run-dir DIR")
	case err != nil:
		return nil, control.Refuse("E_STATE", "cannot make the socket %s: %v", path, err).WithTry("--run-dir DIR")
	}
	return l, nil
}

// removeStale removes a socket that a dead process left behind, and nothing else.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && st.Mode()&os.ModeSocket == 0 {
		return control.Refuse("E_STATE", "%s is there and is not a socket", path).WithTry("rm %s, if nobody needs it", path)
	}
	if err != nil {
		return control.Refuse("E_STATE", "%v", err)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return control.Refuse("E_BUSY", "somebody listens on %s already", path).WithTry("another address")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return control.Refuse("E_STATE", "%v", err)
	}
	if err := os.Remove(path); err != nil {
		return control.Refuse("E_STATE", "%v", err)
	}
	return nil
}
