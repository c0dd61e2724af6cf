package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"ballast/nbd/wire"
)

// Export is what a server tells of one.
type Export struct {
	Size  uint64
	Flags uint16 // transmission flags
}

// handshakeTimeout is for the whole of it.
const handshakeTimeout = 20 * time.Second

// maxReply bounds an option reply; ours are far smaller.
const maxReply = 64 << 10

var be = binary.BigEndian

// Handshake brings conn into transmission for the export of that name.
func Handshake(conn net.Conn, name string) (Export, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return Export{}, err
	}
	e, err := handshake(conn, name)
	if err != nil {
		return Export{}, fmt.Errorf("export %s: %w", name, err)
	}
	return e, conn.SetDeadline(time.Time{})
}

func handshake(conn io.ReadWriter, name string) (e Export, err error) {
	greeting := make([]byte, wire.GreetingSize)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		return e, fmt.Errorf("greeting: %w", err)
	}
	if be.Uint64(greeting) != wire.MagicServer || be.Uint64(greeting[8:]) != wire.MagicOption {
		return e, errors.New("the other side does not speak NBD")
	}
	flags := be.Uint16(greeting[16:])
	if flags&wire.FlagFixedNewstyle == 0 {
		return e, errors.New("the server is too old")
	}
	ask := be.AppendUint32(nil, uint32(flags&(wire.FlagFixedNewstyle|wire.FlagNoZeroes)))
	ask = wire.AppendOption(ask, wire.Option{OptionMagic: wire.MagicOption, ID: wire.OptGo, Length: uint32(4 + len(name) + 2)})
	ask = be.AppendUint32(ask, uint32(len(name)))
	ask = append(ask, name...)
	ask = be.AppendUint16(ask, 0)
	if _, err := conn.Write(ask); err != nil {
		return e, err
	}
	told := false
	for {
		reply, data, err := readReply(conn)
		if err != nil {
			return e, err
		}
		switch {
		case reply.Type == wire.RepAck && told:
			return e, nil
		case reply.Type == wire.RepInfo && len(data) == 12 && be.Uint16(data) == wire.InfoExport:
			e, told = Export{Size: be.Uint64(data[2:]), Flags: be.Uint16(data[10:])}, true
		case reply.Type == wire.RepInfo:
		default:
			return e, fmt.Errorf("the server answers %#x: %.200q", reply.Type, data)
		}
	}
}

func readReply(conn io.Reader) (wire.OptionReply, []byte, error) {
	head := make([]byte, wire.OptionReplySize)
	if _, err := io.ReadFull(conn, head); err != nil {
		return wire.OptionReply{}, nil, fmt.Errorf("option reply: %w", err)
	}
	reply := wire.ParseOptionReply(head)
	if reply.ReplyMagic != wire.MagicOptionReply || reply.ID != wire.OptGo || reply.Length > maxReply {
		return reply, nil, errors.New("the server's answer makes no sense")
	}
	data := make([]byte, reply.Length)
	_, err := io.ReadFull(conn, data)
	return reply, data, err
}
