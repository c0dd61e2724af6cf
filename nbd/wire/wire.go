// Package wire has the constants and byte layouts of the NBD protocol. All numbers are big
// endian. Where go-nbd names a constant or a header it is used; the rest is defined here from the
// protocol's public description (NetworkBlockDevice/nbd, doc/proto.md).
//
// # Guarantees
//
//  1. Parse functions look at the bytes they are given and at no others, allocate nothing and
//     do not panic for slices of the documented length.
//  2. Append functions write exactly the documented number of bytes.
//
// # Concurrency
//
// Pure functions.
//
// # Failures
//
// None; magics are checked by the callers.
//
// # On disk
//
// Nothing. On the wire:
//
//	request     magic 4 | flags 2 | type 2 | handle 8 | offset 8 | length 4            28 bytes
//	reply       magic 4 | error 4 | handle 8                                           16 bytes
//	chunk       magic 4 | flags 2 | type 2 | handle 8 | length 4                       20 bytes
//	option      magic 8 | option 4 | length 4                                          16 bytes
//	opt. reply  magic 8 | option 4 | type 4 | length 4                                 20 bytes
//	greeting    magic 8 | magic 8 | flags 2                                            18 bytes
package wire

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Sizes of the headers in bytes.
const (
	GreetingSize    = 18
	ClientFlagsSize = 4
	OptionSize      = 16
	OptionReplySize = 20
	RequestSize     = 28
	ReplySize       = 16
	ChunkSize       = 20
	ExportZeroes    = 124 // after EXPORT_NAME, unless both sides set NO_ZEROES
)

// Magics.
const (
	MagicServer      = protocol.NEGOTIATION_MAGIC_OLDSTYLE
	MagicOption      = protocol.NEGOTIATION_MAGIC_OPTION
	MagicOptionReply = protocol.NEGOTIATION_MAGIC_REPLY
	MagicRequest     = protocol.TRANSMISSION_MAGIC_REQUEST
	MagicReply       = protocol.TRANSMISSION_MAGIC_REPLY
	MagicChunk       = uint32(0x668e33ef)
)

// Handshake flags; the client answers with the same bits.
const (
	FlagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	FlagNoZeroes      = uint16(1 << 1)
)

// Options.
const (
	OptExportName      = uint32(1)
	OptAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	OptList            = protocol.NEGOTIATION_ID_OPTION_LIST
	OptPeekExport      = uint32(4)
	OptStartTLS        = uint32(5)
	OptInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	OptGo              = protocol.NEGOTIATION_ID_OPTION_GO
	OptStructuredReply = uint32(8)
	OptListMetaContext = uint32(9)
	OptSetMetaContext  = uint32(10)
	OptExtendedHeaders = uint32(11)
)

// Types of replies to options.
const (
	RepAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	RepServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	RepInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	RepMetaContext = uint32(4)

	RepErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	RepErrPolicy   = uint32(1<<31 + 2)
	RepErrInvalid  = uint32(1<<31 + 3)
	RepErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	RepErrShutdown = uint32(1<<31 + 7)
	RepErrTooBig   = uint32(1<<31 + 9)
)

// Kinds of information in replies to INFO and GO.
const (
	InfoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	InfoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	InfoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	InfoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags: what an export can do.
const (
	HasFlags        = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	ReadOnly        = uint16(1 << 1)
	SendFlush       = uint16(1 << 2)
	SendFUA         = uint16(1 << 3)
	Rotational      = uint16(1 << 4)
	SendTrim        = uint16(1 << 5)
	SendWriteZeroes = uint16(1 << 6)
	SendDF          = uint16(1 << 7)
	CanMultiConn    = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	SendCache       = uint16(1 << 10)
	SendFastZero    = uint16(1 << 11)
)

// Commands.
const (
	CmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	CmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	CmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	CmdFlush       = uint16(3)
	CmdTrim        = uint16(4)
	CmdCache       = uint16(5)
	CmdWriteZeroes = uint16(6)
	CmdBlockStatus = uint16(7)
)

// Command flags.
const (
	CmdFlagFUA        = uint16(1 << 0)
	CmdFlagNoHole     = uint16(1 << 1)
	CmdFlagDF         = uint16(1 << 2)
	CmdFlagReqOne     = uint16(1 << 3)
	CmdFlagFastZero   = uint16(1 << 4)
	CmdFlagPayloadLen = uint16(1 << 5)
)

// Structured replies.
const (
	ChunkFlagDone = uint16(1)

	ChunkNone        = uint16(0)
	ChunkOffsetData  = uint16(1)
	ChunkOffsetHole  = uint16(2)
	ChunkBlockStatus = uint16(5)
	ChunkError       = uint16(1<<15 + 1)
	ChunkErrorOffset = uint16(1<<15 + 2)

	StateHole = uint32(1)
	StateZero = uint32(2)
)

// Errno is an error number of the protocol. 0 is success.
type Errno uint32

// Error numbers.
const (
	OK        = Errno(0)
	EPERM     = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	EIO       = Errno(5)
	ENOMEM    = Errno(12)
	EINVAL    = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	ENOSPC    = Errno(28)
	EOVERFLOW = Errno(75)
	ENOTSUP   = Errno(95)
	ESHUTDOWN = Errno(108)
)

// Limits of the protocol.
const (
	MaxString  = 4096     // bytes of a name, a query or a message
	MaxPayload = 32 << 20 // what every client may expect to be served
)

var be = binary.BigEndian

// Option is the header of an option.
type Option = protocol.NegotiationOptionHeader

// ParseOption reads the OptionSize bytes of b.
func ParseOption(b []byte) Option {
	_ = b[OptionSize-1]
	return Option{OptionMagic: be.Uint64(b), ID: be.Uint32(b[8:]), Length: be.Uint32(b[12:])}
}

// AppendOption is the inverse of ParseOption.
func AppendOption(b []byte, o Option) []byte {
	b = be.AppendUint64(b, o.OptionMagic)
	b = be.AppendUint32(b, o.ID)
	return be.AppendUint32(b, o.Length)
}

// OptionReply is the header of a reply to an option.
type OptionReply = protocol.NegotiationReplyHeader

// ParseOptionReply reads the OptionReplySize bytes of b.
func ParseOptionReply(b []byte) OptionReply {
	_ = b[OptionReplySize-1]
	return OptionReply{ReplyMagic: be.Uint64(b), ID: be.Uint32(b[8:]), Type: be.Uint32(b[12:]), Length: be.Uint32(b[16:])}
}

// AppendOptionReply is the inverse of ParseOptionReply.
func AppendOptionReply(b []byte, r OptionReply) []byte {
	b = be.AppendUint64(b, r.ReplyMagic)
	b = be.AppendUint32(b, r.ID)
	b = be.AppendUint32(b, r.Type)
	return be.AppendUint32(b, r.Length)
}

// AppendGreeting appends the GreetingSize bytes that a server sends first.
func AppendGreeting(b []byte, g protocol.NegotiationNewstyleHeader) []byte {
	b = be.AppendUint64(b, g.OldstyleMagic)
	b = be.AppendUint64(b, g.OptionMagic)
	return be.AppendUint16(b, g.HandshakeFlags)
}

// Request is the header of a request.
type Request = protocol.TransmissionRequestHeader

// ParseRequest reads the RequestSize bytes of b.
func ParseRequest(b []byte) Request {
	_ = b[RequestSize-1]
	return Request{
		RequestMagic: be.Uint32(b),
		CommandFlags: be.Uint16(b[4:]),
		Type:         be.Uint16(b[6:]),
		Handle:       be.Uint64(b[8:]),
		Offset:       be.Uint64(b[16:]),
		Length:       be.Uint32(b[24:]),
	}
}

// AppendRequest is the inverse of ParseRequest.
func AppendRequest(b []byte, r Request) []byte {
	b = be.AppendUint32(b, r.RequestMagic)
	b = be.AppendUint16(b, r.CommandFlags)
	b = be.AppendUint16(b, r.Type)
	b = be.AppendUint64(b, r.Handle)
	b = be.AppendUint64(b, r.Offset)
	return be.AppendUint32(b, r.Length)
}

// Reply is a simple reply.
type Reply = protocol.TransmissionReplyHeader

// ParseReply reads the ReplySize bytes of b.
func ParseReply(b []byte) Reply {
	_ = b[ReplySize-1]
	return Reply{ReplyMagic: be.Uint32(b), Error: be.Uint32(b[4:]), Handle: be.Uint64(b[8:])}
}

// AppendReply is the inverse of ParseReply.
func AppendReply(b []byte, r Reply) []byte {
	b = be.AppendUint32(b, r.ReplyMagic)
	b = be.AppendUint32(b, r.Error)
	return be.AppendUint64(b, r.Handle)
}

// Chunk is the header of a chunk of a structured reply.
type Chunk struct {
	Magic  uint32
	Flags  uint16
	Type   uint16
	Handle uint64
	Length uint32 // of what follows
}

// ParseChunk reads the ChunkSize bytes of b.
func ParseChunk(b []byte) Chunk {
	_ = b[ChunkSize-1]
	return Chunk{
		Magic:  be.Uint32(b),
		Flags:  be.Uint16(b[4:]),
		Type:   be.Uint16(b[6:]),
		Handle: be.Uint64(b[8:]),
		Length: be.Uint32(b[16:]),
	}
}

// AppendChunk is the inverse of ParseChunk.
func AppendChunk(b []byte, c Chunk) []byte {
	b = be.AppendUint32(b, c.Magic)
	b = be.AppendUint16(b, c.Flags)
	b = be.AppendUint16(b, c.Type)
	b = be.AppendUint64(b, c.Handle)
	return be.AppendUint32(b, c.Length)
}
