package journal_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

var records = flag.Int("records", 100_000, "chunk records of BenchmarkOpen and BenchmarkGet")

// fullChunk is the record of a full chunk of 1 MiB with two copies.
func fullChunk(i int) (journal.Key, []byte) {
	c := journal.Chunk{
		Generation: uint64(i), Version: 1, Slot: 256, Sums: make([]uint32, 256),
		Copies:  []journal.Copy{{Device: 1, Off: int64(i) << 20}, {Device: 2, Off: int64(i) << 20}},
		Written: []uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)},
	}
	for b := range c.Sums {
		c.Sums[b] = uint32(i*256+b) * 0x9e3779b1
	}
	key := journal.MakeKey(journal.SpaceChunk, 1, uint64(i))
	return key, c.Pack(key)
}

// BenchmarkCommit commits small records (32 bytes, as of intents) and chunks, new ones and again
// the same, one caller and 64.
func BenchmarkCommit(b *testing.B) {
	small := func(i int) (journal.Key, []byte) {
		return journal.MakeKey(journaltest.Free, 1, uint64(i)), fmt.Appendf(nil, "%032d", i)
	}
	for _, c := range []struct {
		name    string
		size    int
		keys    int // 0: always new ones
		callers int
		record  func(int) (journal.Key, []byte)
	}{
		{"new/1", 1, 0, 1, small}, {"new/32", 32, 0, 1, small}, {"new/1000", 1000, 0, 1, small},
		{"same/32", 32, 10_000, 1, small}, {"same/1000", 1000, 10_000, 1, small},
		{"cold/1000", 1000, 200_000, 1, small}, // more than the cache of hashes holds
		{"chunks-new/32", 32, 0, 1, fullChunk}, {"chunks-new/1000", 1000, 0, 1, fullChunk},
		{"chunks-same/1000", 1000, 10_000, 1, fullChunk},
		{"new/1x64callers", 1, 0, 64, small}, {"chunks-same/1x64callers", 1, 10_000, 64, fullChunk},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b, create(b))
			if c.keys > 20_000 {
				for i := 0; i < c.keys; i += 10_000 {
					batch := &journal.Batch{}
					for k := range 10_000 {
						batch.Put(c.record(i + k))
					}
					require.NoError(b, s.Commit(context.Background(), batch))
				}
			}
			var next, left atomic.Int64
			left.Store(int64(b.N))
			rng := rand.New(rand.NewPCG(1, 1))
			b.ResetTimer()
			start := time.Now()
			var wg sync.WaitGroup
			for range c.callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						batch := &journal.Batch{}
						for range c.size {
							i := int(next.Add(1))
							if c.keys > 20_000 {
								i = rng.IntN(c.keys)
							} else if c.keys > 0 {
								i %= c.keys
							}
							batch.Put(c.record(i))
						}
						if err := s.Commit(context.Background(), batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			seconds := time.Since(start).Seconds()
			b.ReportMetric(float64(b.N)/seconds, "commits/s")
			b.ReportMetric(float64(b.N*c.size)/seconds, "entries/s")
			require.NoError(b, s.Close())
		})
	}
}

func filled(b *testing.B) string {
	dir := create(b)
	s := open(b, dir)
	for i := 0; i < *records; i += 1000 {
		batch := &journal.Batch{}
		for k := range 1000 {
			batch.Put(fullChunk(i + k))
		}
		require.NoError(b, s.Commit(context.Background(), batch))
	}
	require.NoError(b, s.Close())
	return dir
}

func BenchmarkGet(b *testing.B) {
	dir := filled(b)
	s := open(b, dir)
	rng := rand.New(rand.NewPCG(1, 1))
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(journal.MakeKey(journal.SpaceChunk, 1, uint64(rng.IntN(*records)))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("GetAppend", func(b *testing.B) {
		b.ReportAllocs()
		var dst []byte
		var err error
		for b.Loop() {
			if dst, err = s.GetAppend(dst[:0], journal.MakeKey(journal.SpaceChunk, 1, uint64(rng.IntN(*records)))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("absent", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Get(journal.MakeKey(journal.SpaceChunk, 2, uint64(rng.IntN(*records)))); err != journal.ErrNotFound {
				b.Fatal(err)
			}
		}
	})
	require.NoError(b, s.Close())
}

// BenchmarkOpen opens a journal of chunk records, with and without a preflight in a child.
func BenchmarkOpen(b *testing.B) {
	dir := filled(b)
	for name, opts := range map[string]journal.Options{"verify": {}, "preflight": {Preflight: preflight(b)}} {
		b.Run(name, func(b *testing.B) {
			var disk int64
			for b.Loop() {
				s, err := journal.Open(dir, opts)
				require.NoError(b, err)
				disk = s.Stats().DiskBytes
				b.StopTimer()
				require.NoError(b, s.Close())
				b.StartTimer()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1e6/float64(*records), "s/Mrecords")
			b.ReportMetric(float64(disk)/float64(*records), "bytes/record")
		})
	}
}
