package nbdclient_test

import (
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

func serve(t *testing.T) (path string, server *nbd.Server) {
	set := &memexport.Set{}
	set.Add(memexport.New(8<<20), nbd.Info{Name: "e"})
	server = nbd.NewServer(set, nbd.Options{Logger: slog.New(slog.DiscardHandler)})
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, nbd.ErrServerClosed)
	})
	return path, server
}

func TestEveryCommand(t *testing.T) {
	path, _ := serve(t)
	c, err := nbdclient.Dial("unix", path, "e")
	require.NoError(t, err)
	defer c.Disconnect()
	require.EqualValues(t, 8<<20, c.Size)
	require.NotZero(t, c.Flags&wire.CanMultiConn)

	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(i + 1)}, 10000)
			if err := c.Write(p, int64(i)*10000, 0); err != nil {
				t.Error(err)
			}
			q := make([]byte, len(p))
			if err := c.Read(q, int64(i)*10000); err != nil || !bytes.Equal(p, q) {
				t.Errorf("what was written is not read: %v", err)
			}
		})
	}
	wg.Wait()
	require.Zero(t, c.InFlight())
	require.NoError(t, c.Flush())
	require.NoError(t, c.WriteZeroes(0, 5000, nbdclient.NoHole))
	require.NoError(t, c.Trim(5000, 5000, nbdclient.FUA))
	q := make([]byte, 10001)
	require.NoError(t, c.Read(q, 0))
	require.Equal(t, append(make([]byte, 10000), 2), q)

	err = c.Write(q, 8<<20, 0)
	require.Equal(t, wire.ENOSPC, nbdclient.ErrnoOf(err), "%v", err)
	require.NotErrorIs(t, err, nbdclient.ErrLost)
	require.NoError(t, c.Read(q, 0), "the connection lives")
}

func TestTheEndOfTheServer(t *testing.T) {
	path, server := serve(t)
	_, err := nbdclient.Dial("unix", path, "none")
	require.ErrorContains(t, err, "GO")
	c, err := nbdclient.Dial("unix", path, "e")
	require.NoError(t, err)
	require.NoError(t, server.Close())
	require.ErrorIs(t, c.Flush(), nbdclient.ErrLost)
	require.ErrorIs(t, c.Flush(), nbdclient.ErrLost)
	c.Close()
	_, err = nbdclient.Dial("unix", path, "e")
	require.ErrorIs(t, err, nbdclient.ErrLost)
}
