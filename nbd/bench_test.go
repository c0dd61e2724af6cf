package nbd_test

import (
	"fmt"
	"io"
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
