package memexport_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"ballast/nbd"
	"ballast/nbd/memexport"

	"github.com/stretchr/testify/require"
)

func contents(t *testing.T, e *memexport.Export, off, size int64) []byte {
	t.Helper()
	var d nbd.Data
	require.NoError(t, e.Read(t.Context(), off, size, &d))
	defer d.Release()
	var b []byte
	for _, p := range d.Pieces {
		if p.Bytes == nil {
			b = append(b, make([]byte, p.Size)...)
		}
		b = append(b, p.Bytes...)
	}
	require.Len(t, b, int(size))
	return b
}

func random(rnd *rand.Rand, n int64) []byte {
	b := make([]byte, 0, n+8)
	for int64(len(b)) < n {
		b = binary.LittleEndian.AppendUint64(b, rnd.Uint64())
	}
	return b[:n]
}

// TestModel does random operations on an export and on plain bytes.
func TestModel(t *testing.T) {
	const size = 5*memexport.PageSize + 1234
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		e, model := memexport.New(size), make([]byte, size)
		var held nbd.Data // a read that is held must not change under us
		require.NoError(t, e.Read(t.Context(), 0, size, &held))
		for range 60 {
			off := rnd.Int64N(size)
			n := rnd.Int64N(min(size-off, 2*memexport.PageSize) + 1)
			switch rnd.IntN(5) {
			case 0:
				require.NoError(t, e.Trim(t.Context(), off, n, false))
				clear(model[off : off+n])
			case 1:
				require.NoError(t, e.WriteZeroes(t.Context(), off, n, rnd.IntN(2) == 0, false, false))
				clear(model[off : off+n])
			case 2:
				p := e.Buffer(int(n))
				copy(p.Bytes(), random(rnd, n))
				copy(model[off:], p.Bytes())
				require.NoError(t, e.WriteBuffer(t.Context(), p, off, false))
			default:
				p := random(rnd, n)
				copy(model[off:], p)
				require.NoError(t, e.WriteAt(t.Context(), p, off, false))
			}
			require.True(t, bytes.Equal(model, contents(t, e, 0, size)), "seed %d", seed)
			ext, err := e.Extents(t.Context(), nil, off, max(n, 1), 100)
			require.NoError(t, err)
			at := off
			for _, x := range ext {
				if x.Zero {
					end := min(at+x.Size, size)
					require.True(t, bytes.Equal(make([]byte, end-at), model[at:end]), "seed %d", seed)
				}
				at += x.Size
			}
			require.GreaterOrEqual(t, at, off+n)
		}
		for _, p := range held.Pieces {
			require.Nil(t, p.Bytes)
		}
		held.Release()
		require.Zero(t, e.Outstanding())
	}
}

// TestHeldReadStays reads, overwrites, and looks at what was read.
func TestHeldReadStays(t *testing.T) {
	e := memexport.New(memexport.PageSize)
	require.NoError(t, e.WriteAt(t.Context(), bytes.Repeat([]byte{1}, memexport.PageSize), 0, false))
	var d nbd.Data
	require.NoError(t, e.Read(t.Context(), 0, memexport.PageSize, &d))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 100 {
				_ = e.WriteAt(t.Context(), bytes.Repeat([]byte{2}, 4096), int64(i)*4096, false)
			}
		})
	}
	wg.Wait()
	require.Equal(t, bytes.Repeat([]byte{1}, memexport.PageSize), d.Pieces[0].Bytes)
	d.Release()
	require.Equal(t, bytes.Repeat([]byte{2}, 4096), contents(t, e, 0, 4096))
	require.Zero(t, e.Outstanding())
}

func TestRangesAndRemoval(t *testing.T) {
	e := memexport.New(1000)
	for _, r := range [][2]int64{{0, 1001}, {1000, 1}, {-1, 1}, {1, 1<<63 - 1}, {1<<63 - 1, 1}} {
		require.Error(t, e.Read(t.Context(), r[0], r[1], &nbd.Data{}))
		require.Error(t, e.Trim(t.Context(), r[0], r[1], false))
	}
	e.Remove()
	require.ErrorIs(t, e.Sync(t.Context()), nbd.ErrRemoved)
	var s memexport.Set
	s.Add(e, nbd.Info{Name: "e"})
	_, info, done, err := s.Open("")
	require.NoError(t, err)
	require.Equal(t, "e", info.Name)
	require.Equal(t, 1, s.Opens("e"))
	done()
	require.Zero(t, s.Opens("e"))
	s.Delete("e")
	_, _, _, err = s.Open("e")
	require.ErrorIs(t, err, nbd.ErrNoExport)
}
