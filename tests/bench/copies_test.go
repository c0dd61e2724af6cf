//go:build bench

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// flushed is a volume with two copies on three files, with or without copies of its journal.
type flushed struct {
	store  *journal.Store
	volume *striping.Volume
	export *striping.Export
}

func newFlushed(t *testing.T, dir string, copies bool) *flushed {
	ctx := context.Background()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	uuid := [16]byte{1}
	require.NoError(t, journal.Create(dir+"/journal", uuid))
	store, err := journal.Open(dir+"/journal", journal.Options{UUID: uuid})
	require.NoError(t, err)
	var records []journal.Device
	var members []striping.Member
	var places []journal.Place
	for i := range 3 {
		const size = 4 << 30
		path := fmt.Sprintf("%s/disk%d", dir, i)
		require.NoError(t, devices.CreateFile(path, size))
		f, err := devices.Open(path, devices.FileOptions{})
		require.NoError(t, err)
		layout, err := devices.NewLayout(size, mib)
		require.NoError(t, err)
		id := devices.ID(i + 1)
		d := devices.NewDevice(f, devices.Options{ID: id})
		t.Cleanup(func() { d.Close() })
		r := journal.Device{ID: uint16(id), UUID: [16]byte{2, byte(i)}, Size: size, State: journal.Online, Since: time.Now(), Epoch: 1}
		records = append(records, r)
		members = append(members, striping.Member{Record: r, Device: d, DataOff: layout.DataOff, DataSize: layout.DataSize})
		places = append(places, volumes.JournalPlace(f, &devices.Label{Device: r.UUID, ID: id, Layout: layout}, ""))
	}
	info := journal.Volume{UUID: uuid, Name: "v", ChunkSize: mib, Copies: 2, NextDevice: 4, NextObject: 1, Generation: 1, Created: time.Now()}
	if copies {
		require.NoError(t, store.StartCopies(journal.CopyOptions{Places: places, Need: 2, Delay: 20 * time.Millisecond}))
	}
	require.NoError(t, striping.Format(ctx, store, info, records))
	v, err := striping.Open(ctx, striping.Options{Journal: store, Members: members, Volume: info})
	require.NoError(t, err)
	require.NoError(t, v.CreateExport(ctx, "e", 2<<30))
	e, err := v.OpenExport("e")
	require.NoError(t, err)
	t.Cleanup(func() {
		e.Close()
		require.NoError(t, v.Close(ctx))
		require.NoError(t, store.Close())
	})
	return &flushed{store, v, e}
}

// TestBenchJournalCopies measures what the copies of the journal cost: the time of a flush of 4 KiB
// and of 1 MiB of new data on the same disks with and without them, in turn, and the bytes written to
// them beside the bytes of data, once all is settled. The goal is for data that is taken in; what is written
// over has the record of its whole chunk written anew for each commit.
func TestBenchJournalCopies(t *testing.T) {
	dir := t.TempDir()
	with, without := newFlushed(t, filepath.Join(dir, "with"), true), newFlushed(t, filepath.Join(dir, "without"), false)
	data := devices.AlignedBytes(mib)
	for i := range data {
		data[i] = byte(i * 31)
	}
	at := int64(0)
	for _, size := range []int{4096, mib} {
		took := map[*flushed][]time.Duration{}
		for i := range 400 {
			order := []*flushed{with, without}
			if i%2 > 0 {
				order[0], order[1] = without, with
			}
			for _, f := range order {
				err := f.export.WriteAt(context.Background(), data[:size], at, false)
				require.NoError(t, err)
				start := time.Now()
				require.NoError(t, f.export.Sync(context.Background()))
				took[f] = append(took[f], time.Since(start))
			}
			at += mib
		}
		a, b := quantiles(took[with]), quantiles(took[without])
		report(figure{Bench: "journal", What: fmt.Sprintf("flush of %d KiB of new data, two copies", size>>10), Value: milliseconds(a[0]), Unit: "ms",
			Ratio: float64(a[0]) / float64(b[0]), Against: "without copies of the journal", Goal: 1.3, AtMost: true,
			More: map[string]float64{"p99 ms": milliseconds(a[1]), "p99 ms without": milliseconds(b[1])}})
	}
	// written waits until all copies have all that there is to commit.
	written := func() journal.CopiesStatus {
		require.NoError(t, with.volume.Flush(context.Background()))
		seq := with.store.State().Seq
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(with.store.Copies().Copies, func(c journal.CopyStatus) bool { return c.Seq < seq })
		}, 10*time.Second, time.Millisecond)
		return with.store.Copies()
	}
	amplification := func(what string, goal float64, n, size int, next func() int64) {
		before := written()
		bytes := with.store.Stats().Bytes
		for range n {
			require.NoError(t, with.export.WriteAt(context.Background(), data[:size], next(), false))
		}
		after := written()
		bytes = with.store.Stats().Bytes - bytes
		of := func(bytes int64) float64 { return 100 * float64(bytes) / float64(n*size) }
		ahead := after.Ahead - before.Ahead
		report(figure{Bench: "journal", What: what + ", written to 3 copies of the journal", Value: of(after.Written - before.Written - ahead), Unit: "% of the data",
			Goal: goal, AtMost: true, More: map[string]float64{"% committed": of(int64(bytes)), "% zeros, until it has gone round": of(ahead)}})
	}
	next := func() int64 {
		at += mib
		return at - mib
	}
	end := at
	amplification("384 MiB written by whole chunks", 0.5, 384, mib, next)
	rng := rand.New(rand.NewPCG(1, 1))
	amplification("64 MiB written over by 4 KiB at random", 0, 64<<8, 4096, func() int64 { return rng.Int64N((at-end)>>12)<<12 + end })
}

func quantiles(d []time.Duration) [2]time.Duration {
	slices.Sort(d)
	return [2]time.Duration{d[len(d)/2], d[len(d)*99/100]}
}

func milliseconds(d time.Duration) float64 { return 1000 * d.Seconds() }
