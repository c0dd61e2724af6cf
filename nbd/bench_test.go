package nbd_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// BenchmarkRequests measures the loop alone: the client sends prepared requests, depth at a time,
// and reads as many bytes as the replies have, so what it costs is small and the same for every
// server. Allocations are those of both.
func BenchmarkRequests(b *testing.B) {
	for _, bc := range []struct {
		what  string
		typ   uint16
		size  int
		depth int
		conns int
	}{
		{"read4k", wire.CmdRead, 4096, 1, 1}, {"read4k", wire.CmdRead, 4096, 32, 1}, {"read4k", wire.CmdRead, 4096, 32, 4},
		{"write4k", wire.CmdWrite, 4096, 1, 1}, {"write4k", wire.CmdWrite, 4096, 32, 1}, {"write4k", wire.CmdWrite, 4096, 32, 4},
		{"read1m", wire.CmdRead, 1 << 20, 4, 1}, {"write1m", wire.CmdWrite, 1 << 20, 4, 1},
	} {
		for _, name := range []string{"e", "plain"} {
			b.Run(fmt.Sprintf("%s/depth%d/conns%d/%s", bc.what, bc.depth, bc.conns, name), func(b *testing.B) {
				m := memexport.New(256 << 20)
				for off := int64(0); off < m.Size(); off += 1 << 20 {
					require.NoError(b, m.WriteAt(b.Context(), pattern(1<<20, byte(off>>20)), off, false))
				}
				s := serve(b, nbd.Options{}, map[string]nbd.Export{"e": m, "plain": &plain{m: m}})
				clients := make([]*client, bc.conns)
				for i := range clients {
					clients[i] = s.open(name)
					require.NoError(b, clients[i].SetDeadline(noDeadline))
				}
				var batch []byte
				answer := wire.ReplySize
				for i := range bc.depth {
					off := uint64(i*7919*bc.size) % uint64(256<<20-bc.size)
					batch = append(batch, requestBytes(bc.typ, 0, uint64(i), off, uint32(bc.size))...)
					if bc.typ == wire.CmdWrite {
						batch = append(batch, make([]byte, bc.size)...)
					}
				}
				if bc.typ == wire.CmdRead {
					answer += bc.size
				}
				b.SetBytes(int64(bc.size))
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for _, c := range clients {
					wg.Go(func() {
						buf := make([]byte, bc.depth*answer)
						for n := b.N / bc.conns; n > 0; n -= bc.depth {
							k := min(n, bc.depth)
							if _, err := c.Write(batch[:k*len(batch)/bc.depth]); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(c, buf[:k*answer]); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
			})
		}
	}
}

// TestHotPathDoesNotAllocate: a small request costs no memory.
func TestHotPathDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	m := memexport.New(1 << 20)
	require.NoError(t, m.WriteAt(t.Context(), pattern(1<<20, 1), 0, false))
	set := &memexport.Set{}
	set.Add(m, nbd.Info{Name: "e"})
	path := filepath.Join(t.TempDir(), "s")
	s := nbd.NewServer(set, nbd.Options{Logger: quiet()})
	l, err := nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	nc, err := net.Dial("unix", path)
	require.NoError(t, err)
	c := &client{Conn: nc, t: t}
	c.greeting()
	c.send(be.AppendUint32(nil, 3))
	c.mustGo("e")
	var batch []byte
	const depth = 16
	for i := range depth {
		batch = append(batch, requestBytes(wire.CmdRead, 0, 1, uint64(i)*4096, 4096)...)
		batch = append(batch, requestBytes(wire.CmdWrite, 0, 1, 512<<10+uint64(i)*4096, 4096)...)
		batch = append(batch, make([]byte, 4096)...)
	}
	buf := make([]byte, depth*(4096+2*wire.ReplySize))
	round := func() {
		_, _ = nc.Write(batch)
		_, _ = io.ReadFull(nc, buf)
	}
	for range 100 {
		round()
	}
	perRound := testing.AllocsPerRun(1000, round)
	require.Less(t, perRound, 2.0, "for %d requests", 2*depth)
	nc.Close()
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-served, nbd.ErrServerClosed)
}
