package nbd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// patience is for things that are to happen at once; a test that waits this long has failed.
const patience = 2 * time.Minute

var be = binary.BigEndian

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testServer is a server on a unix socket.
type testServer struct {
	*nbd.Server
	t    testing.TB
	l    net.Listener
	path string
	set  *memexport.Set
}

// serve starts a server and sees to its end, and to that of everything it handed out.
func serve(t testing.TB, opts nbd.Options, exports map[string]nbd.Export) *testServer {
	t.Helper()
	s := &testServer{t: t, set: &memexport.Set{}, path: filepath.Join(t.TempDir(), "s")}
	for name, e := range exports {
		s.set.Add(e, nbd.Info{Name: name, Description: "the export " + name})
	}
	if opts.Logger == nil {
		opts.Logger = quiet()
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = 1000 // clients of a test live as long as it does
	}
	s.Server = nbd.NewServer(s.set, opts)
	l, err := nbd.Listen("unix:"+s.path, nbd.ListenOptions{})
	require.NoError(t, err)
	s.l = l
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, nbd.ErrServerClosed)
		require.Zero(t, s.Stats().InFlightBytes, "bytes in flight after Close")
		for name, e := range exports {
			require.Zero(t, s.set.Opens(name), "export %q is still open", name)
			if m, ok := e.(*memexport.Export); ok {
				require.Zero(t, m.Outstanding(), "memory of export %q not given back", name)
			}
		}
	})
	return s
}

func serveMem(t testing.TB, opts nbd.Options, size int64) (*testServer, *memexport.Export) {
	t.Helper()
	e := memexport.New(size)
	return serve(t, opts, map[string]nbd.Export{"e": e}), e
}

// client speaks the protocol by hand, right or wrong.
type client struct {
	net.Conn
	t          testing.TB
	structured bool
	handle     uint64
}

func (s *testServer) dial() *client {
	s.t.Helper()
	nc, err := net.Dial("unix", s.path)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { nc.Close() })
	require.NoError(s.t, nc.SetDeadline(time.Now().Add(patience)))
	return &client{Conn: nc, t: s.t}
}

// hello is dial, and the handshake up to the client's flags.
func (s *testServer) hello() *client {
	s.t.Helper()
	c := s.dial()
	c.greeting()
	c.send(be.AppendUint32(nil, 3))
	return c
}

// open is hello and GO with simple replies; openStructured asks for base:allocation too.
func (s *testServer) open(name string) *client {
	s.t.Helper()
	c := s.hello()
	c.mustGo(name)
	return c
}

func (s *testServer) openStructured(name string) *client {
	s.t.Helper()
	c := s.hello()
	c.option(wire.OptStructuredReply, nil)
	require.Equal(s.t, wire.RepAck, c.optReply(wire.OptStructuredReply).typ)
	c.option(wire.OptSetMetaContext, metaQuery(name, "base:allocation"))
	require.Equal(s.t, wire.RepMetaContext, c.optReply(wire.OptSetMetaContext).typ)
	require.Equal(s.t, wire.RepAck, c.optReply(wire.OptSetMetaContext).typ)
	c.structured = true
	c.mustGo(name)
	return c
}

func (c *client) greeting() {
	c.t.Helper()
	b := c.read(wire.GreetingSize)
	require.Equal(c.t, "NBDMAGICIHAVEOPT\x00\x03", string(b))
}

func (c *client) send(b []byte) {
	c.t.Helper()
	_, err := c.Write(b)
	require.NoError(c.t, err)
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	require.NoError(c.t, err)
	return b
}

func optionBytes(id uint32, data []byte) []byte {
	return append(wire.AppendOption(nil, wire.Option{OptionMagic: wire.MagicOption, ID: id, Length: uint32(len(data))}), data...)
}

func (c *client) option(id uint32, data []byte) {
	c.t.Helper()
	c.send(optionBytes(id, data))
}

type optReply struct {
	typ  uint32
	data []byte
}

func (c *client) optReply(id uint32) optReply {
	c.t.Helper()
	r := wire.ParseOptionReply(c.read(wire.OptionReplySize))
	require.Equal(c.t, wire.MagicOptionReply, r.ReplyMagic)
	require.Equal(c.t, id, r.ID)
	require.LessOrEqual(c.t, r.Length, uint32(wire.MaxString+64))
	return optReply{r.Type, c.read(int(r.Length))}
}

// goData is the data of INFO and GO.
func goData(name string, infos ...uint16) []byte {
	b := be.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

func metaQuery(name string, queries ...string) []byte {
	b := be.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = be.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = append(be.AppendUint32(b, uint32(len(q))), q...)
	}
	return b
}

// mustGo does GO and returns size and flags.
func (c *client) mustGo(name string) (size uint64, flags uint16) {
	c.t.Helper()
	c.option(wire.OptGo, goData(name))
	return c.exportInfo(wire.OptGo)
}

func (c *client) exportInfo(id uint32) (size uint64, flags uint16) {
	c.t.Helper()
	r := c.optReply(id)
	require.Equal(c.t, wire.RepInfo, r.typ, "%q", r.data)
	require.Len(c.t, r.data, 12)
	require.Equal(c.t, wire.InfoExport, be.Uint16(r.data))
	require.Equal(c.t, wire.RepAck, c.optReply(id).typ)
	return be.Uint64(r.data[2:]), be.Uint16(r.data[10:])
}

// requireClosed reads until the server closes; n bytes or more must not come before.
func (c *client) requireClosed(n int64) {
	c.t.Helper()
	got, err := io.Copy(io.Discard, io.LimitReader(c, n))
	require.Less(c.t, got, max(n, 1), "the server sent too much")
	var timeout net.Error
	require.False(c.t, errors.As(err, &timeout) && timeout.Timeout(), "the server does not close")
}

func requestBytes(typ, flags uint16, handle, off uint64, length uint32) []byte {
	return wire.AppendRequest(nil, wire.Request{
		RequestMagic: wire.MagicRequest, CommandFlags: flags, Type: typ, Handle: handle, Offset: off, Length: length,
	})
}

// request sends one and returns its handle.
func (c *client) request(typ, flags uint16, off uint64, length uint32, payload []byte) uint64 {
	c.t.Helper()
	c.handle++
	c.send(append(requestBytes(typ, flags, c.handle, off, length), payload...))
	return c.handle
}

// simple reads a simple reply without data.
func (c *client) simple() (handle uint64, errno wire.Errno) {
	c.t.Helper()
	r := wire.ParseReply(c.read(wire.ReplySize))
	require.Equal(c.t, wire.MagicReply, r.ReplyMagic)
	return r.Handle, wire.Errno(r.Error)
}

// answer is the whole reply to one request, simple or structured.
type answer struct {
	handle uint64
	errno  wire.Errno
	data   []byte // of a READ
	holes  int    // chunks
	datas  int
	status []byte // of a BLOCK_STATUS, without the context ID
	text   string
}

// answerTo reads the reply to a request for size bytes at off; size is 0 unless it is a READ. No
// other request may be under way.
func (c *client) answerTo(typ uint16, off uint64, size int) answer {
	c.t.Helper()
	magic := be.Uint32(c.read(4))
	if magic == wire.MagicReply {
		require.False(c.t, c.structured && (typ == wire.CmdRead || typ == wire.CmdBlockStatus), "simple reply")
		b := c.read(12)
		a := answer{errno: wire.Errno(be.Uint32(b)), handle: be.Uint64(b[4:])}
		if a.errno == wire.OK && typ == wire.CmdRead {
			a.data = c.read(size)
		}
		return a
	}
	require.Equal(c.t, wire.MagicChunk, magic)
	require.True(c.t, c.structured)
	a, covered := answer{}, 0
	if typ == wire.CmdRead {
		a.data = make([]byte, size)
	}
	for {
		ch := wire.ParseChunk(append(be.AppendUint32(nil, magic), c.read(wire.ChunkSize-4)...))
		require.Equal(c.t, wire.MagicChunk, ch.Magic)
		require.LessOrEqual(c.t, ch.Length, uint32(wire.MaxPayload+8))
		a.handle = ch.Handle
		switch ch.Type {
		case wire.ChunkNone:
			require.Zero(c.t, ch.Length)
			require.NotZero(c.t, ch.Flags&wire.ChunkFlagDone)
		case wire.ChunkOffsetData:
			at := int(be.Uint64(c.read(8)) - off)
			require.Equal(c.t, covered, at)
			n := int(ch.Length) - 8
			require.LessOrEqual(c.t, at+n, size)
			_, err := io.ReadFull(c, a.data[at:at+n])
			require.NoError(c.t, err)
			covered += n
			a.datas++
		case wire.ChunkOffsetHole:
			require.EqualValues(c.t, 12, ch.Length)
			b := c.read(12)
			require.EqualValues(c.t, covered, be.Uint64(b)-off)
			covered += int(be.Uint32(b[8:]))
			a.holes++
		case wire.ChunkBlockStatus:
			b := c.read(int(ch.Length))
			require.EqualValues(c.t, 1, be.Uint32(b))
			a.status = b[4:]
		case wire.ChunkError:
			b := c.read(int(ch.Length))
			a.errno = wire.Errno(be.Uint32(b))
			require.EqualValues(c.t, len(b)-6, be.Uint16(b[4:]))
			a.text = string(b[6:])
		default:
			require.Failf(c.t, "unexpected chunk", "type %#x", ch.Type)
		}
		if ch.Flags&wire.ChunkFlagDone != 0 {
			if a.errno == wire.OK {
				require.Equal(c.t, size, covered, "bytes covered by the chunks")
			} else {
				a.data = nil
			}
			return a
		}
		magic = be.Uint32(c.read(4))
	}
}

// do sends one request and returns its answer.
func (c *client) do(typ, flags uint16, off uint64, length uint32, payload []byte) answer {
	c.t.Helper()
	h := c.request(typ, flags, off, length, payload)
	size := 0
	if typ == wire.CmdRead {
		size = int(length)
	}
	a := c.answerTo(typ, off, size)
	require.Equal(c.t, h, a.handle)
	return a
}

func (c *client) mustWrite(off uint64, p []byte) {
	c.t.Helper()
	require.Equal(c.t, wire.OK, c.do(wire.CmdWrite, 0, off, uint32(len(p)), p).errno)
}

func (c *client) mustRead(off uint64, n int) []byte {
	c.t.Helper()
	a := c.do(wire.CmdRead, 0, off, uint32(n), nil)
	require.Equal(c.t, wire.OK, a.errno)
	return a.data
}

// requireAlive checks that the connection still works and is in step.
func (c *client) requireAlive() {
	c.t.Helper()
	require.Equal(c.t, wire.OK, c.do(wire.CmdFlush, 0, 0, 0, nil).errno)
}

// pattern is n bytes that repeat after a prime number of them, so that a piece in the wrong place
// shows.
func pattern(n int, seed byte) []byte {
	const period = 65521
	b := make([]byte, n)
	for i := range min(n, period) {
		b[i] = byte(i) ^ byte(i>>8)*7 ^ seed
	}
	for k := period; k < n; k *= 2 {
		copy(b[k:], b[:k])
	}
	return b
}

// plain is an Export with none of the optional interfaces, and hooks.
type plain struct {
	m      *memexport.Export
	read   func(off, size int64) error // before the read
	write  func(off int64) error       // before the write
	sync   func() error
	writes chan int64
}

func (p *plain) Size() int64 { return p.m.Size() }

func (p *plain) Read(ctx context.Context, off, size int64, data *nbd.Data) error {
	if p.read != nil {
		if err := p.read(off, size); err != nil {
			return err
		}
	}
	return p.m.Read(ctx, off, size, data)
}

func (p *plain) WriteAt(ctx context.Context, b []byte, off int64, fua bool) error {
	if p.write != nil {
		if err := p.write(off); err != nil {
			return err
		}
	}
	return p.m.WriteAt(ctx, b, off, fua)
}

func (p *plain) Sync(ctx context.Context) error {
	if p.sync != nil {
		if err := p.sync(); err != nil {
			return err
		}
	}
	return p.m.Sync(ctx)
}

// eventually waits for something that other goroutines are about to do.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, time.Millisecond, what)
}

// releaser returns a function that closes gate, which happens at the end of the test at the
// latest; it has to be called after serve.
func releaser(t testing.TB, gate chan struct{}) func() {
	release := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	return release
}

var noDeadline time.Time
