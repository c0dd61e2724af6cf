package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

const maxU64 = 1<<64 - 1

// TestRequests is the table of what requests of any kind get, over simple and structured replies,
// on exports with all and with none of the optional interfaces.
func TestRequests(t *testing.T) {
	const size = 1<<20 + 100
	type call struct {
		what       string
		typ, flags uint16
		off        uint64
		length     uint32
		want       wire.Errno
		plain      wire.Errno // on an export without the optional interfaces
	}
	const (
		R, W, F, T, C, Z, S = wire.CmdRead, wire.CmdWrite, wire.CmdFlush, wire.CmdTrim, wire.CmdCache, wire.CmdWriteZeroes, wire.CmdBlockStatus
		ok, inval, nospc    = wire.OK, wire.EINVAL, wire.ENOSPC
		fua                 = wire.CmdFlagFUA
	)
	calls := []call{
		{"read", R, 0, 0, 4096, ok, ok},
		{"read everything", R, 0, 0, size, ok, ok},
		{"read nothing", R, 0, 5, 0, ok, ok},
		{"read nothing at the end", R, 0, size, 0, ok, ok},
		{"read nothing beyond the end", R, 0, size + 1, 0, inval, inval},
		{"read the last byte", R, 0, size - 1, 1, ok, ok},
		{"read one byte too many", R, 0, size - 1, 2, inval, inval},
		{"read beyond the end", R, 0, size, 1, inval, inval},
		{"read unaligned", R, 0, 4095, 4099, ok, ok},
		{"read at 2^31", R, 0, 1 << 31, 512, inval, inval},
		{"read at 2^32", R, 0, 1 << 32, 512, inval, inval},
		{"read at 2^63-1", R, 0, 1<<63 - 1, 512, inval, inval},
		{"read at 2^63", R, 0, 1 << 63, 512, inval, inval},
		{"read at 2^64-1", R, 0, maxU64, 1, inval, inval},
		{"read that wraps", R, 0, maxU64 - 511, 1024, inval, inval},
		{"read of 64 MiB + 1", R, 0, 0, 64<<20 + 1, inval, inval},
		{"read of 2 GiB", R, 0, 0, 1 << 31, inval, inval},
		{"read of 4 GiB - 1", R, 0, 0, 1<<32 - 1, inval, inval},
		{"FUA on read", R, fua, 0, 4096, ok, ok},
		{"write", W, 0, 0, 4096, ok, ok},
		{"write nothing", W, 0, 0, 0, ok, ok},
		{"write nothing at the end", W, 0, size, 0, ok, ok},
		{"write nothing beyond the end", W, 0, size + 1, 0, nospc, nospc},
		{"write unaligned", W, 0, 511, 513, ok, ok},
		{"write large", W, 0, 3, 300 << 10, ok, ok},
		{"write of 16 KiB - 1", W, 0, 0, 16<<10 - 1, ok, ok},
		{"write of 16 KiB", W, 0, 0, 16 << 10, ok, ok},
		{"write the last byte", W, 0, size - 1, 1, ok, ok},
		{"write one byte too many", W, 0, size - 1, 2, nospc, nospc},
		{"write large beyond the end", W, 0, size - 1, 1 << 20, nospc, nospc},
		{"write that wraps", W, 0, maxU64, 2, nospc, nospc},
		{"write with FUA", W, fua, 0, 4096, ok, ok},
		{"write large with FUA", W, fua, 0, 64 << 10, ok, ok},
		{"write with an unknown flag", W, 1 << 9, 0, 4096, inval, inval},
		{"write with PAYLOAD_LEN", W, wire.CmdFlagPayloadLen, 0, 4096, inval, inval},
		{"write with DF", W, wire.CmdFlagDF, 0, 100, inval, inval},
		{"write with NO_HOLE", W, wire.CmdFlagNoHole, 0, 100, inval, inval},
		{"write of 64 MiB + 1", W, 0, 0, 64<<20 + 1, inval, inval},
		{"flush", F, 0, 0, 0, ok, ok},
		{"flush with FUA", F, fua, 0, 0, ok, ok},
		{"flush with an offset", F, 0, 512, 0, inval, inval},
		{"flush with a length", F, 0, 0, 512, inval, inval},
		{"trim", T, 0, 0, 4096, ok, inval},
		{"trim everything", T, 0, 0, size, ok, inval},
		{"trim nothing", T, 0, 0, 0, ok, inval},
		{"trim with FUA", T, fua, 100, 100000, ok, inval},
		{"trim beyond the end", T, 0, size, 1, inval, inval},
		{"trim of 4 GiB - 1", T, 0, 0, 1<<32 - 1, inval, inval},
		{"trim that wraps", T, 0, maxU64, 1<<32 - 1, inval, inval},
		{"trim with NO_HOLE", T, wire.CmdFlagNoHole, 0, 4096, inval, inval},
		{"cache", C, 0, 0, 4096, ok, inval},
		{"cache nothing", C, 0, 0, 0, ok, inval},
		{"cache beyond the end", C, 0, size, 1, inval, inval},
		{"cache with an unknown flag", C, 1 << 15, 0, 1, inval, inval},
		{"cache of 4 GiB - 1", C, 0, 0, 1<<32 - 1, inval, inval},
		{"zero", Z, 0, 0, 4096, ok, inval},
		{"zero everything", Z, 0, 0, size, ok, inval},
		{"zero nothing", Z, 0, 0, 0, ok, inval},
		{"zero with NO_HOLE and FUA", Z, wire.CmdFlagNoHole | fua, 77, 70000, ok, inval},
		{"zero fast", Z, wire.CmdFlagFastZero, 0, 4096, ok, inval},
		{"zero fast when it is not", Z, wire.CmdFlagFastZero | wire.CmdFlagNoHole, 0, 4096, wire.ENOTSUP, inval},
		{"zero beyond the end", Z, 0, size, 1, nospc, inval},
		{"zero of 4 GiB - 1", Z, 0, 0, 1<<32 - 1, nospc, inval},
		{"zero with DF", Z, wire.CmdFlagDF, 0, 1, inval, inval},
		{"FAST_ZERO on read", R, wire.CmdFlagFastZero, 0, 4096, inval, inval},
		{"REQ_ONE on read", R, wire.CmdFlagReqOne, 0, 4096, inval, inval},
		{"all flags on read", R, 0xffff, 0, 4096, inval, inval},
		{"status of nothing", S, 0, 0, 0, inval, inval},
		{"status beyond the end", S, 0, size, 1, inval, inval},
		{"resize", 8, 0, 1 << 21, 0, inval, inval},
		{"unknown with a length", 9, 0, 0, 4096, inval, inval},
		{"unknown 0xffff", 0xffff, 0xffff, maxU64, 1<<32 - 1, inval, inval},
	}
	e := memexport.New(size)
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e, "plain": &plain{m: memexport.New(size)}})
	payload := pattern(64<<20+1, 0)
	for _, name := range []string{"e", "plain"} {
		for _, structured := range []bool{false, true} {
			c := s.open(name)
			if structured && name == "e" {
				c = s.openStructured(name)
			}
			for _, call := range calls {
				t.Run(fmt.Sprintf("%s/%v/%s", name, structured, call.what), func(t *testing.T) {
					var p []byte
					if call.typ == wire.CmdWrite {
						p = payload[:call.length]
					}
					want := call.want
					if name == "plain" {
						want = call.plain
					}
					a := c.do(call.typ, call.flags, call.off, call.length, p)
					require.Equal(t, want, a.errno)
					if want != wire.OK && c.structured {
						require.NotEmpty(t, a.text)
					}
					c.requireAlive()
				})
			}
		}
	}
}

func TestReadOnly(t *testing.T) {
	s := serve(t, nbd.Options{}, nil)
	s.set.Add(memexport.New(1<<20), nbd.Info{Name: "ro", ReadOnly: true})
	c := s.open("ro")
	for _, n := range []uint32{0, 512, 32 << 10, 1 << 20, 2 << 20} {
		require.Equal(t, wire.EPERM, c.do(wire.CmdWrite, 0, 0, n, make([]byte, n)).errno)
		require.Equal(t, wire.EPERM, c.do(wire.CmdTrim, 0, 0, n, nil).errno)
		require.Equal(t, wire.EPERM, c.do(wire.CmdWriteZeroes, 0, 0, n, nil).errno)
	}
	require.Equal(t, make([]byte, 4096), c.mustRead(0, 4096))
}

// TestBadRequests: the stream is lost, so the connection ends.
func TestBadRequests(t *testing.T) {
	s, e := serveMem(t, nbd.Options{}, 1<<20)
	bystander := s.open("e")
	bad := requestBytes(wire.CmdRead, 0, 1, 0, 512)
	bad[0] ^= 1
	for what, b := range map[string][]byte{
		"magic":             bad,
		"zeros":             make([]byte, 64<<10),
		"write of 4 GiB":    requestBytes(wire.CmdWrite, 0, 1, 0, 1<<32-1),
		"write of 128 MiB+": requestBytes(wire.CmdWrite, 0, 1, 0, 128<<20+1),
		"pipelined garbage": append(requestBytes(wire.CmdWrite, 0, 1, 0, 4), pattern(4000, 1)...),
	} {
		t.Run(what, func(t *testing.T) {
			c := s.open("e")
			_, _ = c.Write(b)
			c.requireClosed(17)
			bystander.requireAlive()
		})
	}
	// What came before the garbage was a good request.
	require.Equal(t, pattern(4, 1), bystander.mustRead(0, 4))
	// A reply may be read before the server is through with its memory.
	require.Eventually(t, func() bool { return e.Outstanding() == 0 }, time.Minute, time.Millisecond)
}

// TestCutOffPayload: nothing of a payload that does not come whole is applied.
func TestCutOffPayload(t *testing.T) {
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": memexport.New(1 << 20), "plain": &plain{m: memexport.New(1 << 20)}})
	for _, name := range []string{"e", "plain"} {
		for _, n := range []int{100, 4096, 16 << 10, 512 << 10} {
			for _, sent := range []int{0, 1, n / 2, n - 1} {
				c := s.open(name)
				c.send(append(requestBytes(wire.CmdWrite, 0, 1, 0, uint32(n)), pattern(sent, 5)...))
				c.Close()
			}
		}
		require.Equal(t, make([]byte, 1<<20), s.open(name).mustRead(0, 1<<20))
	}
}

// TestSizes writes and reads back every size that takes another path, up to 64 MiB, with both
// kinds of export.
func TestSizes(t *testing.T) {
	const size = 65 << 20
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": memexport.New(size), "plain": &plain{m: memexport.New(size)}})
	data := pattern(64<<20, 3)
	for _, name := range []string{"e", "plain"} {
		for _, c := range []*client{s.open(name), nil} {
			if c == nil {
				if name == "plain" {
					continue
				}
				c = s.openStructured(name)
			}
			sizes := []int{1, 511, 4096, 16<<10 - 1, 16 << 10, 64 << 10, 256<<10 - 28, 256 << 10, 1 << 20}
			if c.structured || name == "plain" {
				sizes = append(sizes, 32<<20+1, 64<<20)
			}
			for _, n := range sizes {
				off := uint64(n % 4099)
				c.mustWrite(off, data[:n])
				require.True(t, bytes.Equal(data[:n], c.mustRead(off, n)), "%d bytes of %s", n, name)
			}
		}
	}
}

// TestHoles: sparse reads come as hole chunks, DF makes one chunk of them.
func TestHoles(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 80<<20)
	c := s.openStructured("e")
	c.mustWrite(128<<10, pattern(1000, 1))
	want := make([]byte, 256<<10)
	copy(want[128<<10:], pattern(1000, 1))
	a := c.do(wire.CmdRead, 0, 0, 256<<10, nil)
	require.Equal(t, want, a.data)
	require.Equal(t, [2]int{2, 1}, [2]int{a.holes, a.datas})
	a = c.do(wire.CmdRead, wire.CmdFlagDF, 0, 256<<10, nil)
	require.Equal(t, want, a.data)
	require.Equal(t, [2]int{0, 1}, [2]int{a.holes, a.datas})
	a = c.do(wire.CmdRead, wire.CmdFlagDF, 1<<20, 32<<20, nil)
	require.Equal(t, wire.OK, a.errno)
	require.Equal(t, [2]int{1, 0}, [2]int{a.holes, a.datas})
	require.Equal(t, wire.EOVERFLOW, c.do(wire.CmdRead, wire.CmdFlagDF, 1<<20, 32<<20+1, nil).errno)
	// More than 32 MiB of one run is more than one chunk.
	big := pattern(40<<20, 7)
	c.mustWrite(1<<20, big)
	a = c.do(wire.CmdRead, 0, 1<<20, 40<<20, nil)
	require.True(t, bytes.Equal(big, a.data))
	require.Equal(t, 2, a.datas)
	simple := s.open("e")
	require.Equal(t, want, simple.mustRead(0, 256<<10))
}

func statusOf(b []byte) (all [][2]uint32) {
	for ; len(b) > 0; b = b[8:] {
		all = append(all, [2]uint32{be.Uint32(b), be.Uint32(b[4:])})
	}
	return all
}

// fixedMap is an export of any size whose extents are given.
type fixedMap struct {
	*memexport.Export
	size int64
	ext  atomic.Pointer[[]nbd.Extent]
	fail atomic.Bool
}

func (f *fixedMap) Size() int64 { return f.size }

func (f *fixedMap) Extents(_ context.Context, ext []nbd.Extent, _, _ int64, limit int) ([]nbd.Extent, error) {
	if f.fail.Load() {
		return ext, syscall.EIO
	}
	all := *f.ext.Load()
	return append(ext, all[:min(limit, len(all))]...), nil
}

// TestBlockStatus: CVE-2025-47711, CVE-2025-47712.
func TestBlockStatus(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	c := s.openStructured("e")
	c.mustWrite(128<<10, pattern(1, 1))
	const hole = wire.StateHole | wire.StateZero
	a := c.do(wire.CmdBlockStatus, 0, 0, 1<<20, nil)
	require.Equal(t, [][2]uint32{{128 << 10, hole}, {64 << 10, 0}, {1<<20 - 192<<10, hole}}, statusOf(a.status))
	a = c.do(wire.CmdBlockStatus, wire.CmdFlagReqOne, 0, 1000, nil)
	require.Equal(t, [][2]uint32{{1000, hole}}, statusOf(a.status))
	a = c.do(wire.CmdBlockStatus, wire.CmdFlagReqOne, 100, 1<<20-100, nil)
	require.Equal(t, [][2]uint32{{128<<10 - 100, hole}}, statusOf(a.status))
	a = c.do(wire.CmdBlockStatus, 0, 128<<10, 1, nil)
	require.Len(t, statusOf(a.status), 1, "no more than what was asked for, but the last may be longer")

	const huge = 1<<63 - 512
	f := &fixedMap{Export: memexport.New(1), size: huge}
	s.set.Add(f, nbd.Info{Name: "huge"})
	c = s.openStructured("huge")
	const most = 1<<32 - 1<<20
	for _, tc := range []struct {
		what   string
		off    uint64
		length uint32
		ext    []nbd.Extent
		want   [][2]uint32
	}{
		{"everything at once", 0, 1<<32 - 1, []nbd.Extent{{Size: huge}}, [][2]uint32{{most, 0}}},
		{"near 2^63", huge - 512, 512, []nbd.Extent{{Size: 512, Hole: true}}, [][2]uint32{{512, 1}}},
		{"beyond the end", huge - 512, 512, []nbd.Extent{{Size: 1 << 40}}, [][2]uint32{{512, 0}}},
		{"neighbours", 0, 4096, []nbd.Extent{{Size: 512}, {Size: 512}, {Size: 512, Zero: true}, {Size: 1 << 20}},
			[][2]uint32{{1024, 0}, {512, 2}, {1 << 20, 0}}},
		{"neighbours beyond 2^32", 0, 1<<32 - 1, []nbd.Extent{{Size: 3 << 30}, {Size: 3 << 30}}, [][2]uint32{{3 << 30, 0}, {3 << 30, 0}}},
		{"empty ones", 0, 4096, []nbd.Extent{{}, {Size: 4096}, {}}, [][2]uint32{{4096, 0}}},
		{"too many", 0, 1024, []nbd.Extent{{Size: 1024}, {Size: 1024, Hole: true}}, [][2]uint32{{1024, 0}}},
		{"none", 0, 1024, nil, nil},
		{"negative", 0, 1024, []nbd.Extent{{Size: -5}}, nil},
	} {
		t.Run(tc.what, func(t *testing.T) {
			f.ext.Store(&tc.ext)
			a := c.do(wire.CmdBlockStatus, 0, tc.off, tc.length, nil)
			if tc.want == nil {
				require.Equal(t, wire.EIO, a.errno)
				return
			}
			require.Equal(t, tc.want, statusOf(a.status))
		})
	}
	f.fail.Store(true)
	require.Equal(t, wire.EIO, c.do(wire.CmdBlockStatus, 0, 0, 512, nil).errno)
	c.requireAlive()
}

// TestErrnos sends every kind of error through a read and a write.
func TestErrnos(t *testing.T) {
	var err atomic.Value
	fail := func() error { return err.Load().(error) }
	e := &plain{
		m:     memexport.New(1 << 20),
		read:  func(int64, int64) error { return fail() },
		write: func(int64) error { return fail() },
		sync:  func() error { return fail() },
	}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	c, cs := s.open("e"), s.hello()
	cs.option(wire.OptStructuredReply, nil)
	cs.optReply(wire.OptStructuredReply)
	cs.structured = true
	cs.mustGo("e")
	for _, tc := range []struct {
		err  error
		want wire.Errno
	}{
		{syscall.EIO, wire.EIO}, {syscall.ENXIO, wire.EIO}, {syscall.ENOMEM, wire.EIO}, {syscall.EBADF, wire.EIO},
		{syscall.EPERM, wire.EPERM}, {syscall.EACCES, wire.EPERM}, {syscall.EROFS, wire.EPERM},
		{syscall.ENOSPC, wire.ENOSPC}, {syscall.EDQUOT, wire.ENOSPC}, {syscall.EFBIG, wire.ENOSPC},
		{syscall.EINVAL, wire.EINVAL}, {syscall.ENOTSUP, wire.EIO}, {syscall.EOVERFLOW, wire.EIO},
		{syscall.ESHUTDOWN, wire.EIO}, {context.Canceled, wire.EIO}, {errors.New("anything"), wire.EIO},
		{nbd.ErrRemoved, wire.EIO}, {nbd.ErrNotSupported, wire.EIO},
		{striping.ErrNoSpace, wire.ENOSPC}, {striping.ErrReadOnly, wire.EPERM}, {striping.ErrUnreadable, wire.EIO},
	} {
		err.Store(error(fmt.Errorf("chunk 7: %w", tc.err)))
		for _, c := range []*client{c, cs} {
			require.Equal(t, tc.want, c.do(wire.CmdRead, 0, 0, 4096, nil).errno, "read: %v", tc.err)
			require.Equal(t, tc.want, c.do(wire.CmdWrite, 0, 0, 4096, make([]byte, 4096)).errno, "write: %v", tc.err)
			require.Equal(t, tc.want, c.do(wire.CmdFlush, 0, 0, 0, nil).errno, "flush: %v", tc.err)
		}
	}
}

// liar returns less than it was asked for.
type liar struct{ *plain }

func (l liar) Read(_ context.Context, _, size int64, data *nbd.Data) error {
	data.AppendHole(size - 1)
	return nil
}

func TestShortReadIsAnError(t *testing.T) {
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": liar{&plain{m: memexport.New(1 << 20)}}})
	c := s.open("e")
	require.Equal(t, wire.EIO, c.do(wire.CmdRead, 0, 0, 4096, nil).errno)
	c.requireAlive()
}

// TestOutOfOrder: a slow request holds up no other, and two may have the same handle.
func TestOutOfOrder(t *testing.T) {
	gate := make(chan struct{})
	e := &plain{m: memexport.New(1 << 20), read: func(off, _ int64) error {
		if off == 0 {
			<-gate
		}
		return nil
	}}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	release := releaser(t, gate)
	c := s.open("e")
	c.send(requestBytes(wire.CmdRead, 0, 7, 0, 512))
	c.send(requestBytes(wire.CmdRead, 0, 8, 512, 512))
	c.send(requestBytes(wire.CmdRead, 0, 7, 1024, 100))
	got := map[uint64]int{}
	a := c.answerTo(wire.CmdFlush, 0, 0) // header only
	for range 2 {
		got[a.handle]++
		if a.handle == 8 {
			c.read(512)
		} else {
			c.read(100)
		}
		if len(got) < 2 {
			a = c.answerTo(wire.CmdFlush, 0, 0)
		}
	}
	require.Equal(t, map[uint64]int{7: 1, 8: 1}, got)
	release()
	require.EqualValues(t, 7, c.answerTo(wire.CmdRead, 0, 512).handle)
}

// TestDisconnect: DISC has all outstanding requests answered, and nothing after it is done.
func TestDisconnect(t *testing.T) {
	gate := make(chan struct{})
	e := &plain{m: memexport.New(1 << 20), write: func(int64) error { <-gate; return nil }}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e})
	release := releaser(t, gate)
	c := s.open("e")
	const n = 64
	for i := range uint64(n) {
		c.request(wire.CmdWrite, 0, i*512, 512, pattern(512, byte(i)))
	}
	c.send(requestBytes(wire.CmdDisc, 0xffff, 1, maxU64, 99))
	c.send(append(requestBytes(wire.CmdWrite, 0, 2, 0, 512), make([]byte, 512)...))
	release()
	seen := map[uint64]bool{}
	for range n {
		h, errno := c.simple()
		require.Equal(t, wire.OK, errno)
		require.False(t, seen[h])
		seen[h] = true
	}
	c.requireClosed(1)
	require.Equal(t, pattern(512, 0), s.open("e").mustRead(0, 512))
}

// TestHalfClose: who has sent everything may close that side and still gets all replies.
func TestHalfClose(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	c := s.open("e")
	for range 100 {
		c.request(wire.CmdRead, 0, 0, 4096, nil)
	}
	require.NoError(t, c.Conn.(interface{ CloseWrite() error }).CloseWrite())
	for range 100 {
		require.Equal(t, wire.OK, c.answerTo(wire.CmdRead, 0, 4096).errno)
	}
	c.requireClosed(1)
}

// TestFlushCoversAllConnections: what a flush is for, and what FUA is for.
func TestFlushAcrossConnections(t *testing.T) {
	s, e := serveMem(t, nbd.Options{}, 1<<20)
	a, b := s.open("e"), s.open("e")
	a.mustWrite(0, pattern(4096, 1))
	b.requireAlive() // a flush
	require.EqualValues(t, 1, e.Syncs())
	require.Equal(t, pattern(4096, 1), b.mustRead(0, 4096))
}

// TestRemovedAndResized: an export may change while it is open.
func TestRemovedAndResized(t *testing.T) {
	s, e := serveMem(t, nbd.Options{}, 1<<20)
	c := s.open("e")
	c.mustWrite(1<<20-512, pattern(512, 1))
	e.Resize(2 << 20)
	c.mustWrite(2<<20-512, pattern(512, 2))
	e.Resize(512 << 10)
	require.Equal(t, wire.EINVAL, c.do(wire.CmdRead, 0, 512<<10, 1, nil).errno)
	require.Equal(t, wire.ENOSPC, c.do(wire.CmdWrite, 0, 512<<10, 1, []byte{1}).errno)
	e.Resize(1 << 20)
	require.Equal(t, make([]byte, 512), c.mustRead(1<<20-512, 512))
	e.Remove()
	s.set.Delete("e")
	require.Equal(t, wire.EIO, c.do(wire.CmdRead, 0, 0, 1, nil).errno)
	require.Equal(t, wire.EIO, c.do(wire.CmdWrite, 0, 0, 1<<19, make([]byte, 1<<19)).errno)
	require.Equal(t, wire.EIO, c.do(wire.CmdFlush, 0, 0, 0, nil).errno)
	require.Equal(t, wire.EIO, c.do(wire.CmdTrim, 0, 0, 1, nil).errno)
	other := s.hello()
	other.option(wire.OptGo, goData("e"))
	require.Equal(t, wire.RepErrUnknown, other.optReply(wire.OptGo).typ)
}

// TestPanicIsOneClientsProblem: in a worker and in the reader.
func TestPanicIsOneClientsProblem(t *testing.T) {
	e := &plain{m: memexport.New(1 << 20), read: func(off, _ int64) error {
		if off == 666 {
			panic("boom")
		}
		return nil
	}}
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": e, "inline": panicky{memexport.New(1 << 20)}})
	bystander := s.open("e")
	for _, name := range []string{"e", "inline"} {
		c := s.open(name)
		c.request(wire.CmdRead, 0, 0, 512, nil)
		c.request(wire.CmdRead, 0, 666, 512, nil)
		c.requireClosed(4096)
		bystander.requireAlive()
	}
	require.EqualValues(t, 2, s.Stats().Panics)
}

type panicky struct{ *memexport.Export }

func (p panicky) TryRead(off, size int64, data *nbd.Data) (bool, error) {
	done, err := p.Export.TryRead(off, size, data)
	if off == 666 {
		panic("boom")
	}
	return done, err
}

// TestPipelined sends thousands of requests at once, of several kinds and sizes, and checks each
// answer: batches, held replies and partial writes must not mix them up.
func TestPipelined(t *testing.T) {
	const size = 1 << 20
	for _, name := range []string{"e", "plain"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": memexport.New(size), "plain": &plain{m: memexport.New(size)}})
			s.open(name).mustWrite(0, pattern(size, 0))
			all := pattern(size, 0)
			c := s.open(name)
			const n = 5000
			type want struct{ off, n int }
			wants := make([]want, n)
			var script []byte
			for i := range wants {
				w := want{off: i * 7919 % (size / 2), n: []int{1, 512, 4096, 4097, 20000, 70000}[i%6]}
				wants[i] = w
				typ := wire.CmdRead
				if i%4 == 3 { // rewrites what stands there
					typ = wire.CmdWrite
				}
				script = append(script, requestBytes(typ, 0, uint64(i), uint64(w.off), uint32(w.n))...)
				if typ == wire.CmdWrite {
					script = append(script, all[w.off:w.off+w.n]...)
				}
			}
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(script)
				sent <- err
			}()
			for range n {
				h, errno := c.simple()
				require.Equal(t, wire.OK, errno)
				w := wants[h]
				require.NotZero(t, w.n, "handle %d again", h)
				wants[h].n = 0
				if h%4 != 3 {
					require.True(t, bytes.Equal(all[w.off:w.off+w.n], c.read(w.n)), "request %d", h)
				}
			}
			require.NoError(t, <-sent)
		})
	}
}

// TestStats: what was done is counted, also for clients that are gone.
func TestStats(t *testing.T) {
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	c := s.open("e")
	c.mustWrite(0, pattern(4096, 1))
	c.mustRead(0, 4096)
	c.mustRead(0, 100)
	c.do(wire.CmdRead, 0, 1<<20, 100, nil)
	c.do(99, 0, 0, 0, nil)
	st := s.Stats()
	require.Len(t, st.Clients, 1)
	require.Equal(t, "e", st.Clients[0].Export)
	require.Contains(t, st.Clients[0].Peer, "uid")
	require.Equal(t, 1, st.Exports[0].Connections)
	c.send(requestBytes(wire.CmdDisc, 0, 0, 0, 0))
	c.requireClosed(1)
	eventually(t, "client gone", func() bool { return len(s.Stats().Clients) == 0 })
	st = s.Stats()
	require.Zero(t, st.Exports[0].Connections)
	require.EqualValues(t, 1, st.Accepted)
	for _, cmd := range st.Exports[0].Commands {
		n := uint64(0)
		for i, k := range cmd.Latency.Counts {
			n += k
			if k > 0 && i > 0 {
				require.Less(t, cmd.Latency.Bound(i-1), patience)
			}
		}
		require.Equal(t, cmd.Ops, n)
		switch cmd.Command {
		case "read":
			require.Equal(t, [3]uint64{3, 4196, 1}, [3]uint64{cmd.Ops, cmd.Bytes, cmd.Errors})
			require.Less(t, cmd.Latency.Sum, 3*patience)
		case "write":
			require.Equal(t, [3]uint64{1, 4096, 0}, [3]uint64{cmd.Ops, cmd.Bytes, cmd.Errors})
		case "other":
			require.Equal(t, [3]uint64{1, 0, 1}, [3]uint64{cmd.Ops, cmd.Bytes, cmd.Errors})
		default:
			require.Zero(t, cmd.Ops, cmd.Command)
		}
	}
}
