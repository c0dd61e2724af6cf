package daemon

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// stdio is a pair of files as a connection.
type stdio struct {
	in, out *os.File
	once    sync.Once
}

// newStdio returns the connection that a parent process has with us. One socket for both is used
// as such; pipes and terminals work too.
func newStdio(in, out *os.File) net.Conn {
	if conn, err := net.FileConn(in); err == nil {
		if same(in, out) {
			return conn
		}
		conn.Close()
	}
	return &stdio{in: in, out: out}
}

func same(a, b *os.File) bool {
	sa, err := a.Stat()
	sb, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(sa, sb)
}

func (c *stdio) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *stdio) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *stdio) Close() (err error) {
	c.once.Do(func() { err = errors.Join(c.in.Close(), c.out.Close()) })
	return err
}

func (c *stdio) LocalAddr() net.Addr  { return stdioAddr{} }
func (c *stdio) RemoteAddr() net.Addr { return stdioAddr{} }

// Deadlines hold where the kernel can watch the file, as for pipes; elsewhere there are none.
func (c *stdio) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *stdio) SetReadDeadline(t time.Time) error  { return optional(c.in.SetReadDeadline(t)) }
func (c *stdio) SetWriteDeadline(t time.Time) error { return optional(c.out.SetWriteDeadline(t)) }

func optional(err error) error {
	if errors.Is(err, os.ErrNoDeadline) {
		return nil
	}
	return err
}

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "standard input and output" }
