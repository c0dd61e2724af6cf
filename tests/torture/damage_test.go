package torture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ballast/devices"
	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// fill starts the daemon, works on the export for so many operations, and stops it: the model then
// knows of one content for each block.
func (r *rig) fill(rng *rand.Rand, ops int64) {
	r.t.Helper()
	r.start()
	r.work(rng, ops)
	r.stop()
}

// work works on the export of the running daemon for so many operations, and flushes.
func (r *rig) work(rng *rand.Rand, ops int64) {
	r.t.Helper()
	conns := r.connect(3)
	l := startLoad(r.m, rng, 6, conns...)
	for l.ops.Load() < ops && l.err() == nil {
		<-time.After(time.Millisecond)
	}
	l.finish()
	require.NoError(r.t, l.err())
	since := r.m.now()
	require.NoError(r.t, conns[0].Flush())
	r.m.flushed(since)
	require.True(r.t, r.verify()) // which of two writes at once has won
}

// known returns which block has a content, for those that hold data. All must be settled.
func (m *model) known(t *testing.T) map[content]int {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	known := map[content]int{}
	for i, list := range m.blocks {
		require.Len(t, list, 1, "block %d", i)
		if list[0].what != zeroContent {
			known[list[0].what] = i
		}
	}
	return known
}

// find returns where on a disk the present content of blocks stands, by block.
func (r *rig) find(disk string) map[int][]int64 {
	r.t.Helper()
	known := r.m.known(r.t)
	f, err := os.Open(disk)
	require.NoError(r.t, err)
	defer f.Close()
	found := map[int][]int64{}
	p := make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(p)) {
		n, err := f.ReadAt(p, off)
		for i := 0; i+blockSize <= n; i += blockSize {
			if block, ok := known[contentOf(p[i:i+blockSize])]; ok {
				found[block] = append(found[block], off+int64(i))
			}
		}
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(r.t, err)
	}
}

// pick returns n of the blocks that stand on the disk, all when there are fewer.
func pick(rng *rand.Rand, found map[int][]int64, n int) []int {
	var list []int
	for b := range found {
		list = append(list, b)
	}
	slices.Sort(list)
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(n, len(list))]
}

// edit changes size bytes of a file at off.
func edit(t *testing.T, file string, off int64, size int, change func(p []byte)) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	p := make([]byte, size)
	_, err = f.ReadAt(p, off)
	require.NoError(t, err)
	change(p)
	_, err = f.WriteAt(p, off)
	require.NoError(t, err)
}

func flip(rng *rand.Rand) func(p []byte) {
	return func(p []byte) { p[rng.IntN(len(p))] ^= 1 << rng.IntN(8) }
}

// damages are done to one disk while nobody serves it. They return how many blocks of the export
// have a bad copy at least.
var damages = []struct {
	name string
	do   func(r *rig, rng *rand.Rand, disk string) int
}{
	{"bits flipped", func(r *rig, rng *rand.Rand, disk string) int {
		found := r.find(disk)
		list := pick(rng, found, 300)
		for _, b := range list {
			for _, off := range found[b] {
				edit(r.t, disk, off, blockSize, flip(rng))
			}
		}
		return len(list)
	}},
	{"ranges zeroed", func(r *rig, rng *rand.Rand, disk string) int {
		found := r.find(disk)
		for _, b := range pick(rng, found, 30) {
			for _, off := range found[b] {
				edit(r.t, disk, off, (1+rng.IntN(64))*blockSize, func(p []byte) { clear(p) })
			}
		}
		return 30
	}},
	{"chunks swapped", func(r *rig, rng *rand.Rand, disk string) int {
		found := r.find(disk)
		var chunks []int64
		for _, list := range found {
			for _, off := range list {
				if at := off >> 20 << 20; !slices.Contains(chunks, at) {
					chunks = append(chunks, at)
				}
			}
		}
		require.Greater(r.t, len(chunks), 4)
		slices.Sort(chunks)
		rng.Shuffle(len(chunks), func(i, j int) { chunks[i], chunks[j] = chunks[j], chunks[i] })
		for i := 0; i < 4; i += 2 {
			edit(r.t, disk, chunks[i], 1<<20, func(p []byte) {
				edit(r.t, disk, chunks[i+1], 1<<20, func(q []byte) {
					old := slices.Clone(p)
					copy(p, q)
					copy(q, old)
				})
			})
		}
		return 4
	}},
	{"the whole data lost", func(r *rig, rng *rand.Rand, disk string) int {
		found := r.find(disk)
		for _, list := range found {
			for _, off := range list {
				edit(r.t, disk, off, blockSize, func(p []byte) { clear(p) })
			}
		}
		return len(found)
	}},
}

// TestDamageToOneCopy: with two copies the client sees neither a wrong byte nor an error, and what
// was bad is good again.
func TestDamageToOneCopy(t *testing.T) {
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: 2})
			r.fill(rng, 800)
			bad := d.do(r, rng, r.disks[2-i%2])
			require.Positive(t, bad)
			r.healAll(rng)
		})
	}
}

// TestTortureADiskFromThePast: a disk has lost all that was written to it for a while but its label, by
// which it would be known for an older image and left out.
func TestTortureADiskFromThePast(t *testing.T) {
	tried := 0
	for i := range 3 {
		if i != 2 && !long() {
			continue
		}
		t.Run(fmt.Sprintf("d%d", i+1), func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: 2})
			r.fill(rng, 600)
			restore := keep(t, r.disks[i])
			r.fill(rng, 600)
			labels := ends(t, r.disks[i])
			restore()
			for off, b := range labels {
				edit(t, r.disks[i], off, len(b), func(p []byte) { copy(p, b) })
			}
			r.healAll(rng)
		})
		tried++
	}
	fmt.Printf("disks from the past: %d put back, every flushed block read and healed: %v\n", tried, !t.Failed())
}

// ends are the parts of a disk that hold its labels, by their offsets.
func ends(t *testing.T, path string) map[int64][]byte {
	t.Helper()
	disk, err := os.ReadFile(path)
	require.NoError(t, err)
	const pair = 2 * devices.LabelSize
	return map[int64][]byte{0: disk[:pair], int64(len(disk) - pair): disk[len(disk)-pair:]}
}

// healAll serves the damaged volume, compares every block with the model, and reads what is bad
// until the volume is sound.
func (r *rig) healAll(rng *rand.Rand) {
	r.t.Helper()
	before := r.check()
	require.Equal(r.t, "damaged", before.Verdict)
	r.start()
	require.True(r.t, r.verify())
	require.Zero(r.t, r.lost)
	// What verify has read of a few bad chunks may all have come from their sound copies.
	bad := before.chunks()
	r.readOften(rng, bad[:min(len(bad), 4)])
	s := r.status()
	require.Positive(r.t, s.Healed)
	require.Empty(r.t, s.Bad)
	r.stop()
	deadline := time.Now().Add(harness.Patience)
	for c := r.check(); c.Verdict != "sound"; c = r.check() {
		require.Equal(r.t, "damaged", c.Verdict)
		require.True(r.t, time.Now().Before(deadline), "%d of %d bad blocks are left: %+v", c.FaultCount, before.FaultCount, c.Faults)
		r.start()
		r.readOften(rng, c.chunks())
		require.Empty(r.t, r.status().Bad)
		r.stop()
	}
	r.start()
	require.True(r.t, r.verify())
	require.Zero(r.t, r.status().Healed, "there is nothing left to heal")
	r.stop()
}

// chunks are those of the export that have faults.
func (c *checked) chunks() (list []int64) {
	for _, f := range c.Faults {
		if f.Object == "e" && !slices.Contains(list, f.Chunk) {
			list = append(list, f.Chunk)
		}
	}
	return list
}

// readOften reads every block of chunks several times, in random order and very many at a time:
// which copy a read takes is for the volume to choose, but one disk alone would be too busy.
func (r *rig) readOften(rng *rand.Rand, chunks []int64) {
	r.t.Helper()
	const each = 1 << 20 / blockSize
	conns := r.connect(2)
	order := rng.Perm(4 * each * len(chunks))
	const readers = 128
	var wg sync.WaitGroup
	for w := range readers {
		wg.Go(func() {
			p := make([]byte, blockSize)
			for i := w; i < len(order); i += readers {
				n := order[i] / 4
				if err := conns[w%2].Read(p, chunks[n/each]<<20+int64(n%each)*blockSize); err != nil {
					r.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, c := range conns {
		c.(*nbdclient.Client).Disconnect()
	}
}

// TestDamageToTheOnlyCopy: with one copy exactly the damaged blocks end in EIO, everything else
// reads as it was, and writing makes them good again.
func TestDamageToTheOnlyCopy(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 1})
	r.fill(rng, 800)
	damaged := map[int]bool{}
	var places []map[int][]int64
	for i, disk := range r.disks {
		places = append(places, r.find(disk))
		for _, b := range pick(rng, places[i], 40) {
			damaged[b] = true
		}
	}
	for i, disk := range r.disks { // also where nothing is any more: what has moved stands there still
		for b := range damaged {
			for _, off := range places[i][b] {
				edit(t, disk, off, blockSize, flip(rng))
			}
		}
	}
	require.EqualValues(t, len(damaged), r.check().FaultCount)
	r.start()
	c := r.connect(1)[0]
	p := make([]byte, blockSize)
	for range 2 {
		for b := range r.m.blocks {
			switch err := c.Read(p, int64(b)*blockSize); {
			case damaged[b]:
				require.Equal(t, wire.EIO, nbdclient.ErrnoOf(err), "block %d: %v", b, err)
			default:
				require.NoError(t, err)
				require.NoError(t, r.m.collapse(p, b))
			}
		}
	}
	s := r.status()
	listed := map[int]bool{}
	for _, bad := range s.Bad {
		require.Equal(t, "e", bad.Export)
		for off := bad.Off; off < bad.Off+bad.Size; off += blockSize {
			listed[int(off/blockSize)] = true
		}
	}
	require.Equal(t, damaged, listed)
	// A read of more fails because of one block in it.
	for b := range damaged {
		q := make([]byte, 16*blockSize)
		require.Equal(t, wire.EIO, nbdclient.ErrnoOf(c.Read(q, int64(b/16*16)*blockSize)))
		break
	}
	for b := range damaged {
		stamp(p, b, r.m.next())
		w := r.m.begin(b, contents(p))
		require.NoError(t, c.Write(p, int64(b)*blockSize, nbdclient.FUA))
		w.durable()
	}
	require.True(t, r.verify())
	require.Empty(t, r.status().Bad)
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}

// TestAMissingDisk: with two copies a volume is served without one of its disks, written to, and
// served with it again, and no client sees a difference.
func TestAMissingDisk(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprintf("d%d", i+1), func(t *testing.T) {
			rng := newRand(t)
			r := newRig(t, shape{copies: 2})
			r.fill(rng, 600)
			away := r.disks[i] + ".away"
			require.NoError(t, os.Rename(r.disks[i], away))
			r.start()
			require.True(t, r.verify())
			s := r.status()
			require.Equal(t, "degraded", s.State)
			require.Positive(t, s.Degraded)
			require.Equal(t, "missing", s.Devices[i].State)
			require.NotEmpty(t, s.Health)
			require.NotEmpty(t, s.Health[0].Action)
			r.work(rng, 400)
			r.kill()
			r.start()
			require.True(t, r.verify())
			r.kill()

			require.NoError(t, os.Rename(away, r.disks[i]))
			r.start()
			require.True(t, r.verify())
			r.work(rng, 400)
			r.kill()
			r.start()
			require.True(t, r.verify())
			r.stop()
			require.Contains(t, []string{"sound", "degraded"}, r.check().Verdict)
		})
	}
}

// TestADiskOfAnotherVolume: it is not taken for ours and not touched.
func TestADiskOfAnotherVolume(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.fill(rng, 600)
	other := filepath.Join(t.TempDir(), "other")
	r.env.Must("create", "w", other+":200MiB")
	before, err := os.ReadFile(other)
	require.NoError(t, err)
	away := r.disks[1] + ".away"
	require.NoError(t, os.Rename(r.disks[1], away))
	require.NoError(t, os.Rename(other, r.disks[1]))
	r.start()
	require.True(t, r.verify())
	r.work(rng, 300)
	require.Equal(t, "missing", r.status().Devices[1].State)
	r.stop()
	after, err := os.ReadFile(r.disks[1])
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the other volume's disk was written to")

	// With one disk more gone there are chunks without a copy: told, never invented.
	require.NoError(t, os.Rename(r.disks[2], r.disks[2]+".away"))
	r.start()
	require.Equal(t, "critical", r.status().State)
	c := r.connect(1)[0]
	p := make([]byte, blockSize)
	failed := 0
	for b := range r.m.blocks {
		if err := c.Read(p, int64(b)*blockSize); err != nil {
			require.Equal(t, wire.EIO, nbdclient.ErrnoOf(err))
			failed++
		} else {
			require.NoError(t, r.m.collapse(p, b))
		}
	}
	require.Positive(t, failed)
	r.stop()
	require.NoError(t, os.Rename(r.disks[2]+".away", r.disks[2]))
	require.NoError(t, os.Rename(away, r.disks[1]))
	r.start()
	require.True(t, r.verify())
	r.stop()
}

// TestDamagedLabels: as long as one copy of a label is sound the disk is known, whether it is of the newest
// writing or of the one before.
func TestDamagedLabels(t *testing.T) {
	t.Run("left from odd writings", func(t *testing.T) { damagedLabels(t, blockSize) })
	t.Run("left from even writings", func(t *testing.T) { damagedLabels(t, 2*blockSize) })
}

// damagedLabels damages all copies of the labels but those at the end that are elsewhere than at damaged.
func damagedLabels(t *testing.T, damaged int64) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.fill(rng, 300)
	for i, disk := range r.disks {
		size := diskSizes[i]
		for _, off := range []int64{0, blockSize, size - damaged} {
			edit(t, disk, off, blockSize, flip(rng))
		}
		if r.env.Command("inspect", disk).Code != 0 {
			// The sound copy may be the older one of the pair: that is fine as well.
			t.Errorf("d%d is not known any more", i+1)
		}
	}
	r.start()
	require.True(t, r.verify())
	require.Equal(t, "ok", r.status().State)
	r.work(rng, 100)
	r.stop()
	edit(t, r.disks[0], 0, 2*blockSize, func(p []byte) { clear(p) })
	edit(t, r.disks[0], diskSizes[0]-2*blockSize, 2*blockSize, func(p []byte) { clear(p) })
	r.start() // a disk without a label is none of ours
	require.True(t, r.verify())
	require.Equal(t, "missing", r.status().Devices[0].State)
	r.stop()
}
