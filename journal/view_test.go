package journal_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/journal"
)

// A reader sees what commits have left that are over, and waits for none.
func TestReadersDoNotWaitForACommit(t *testing.T) {
	key := journal.MakeKey(journal.SpaceObject, 7, 0)
	at := func(s *journal.Store) string {
		b, err := s.Get(key)
		if !errors.Is(err, journal.ErrNotFound) {
			require.NoError(t, err)
		}
		return string(b)
	}
	s := open(t, create(t))
	seen := ""
	s.SetCommit(func(real func() error) error {
		err := real()
		require.Equal(t, seen, at(s), "before the commit is over")
		return err
	})
	for _, value := range []string{"first", "second", "third"} {
		b := &journal.Batch{}
		b.Put(key, []byte(value))
		require.NoError(t, s.Commit(t.Context(), b))
		seen = value
		require.Equal(t, value, at(s))
	}
}

// A scan goes on with what it began with while commits replace that, and holds up Close.
func TestScanAcrossCommits(t *testing.T) {
	s := open(t, create(t))
	put := func(value byte) {
		b := &journal.Batch{}
		for i := range uint64(100) {
			b.Put(journal.MakeKey(journal.SpaceObject, i, 0), []byte{value})
		}
		require.NoError(t, s.Commit(t.Context(), b))
	}
	put(1)
	closed := make(chan error, 1)
	n := 0
	require.NoError(t, s.Scan(journal.SpaceObject, func(_ journal.Key, value []byte) error {
		require.Equal(t, []byte{1}, value)
		if n++; n%20 == 0 && n < 90 {
			put(byte(n))
		}
		if n == 90 {
			go func() { closed <- s.Close() }()
		}
		return nil
	}))
	require.Equal(t, 100, n)
	require.NoError(t, <-closed)
}
