package nbd_test

import (
	"bytes"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// script is a peer that sends all it has, then half-closes, and takes all replies.
type script struct {
	net.Conn
	in  *bytes.Reader
	out atomic.Int64
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { s.out.Add(int64(len(p))); return len(p), nil }
func (s *script) Close() error                { return nil }
func (s *script) RemoteAddr() net.Addr        { return nil }

// throwAt sends input to a server after prefix and takes what it answers. The server
// must come to its end, give everything back and not allocate by what the input claims.
func throwAt(t *testing.T, prefix, input []byte) {
	m := memexport.New(1 << 20)
	set := &memexport.Set{}
	set.Add(m, nbd.Info{Name: "e"})
	set.Add(&plain{m: memexport.New(1000)}, nbd.Info{Name: "p"})
	s := nbd.NewServer(set, nbd.Options{Logger: quiet()})
	peer := &script{in: bytes.NewReader(append(prefix, input...))}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(t, s.ServeConn(t.Context(), peer))
	n := peer.out.Load()
	runtime.ReadMemStats(&after)
	// A request may take 64 MiB, twice with rounding and alignment; replies are read into nothing.
	bound := uint64(8<<20+2*(64<<20)) + 64*uint64(len(input)) + uint64(n)
	require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, bound)
	require.NoError(t, s.Close())
	require.Zero(t, s.Stats().InFlightBytes)
	require.Zero(t, m.Outstanding())
	require.Zero(t, set.Opens("e")+set.Opens("p"))
	require.Zero(t, s.Stats().Panics)
}

func FuzzHandshake(f *testing.F) {
	flags := be.AppendUint32(nil, 3)
	for _, seed := range [][]byte{
		optionBytes(wire.OptExportName, []byte("e")),
		optionBytes(wire.OptExportName, nil),
		optionBytes(wire.OptAbort, nil),
		optionBytes(wire.OptList, nil),
		optionBytes(wire.OptStartTLS, nil),
		optionBytes(wire.OptInfo, goData("e", 0, 1, 2, 3, 4)),
		optionBytes(wire.OptGo, goData("p", 3)),
		append(optionBytes(wire.OptStructuredReply, nil), optionBytes(wire.OptSetMetaContext, metaQuery("e", "base:allocation"))...),
		append(optionBytes(wire.OptStructuredReply, nil), optionBytes(wire.OptListMetaContext, metaQuery("e"))...),
		wire.AppendOption(nil, wire.Option{OptionMagic: wire.MagicOption, ID: 7, Length: 1<<32 - 1}),
	} {
		f.Add(append(flags[:4:4], seed...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) { throwAt(t, nil, input) })
}

func FuzzTransmission(f *testing.F) {
	for typ := range uint16(10) {
		f.Add(true, append(requestBytes(typ, 0, 1, 0, 512), make([]byte, 512)...))
		f.Add(false, append(requestBytes(typ, 1<<typ, 1, 1<<20-100, 5000), make([]byte, 40)...))
	}
	f.Add(true, requestBytes(wire.CmdRead, 0, 1, 1<<63, 1<<32-1))
	f.Add(true, append(requestBytes(wire.CmdWrite, 0, 1, 0, 20000), make([]byte, 20000)...))
	f.Fuzz(func(t *testing.T, structured bool, input []byte) {
		prefix := be.AppendUint32(nil, 3)
		name := "p"
		if structured {
			name = "e"
			prefix = append(prefix, optionBytes(wire.OptStructuredReply, nil)...)
			prefix = append(prefix, optionBytes(wire.OptSetMetaContext, metaQuery("e", "base:allocation"))...)
		}
		throwAt(t, append(prefix, optionBytes(wire.OptGo, goData(name))...), input)
	})
}
