// Package journaltest is the suite that every journal.Journal passes.
//
// # Guarantees
//
//  1. Each sentence of the interface's comments that one process can check is checked.
//
// # Concurrency
//
// Tests of the suite start goroutines and wait for them.
//
// # Failures
//
// They fail the test.
//
// # On disk
//
// Nothing.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/journal"
)

// Run runs the suite on journals that open makes; they are empty, and the suite closes them.
func Run(t *testing.T, open func(t *testing.T) journal.Journal) {
	for name, test := range map[string]func(*testing.T, journal.Journal){
		"records":     testRecords,
		"one batch":   testOneBatch,
		"scan":        testScan,
		"scan moment": testScanMoment,
		"state":       testState,
		"order":       testOrder,
		"limits":      testLimits,
		"context":     testContext,
		"ownership":   testOwnership,
		"closed":      testClosed,
	} {
		t.Run(name, func(t *testing.T) {
			j := open(t)
			defer func() { require.NoError(t, j.Close()) }()
			test(t, j)
		})
	}
}

// Contents returns all records of the journal but its own, by scanning the spaces from space to tilde.
func Contents(t require.TestingT, j journal.Journal) map[journal.Key]string {
	all := map[journal.Key]string{}
	for space := journal.Space(' '); space <= '~'; space++ {
		if space == journal.SpaceReserve {
			continue
		}
		require.NoError(t, j.Scan(space, func(k journal.Key, v []byte) error {
			all[k] = string(v)
			return nil
		}))
	}
	return all
}

// CheckState fails if count and digest of the journal are not those of records.
func CheckState(t require.TestingT, j journal.Journal, records map[journal.Key]string) {
	var sum journal.Digest
	for k, v := range records {
		sum = sum.Add(journal.RecordDigest(k, []byte(v)))
	}
	state := j.State()
	require.Equal(t, uint64(len(records)), state.Count)
	require.Equal(t, sum, state.Digest)
}

// RandomBatch changes up to n records of a small set, and model like the journal.
func RandomBatch(rng *rand.Rand, n int, model map[journal.Key]string) *journal.Batch {
	b := &journal.Batch{}
	for range 1 + rng.IntN(n) {
		space := []journal.Space{Free, 'x'}[rng.IntN(2)]
		k := journal.MakeKey(space, uint64(rng.IntN(3)), uint64(rng.IntN(40)))
		if rng.IntN(4) == 0 {
			b.Delete(k)
			delete(model, k)
			continue
		}
		v := make([]byte, rng.IntN(100))
		for i := range v {
			v[i] = byte(rng.Uint32())
		}
		b.Put(k, v)
		model[k] = string(v)
	}
	return b
}

// Free is a space of no record, where tests put any bytes.
const Free journal.Space = 'f'

func key(n int) journal.Key { return journal.MakeKey(Free, 1, uint64(n)) }

func put(t require.TestingT, j journal.Journal, n int, value string) {
	var b journal.Batch
	b.Put(key(n), []byte(value))
	require.NoError(t, j.Commit(context.Background(), &b))
}

func testRecords(t *testing.T, j journal.Journal) {
	_, err := j.Get(key(1))
	require.ErrorIs(t, err, journal.ErrNotFound)
	put(t, j, 1, "one")
	put(t, j, 2, "")
	v, err := j.Get(key(1))
	require.NoError(t, err)
	require.Equal(t, "one", string(v))
	v, err = j.Get(key(2))
	require.NoError(t, err)
	require.Empty(t, v)
	put(t, j, 1, "uno")
	v, err = j.Get(key(1))
	require.NoError(t, err)
	require.Equal(t, "uno", string(v))
	var b journal.Batch
	b.Delete(key(1))
	b.Delete(key(77))
	require.NoError(t, j.Commit(context.Background(), &b))
	_, err = j.Get(key(1))
	require.ErrorIs(t, err, journal.ErrNotFound)
	CheckState(t, j, map[journal.Key]string{key(2): ""})
}

func testOneBatch(t *testing.T, j journal.Journal) {
	put(t, j, 3, "old")
	var b journal.Batch
	b.Put(key(1), []byte("a"))
	b.Put(key(1), []byte("b"))
	b.Put(key(2), []byte("gone"))
	b.Delete(key(2))
	b.Delete(key(3))
	b.Put(key(3), []byte("new"))
	before := j.State().Seq
	require.NoError(t, j.Commit(context.Background(), &b))
	want := map[journal.Key]string{key(1): "b", key(3): "new"}
	require.Equal(t, want, Contents(t, j))
	CheckState(t, j, want)
	require.Equal(t, before+1, j.State().Seq)
	require.NoError(t, j.Commit(context.Background(), &journal.Batch{}))
	require.Equal(t, before+1, j.State().Seq, "an empty batch commits nothing")
}

func testScan(t *testing.T, j journal.Journal) {
	var b journal.Batch
	for _, n := range rand.New(rand.NewPCG(1, 2)).Perm(500) {
		b.Put(journal.MakeKey(journal.SpaceChunk, uint64(n%3), uint64(n)), fmt.Append(nil, n))
		b.Put(journal.MakeKey(journal.SpaceChunk+1, 0, uint64(n)), []byte{})
	}
	require.NoError(t, j.Commit(context.Background(), &b))
	var last journal.Key
	n := 0
	require.NoError(t, j.Scan(journal.SpaceChunk, func(k journal.Key, v []byte) error {
		require.Greater(t, string(k[:]), string(last[:]))
		_, _, i := k.Parts()
		require.Equal(t, fmt.Sprint(i), string(v))
		last = k
		n++
		return nil
	}))
	require.Equal(t, 500, n)
	from := last
	_, a, b2 := from.Parts()
	n = 0
	require.NoError(t, j.ScanFrom(journal.MakeKey(journal.SpaceChunk, a, b2-30), func(k journal.Key, _ []byte) error {
		_, _, i := k.Parts()
		require.GreaterOrEqual(t, i, b2-30, "records before the first key, or of another space")
		n++
		return nil
	}))
	require.Equal(t, 11, n)
	stop := errors.New("stop")
	n = 0
	require.ErrorIs(t, j.Scan(journal.SpaceChunk, func(journal.Key, []byte) error {
		n++
		return stop
	}), stop)
	require.Equal(t, 1, n)
	require.NoError(t, j.Scan(journal.SpaceEvent, func(journal.Key, []byte) error { return stop }), "an empty space")
}

func testScanMoment(t *testing.T, j journal.Journal) {
	for i := range 10 {
		put(t, j, i, "before")
	}
	n := 0
	require.NoError(t, j.Scan(Free, func(k journal.Key, v []byte) error {
		if n == 0 { // commits while the scan runs
			for i := range 20 {
				put(t, j, i, "after")
			}
		}
		require.Equal(t, "before", string(v))
		n++
		return nil
	}))
	require.Equal(t, 10, n)
}

func testState(t *testing.T, j journal.Journal) {
	rng := rand.New(rand.NewPCG(3, 4))
	model := map[journal.Key]string{}
	require.Equal(t, journal.State{}, j.State())
	for i := range 60 {
		require.NoError(t, j.Commit(context.Background(), RandomBatch(rng, 12, model)))
		require.Equal(t, journal.Seq(i+1), j.State().Seq)
		CheckState(t, j, model)
	}
	require.Equal(t, model, Contents(t, j))
}

func testOrder(t *testing.T, j journal.Journal) {
	const writers, rounds = 16, 30
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				var b journal.Batch
				b.Put(key(w), fmt.Append(nil, i))
				b.Put(journal.MakeKey('x', uint64(w), uint64(i)), fmt.Append(nil, i))
				if !noError(t, j.Commit(context.Background(), &b)) {
					return
				}
				v, err := j.Get(key(w))
				if !noError(t, err) {
					return
				}
				if string(v) != fmt.Sprint(i) {
					t.Errorf("writer %d reads %s after commit %d", w, v, i)
				}
			}
		})
	}
	wg.Wait()
	want := map[journal.Key]string{}
	for w := range writers {
		want[key(w)] = fmt.Sprint(rounds - 1)
		for i := range rounds {
			want[journal.MakeKey('x', uint64(w), uint64(i))] = fmt.Sprint(i)
		}
	}
	require.Equal(t, want, Contents(t, j))
	CheckState(t, j, want)
	seq := j.State().Seq
	require.LessOrEqual(t, seq, journal.Seq(writers*rounds))
	require.GreaterOrEqual(t, seq, journal.Seq(rounds))
}

func noError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func testLimits(t *testing.T, j journal.Journal) {
	ctx := context.Background()
	many := &journal.Batch{}
	for i := range journal.MaxBatchOps {
		many.Put(key(i), []byte{byte(i)})
	}
	require.NoError(t, j.Commit(ctx, many))
	require.Equal(t, uint64(journal.MaxBatchOps), j.State().Count)
	before := j.State()
	many.Delete(key(0))
	require.ErrorIs(t, j.Commit(ctx, many), journal.ErrTooBig)
	big := &journal.Batch{}
	for i := range 4 {
		big.Put(key(i), make([]byte, journal.MaxBatchBytes/4-16))
	}
	require.Equal(t, journal.MaxBatchBytes, big.Bytes())
	require.NoError(t, j.Commit(ctx, big))
	big.Put(key(0), make([]byte, 1))
	require.ErrorIs(t, j.Commit(ctx, big), journal.ErrTooBig)
	require.Equal(t, before.Seq+1, j.State().Seq)
	require.Panics(t, func() {
		j.Commit(ctx, &journal.Batch{Ops: []journal.Op{{Key: journal.MakeKey(journal.SpaceReserve, 0, 0)}}})
	})
	require.Panics(t, func() { j.Commit(ctx, &journal.Batch{Ops: []journal.Op{{}}}) })
	put(t, j, 5, "still here")
}

func testContext(t *testing.T, j journal.Journal) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var b journal.Batch
	b.Put(key(1), []byte("never"))
	require.ErrorIs(t, j.Commit(ctx, &b), context.Canceled)
	put(t, j, 2, "goes on")
	_, err := j.Get(key(1))
	require.ErrorIs(t, err, journal.ErrNotFound)
}

func testOwnership(t *testing.T, j journal.Journal) {
	put(t, j, 1, "value")
	v, err := j.Get(key(1))
	require.NoError(t, err)
	clear(v)
	again, err := j.Get(key(1))
	require.NoError(t, err)
	require.Equal(t, "value", string(again))
	// Memory of a batch whose commit returned may be used again.
	mine := []byte("first ")
	for _, s := range []string{"second", "third "} {
		var b journal.Batch
		b.Put(key(2), mine)
		require.NoError(t, j.Commit(context.Background(), &b))
		old := string(mine)
		copy(mine, s)
		again, err = j.Get(key(2))
		require.NoError(t, err)
		require.Equal(t, old, string(again))
	}
	CheckState(t, j, map[journal.Key]string{key(1): "value", key(2): "second"})
}

func testClosed(t *testing.T, j journal.Journal) {
	put(t, j, 1, "value")
	require.NoError(t, j.Close())
	var b journal.Batch
	b.Delete(key(1))
	require.ErrorIs(t, j.Commit(context.Background(), &b), journal.ErrClosed)
	_, err := j.Get(key(1))
	require.ErrorIs(t, err, journal.ErrClosed)
	require.ErrorIs(t, j.Scan(Free, func(journal.Key, []byte) error { return nil }), journal.ErrClosed)
	require.Equal(t, uint64(1), j.State().Count)
}
