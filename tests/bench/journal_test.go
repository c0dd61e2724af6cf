//go:build bench

package bench

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
	"ballast/tests/harness"
)

var (
	journalRecords = flag.Int("journal-records", 1_000_000, "chunk records of TestBenchJournalOpen")
	journalDir     = flag.String("journal-dir", "", "where TestBenchJournalOpen makes its journal; default is the directory for temporary files")
	copyDir        = flag.String("journal-copy-dir", "", "where its copy is; default is beside the journal")
)

// fileArea is a journal area that fills a file.
type fileArea struct{ devices.Disk }

// TestBenchJournalOpen measures how long it takes to open a journal of full chunks with two copies, to read
// from it what a volume needs, and to make it anew from its copy on a device. The goals are those of 10
// million chunks, 5 and 60 seconds, in proportion to the chunks that there are.
func TestBenchJournalOpen(t *testing.T) {
	volume := [16]byte{1}
	n := *journalRecords
	dir, err := os.MkdirTemp(*journalDir, "ballast-bench")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	harness.Binary(t) // is built before anything is measured
	store := dir + "/journal"
	size := int64(n+1) * mib
	info := journal.Volume{UUID: volume, Name: "v", ChunkSize: mib, Copies: 2, NextDevice: 3, NextObject: 2, Generation: uint64(n) + 1, Created: time.Now()}
	members := make([]striping.Member, 2)
	for i := range members {
		members[i] = striping.Member{DataSize: size, Record: journal.Device{ID: uint16(i + 1), UUID: [16]byte{2, byte(i)}, Size: size,
			State: journal.Missing, Since: time.Now(), Epoch: 1}}
	}
	phase(t, n, "made", func() {
		require.NoError(t, journal.Build(store, volume, func(add func(journal.Key, []byte) error) error {
			var err error
			put := func(key journal.Key, value []byte) {
				if err == nil {
					err = add(key, value)
				}
			}
			for i := range n {
				put(fullChunk(i))
			}
			for i := range members {
				key := journal.MakeKey(journal.SpaceDevice, uint64(members[i].Record.ID), 0)
				put(key, members[i].Record.Pack(key))
			}
			o := journal.Object{Number: 1, Kind: journal.Export, Name: "e", Size: size, Created: time.Now()}
			key := journal.MakeKey(journal.SpaceObject, 1, 0)
			put(key, o.Pack(key))
			put(journal.VolumeKey(), info.Pack(journal.VolumeKey()))
			return err
		}))
	})

	path := dir + "/disk"
	if *copyDir != "" {
		path = *copyDir + "/ballast-bench-disk"
		t.Cleanup(func() { os.Remove(path) })
	}
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
	options.InChild(context.Background(), []string{harness.Binary(t), "journal-preflight"})
	load := func() {
		v, err := striping.Open(context.Background(), striping.Options{Journal: s, Members: members, Volume: info})
		require.NoError(t, err)
		require.NoError(t, v.Close(context.Background()))
	}
	goal := func(what string, seconds, of10M float64) {
		report(figure{Bench: "journal", What: fmt.Sprintf("of %d chunks, %s", n, what), Value: seconds, Unit: "s",
			Goal: of10M * float64(n) / 10e6, AtMost: true})
	}
	opened := phase(t, n, "settled in a child, verified and opened", openIt)
	memory := float64(ownMemory(t)) / mib
	opened += phase(t, n, "read by the volume", load)
	goal("a volume opened", opened, 5)
	report(figure{Bench: "journal", What: "resident when it was opened", Value: memory, Unit: "MiB"})
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(store))
	options.Places = []journal.Place{place}
	imported := phase(t, n, "made anew from a copy, verified and opened", openIt)
	imported += phase(t, n, "read by the volume then", load)
	goal("a volume imported", imported, 60)
	require.NoError(t, s.Close())
}

// fullChunk is the record of a full chunk of 1 MiB with two copies.
func fullChunk(i int) (journal.Key, []byte) {
	c := journal.Chunk{
		Generation: uint64(i), Version: 1, Slot: 256, Sums: make([]uint32, 256),
		Copies:  []journal.Copy{{Device: 1, Off: int64(i) * mib}, {Device: 2, Off: int64(i) * mib}},
		Written: []uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)},
	}
	for b := range c.Sums {
		c.Sums[b] = uint32(i*256+b) * 0x9e3779b1
	}
	key := journal.MakeKey(journal.SpaceChunk, 1, uint64(i))
	return key, c.Pack(key)
}

// phase prints how long f takes, and the processor time of this process and its children, and returns the
// seconds.
func phase(t *testing.T, n int, what string, f func()) float64 {
	t.Helper()
	runtime.GC()
	start, before := time.Now(), childrensTime(t)
	f()
	took := time.Since(start).Seconds()
	report(figure{Bench: "journal", What: fmt.Sprintf("of %d chunks, %s", n, what), Value: took, Unit: "s",
		More: map[string]float64{"s per million": took * 1e6 / float64(n), "s of CPU": (childrensTime(t) - before).Seconds()}})
	return took
}

// childrensTime is what this process and its children that have ended have taken of the processors.
func childrensTime(t *testing.T) (sum time.Duration) {
	t.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		require.NoError(t, syscall.Getrusage(who, &u))
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}
