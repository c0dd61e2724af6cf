//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/journal/simjournal"
	"ballast/striping"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Of a volume whose every byte is placed: how much memory its map takes, how long it takes to open, and
// whether an operation costs more than on a smaller one. The journal makes the records of the chunks up
// when they are read, because 100 TiB of them are 110 GB; the disks forget what is written.

const mapDisks = 64

// nullDisk has zeros everywhere.
type nullDisk struct{ size int64 }

func (d nullDisk) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (nullDisk) WriteAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (nullDisk) Sync() error                             { return nil }
func (d nullDisk) Size() int64                           { return d.size }
func (nullDisk) Close() error                            { return nil }

// mapJournal has a record for each of the chunks of an object, until another is committed.
type mapJournal struct {
	*simjournal.Journal
	object, chunks uint64
}

func (j *mapJournal) chunk(index uint64, rec *journal.Chunk) (journal.Key, []byte) {
	key := journal.MakeKey(journal.SpaceChunk, j.object, index)
	rec.Copies[0] = journal.Copy{Device: uint16(index%mapDisks) + 1, Off: int64(index/mapDisks) << 20}
	return key, rec.Pack(key)
}

// placedChunk is all of a record but its place.
func placedChunk() *journal.Chunk {
	return &journal.Chunk{Generation: 1, Version: 1, Slot: 256, Copies: make([]journal.Copy, 1),
		Written: []uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}, Sums: make([]uint32, 256)}
}

func (j *mapJournal) mine(key journal.Key) bool {
	space, object, index := key.Parts()
	return space == journal.SpaceChunk && object == j.object && index < j.chunks
}

func (j *mapJournal) Get(key journal.Key) ([]byte, error) {
	val, err := j.Journal.Get(key)
	if errors.Is(err, journal.ErrNotFound) && j.mine(key) {
		_, _, index := key.Parts()
		_, val = j.chunk(index, placedChunk())
		err = nil
	}
	return val, err
}

// ScanFrom reads chunks as they were made up: it is used when the volume opens.
func (j *mapJournal) ScanFrom(from journal.Key, fn func(journal.Key, []byte) error) error {
	space, object, index := from.Parts()
	if space != journal.SpaceChunk {
		return j.Journal.ScanFrom(from, fn)
	}
	if object < j.object {
		index = 0
	}
	for rec := placedChunk(); object <= j.object && index < j.chunks; index++ {
		if err := fn(j.chunk(index, rec)); err != nil {
			return err
		}
	}
	return nil
}

func (j *mapJournal) Scan(space journal.Space, fn func(journal.Key, []byte) error) error {
	return j.ScanFrom(journal.MakeKey(space, 0, 0), fn)
}

func (j *mapJournal) Cuts(journal.Space) (cuts []journal.Key, _ error) {
	for i := uint64(1 << 16); i < j.chunks; i += 1 << 16 {
		cuts = append(cuts, journal.MakeKey(journal.SpaceChunk, j.object, i))
	}
	return cuts, nil
}

// TestBenchMap opens volumes of 1, 10 and 100 TiB over 64 devices, all of it written, and overwrites and
// reads it all over.
func TestBenchMap(t *testing.T) {
	sizes := []int64{1, 10, 100}
	if testing.Short() {
		sizes = sizes[:2]
	}
	cost := map[string]float64{}
	for _, tib := range sizes {
		t.Run(fmt.Sprintf("%d TiB", tib), func(t *testing.T) { benchMap(t, tib, cost) })
	}
}

func benchMap(t *testing.T, tib int64, cost map[string]float64) {
	ctx := context.Background()
	j := &mapJournal{Journal: simjournal.New(simjournal.Options{})}
	var devs []journal.Device
	size := tib << 40 / mapDisks * 5 / 4
	for i := range mapDisks {
		devs = append(devs, journal.Device{ID: uint16(i + 1), UUID: [16]byte{byte(i + 1)}, Path: fmt.Sprint("/null/", i), Size: size, State: journal.Online})
	}
	require.NoError(t, striping.Format(ctx, j, journal.Volume{UUID: [16]byte{1}, Name: "v", ChunkSize: 1 << 20, Copies: 1}, devs))
	v, members := openMap(t, j)
	require.NoError(t, v.CreateExport(ctx, "e", tib<<40))
	closeMap(t, v, members)
	require.NoError(t, j.Scan(journal.SpaceObject, func(k journal.Key, _ []byte) error {
		_, j.object, _ = k.Parts()
		return nil
	}))
	j.chunks = uint64(tib << 20)

	before, began := heap(), time.Now()
	v, members = openMap(t, j)
	took := time.Since(began)
	held := heap() - before
	what := fmt.Sprintf("%d TiB", tib)
	report(figure{Bench: "map", What: what + " open", Value: took.Seconds(), Unit: "s", More: map[string]float64{"million chunks": float64(j.chunks) / 1e6}})
	report(figure{Bench: "map", What: what + " memory", Value: float64(held) / mib, Unit: "MiB", Goal: 4096, AtMost: true,
		More: map[string]float64{"bytes per chunk": float64(held) / float64(j.chunks)}})
	report(figure{Bench: "map", What: what + " resident", Value: float64(ownMemory(t)) / mib, Unit: "MiB", Goal: 4096, AtMost: true})
	e, err := v.OpenExport("e")
	require.NoError(t, err)
	buf := make([]byte, 4096)
	for _, c := range []struct {
		name string
		op   func(off int64) error
	}{
		{"overwrite 4 KiB at random", func(off int64) error { return e.WriteAt(ctx, buf, off, false) }},
		{"read 4 KiB at random", func(off int64) error { return e.ReadAt(ctx, make([]byte, 4096), off) }},
	} {
		us := costOf(t, e, tib<<40, c.op)
		f := figure{Bench: "map", What: what + " " + c.name, Value: us, Unit: "us of CPU"}
		if cost[c.name] == 0 {
			cost[c.name] = us
		} else {
			f.Ratio, f.Against, f.Goal, f.AtMost = us/cost[c.name], "that of 1 TiB", 1.3, true
		}
		report(f)
	}
	e.Close()
	closeMap(t, v, members)
}

// costOf is what op at 100,000 places of the first size bytes takes of the processors, in microseconds;
// the same places each time, so that what was overwritten is read, and a flush at the end.
func costOf(t *testing.T, e *striping.Export, size int64, op func(off int64) error) float64 {
	const ops, callers = 100_000, 8
	var wg sync.WaitGroup
	errs := make([]error, callers)
	used := processorTime()
	for i := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for range ops / callers {
				if errs[i] = op(rng.Int64N(size/4096) * 4096); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, e.Sync(context.Background()))
	return float64(processorTime()-used) / 1e3 / ops
}

func openMap(t *testing.T, j journal.Journal) (*striping.Volume, []*devices.Device) {
	info, recs, err := striping.LoadConfig(j)
	require.NoError(t, err)
	o := striping.Options{Journal: j, Volume: info, Seed: 1}
	var list []*devices.Device
	for _, rec := range recs {
		d := devices.NewDevice(nullDisk{rec.Size}, devices.Options{ID: devices.ID(rec.ID)})
		list = append(list, d)
		o.Members = append(o.Members, striping.Member{Record: rec, DataSize: rec.Size, Device: d})
	}
	v, err := striping.Open(context.Background(), o)
	require.NoError(t, err)
	return v, list
}

func closeMap(t *testing.T, v *striping.Volume, list []*devices.Device) {
	require.NoError(t, v.Close(context.Background()))
	for _, d := range list {
		require.NoError(t, d.Close())
	}
}

// heap is how much memory is in use.
func heap() int64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// ownMemory is what this process has resident.
func ownMemory(t *testing.T) int64 {
	_, own := resident(t, os.Getpid())
	return own
}

// processorTime is what this process has taken of the processors.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
