package process

import (
	"log/slog"
	"path/filepath"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"

	"github.com/stretchr/testify/require"
)

// memory offers one export in memory.
type memory struct{ *memexport.Export }

func (m memory) List() []nbd.Info { return []nbd.Info{{Name: "x"}} }

func (m memory) Open(string) (nbd.Export, nbd.Info, func(), error) {
	return m.Export, nbd.Info{Name: "x"}, func() {}, nil
}

// TestTheStamperSeesWhatIsWrong: a witness that never objects proves nothing.
func TestTheStamperSeesWhatIsWrong(t *testing.T) {
	const size = 4 << 20
	m := memory{memexport.New(size)}
	server := nbd.NewServer(m, nbd.Options{Logger: slog.New(slog.DiscardHandler)})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := nbd.Listen("unix:"+socket, nbd.ListenOptions{})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, nbd.ErrServerClosed)
	}()
	s := newStamper("x", size, 1)
	c, _, err := dial(socket, "x")
	require.NoError(t, err)
	for s.flushes < 5 {
		require.NoError(t, s.round(c))
	}
	require.NoError(t, c.conn.Close())
	require.NoError(t, s.check(socket))

	number := 0
	for s.flushed[number] == 0 {
		number++
	}
	good := make([]byte, block)
	stamp(good, uint64(number), s.flushed[number])
	for name, damage := range map[string]func(b []byte){
		"lost":          func(b []byte) { clear(b) },
		"older":         func(b []byte) { stamp(b, uint64(number), s.flushed[number]-1) },
		"from nowhere":  func(b []byte) { stamp(b, uint64(number), s.version+1) },
		"of elsewhere":  func(b []byte) { stamp(b, uint64(number+1), s.flushed[number]) },
		"torn":          func(b []byte) { clear(b[512:1024]) },
		"a flipped bit": func(b []byte) { b[4000] ^= 1 },
	} {
		bad := append([]byte(nil), good...)
		damage(bad)
		require.NoError(t, m.WriteAt(t.Context(), bad, int64(number)*block, false))
		require.Error(t, s.check(socket), name)
		require.NoError(t, m.WriteAt(t.Context(), good, int64(number)*block, false))
	}
	require.NoError(t, s.check(socket))
}
