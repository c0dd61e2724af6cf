package process

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"

	"ballast/cmd/kernel"
	"ballast/nbd/wire"
)

// block is the unit of stamps, and the largest piece of which old and new may not mix.
const block = 4096

// client is a bare NBD client over one connection, with simple replies.
type client struct {
	conn   net.Conn
	in     *bufio.Reader
	handle uint64
}

func dial(socket, export string) (*client, kernel.Export, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, kernel.Export{}, err
	}
	e, err := kernel.Handshake(conn, export)
	if err != nil {
		conn.Close()
		return nil, e, err
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 1<<20)}, e, nil
}

func (c *client) send(kind, flags uint16, off int64, size int, payload []byte) error {
	c.handle++
	head := wire.AppendRequest(nil, wire.Request{RequestMagic: wire.MagicRequest, CommandFlags: flags, Type: kind, Handle: c.handle, Offset: uint64(off), Length: uint32(size)})
	_, err := (&net.Buffers{head, payload}).WriteTo(c.conn)
	return err
}

// reply reads one simple reply, and size bytes of data behind it.
func (c *client) reply(data []byte) error {
	head := make([]byte, wire.ReplySize)
	if _, err := io.ReadFull(c.in, head); err != nil {
		return err
	}
	r := wire.ParseReply(head)
	if r.ReplyMagic != wire.MagicReply || r.Error != 0 {
		return fmt.Errorf("reply %#x with error %d", r.ReplyMagic, r.Error)
	}
	_, err := io.ReadFull(c.in, data)
	return err
}

// stamper writes blocks that say which block and which version they are, and knows what must be
// found after a crash: of each block a version from flushed to written.
type stamper struct {
	export           string
	rng              *rand.Rand
	version          uint64
	written, flushed []uint64 // by block; 0: zeros
	flushes          int
}

func newStamper(export string, size int64, seed uint64) *stamper {
	n := size / block
	return &stamper{export: export, rng: rand.New(rand.NewPCG(seed, 1)), written: make([]uint64, n), flushed: make([]uint64, n)}
}

func stamp(b []byte, number, version uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], number)
		binary.LittleEndian.PutUint64(b[i+8:], version)
	}
}

// run writes and flushes until the connection breaks.
func (s *stamper) run(socket string) error {
	c, _, err := dial(socket, s.export)
	if err != nil {
		return nil // killed before we came
	}
	defer c.conn.Close()
	for s.round(c) == nil {
	}
	return nil
}

// round writes some disjoint ranges at once, and flushes, or writes the last of them with FUA.
func (s *stamper) round(c *client) error {
	var blocks []int
	taken := map[int]bool{}
	requests := 1 + s.rng.IntN(16)
	for range requests {
		first, n := s.rng.IntN(len(s.written)), 1<<s.rng.IntN(8)
		end := first
		for end < min(first+n, len(s.written)) && !taken[end] {
			taken[end] = true
			end++
		}
		if end == first {
			requests--
			continue
		}
		s.version++
		data := make([]byte, (end-first)*block)
		for b := first; b < end; b++ {
			stamp(data[(b-first)*block:(b-first+1)*block], uint64(b), s.version)
			s.written[b] = s.version
			blocks = append(blocks, b)
		}
		if err := c.send(wire.CmdWrite, 0, int64(first)*block, len(data), data); err != nil {
			return err
		}
	}
	for range requests {
		if err := c.reply(nil); err != nil {
			return err
		}
	}
	if s.rng.IntN(3) > 0 {
		return nil
	}
	if err := c.send(wire.CmdFlush, 0, 0, 0, nil); err != nil {
		return err
	}
	if err := c.reply(nil); err != nil {
		return err
	}
	s.flushes++
	copy(s.flushed, s.written)
	return nil
}

// check reads everything back. What is found counts as flushed from then on: a crash leaves only
// what is durable, and no block may go back behind what has been read.
func (s *stamper) check(socket string) error {
	c, _, err := dial(socket, s.export)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	const step = 256
	data, whole := make([]byte, step*block), make([]byte, block)
	for first := 0; first < len(s.written); first += step {
		n := min(step, len(s.written)-first)
		if err := c.send(wire.CmdRead, 0, int64(first)*block, n*block, nil); err != nil {
			return err
		}
		if err := c.reply(data[:n*block]); err != nil {
			return fmt.Errorf("reading %d blocks at %d: %w", n, first, err)
		}
		for b := first; b < first+n; b++ {
			got := data[(b-first)*block : (b-first+1)*block]
			version := binary.LittleEndian.Uint64(got[8:])
			clear(whole)
			if version != 0 {
				stamp(whole, uint64(b), version)
			}
			switch {
			case !bytes.Equal(got, whole):
				return fmt.Errorf("block %d is torn or of another place: begins with %x", b, got[:32])
			case version < s.flushed[b]:
				return fmt.Errorf("block %d has version %d, flushed was %d", b, version, s.flushed[b])
			case version > s.written[b]:
				return fmt.Errorf("block %d has version %d, the last written was %d", b, version, s.written[b])
			}
			s.flushed[b], s.written[b] = version, version
		}
	}
	return nil
}
