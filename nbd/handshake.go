package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"ballast/nbd/wire"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// handshake is what was agreed on so far.
type handshake struct {
	*conn
	noZeroes   bool
	metaExport string // the name contexts were selected for
	meta       bool   // base:allocation is selected
	left       int    // options the client may still send
	out        []byte // replies not yet sent
	finished   bool   // transmission or the end
}

// handshake speaks fixed newstyle until the client has an export, in which case c.export is set,
// or goes. Nothing is asked of an export before the client named it.
func (c *conn) handshake() error {
	timer := time.AfterFunc(c.s.opts.HandshakeTimeout, func() { c.kill(errHandshake) })
	defer timer.Stop()
	defer c.s.handshaken(c)
	h := &handshake{conn: c, left: c.s.opts.MaxOptions}
	if err := h.greet(); err != nil {
		return err
	}
	for !h.finished {
		if err := c.in.fill(wire.OptionSize); err != nil {
			return c.inputError(err)
		}
		o := wire.ParseOption(c.in.peek(wire.OptionSize))
		c.in.skip(wire.OptionSize)
		switch {
		case o.OptionMagic != wire.MagicOption:
			return fmt.Errorf("%w: option magic %#x", errProtocol, o.OptionMagic)
		case o.Length > maxOption:
			return fmt.Errorf("%w: option %d of %d bytes", errProtocol, o.ID, o.Length)
		case h.left == 0:
			return fmt.Errorf("%w: more than %d options", errProtocol, c.s.opts.MaxOptions)
		}
		h.left--
		if err := c.in.fill(int(o.Length)); err != nil {
			return c.inputError(err)
		}
		// The buffer is larger than an option, so nothing is allocated for one.
		data := c.in.peek(int(o.Length))
		err := h.option(o.ID, data, timer)
		c.in.skip(int(o.Length))
		if err == nil {
			err = h.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// greet sends the greeting and reads the client's flags.
func (h *handshake) greet() error {
	const offered = wire.FlagFixedNewstyle | wire.FlagNoZeroes
	h.out = wire.AppendGreeting(h.out, protocol.NegotiationNewstyleHeader{
		OldstyleMagic: wire.MagicServer, OptionMagic: wire.MagicOption, HandshakeFlags: offered,
	})
	if err := h.flush(); err != nil {
		return err
	}
	if err := h.in.fill(wire.ClientFlagsSize); err != nil {
		return h.inputError(err)
	}
	flags := binary.BigEndian.Uint32(h.in.peek(wire.ClientFlagsSize))
	h.in.skip(wire.ClientFlagsSize)
	if flags&^uint32(offered) != 0 {
		return fmt.Errorf("%w: client flags %#x", errProtocol, flags)
	}
	h.noZeroes = flags&uint32(wire.FlagNoZeroes) != 0
	return nil
}

func (h *handshake) flush() error {
	if len(h.out) == 0 {
		return nil
	}
	n, err := h.nc.Write(h.out)
	if err == nil && n < len(h.out) {
		err = io.ErrShortWrite
	}
	h.out = h.out[:0]
	return err
}

// reply queues a reply to option id with the given data.
func (h *handshake) reply(id, typ uint32, data ...[]byte) error {
	n := 0
	for _, d := range data {
		n += len(d)
	}
	h.out = wire.AppendOptionReply(h.out, wire.OptionReply{
		ReplyMagic: wire.MagicOptionReply, ID: id, Type: typ, Length: uint32(n),
	})
	for _, d := range data {
		h.out = append(h.out, d...)
	}
	if len(h.out) >= 32<<10 {
		return h.flush()
	}
	return nil
}

func (h *handshake) refuse(id, typ uint32, why string) error {
	return h.reply(id, typ, []byte(why))
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
