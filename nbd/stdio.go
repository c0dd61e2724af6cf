package nbd

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// Stdio makes a connection of two files, usually the standard streams, for ServeConn. They may be
// one socket or two pipes. The files stay open and are the caller's; they are set to not block.
func Stdio(in, out *os.File) (net.Conn, error) {
	if isSocket(in) {
		return net.FileConn(in)
	}
	r, err := reopen(in)
	if err != nil {
		return nil, err
	}
	w, err := reopen(out)
	if err != nil {
		r.Close()
		return nil, err
	}
	return &stdio{r: r, w: w}, nil
}

func isSocket(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode().Type() == os.ModeSocket
}

// reopen returns a file on which deadlines work and which can be closed while it is read.
func reopen(f *os.File) (*os.File, error) {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// stdio is a net.Conn of two pipes.
type stdio struct{ r, w *os.File }

func (s *stdio) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *stdio) Write(p []byte) (int, error) { return s.w.Write(p) }
func (s *stdio) Close() error                { return errors.Join(s.r.Close(), s.w.Close()) }

func (s *stdio) LocalAddr() net.Addr  { return stdioAddr{} }
func (s *stdio) RemoteAddr() net.Addr { return stdioAddr{} }

func (s *stdio) SetDeadline(t time.Time) error {
	return errors.Join(s.r.SetReadDeadline(t), s.w.SetWriteDeadline(t))
}
func (s *stdio) SetReadDeadline(t time.Time) error  { return s.r.SetReadDeadline(t) }
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.w.SetWriteDeadline(t) }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }
