package striping

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"ballast/devices"
	"ballast/journal"
	"ballast/journal/simjournal"

	"github.com/stretchr/testify/require"
)

// benchVolume is a volume over three disks in memory, with one export of size bytes.
func benchVolume(b *testing.B, copies uint8, size int64) *Export {
	j := simjournal.New(simjournal.Options{})
	vol := journal.Volume{UUID: [16]byte{1}, Name: "bench", ChunkSize: 1 << 20, Copies: copies}
	var recs []journal.Device
	o := Options{Journal: j, Volume: vol}
	for i := range 3 {
		disk := devices.NewMemory(size)
		dev := devices.NewDevice(disk, devices.Options{ID: devices.ID(i + 1)})
		b.Cleanup(func() { require.NoError(b, dev.Close()) })
		recs = append(recs, journal.Device{ID: uint16(i + 1), Size: size, State: journal.Online})
		o.Members = append(o.Members, Member{Record: recs[i], Device: dev, DataSize: size})
	}
	require.NoError(b, Format(b.Context(), j, vol, recs))
	v, err := Open(b.Context(), o)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, v.Close(context.Background())) })
	require.NoError(b, v.CreateExport(b.Context(), "e", size))
	e, err := v.OpenExport("e")
	require.NoError(b, err)
	b.Cleanup(e.Close)
	return e
}

func fillExport(b *testing.B, e *Export) {
	for off := int64(0); off < e.Size(); off += 1 << 20 {
		buf := NewBuffer(1 << 20)
		for i := range buf.Bytes() {
			buf.Bytes()[i] = byte(i)
		}
		require.NoError(b, e.WriteBuffer(b.Context(), buf, off, false))
	}
	require.NoError(b, e.Sync(b.Context()))
}

// discardSink is a Sink that lets go of everything at once.
type discardSink struct{}

func (discardSink) Append(_ []byte, owner interface{ Release() }) {
	if owner != nil {
		owner.Release()
	}
}
func (discardSink) AppendHole(int64) {}

func BenchmarkReadRandom4K(b *testing.B) {
	e := benchVolume(b, 1, 256<<20)
	fillExport(b, e)
	b.SetBytes(blockSize)
	b.ReportAllocs()
	for b.Loop() {
		off := rand.Int64N(e.Size()/blockSize) * blockSize
		if done, err := e.TryRead(off, blockSize, discardSink{}); !done {
			require.NoError(b, e.Read(b.Context(), off, blockSize, discardSink{}))
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteRandom4K(b *testing.B) {
	for _, copies := range []uint8{1, 2} {
		b.Run([]string{"", "1 copy", "2 copies"}[copies], func(b *testing.B) {
			e := benchVolume(b, copies, 256<<20)
			fillExport(b, e)
			p := devices.AlignedBytes(blockSize)
			b.SetBytes(blockSize)
			b.ReportAllocs()
			for b.Loop() {
				off := rand.Int64N(e.Size()/blockSize) * blockSize
				if done, err := e.TryWriteAt(p, off); !done {
					require.NoError(b, e.WriteAt(b.Context(), p, off, false))
				} else if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSequential1M(b *testing.B) {
	e := benchVolume(b, 1, 512<<20)
	fillExport(b, e)
	b.Run("write", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		var off int64
		for b.Loop() {
			require.NoError(b, e.WriteBuffer(b.Context(), NewBuffer(1<<20), off, false))
			off = (off + 1<<20) % e.Size()
		}
	})
	require.NoError(b, e.Sync(b.Context()))
	b.Run("read", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		var off int64
		for b.Loop() {
			require.NoError(b, e.Read(b.Context(), off, 1<<20, discardSink{}))
			off = (off + 1<<20) % e.Size()
		}
	})
	b.Run("read 8 at once", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		var next atomic.Int64
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				off := (next.Add(1) << 20) % e.Size()
				require.NoError(b, e.Read(context.Background(), off, 1<<20, discardSink{}))
			}
		})
	})
}
