//go:build bench

package journal_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping"
)

var (
	openRecords = flag.Int("open-records", 1_000_000, "chunk records of TestBenchOpen")
	openDir     = flag.String("open-dir", "", "where TestBenchOpen makes its journal; default is the directory for temporary files")
)

// fileArea is a journal area that fills a file.
type fileArea struct{ devices.Disk }

// TestBenchOpen measures how long it takes to open a journal of full chunks with two copies, to read
// from it what a volume needs, and to make it anew from its copy on a device.
func TestBenchOpen(t *testing.T) {
	const chunk, blocks = 1 << 20, 256
	n := *openRecords
	dir, err := os.MkdirTemp(*openDir, "ballast-bench")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	store := dir + "/journal"
	size := int64(n+1) * chunk
	info := journal.Volume{UUID: volume, Name: "v", ChunkSize: chunk, Copies: 2, NextDevice: 3, NextObject: 2, Generation: uint64(n) + 1, Created: time.Now()}
	members := make([]striping.Member, 2)
	for i := range members {
		members[i] = striping.Member{DataSize: size, Record: journal.Device{ID: uint16(i + 1), UUID: [16]byte{2, byte(i)}, Size: size,
			State: journal.Missing, Since: time.Now(), Epoch: 1}}
	}
	phase(t, n, "made", func() {
		require.NoError(t, journal.Build(store, volume, func(add func(journal.Key, []byte) error) error {
			for i := range n {
				if err := add(fullChunk(i)); err != nil {
					return err
				}
			}
			for i := range members {
				key := journal.MakeKey(journal.SpaceDevice, uint64(members[i].Record.ID), 0)
				require.NoError(t, add(key, members[i].Record.Pack(key)))
			}
			o := journal.Object{Number: 1, Kind: journal.Export, Name: "e", Size: size, Created: time.Now()}
			key := journal.MakeKey(journal.SpaceObject, 1, 0)
			require.NoError(t, add(key, o.Pack(key)))
			key = journal.VolumeKey()
			return add(key, info.Pack(key))
		}))
	})

	path := dir + "/disk"
	require.NoError(t, devices.CreateFile(path, (int64(n)*1300+64<<20)&^4095))
	f, err := devices.Open(path, devices.FileOptions{})
	require.NoError(t, err)
	defer f.Close()
	place := journal.Place{Device: [16]byte{2}, Name: "d1", Area: fileArea{f}}
	options := journal.Options{UUID: volume}
	var s *journal.Store
	openIt := func() {
		s, err = journal.Open(store, options)
		require.NoError(t, err)
		require.EqualValues(t, n+4, s.State().Count)
	}
	phase(t, n, "opened and verified", openIt)
	phase(t, n, "copied to a device", func() { require.NoError(t, s.CopyTo(place)) })
	require.NoError(t, s.Close())
	options.Preflight = preflight(t)
	phase(t, n, "verified in a child and opened", openIt)
	phase(t, n, "read by the volume", func() {
		v, err := striping.Open(context.Background(), striping.Options{Journal: s, Members: members, Volume: info})
		require.NoError(t, err)
		require.NoError(t, v.Close(context.Background()))
	})
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(store))
	options.Places = []journal.Place{place}
	phase(t, n, "made anew from a copy, verified and opened", func() {
		s, err = journal.Open(store, options)
		require.NoError(t, err)
		require.EqualValues(t, n+4, s.State().Count)
	})
	require.NoError(t, s.Close())
}

// phase prints how long f takes, and the processor time and peak memory of this process.
func phase(t *testing.T, n int, what string, f func()) {
	t.Helper()
	runtime.GC()
	var before, after syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	start := time.Now()
	f()
	took := time.Since(start).Seconds()
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	fmt.Printf("journal of %d chunks %s: %.2f s, %.2f s per million (%.2f s of processors, %d MiB resident at most)\n",
		n, what, took, took*1e6/float64(n), cpu.Seconds(), after.Maxrss>>10)
}
