package journal_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

// settle is Options.Preflight in this process.
func settle(dir string) error {
	if journal.SettleMain(dir, io.Discard) != 0 {
		return errors.New("settle fails")
	}
	return nil
}

// settledOpen opens a journal that is read past Badger.
func settledOpen(t testing.TB, dir string, anchors ...journal.State) *journal.Store {
	s, err := journal.Open(dir, journal.Options{UUID: volume, Anchors: anchors, Preflight: settle})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// randomChunk is a chunk of any shape.
func randomChunk(rng *rand.Rand, key journal.Key) *journal.Chunk {
	c := &journal.Chunk{Generation: rng.Uint64() >> rng.IntN(64), Version: rng.Uint64()}
	if rng.IntN(8) == 0 {
		return c // nothing is placed
	}
	c.Slot = 16
	if rng.IntN(4) == 0 {
		c.Slot = 1 + rng.Uint32N(journal.MaxSlot)
	}
	for range rng.IntN(journal.MaxCopies + 1) {
		c.Copies = append(c.Copies, journal.Copy{Device: uint16(rng.Uint32() >> rng.IntN(32)), Stale: rng.IntN(4) == 0,
			Off: rng.Int64N(journal.MaxOff/journal.BlockSize) >> rng.IntN(40) * journal.BlockSize})
	}
	c.Written = make([]uint64, (c.Slot+63)/64)
	for range rng.IntN(min(20, int(c.Slot))) {
		b := rng.IntN(int(c.Slot))
		if c.Written[b/64]&(1<<(b%64)) == 0 {
			c.Written[b/64] |= 1 << (b % 64)
			c.Sums = append(c.Sums, rng.Uint32())
		}
	}
	return c
}

func chunkKey(rng *rand.Rand, n int) journal.Key {
	i := rng.IntN(n)
	return journal.MakeKey(journal.SpaceChunk, uint64(1+i%3), uint64(i/3))
}

// placementsOf returns where the chunks are as their records say.
func placementsOf(t *testing.T, s *journal.Store) (list []journal.Placement) {
	require.NoError(t, s.Scan(journal.SpaceChunk, func(key journal.Key, value []byte) error {
		c, err := journal.ParseChunk(key, value)
		p := journal.Placement{Key: key, Generation: c.Generation, Slot: c.Slot, Count: uint8(len(c.Copies))}
		copy(p.Copies[:], c.Copies)
		list = append(list, p)
		return err
	}))
	return list
}

func knownPlacements(t *testing.T, known *journal.Placements) (list []journal.Placement) {
	for i := range known.Parts() {
		require.NoError(t, known.Part(i, func(p *journal.Placement) error {
			c := *p
			clear(c.Copies[c.Count:])
			list = append(list, c)
			return nil
		}))
	}
	return list
}

// TestTablesAreReadAsByBadger: what is read past Badger is what Badger reads, whatever stands in which
// table: old versions and tombstones in tables of all levels, and keys that come again.
func TestTablesAreReadAsByBadger(t *testing.T) {
	smallMemTable(t)
	dir := create(t)
	rng := rand.New(rand.NewPCG(*seed, 21))
	model := map[journal.Key]string{}
	var last journal.State
	many, several := false, false
	large := make([]byte, 8<<10)
	for round := range 8 {
		whole := journal.SetTableCut([]int64{16 << 20, 5000}[round%2]) // of few blocks each, nearly each is a part
		s := settledOpen(t, dir, last)
		whole()
		if round > 0 {
			require.Equal(t, last, s.State())
		}
		require.Equal(t, model, journaltest.Contents(t, s))
		known := s.TakePlacements()
		require.NotNil(t, known)
		require.Equal(t, placementsOf(t, s), knownPlacements(t, known))
		levels := s.TablesByLevel()
		many = many || levels[0] > 1
		for _, n := range levels[1:] {
			several = several || n > 1
		}
		for range 20 {
			b := journaltest.RandomBatch(rng, 30, model)
			for range 12 { // large ones, for several tables
				key := job(1000 + rng.IntN(600))
				b.Put(key, large)
				model[key] = string(large)
			}
			for range 40 {
				key := chunkKey(rng, 2000)
				if rng.IntN(6) == 0 {
					b.Delete(key)
					delete(model, key)
					continue
				}
				value := randomChunk(rng, key).Pack(key)
				b.Put(key, value)
				model[key] = string(value)
			}
			require.NoError(t, s.Commit(t.Context(), b))
		}
		if round == 5 {
			require.NoError(t, s.Flatten())
		}
		last = s.State()
		if round == 6 { // as a kill leaves it: with a log
			twin := t.TempDir() + "/twin"
			copyLive(t, dir, twin)
			require.NoError(t, s.Close())
			dir = twin
			continue
		}
		require.NoError(t, s.Close())
	}
	require.True(t, many, "level 0 has several tables")
	require.True(t, several, "another level has several tables")
}

// TestEveryByteOfATableCounts: whichever byte of a table is another, or wherever it ends too soon, that is
// told: also where nothing but old versions stand, which no digest covers. Badger must not see these.
func TestEveryByteOfATableCounts(t *testing.T) {
	t.Run("whole", func(t *testing.T) { everyByteOfATableCounts(t) })
	t.Run("cut", func(t *testing.T) {
		defer journal.SetTableCut(1000)()
		everyByteOfATableCounts(t)
	})
}

func everyByteOfATableCounts(t *testing.T) {
	smallMemTable(t)
	dir := create(t)
	for round := range 3 {
		s := open(t, dir)
		for i := range 10 {
			require.NoError(t, s.Commit(t.Context(), put(0, 20, string(rune('a'+10*round+i)))))
		}
		require.NoError(t, s.Close())
	}
	state, err := journal.ReadTables(dir, volume)
	require.NoError(t, err)
	require.EqualValues(t, 30, state.Seq)
	tables, err := filepath.Glob(dir + "/badger/*.sst")
	require.NoError(t, err)
	require.Len(t, tables, 4)
	for _, path := range tables {
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		step := 1 + len(whole)/400 // a damage costs a tenth of a millisecond
		for at := 0; at < len(whole); at++ {
			if at%step != 0 && at < len(whole)-100 {
				continue
			}
			_, err = f.WriteAt([]byte{whole[at] ^ 1<<(at%8)}, int64(at))
			require.NoError(t, err)
			_, err = journal.ReadTables(dir, volume)
			require.ErrorIs(t, err, journal.ErrCorrupt, "%s, byte %d of %d", path, at, len(whole))
			_, err = f.WriteAt(whole[at:at+1], int64(at))
			require.NoError(t, err)
		}
		for at := 0; at < len(whole); at += 1 + len(whole)/50 {
			require.NoError(t, os.WriteFile(path, whole[:at], 0o600))
			_, err = journal.ReadTables(dir, volume)
			require.ErrorIs(t, err, journal.ErrCorrupt, "%s, cut to %d of %d", path, at, len(whole))
		}
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
	again, err := journal.ReadTables(dir, volume)
	require.NoError(t, err)
	require.Equal(t, state, again)
	require.NoError(t, os.Remove(tables[1]))
	_, err = journal.ReadTables(dir, volume)
	require.ErrorIs(t, err, journal.ErrCorrupt)
}

// TestPlacementsAreOfNow: they are given once, not when a chunk has changed since, and not when there are
// too many of them.
func TestPlacementsAreOfNow(t *testing.T) {
	dir := create(t)
	rng := rand.New(rand.NewPCG(1, 22))
	b := &journal.Batch{}
	for i := range 100 {
		key := journal.MakeKey(journal.SpaceChunk, 1, uint64(i))
		b.Put(key, randomChunk(rng, key).Pack(key))
	}
	s := open(t, dir)
	require.NoError(t, s.Commit(t.Context(), b))
	require.NoError(t, s.Close())

	s = settledOpen(t, dir)
	require.NoError(t, s.Commit(t.Context(), put(0, 10, "no chunks")))
	known := s.TakePlacements()
	require.Len(t, knownPlacements(t, known), 100)
	require.Nil(t, s.TakePlacements())
	require.NoError(t, s.Close())

	s = settledOpen(t, dir)
	b = &journal.Batch{}
	b.Delete(journal.MakeKey(journal.SpaceChunk, 1, 7))
	require.NoError(t, s.Commit(t.Context(), b))
	require.Nil(t, s.TakePlacements())
	require.NoError(t, s.Close())

	defer journal.SetPlacementsMax(500)()
	s = settledOpen(t, dir)
	require.Nil(t, s.TakePlacements())
	require.NoError(t, s.Close())
	s = open(t, dir)
	require.Nil(t, s.TakePlacements(), "it was read by Badger")
	require.NoError(t, s.Close())
}
