// Package nbdclient is a small NBD client for tests that need to know exactly what was sent, what
// was answered, and what was under way when a server died: fixed newstyle, GO, simple replies,
// any number of requests in flight.
//
// # Guarantees
//
//  1. A call returns nil only for a reply without an error, an [Errno] only for a reply with one,
//     and else an error that is [ErrLost]: whether the server did it is not known then.
//  2. Once a connection is lost, every call on it returns, at once.
//
// # Concurrency
//
// Client is safe for concurrent use. Requests go out in the order in which calls get the lock and
// are answered in any order.
//
// # Failures
//
// A server that breaks the protocol costs it the connection, and the error says what it did.
//
// # On disk
//
// Nothing.
package nbdclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"ballast/nbd/wire"
)

// Errno is an error that the server answered with.
type Errno = wire.Errno

// Error is an answer of the server that is not success.
type Error struct {
	Op    string
	Off   int64
	Size  int
	Errno Errno
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s of %d bytes at %d: errno %d", e.Op, e.Size, e.Off, uint32(e.Errno))
}

// ErrLost is returned when the connection ended before the answer came.
var ErrLost = errors.New("connection lost")

// ErrnoOf returns with what the server answered; 0 when err is no answer.
func ErrnoOf(err error) Errno {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Errno
	}
	return 0
}

// Flags of calls.
const (
	FUA    = wire.CmdFlagFUA
	NoHole = wire.CmdFlagNoHole
)

// patience is for the handshake alone; requests may take as long as they need.
const patience = time.Minute

var be = binary.BigEndian

// Client is one connection to one export.
type Client struct {
	Size  int64
	Flags uint16 // transmission flags

	conn net.Conn
	done chan struct{} // closed when the reader has ended

	send   sync.Mutex // spans writing to conn
	header [wire.RequestSize]byte

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*call
	err     error // why it is lost
}

// call is a request in flight.
type call struct {
	into []byte // where a read's data goes
	done chan error
	op   string
	off  int64
	size int
}

// Dial connects to an export.
func Dial(network, addr, export string) (*Client, error) {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	c := &Client{conn: conn, done: make(chan struct{}), pending: map[uint64]*call{}}
	if err := c.handshake(export); err != nil {
		conn.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

func (c *Client) handshake(export string) error {
	c.conn.SetDeadline(time.Now().Add(patience))
	defer c.conn.SetDeadline(time.Time{})
	greeting, err := c.receive(wire.GreetingSize)
	if err != nil {
		return err
	}
	if be.Uint64(greeting) != wire.MagicServer || be.Uint64(greeting[8:]) != wire.MagicOption || be.Uint16(greeting[16:])&3 != 3 {
		return fmt.Errorf("greeting: %x", greeting)
	}
	out := be.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	body := be.AppendUint32(nil, uint32(len(export)))
	body = append(body, export...)
	body = be.AppendUint16(body, 0)
	out = wire.AppendOption(out, wire.Option{OptionMagic: wire.MagicOption, ID: wire.OptGo, Length: uint32(len(body))})
	if _, err := c.conn.Write(append(out, body...)); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	for {
		b, err := c.receive(wire.OptionReplySize)
		if err != nil {
			return err
		}
		r := wire.ParseOptionReply(b)
		if r.ReplyMagic != wire.MagicOptionReply || r.ID != wire.OptGo || r.Length > 1<<16 {
			return fmt.Errorf("reply to GO: %x", b)
		}
		data, err := c.receive(int(r.Length))
		switch {
		case err != nil:
			return err
		case r.Type == wire.RepAck && c.Flags == 0:
			return errors.New("GO told nothing of the export")
		case r.Type == wire.RepAck:
			return nil
		case r.Type == wire.RepInfo && len(data) == 12 && be.Uint16(data) == wire.InfoExport:
			c.Size, c.Flags = int64(be.Uint64(data[2:])), be.Uint16(data[10:])
		case r.Type != wire.RepInfo:
			return fmt.Errorf("GO %q is answered with %#x: %s", export, r.Type, data)
		}
	}
}

func (c *Client) receive(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		return nil, fmt.Errorf("%w: handshake: %w", ErrLost, err)
	}
	return b, nil
}

// Read reads len(p) bytes at off.
func (c *Client) Read(p []byte, off int64) error {
	return c.do(&call{op: "read", off: off, size: len(p), into: p}, wire.CmdRead, 0, nil)
}

// Write writes p at off.
func (c *Client) Write(p []byte, off int64, flags uint16) error {
	return c.do(&call{op: "write", off: off, size: len(p)}, wire.CmdWrite, flags, p)
}

// Flush makes durable what was answered before, on every connection if the export says so.
func (c *Client) Flush() error { return c.do(&call{op: "flush"}, wire.CmdFlush, 0, nil) }

// Trim gives size bytes at off back.
func (c *Client) Trim(off int64, size int, flags uint16) error {
	return c.do(&call{op: "trim", off: off, size: size}, wire.CmdTrim, flags, nil)
}

// WriteZeroes makes size bytes at off zeros.
func (c *Client) WriteZeroes(off int64, size int, flags uint16) error {
	return c.do(&call{op: "write zeroes", off: off, size: size}, wire.CmdWriteZeroes, flags, nil)
}

func (c *Client) do(k *call, command, flags uint16, payload []byte) error {
	k.done = make(chan error, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	c.last++
	handle := c.last
	c.pending[handle] = k
	c.mu.Unlock()

	c.send.Lock()
	b := wire.AppendRequest(c.header[:0], wire.Request{RequestMagic: wire.MagicRequest, CommandFlags: flags, Type: command, Handle: handle,
		Offset: uint64(k.off), Length: uint32(k.size)})
	_, err := (&net.Buffers{b, payload}).WriteTo(c.conn)
	c.send.Unlock()
	if err != nil {
		// The reader still takes the answers that are on their way, and ends then.
		if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
	return <-k.done
}

// read takes the replies until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	err := c.replies()
	c.conn.Close()
	c.mu.Lock()
	c.err = fmt.Errorf("%w: %w", ErrLost, err)
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, k := range pending {
		k.done <- c.err
	}
}

func (c *Client) replies() error {
	var header [wire.ReplySize]byte
	for {
		if _, err := io.ReadFull(c.conn, header[:]); err != nil {
			return err
		}
		r := wire.ParseReply(header[:])
		if r.ReplyMagic != wire.MagicReply {
			return fmt.Errorf("reply: %x", header)
		}
		c.mu.Lock()
		k := c.pending[r.Handle]
		c.mu.Unlock()
		if k == nil {
			return fmt.Errorf("reply to a request that is not under way: %x", header)
		}
		var err error
		if r.Error != 0 {
			err = &Error{k.op, k.off, k.size, Errno(r.Error)}
		} else if _, e := io.ReadFull(c.conn, k.into); e != nil {
			return e // the read is not answered: all that is pending is lost
		}
		c.mu.Lock()
		delete(c.pending, r.Handle)
		c.mu.Unlock()
		k.done <- err
	}
}

// InFlight is the number of requests that are not answered.
func (c *Client) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// Disconnect says goodbye and closes the connection.
func (c *Client) Disconnect() {
	c.send.Lock()
	c.conn.Write(wire.AppendRequest(nil, wire.Request{RequestMagic: wire.MagicRequest, Type: wire.CmdDisc}))
	c.send.Unlock()
	c.Close()
}

// Close breaks the connection and waits for the reader.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}
