package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ballast/nbd/wire"
)

const (
	allocationContext = "base:allocation"
	allocationID      = 1
)

// option answers one option. An error ends the connection.
func (h *handshake) option(id uint32, data []byte, timer *time.Timer) error {
	if h.stopped() && id != wire.OptAbort {
		h.finished = true
		if id == wire.OptExportName {
			return ErrServerClosed
		}
		return h.refuse(id, wire.RepErrShutdown, "server is going down")
	}
	switch id {
	case wire.OptAbort:
		h.finished = true
		_ = h.reply(id, wire.RepAck)
		_ = h.flush() // the client may not wait for it
		return nil
	case wire.OptExportName:
		return h.exportName(data, timer)
	case wire.OptInfo, wire.OptGo:
		return h.infoOrGo(id, data, timer)
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		return h.metaContext(id, data)
	case wire.OptList, wire.OptStructuredReply, wire.OptStartTLS:
		if len(data) > 0 {
			return h.refuse(id, wire.RepErrInvalid, "this option has no data")
		}
	}
	switch id {
	case wire.OptList:
		return h.list()
	case wire.OptStructuredReply:
		h.structured = true
		return h.reply(id, wire.RepAck)
	case wire.OptStartTLS:
		return h.refuse(id, wire.RepErrUnsup, "no TLS here")
	}
	return h.refuse(id, wire.RepErrUnsup, "option is not supported")
}

func (h *handshake) list() error {
	all := h.s.exportSet.List()
	h.left += optionsPerName * len(all)
	for _, info := range all {
		if err := h.reply(wire.OptList, wire.RepServer, be32(uint32(len(info.Name))), []byte(info.Name), []byte(info.Description)); err != nil {
			return err
		}
	}
	return h.reply(wire.OptList, wire.RepAck)
}

// exportName has no way to tell an error but to close.
func (h *handshake) exportName(data []byte, timer *time.Timer) error {
	name := string(data)
	if err := checkName(name); err != nil {
		return err
	}
	e, info, closeExport, err := h.s.exportSet.Open(name)
	if err != nil {
		return fmt.Errorf("export %q: %w", name, err)
	}
	if err := h.attach(e, info, closeExport, timer); err != nil {
		return err
	}
	h.finished = true
	h.allocation = h.meta && h.metaExport == name
	h.out = binary.BigEndian.AppendUint64(h.out, uint64(h.export.Size()))
	h.out = binary.BigEndian.AppendUint16(h.out, flagsOf(e, info, h.structured))
	if !h.noZeroes {
		h.out = append(h.out, zeros[:wire.ExportZeroes]...)
	}
	return nil
}

func (h *handshake) infoOrGo(id uint32, data []byte, timer *time.Timer) error {
	name, rest, err := takeString(data)
	if err != nil || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return h.refuse(id, wire.RepErrInvalid, "lengths do not add up")
	}
	if err := checkName(name); err != nil {
		return h.refuse(id, wire.RepErrInvalid, err.Error())
	}
	e, info, closeExport, err := h.s.exportSet.Open(name)
	if err != nil {
		return h.refuseOpen(id, name, err)
	}
	if id == wire.OptGo {
		if err := h.attach(e, info, closeExport, timer); err != nil {
			return h.refuseOpen(id, name, err)
		}
	} else {
		defer closeExport()
	}
	asked := map[uint16]bool{wire.InfoExport: true}
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		asked[binary.BigEndian.Uint16(rest)] = true
	}
	h.sendInfo(id, asked, e, info)
	if id == wire.OptGo {
		h.finished = true
		h.allocation = h.meta && h.metaExport == name
	}
	return h.reply(id, wire.RepAck)
}

func (h *handshake) sendInfo(id uint32, asked map[uint16]bool, e Export, info Info) {
	_ = h.reply(id, wire.RepInfo, be16(wire.InfoExport), be64(uint64(e.Size())), be16(flagsOf(e, info, h.structured)))
	if asked[wire.InfoName] {
		_ = h.reply(id, wire.RepInfo, be16(wire.InfoName), []byte(info.Name))
	}
	if asked[wire.InfoDescription] && info.Description != "" {
		_ = h.reply(id, wire.RepInfo, be16(wire.InfoDescription), []byte(info.Description))
	}
	if asked[wire.InfoBlockSize] {
		_ = h.reply(id, wire.RepInfo, be16(wire.InfoBlockSize), be32(1), be32(4096), be32(wire.MaxPayload))
	}
}

// refuseOpen tells why there is no export under that name for this client.
func (h *handshake) refuseOpen(id uint32, name string, err error) error {
	switch {
	case errors.Is(err, ErrNoExport):
		return h.refuse(id, wire.RepErrUnknown, fmt.Sprintf("no export %.256q", name))
	case errors.Is(err, ErrServerClosed):
		h.finished = true
		return h.refuse(id, wire.RepErrShutdown, "server is going down")
	}
	h.log.Warn("export refused to a client", "export", name, "error", err)
	return h.refuse(id, wire.RepErrPolicy, message(err))
}

// attach makes the connection one of the export's, once nothing is under way there for clients
// that are gone. If it fails the export is closed again.
func (h *handshake) attach(e Export, info Info, closeExport func(), timer *time.Timer) error {
	timer.Stop() // from here on it is we who take the time
	h.s.handshaken(h.conn)
	if err := h.s.attach(h.conn, info.Name); err != nil {
		closeExport()
		timer.Reset(h.s.opts.HandshakeTimeout)
		return err
	}
	c := h.conn
	c.export, c.info, c.closeExport = e, info, closeExport
	c.inliner, _ = e.(Inliner)
	c.receiver, _ = e.(Receiver)
	c.zeroer, _ = e.(Zeroer)
	c.trimmer, _ = e.(Trimmer)
	c.mapper, _ = e.(Mapper)
	c.prefetcher, _ = e.(Prefetcher)
	timer.Reset(h.s.opts.HandshakeTimeout) // for the reply
	return nil
}

// flagsOf are the transmission flags: what the export implements and nothing else.
func flagsOf(e Export, info Info, structured bool) uint16 {
	f := wire.HasFlags | wire.SendFlush | wire.SendFUA | wire.CanMultiConn
	if info.Rotational {
		f |= wire.Rotational
	}
	if structured {
		f |= wire.SendDF
	}
	if _, ok := e.(Prefetcher); ok {
		f |= wire.SendCache
	}
	if info.ReadOnly {
		return f | wire.ReadOnly
	}
	if _, ok := e.(Trimmer); ok {
		f |= wire.SendTrim
	}
	if _, ok := e.(Zeroer); ok {
		f |= wire.SendWriteZeroes | wire.SendFastZero
	}
	return f
}

// metaContext is LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(id uint32, data []byte) error {
	set := id == wire.OptSetMetaContext
	if set {
		h.meta, h.metaExport = false, "" // also when this one fails
		if !h.structured {
			return h.refuse(id, wire.RepErrInvalid, "structured replies come first")
		}
	}
	name, rest, err := takeString(data)
	if err != nil || len(rest) < 4 {
		return h.refuse(id, wire.RepErrInvalid, "lengths do not add up")
	}
	if err := checkName(name); err != nil {
		return h.refuse(id, wire.RepErrInvalid, err.Error())
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	wanted := n == 0 && !set
	for range n {
		var q string
		if q, rest, err = takeString(rest); err != nil || len(q) > wire.MaxString || !utf8.ValidString(q) {
			return h.refuse(id, wire.RepErrInvalid, "malformed query")
		}
		if !strings.Contains(q, ":") {
			return h.refuse(id, wire.RepErrInvalid, "query without a namespace")
		}
		wanted = wanted || q == allocationContext || q == "base:" && !set
	}
	if len(rest) > 0 {
		return h.refuse(id, wire.RepErrInvalid, "lengths do not add up")
	}
	e, _, closeExport, err := h.s.exportSet.Open(name)
	if err != nil {
		return h.refuseOpen(id, name, err)
	}
	defer closeExport()
	if _, ok := e.(Mapper); ok && wanted {
		contextID := uint32(0) // unused in LIST
		if set {
			contextID = allocationID
			h.meta, h.metaExport = true, name
		}
		if err := h.reply(id, wire.RepMetaContext, be32(contextID), []byte(allocationContext)); err != nil {
			return err
		}
	}
	return h.reply(id, wire.RepAck)
}

var errLengths = errors.New("lengths do not add up")

// takeString reads a 32-bit length and as many bytes. It copies only what is there.
func takeString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, errLengths
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return "", nil, errLengths
	}
	return string(b[:n]), b[n:], nil
}

// checkName refuses what is no string of the protocol.
func checkName(name string) error {
	switch {
	case len(name) > wire.MaxString:
		return fmt.Errorf("%w: name of %d bytes", errProtocol, len(name))
	case !utf8.ValidString(name) || slices.Contains([]byte(name), 0):
		return fmt.Errorf("%w: name is not UTF-8 without NUL", errProtocol)
	}
	return nil
}
