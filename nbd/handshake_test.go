package nbd_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

func TestHandshakeFlags(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	for _, tc := range []struct {
		flags uint32
		ok    bool
	}{
		{0, true}, {1, true}, {2, true}, {3, true},
		{4, false}, {7, false}, {1 << 16, false}, {1 << 31, false}, {0xffffffff, false},
	} {
		t.Run(fmt.Sprintf("%#x", tc.flags), func(t *testing.T) {
			c := s.dial()
			c.greeting()
			c.send(be.AppendUint32(nil, tc.flags))
			if !tc.ok {
				c.requireClosed(1)
				return
			}
			size, _ := c.mustGo("e")
			require.EqualValues(t, 1<<20, size)
			c.requireAlive()
		})
	}
}

// TestHandshakeGarbage: what is no NBD ends the connection and nothing else.
func TestHandshakeGarbage(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	bystander := s.open("e")
	hello := "\x00\x00\x00\x03"
	clientHello := "16030100a5010000a10303" + strings.Repeat("5a", 160)
	tls, err := hex.DecodeString(clientHello)
	require.NoError(t, err)
	for name, raw := range map[string]string{
		"wrong option magic":           hello + "IHAVEOPS" + "\x00\x00\x00\x07\x00\x00\x00\x00",
		"old-style client":             string(requestBytes(wire.CmdRead, 0, 1, 0, 512)),
		"old-style client after flags": hello + string(requestBytes(wire.CmdRead, 0, 1, 0, 512)),
		"TLS hello":                    string(tls),
		"TLS hello after flags":        hello + string(tls),
		"HTTP request":                 "GET / HTTP/1.1\r\nHost: ballast\r\n\r\n",
		"64 KiB of zeros":              strings.Repeat("\x00", 64<<10),
		"64 KiB of zeros after flags":  hello + strings.Repeat("\x00", 64<<10),
		"64 KiB of ones":               strings.Repeat("\xff", 64<<10),
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.greeting()
			_, _ = c.Write([]byte(raw)) // it may close in between
			c.requireClosed(1)
			bystander.requireAlive()
		})
	}
}

// TestOptionLengths: CVE-2022-26495, CVE-2017-15119: every length at its corners.
func TestOptionLengths(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	t.Run("announced, never sent", func(t *testing.T) {
		for _, n := range []uint32{64<<10 + 1, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 1} {
			for _, id := range []uint32{1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 99} {
				c := s.hello()
				c.send(wire.AppendOption(nil, wire.Option{OptionMagic: wire.MagicOption, ID: id, Length: n}))
				c.requireClosed(1)
			}
		}
	})
	t.Run("largest", func(t *testing.T) {
		c := s.hello()
		for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10} {
			c.option(99, make([]byte, n))
			require.Equal(t, wire.RepErrUnsup, c.optReply(99).typ)
		}
		c.mustGo("e")
		c.requireAlive()
	})
	t.Run("name in INFO and GO", func(t *testing.T) {
		for _, id := range []uint32{wire.OptInfo, wire.OptGo} {
			good := goData("e", wire.InfoName)
			for _, n := range []uint32{0, 2, 3, 4, 5, 0x7fffffff, 0x80000000, 0xfffffff9, 0xfffffffe, 0xffffffff} {
				c := s.hello()
				bad := bytes.Clone(good)
				be.PutUint32(bad, n)
				c.option(id, bad)
				require.Equal(t, wire.RepErrInvalid, c.optReply(id).typ, "name length %d", n)
				c.mustGo("e")
			}
			c := s.hello()
			for n := range good { // every prefix, and a byte too many
				c.option(id, good[:n])
				require.Equal(t, wire.RepErrInvalid, c.optReply(id).typ, "%d bytes", n)
			}
			c.option(id, append(bytes.Clone(good), 0))
			require.Equal(t, wire.RepErrInvalid, c.optReply(id).typ)
			for _, n := range []uint16{0, 2, 0x7fff, 0x8000, 0xffff} {
				bad := bytes.Clone(good)
				be.PutUint16(bad[5:], n)
				c.option(id, bad)
				require.Equal(t, wire.RepErrInvalid, c.optReply(id).typ, "%d infos", n)
			}
			c.mustGo("e")
		}
	})
	t.Run("SET_META_CONTEXT", func(t *testing.T) {
		good := metaQuery("e", "base:allocation")
		c := s.hello()
		c.option(wire.OptStructuredReply, nil)
		c.optReply(wire.OptStructuredReply)
		corners := []uint32{0, 2, 14, 16, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff}
		for _, at := range []int{0, 5, 9} { // name length, count, query length
			for _, n := range corners {
				bad := bytes.Clone(good)
				be.PutUint32(bad[at:], n)
				c.option(wire.OptSetMetaContext, bad)
				require.Equal(t, wire.RepErrInvalid, c.optReply(wire.OptSetMetaContext).typ, "%d at %d", n, at)
			}
		}
		c = s.hello()
		c.option(wire.OptStructuredReply, nil)
		c.optReply(wire.OptStructuredReply)
		for n := range good {
			c.option(wire.OptSetMetaContext, good[:n])
			require.Equal(t, wire.RepErrInvalid, c.optReply(wire.OptSetMetaContext).typ, "%d bytes", n)
		}
		c.structured = true
		c.mustGo("e")
		c.requireAlive()
	})
}

// TestNames: CVE-2022-26496, CVE-2017-15118: names of any kind.
func TestNames(t *testing.T) {
	long := strings.Repeat("n", 4096)
	s := serve(t, nbd.Options{}, map[string]nbd.Export{
		"e": memexport.New(4096), long: memexport.New(8192), long[:256]: memexport.New(512), "größe/%s": memexport.New(1024),
	})
	for _, tc := range []struct {
		what, name string
		reply      uint32 // 0: there is such an export
	}{
		{"256", long[:256], 0}, {"4096", long, 0}, {"umlauts", "größe/%s", 0},
		{"empty", "", wire.RepErrUnknown}, {"1", "x", wire.RepErrUnknown}, {"255", long[:255], wire.RepErrUnknown},
		{"257", long[:257], wire.RepErrUnknown}, {"4095", long[:4095], wire.RepErrUnknown},
		{"4097", long + "n", wire.RepErrInvalid}, {"60000", strings.Repeat("n", 60000), wire.RepErrInvalid},
		{"not UTF-8", "\xff\xfe", wire.RepErrInvalid}, {"overlong UTF-8", "\xc0\xaf", wire.RepErrInvalid},
		{"NUL", "e\x00", wire.RepErrInvalid}, {"path", "../../etc/passwd", wire.RepErrUnknown},
		{"prefix", "größe", wire.RepErrUnknown}, {"control", "\x1b[2J\r\n", wire.RepErrUnknown},
		{"printf", "%n%n%s%x", wire.RepErrUnknown}, {"case", "E", wire.RepErrUnknown},
	} {
		t.Run(tc.what, func(t *testing.T) {
			for _, id := range []uint32{wire.OptInfo, wire.OptGo} {
				c := s.hello()
				c.option(id, goData(tc.name))
				if tc.reply == 0 {
					c.exportInfo(id)
					continue
				}
				require.Equal(t, tc.reply, c.optReply(id).typ)
				c.mustGo("e") // still haggling
				c.requireAlive()
			}
			c := s.hello()
			c.option(wire.OptExportName, []byte(tc.name))
			if tc.reply != 0 {
				c.requireClosed(1)
				return
			}
			c.read(10)
			c.requireAlive()
		})
	}
}

func TestExportName(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 12345)
	for _, tc := range []struct {
		flags  uint32
		zeroes int
	}{{0, 124}, {1, 124}, {2, 0}, {3, 0}} {
		for _, name := range []string{"e", ""} {
			c := s.dial()
			c.greeting()
			c.send(be.AppendUint32(nil, tc.flags))
			c.option(wire.OptExportName, []byte(name))
			b := c.read(10 + tc.zeroes)
			require.EqualValues(t, 12345, be.Uint64(b))
			require.NotZero(t, be.Uint16(b[8:])&wire.HasFlags)
			require.Equal(t, make([]byte, tc.zeroes), b[10:])
			c.requireAlive()
		}
	}
}

func TestAbort(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	for name, more := range map[string][]byte{
		"plain": nil, "then more": bytes.Repeat(optionBytes(wire.OptList, nil), 100), "then garbage": make([]byte, 8192),
	} {
		t.Run(name, func(t *testing.T) {
			c := s.hello()
			c.send(append(optionBytes(wire.OptAbort, nil), more...))
			require.Equal(t, wire.RepAck, c.optReply(wire.OptAbort).typ)
			c.requireClosed(1)
		})
	}
	c := s.hello()
	c.option(wire.OptAbort, []byte("ignored"))
	require.Equal(t, wire.RepAck, c.optReply(wire.OptAbort).typ)
	c.requireClosed(1)
	c = s.hello()
	c.option(wire.OptAbort, nil)
	c.Close() // does not wait for the ACK
	s.open("e").requireAlive()
}

func TestList(t *testing.T) {
	exports := map[string]nbd.Export{}
	for i := range 30 {
		exports[fmt.Sprintf("disk%02d", i)] = memexport.New(4096)
	}
	s := serve(t, nbd.Options{}, exports)
	c := s.hello()
	c.option(wire.OptList, []byte("data"))
	require.Equal(t, wire.RepErrInvalid, c.optReply(wire.OptList).typ)
	c.option(wire.OptList, nil)
	for i := range 30 {
		r := c.optReply(wire.OptList)
		require.Equal(t, wire.RepServer, r.typ)
		name := fmt.Sprintf("disk%02d", i)
		require.Equal(t, be.AppendUint32(nil, 6), r.data[:4])
		require.Equal(t, name+"the export "+name, string(r.data[4:]))
	}
	require.Equal(t, wire.RepAck, c.optReply(wire.OptList).typ)
	for i := range 30 * 4 { // more than 64 options: who was told of 30 exports may ask about them
		c.option(wire.OptInfo, goData(fmt.Sprintf("disk%02d", i%30)))
		c.exportInfo(wire.OptInfo)
	}
}

func TestInfoAndGo(t *testing.T) {
	s, e := serveMem(t, nbd.Options{}, 1<<20)
	c := s.hello()
	c.option(wire.OptInfo, goData("e", wire.InfoBlockSize, wire.InfoName, wire.InfoDescription, wire.InfoName, 77, wire.InfoExport))
	want := [][]byte{
		nil,
		append(be16(wire.InfoName), "e"...),
		append(be16(wire.InfoDescription), "the export e"...),
		{0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0},
	}
	var flags uint16
	for i, w := range want {
		r := c.optReply(wire.OptInfo)
		require.Equal(t, wire.RepInfo, r.typ)
		if i == 0 {
			flags = be.Uint16(r.data[10:])
			require.EqualValues(t, 1<<20, be.Uint64(r.data[2:]))
			continue
		}
		require.Equal(t, w, r.data)
	}
	require.Equal(t, wire.RepAck, c.optReply(wire.OptInfo).typ)
	// An export that was asked about is not the one that an unknown name gets.
	c.option(wire.OptGo, goData("other"))
	require.Equal(t, wire.RepErrUnknown, c.optReply(wire.OptGo).typ)
	size, again := c.mustGo("e")
	require.EqualValues(t, 1<<20, size)
	require.Equal(t, flags, again, "INFO and GO must agree")
	c.requireAlive()
	// GO twice: an option is no request.
	c.option(wire.OptGo, goData("e", wire.InfoName, wire.InfoBlockSize, wire.InfoExport))
	c.requireClosed(1)
	require.EqualValues(t, 1, e.Syncs())
}

func be16(v uint16) []byte { return be.AppendUint16(nil, v) }

func TestInfoFlood(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	c := s.hello()
	go func() { _, _ = c.Write(bytes.Repeat(optionBytes(wire.OptInfo, goData("e")), 1000)) }()
	n := 0
	for ; ; n++ {
		b := make([]byte, 2*wire.OptionReplySize+12)
		if _, err := io.ReadFull(c, b); err != nil {
			break
		}
	}
	require.LessOrEqual(t, n, 64)
	s.open("e").requireAlive()
}

func TestUnknownOptions(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{MaxOptions: 1001}, 1<<20)
	c := s.hello()
	for i := range 1000 {
		id := uint32(12 + i*7919)
		c.option(id, make([]byte, i%97))
		require.Equal(t, wire.RepErrUnsup, c.optReply(id).typ)
	}
	c.mustGo("e")
	c.requireAlive()
	c = s.hello()
	go func() { _, _ = c.Write(bytes.Repeat(optionBytes(99, nil), 2000)) }()
	n, _ := io.Copy(io.Discard, c)
	require.LessOrEqual(t, n, int64(1001*100))
}

// TestRefusedOptions: STARTTLS, EXTENDED_HEADERS, PEEK_EXPORT, and data where none belongs.
func TestRefusedOptions(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	c := s.hello()
	for _, tc := range []struct {
		id    uint32
		data  []byte
		reply uint32
	}{
		{wire.OptStartTLS, nil, wire.RepErrUnsup},
		{wire.OptStartTLS, []byte{1}, wire.RepErrInvalid},
		{wire.OptStartTLS, nil, wire.RepErrUnsup},
		{wire.OptExtendedHeaders, nil, wire.RepErrUnsup},
		{wire.OptPeekExport, []byte("e"), wire.RepErrUnsup},
		{wire.OptStructuredReply, []byte{1}, wire.RepErrInvalid},
		{wire.OptStructuredReply, nil, wire.RepAck},
		{wire.OptStructuredReply, nil, wire.RepAck},
	} {
		c.option(tc.id, tc.data)
		require.Equal(t, tc.reply, c.optReply(tc.id).typ, "option %d", tc.id)
	}
	// Plaintext right behind STARTTLS is nothing but the next option.
	c.send(append(optionBytes(wire.OptStartTLS, nil), optionBytes(wire.OptGo, goData("e"))...))
	require.Equal(t, wire.RepErrUnsup, c.optReply(wire.OptStartTLS).typ)
	c.exportInfo(wire.OptGo)
	c.structured = true
	c.requireAlive()
}

func TestMetaContexts(t *testing.T) {
	s := serve(t, nbd.Options{}, map[string]nbd.Export{
		"e": memexport.New(1 << 20), "f": memexport.New(1 << 20), "plain": &plain{m: memexport.New(1 << 20)},
	})
	start := func(t *testing.T) *client {
		c := s.hello()
		c.option(wire.OptStructuredReply, nil)
		require.Equal(t, wire.RepAck, c.optReply(wire.OptStructuredReply).typ)
		c.structured = true
		return c
	}
	ask := func(t *testing.T, c *client, id uint32, data []byte) (ids []uint32, last uint32) {
		c.option(id, data)
		for {
			r := c.optReply(id)
			if r.typ != wire.RepMetaContext {
				return ids, r.typ
			}
			require.Equal(t, "base:allocation", string(r.data[4:]))
			ids = append(ids, be.Uint32(r.data))
		}
	}
	many := make([]string, 6000)
	for i := range many {
		many[i] = "x:y"
	}
	many[5999] = "base:allocation"
	for _, tc := range []struct {
		what  string
		id    uint32
		data  []byte
		count int
		reply uint32
	}{
		{"list all", wire.OptListMetaContext, metaQuery("e"), 1, wire.RepAck},
		{"list base", wire.OptListMetaContext, metaQuery("e", "base:"), 1, wire.RepAck},
		{"list exact", wire.OptListMetaContext, metaQuery("e", "base:allocation"), 1, wire.RepAck},
		{"list twice", wire.OptListMetaContext, metaQuery("e", "base:allocation", "base:"), 1, wire.RepAck},
		{"list foreign", wire.OptListMetaContext, metaQuery("e", "qemu:", "base:other"), 0, wire.RepAck},
		{"list unknown export", wire.OptListMetaContext, metaQuery("nope"), 0, wire.RepErrUnknown},
		{"list plain export", wire.OptListMetaContext, metaQuery("plain"), 0, wire.RepAck},
		{"set none", wire.OptSetMetaContext, metaQuery("e"), 0, wire.RepAck},
		{"set base", wire.OptSetMetaContext, metaQuery("e", "base:"), 0, wire.RepAck},
		{"set exact", wire.OptSetMetaContext, metaQuery("e", "base:allocation"), 1, wire.RepAck},
		{"set among thousands", wire.OptSetMetaContext, metaQuery("e", many...), 1, wire.RepAck},
		{"set unknown export", wire.OptSetMetaContext, metaQuery("nope", "base:allocation"), 0, wire.RepErrUnknown},
		{"set plain export", wire.OptSetMetaContext, metaQuery("plain", "base:allocation"), 0, wire.RepAck},
		{"no namespace", wire.OptSetMetaContext, metaQuery("e", "allocation"), 0, wire.RepErrInvalid},
		{"query too long", wire.OptSetMetaContext, metaQuery("e", "base:"+strings.Repeat("x", 4092)), 0, wire.RepErrInvalid},
		{"query not UTF-8", wire.OptSetMetaContext, metaQuery("e", "base:\xff"), 0, wire.RepErrInvalid},
	} {
		t.Run(tc.what, func(t *testing.T) {
			c := start(t)
			ids, last := ask(t, c, tc.id, tc.data)
			require.Equal(t, tc.reply, last)
			require.Len(t, ids, tc.count)
			c.mustGo("e")
			a := c.do(wire.CmdBlockStatus, 0, 0, 4096, nil)
			if tc.id == wire.OptSetMetaContext && tc.count == 1 {
				require.Equal(t, wire.OK, a.errno)
			} else {
				require.Equal(t, wire.EINVAL, a.errno)
			}
			c.requireAlive()
		})
	}
	t.Run("before structured replies", func(t *testing.T) {
		c := s.hello()
		_, last := ask(t, c, wire.OptSetMetaContext, metaQuery("e", "base:allocation"))
		require.Equal(t, wire.RepErrInvalid, last)
	})
	t.Run("for another export", func(t *testing.T) {
		c := start(t)
		_, last := ask(t, c, wire.OptSetMetaContext, metaQuery("f", "base:allocation"))
		require.Equal(t, wire.RepAck, last)
		c.mustGo("e")
		require.Equal(t, wire.EINVAL, c.do(wire.CmdBlockStatus, 0, 0, 4096, nil).errno)
	})
	for what, bad := range map[string][]byte{
		"failed set forgets":  {0, 0},
		"unknown set forgets": metaQuery("nope", "base:allocation"),
		"empty set forgets":   metaQuery("e"),
	} {
		t.Run(what, func(t *testing.T) {
			c := start(t)
			ids, _ := ask(t, c, wire.OptSetMetaContext, metaQuery("e", "base:allocation"))
			require.Len(t, ids, 1)
			ask(t, c, wire.OptSetMetaContext, bad)
			c.mustGo("e")
			require.Equal(t, wire.EINVAL, c.do(wire.CmdBlockStatus, 0, 0, 4096, nil).errno)
		})
	}
}

func TestTransmissionFlags(t *testing.T) {
	s := serve(t, nbd.Options{}, nil)
	s.set.Add(memexport.New(1), nbd.Info{Name: "all"})
	s.set.Add(memexport.New(1), nbd.Info{Name: "ro", ReadOnly: true, Rotational: true})
	s.set.Add(&plain{m: memexport.New(1)}, nbd.Info{Name: "plain"})
	const always = wire.HasFlags | wire.SendFlush | wire.SendFUA | wire.CanMultiConn
	for name, want := range map[string]uint16{
		"all":   always | wire.SendTrim | wire.SendWriteZeroes | wire.SendFastZero | wire.SendCache,
		"ro":    always | wire.ReadOnly | wire.Rotational | wire.SendCache,
		"plain": always,
	} {
		for _, structured := range []bool{false, true} {
			c := s.hello()
			if structured {
				c.option(wire.OptStructuredReply, nil)
				c.optReply(wire.OptStructuredReply)
				want |= wire.SendDF
			}
			_, flags := c.mustGo(name)
			require.Equal(t, want, flags, "%s, structured %v", name, structured)
		}
	}
}

// TestDribble: options one byte at a time, and all at once, mean the same.
func TestDribble(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	var script []byte
	script = be.AppendUint32(script, 3)
	script = append(script, optionBytes(wire.OptStructuredReply, nil)...)
	script = append(script, optionBytes(99, pattern(100, 1))...)
	script = append(script, optionBytes(wire.OptInfo, goData("e", wire.InfoBlockSize))...)
	script = append(script, optionBytes(wire.OptGo, goData("e"))...)
	script = append(script, requestBytes(wire.CmdWrite, 0, 1, 100, 50)...)
	script = append(script, pattern(50, 2)...)
	script = append(script, requestBytes(wire.CmdDisc, 0, 3, 0, 0)...)
	var want []byte
	for _, step := range []int{len(script), 1, 3, 17} {
		c := s.dial()
		for b := script; len(b) > 0; b = b[min(step, len(b)):] {
			c.send(b[:min(step, len(b))])
		}
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		if want == nil {
			want = got
		}
		require.Equal(t, want, got, "%d bytes at a time", step)
		require.Equal(t, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, got[len(got)-12:])
	}
}

// TestCloseEverywhere: CVE-2013-7441, CVE-2017-9524, CVE-2024-7409: a client that goes at every
// byte of a handshake and of the first requests, in every way there is.
func TestCloseEverywhere(t *testing.T) {
	e := memexport.New(1 << 20)
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	script := be.AppendUint32(nil, 3)
	script = append(script, optionBytes(wire.OptStructuredReply, nil)...)
	script = append(script, optionBytes(wire.OptSetMetaContext, metaQuery("e", "base:allocation"))...)
	script = append(script, optionBytes(wire.OptGo, goData("e", wire.InfoBlockSize))...)
	script = append(script, requestBytes(wire.CmdWrite, 0, 1, 0, 20)...)
	script = append(script, pattern(20, 9)...)
	script = append(script, requestBytes(wire.CmdRead, 0, 2, 0, 20)...)
	for n := range len(script) + 1 {
		for _, how := range []string{"close", "reset", "half-close"} {
			nc, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			tcp := nc.(*net.TCPConn)
			require.NoError(t, tcp.SetDeadline(time.Now().Add(patience)))
			_, err = tcp.Write(script[:n])
			require.NoError(t, err)
			switch how {
			case "reset":
				require.NoError(t, tcp.SetLinger(0))
			case "half-close":
				require.NoError(t, tcp.CloseWrite())
				_, err := io.Copy(io.Discard, tcp)
				require.NoError(t, err, "after %d bytes", n)
			}
			tcp.Close()
		}
	}
	s.open("e").requireAlive()
	require.NoError(t, s.Shutdown(t.Context()))
	require.ErrorIs(t, <-served, nbd.ErrServerClosed)
}
