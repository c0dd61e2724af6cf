//go:build !race

// The race detector makes pools forget; make test runs this file without it.

package nbd_test

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

// TestHotPathDoesNotAllocate: a small request costs no memory.
func TestHotPathDoesNotAllocate(t *testing.T) {
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
