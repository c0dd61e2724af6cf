// Package devicetest is the suite that every devices.Disk must pass, and what tests over disks share.
//
// # Guarantees
//
//  1. Run checks each sentence of the contract of devices.Disk, devices.Vectored and
//     devices.Discarder that can be checked from outside.
//
// # Concurrency
//
// The disk under test is used by several goroutines at once; run the suite with -race.
//
// # Failures
//
// They are those of the test.
//
// # On disk
//
// Nothing.
package devicetest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/devices"
)

const block = devices.BlockSize

// MinSize is the smallest disk in bytes that the suite can be run on.
const MinSize = 12 << 20

// Opener opens the disk under test. The first call in a test yields an empty disk, of any
// content; the later ones the same disk again, after it was closed. It closes nothing itself.
type Opener func(t *testing.T) devices.Disk

// Run runs the suite. For each of its tests it calls fresh, which returns how to open a new
// disk of at least MinSize bytes, and whether closing and opening keeps its content.
func Run(t *testing.T, fresh func(t *testing.T) (open Opener, persistent bool)) {
	tests := []struct {
		name string
		run  func(t *testing.T, d devices.Disk)
	}{
		{"Size", testSize},
		{"ReadYourWrite", testReadYourWrite},
		{"Alignment", testAlignment},
		{"Range", testRange},
		{"Concurrent", testConcurrent},
		{"Overlapping", testOverlapping},
		{"Model", testModel},
		{"Vectored", testVectored},
		{"VectoredMany", testVectoredMany},
		{"Discarder", testDiscarder},
		{"Closed", testClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			open, _ := fresh(t)
			d := open(t)
			defer d.Close()
			tt.run(t, d)
		})
	}
	t.Run("Persistent", func(t *testing.T) {
		open, persistent := fresh(t)
		testPersistent(t, open, persistent)
	})
}

// Pattern returns n aligned bytes that differ from sector to sector and from seed to seed.
func Pattern(n int, seed uint64) []byte {
	const sector = 512
	p := devices.AlignedBytes(n)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i+8 <= min(n, sector); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
	}
	for i := sector; i < n; i += sector {
		copy(p[i:], p[:sector])
		if i+8 <= n {
			binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
		}
	}
	return p
}

func write(t *testing.T, d devices.Disk, p []byte, off int64) {
	t.Helper()
	n, err := d.WriteAt(p, off)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
}

func requireHolds(t *testing.T, d devices.Disk, want []byte, off int64) {
	t.Helper()
	got := Pattern(len(want), 999)
	n, err := d.ReadAt(got, off)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	if !bytes.Equal(want, got) {
		for i := 0; i < len(want); i += block {
			if !bytes.Equal(want[i:i+block], got[i:i+block]) {
				require.Failf(t, "wrong content", "%d bytes at %#x: block at %#x", len(want), off, off+int64(i))
			}
		}
	}
}

func testSize(t *testing.T, d devices.Disk) {
	require.GreaterOrEqual(t, d.Size(), int64(MinSize))
	require.Zero(t, d.Size()%block)
}

func testReadYourWrite(t *testing.T, d devices.Disk) {
	for i, size := range []int{block, 2 * block, 64 << 10, 1 << 20, 3<<20 + block} {
		for _, off := range []int64{0, block, d.Size() - int64(size)} {
			p := Pattern(size, uint64(i))
			write(t, d, p, off)
			requireHolds(t, d, p, off)
		}
	}
	write(t, d, nil, 0)
	p := Pattern(block, 77)
	write(t, d, p, block)
	p2 := bytes.Clone(p)
	clear(p)
	requireHolds(t, d, p2, block) // the buffer was the caller's again
	require.NoError(t, d.Sync())
	requireHolds(t, d, p2, block)
}

func testAlignment(t *testing.T, d devices.Disk) {
	before := Pattern(4*block, 1)
	write(t, d, before, 0)
	p := Pattern(4*block, 2)
	tests := map[string]struct {
		p   []byte
		off int64
	}{
		"odd offset":             {p[:block], 1},
		"offset of a sector":     {p[:block], 512},
		"length of a byte":       {p[:1], 0},
		"length of a sector":     {p[:512], 0},
		"length beyond a block":  {p[:block+512], 0},
		"address one byte off":   {p[1 : 1+block], 0},
		"address one sector off": {p[512 : 512+block], 0},
		"nothing, odd offset":    {nil, 5},
		"negative odd":           {p[:block], -1},
	}
	for name, tt := range tests {
		n, err := d.WriteAt(tt.p, tt.off)
		require.ErrorIs(t, err, devices.ErrAlignment, name)
		require.Zero(t, n, name)
		n, err = d.ReadAt(tt.p, tt.off)
		require.ErrorIs(t, err, devices.ErrAlignment, name)
		require.Zero(t, n, name)
	}
	requireHolds(t, d, before, 0)
	require.Equal(t, Pattern(4*block, 2), p, "a refused read touches no buffer")
}

func testRange(t *testing.T, d devices.Disk) {
	before := Pattern(2*block, 3)
	write(t, d, before, d.Size()-2*block)
	p := Pattern(2*block, 4)
	for _, off := range []int64{d.Size(), d.Size() - block, d.Size() + block, 1 << 62, -block, -1 << 62} {
		n, err := d.WriteAt(p, off)
		require.ErrorIs(t, err, devices.ErrRange, "write at %#x", off)
		require.Zero(t, n)
		n, err = d.ReadAt(p, off)
		require.ErrorIs(t, err, devices.ErrRange, "read at %#x", off)
		require.Zero(t, n)
	}
	requireHolds(t, d, before, d.Size()-2*block)
}

func testConcurrent(t *testing.T, d devices.Disk) {
	const workers, rounds = 8, 20
	area := d.Size() / workers / block * block
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for r := range rounds {
				size := (1 + rng.IntN(16)) * block
				off := int64(w)*area + rng.Int64N((area-int64(size))/block+1)*block
				p, got := Pattern(size, uint64(w*rounds+r)), devices.AlignedBytes(size)
				if _, err := d.WriteAt(p, off); err != nil {
					t.Errorf("worker %d: %v", w, err)
					return
				}
				if r%7 == 0 {
					if err := d.Sync(); err != nil {
						t.Errorf("worker %d: sync: %v", w, err)
					}
				}
				if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(p, got) {
					t.Errorf("worker %d, round %d: wrong content, %v", w, r, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// testOverlapping: writes of one block in flight leave one of them, whole.
func testOverlapping(t *testing.T, d devices.Disk) {
	for range 20 {
		var wg sync.WaitGroup
		for w := range 4 {
			p := devices.AlignedBytes(block)
			for i := range p {
				p[i] = byte(w + 1)
			}
			wg.Go(func() {
				if _, err := d.WriteAt(p, 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := devices.AlignedBytes(block)
		_, err := d.ReadAt(got, 0)
		require.NoError(t, err)
		require.Contains(t, []byte{1, 2, 3, 4}, got[0])
		require.Equal(t, bytes.Repeat(got[:1], block), got)
	}
}

// testModel compares random writes and reads with a slice.
func testModel(t *testing.T, d devices.Disk) {
	rng := rand.New(rand.NewPCG(6, 6))
	const area = 4 << 20
	model := Pattern(area, 7)
	write(t, d, model, 0)
	for i := range 300 {
		size := (1 + rng.IntN(64)) * block
		off := rng.IntN((area-size)/block+1) * block
		if rng.IntN(2) == 0 {
			p := Pattern(size, uint64(i))
			write(t, d, p, int64(off))
			copy(model[off:], p)
		} else {
			requireHolds(t, d, model[off:off+size], int64(off))
		}
	}
	requireHolds(t, d, model, 0)
}

func testVectored(t *testing.T, d devices.Disk) {
	v, ok := d.(devices.Vectored)
	if !ok {
		return
	}
	for _, count := range []int{0, 1, 2, 3, 17, 1023} {
		var bufs, got [][]byte
		var all []byte
		for i := range count {
			size := block
			if count < 100 {
				size *= 1 + i%4
			}
			bufs = append(bufs, Pattern(size, uint64(i)))
			got = append(got, devices.AlignedBytes(size))
			all = append(all, bufs[i]...)
		}
		off := d.Size() - int64(len(all))
		n, err := v.WriteVec(bufs, off)
		require.NoError(t, err)
		require.Equal(t, len(all), n)
		requireHolds(t, d, all, off)
		n, err = v.ReadVec(got, off)
		require.NoError(t, err)
		require.Equal(t, len(all), n)
		require.Equal(t, bufs, got)
	}

	good, odd := Pattern(block, 8), Pattern(2*block, 9)
	_, err := v.WriteVec([][]byte{good, odd[:512]}, 0)
	require.ErrorIs(t, err, devices.ErrAlignment)
	_, err = v.ReadVec([][]byte{good, odd[1 : 1+block]}, 0)
	require.ErrorIs(t, err, devices.ErrAlignment)
	_, err = v.WriteVec([][]byte{good, odd}, d.Size()-2*block)
	require.ErrorIs(t, err, devices.ErrRange)
	_, err = v.ReadVec([][]byte{good, odd}, d.Size()-2*block)
	require.ErrorIs(t, err, devices.ErrRange)
}

// testVectoredMany needs more buffers than the kernel takes in one call (1024).
func testVectoredMany(t *testing.T, d devices.Disk) {
	v, ok := d.(devices.Vectored)
	if !ok {
		return
	}
	const count = 2500
	const size = count * block
	p, got := Pattern(size, 10), devices.AlignedBytes(size)
	var in, out [][]byte
	for i := 0; i < len(p); i += block {
		in, out = append(in, p[i:i+block]), append(out, got[i:i+block])
	}
	n, err := v.WriteVec(in, 0)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	n, err = v.ReadVec(out, 0)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.True(t, bytes.Equal(p, got))
}

func testDiscarder(t *testing.T, d devices.Disk) {
	x, ok := d.(devices.Discarder)
	if !ok {
		return
	}
	p := Pattern(4<<20, 11)
	write(t, d, p, 0)
	require.NoError(t, x.Discard(1<<20, 1<<20))
	require.NoError(t, x.Discard(0, 0))
	requireHolds(t, d, p[:1<<20], 0)
	requireHolds(t, d, p[2<<20:], 2<<20)
	_, err := d.ReadAt(devices.AlignedBytes(1<<20), 1<<20)
	require.NoError(t, err, "undefined, but readable")
	write(t, d, p[:block], 1<<20)
	requireHolds(t, d, p[:block], 1<<20)

	require.ErrorIs(t, x.Discard(1, block), devices.ErrAlignment)
	require.ErrorIs(t, x.Discard(0, 512), devices.ErrAlignment)
	require.ErrorIs(t, x.Discard(d.Size(), block), devices.ErrRange)
	require.ErrorIs(t, x.Discard(-block, block), devices.ErrRange)
	require.ErrorIs(t, x.Discard(block, -block), devices.ErrRange)
	require.ErrorIs(t, x.Discard(1<<62, 1<<62), devices.ErrRange)
}

func testClosed(t *testing.T, d devices.Disk) {
	require.NoError(t, d.Close())
	p := devices.AlignedBytes(block)
	_, err := d.ReadAt(p, 0)
	require.ErrorIs(t, err, devices.ErrClosed)
	_, err = d.WriteAt(p, 0)
	require.ErrorIs(t, err, devices.ErrClosed)
	require.ErrorIs(t, d.Sync(), devices.ErrClosed)
	if v, ok := d.(devices.Vectored); ok {
		_, err = v.ReadVec([][]byte{p}, 0)
		require.ErrorIs(t, err, devices.ErrClosed)
		_, err = v.WriteVec([][]byte{p}, 0)
		require.ErrorIs(t, err, devices.ErrClosed)
	}
	if x, ok := d.(devices.Discarder); ok {
		require.ErrorIs(t, x.Discard(0, block), devices.ErrClosed)
	}
}

func testPersistent(t *testing.T, open Opener, persistent bool) {
	d := open(t)
	p := Pattern(64<<10, 12)
	_, err := d.WriteAt(p, block)
	if err == nil {
		_, err = d.WriteAt(p, d.Size()-int64(len(p)))
	}
	if err == nil {
		err = d.Sync()
	}
	require.NoError(t, d.Close())
	require.NoError(t, err)
	if !persistent {
		return
	}
	d = open(t)
	defer d.Close()
	requireHolds(t, d, p, block)
	requireHolds(t, d, p, d.Size()-int64(len(p)))
}
