package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestSumIsBound pins what a block's sum covers, and its value, which is part of the format.
func TestSumIsBound(t *testing.T) {
	data := stamped(5, 1, 7)
	sum := func(vol byte, object, chunk, gen uint64, block int) uint32 {
		return blockSum(sumSeed([16]byte{vol}, object, chunk, gen), block, data)
	}
	want := sum(1, 2, 3, 4, 5)
	require.Equal(t, uint32(sumGolden), want, "%#x", want)
	require.NotEqual(t, want, sum(2, 2, 3, 4, 5), "volume")
	require.NotEqual(t, want, sum(1, 3, 3, 4, 5), "object")
	require.NotEqual(t, want, sum(1, 2, 4, 4, 5), "chunk")
	require.NotEqual(t, want, sum(1, 2, 3, 5, 5), "generation")
	require.NotEqual(t, want, sum(1, 2, 3, 4, 6), "block")
	data[100] ^= 1
	require.NotEqual(t, want, sum(1, 2, 3, 4, 5), "data")
}

const sumGolden = 0xb8b167c5

// copyBlock is a block of a copy: where it stands and what it holds.
type copyBlock struct {
	dev   int   // index of the disk
	off   int64 // on the disk
	block int   // of the export
}

// damaged is a volume of one export, closed, and what stands where on its disks.
type damaged struct {
	*rig
	rng    *rand.Rand
	vers   []uint32          // by block of the export
	blocks []copyBlock       // all written blocks of all copies
	before *simdisk.State    // of disk 0, before the overwrites
	slots  map[int][][]int64 // by disk: slots of whole chunks, as offsets of their blocks
}

const damagedChunks = 12

// newDamaged writes an export: whole chunks, overwrites in place, holes.
func newDamaged(t testing.TB, copies uint8, disks int, seed uint64) *damaged {
	d := &damaged{rig: newRig(t, rigConfig{disks: disks, copies: copies, seed: seed, size: 2 << 20, opts: Options{ReadAhead: -1}}),
		rng: rand.New(rand.NewPCG(seed, 9)), slots: map[int][][]int64{}}
	ctx := context.Background()
	const size = damagedChunks * 64 << 10
	require.NoError(t, d.v.CreateExport(ctx, "e", size))
	d.vers = make([]uint32, size/blockSize)
	e := d.export("e")
	write := func(first, n int, ver uint32) {
		require.NoError(t, e.WriteAt(ctx, stamped(first, n, ver), int64(first)*blockSize, false))
		for i := first; i < first+n; i++ {
			d.vers[i] = ver
		}
	}
	write(0, len(d.vers), 1)
	require.NoError(t, d.v.Flush(ctx))
	d.before = d.disks[0].Snapshot()
	for c := range damagedChunks { // less than half of a chunk goes in place
		write(c*16+1+c%4, 3, 2)
		if c%3 == 0 {
			require.NoError(t, e.Sync(ctx))
		}
	}
	write(16, 16, 3) // a whole chunk moves
	require.NoError(t, e.Trim(ctx, 5*blockSize, blockSize, false))
	d.vers[5] = 0
	require.NoError(t, d.v.Flush(ctx))
	require.NoError(t, d.v.checkCopies(ctx))
	e.Close()
	require.NoError(t, d.close())
	d.look()
	return d
}

// look finds out from the journal where the copies stand.
func (d *damaged) look() {
	d.blocks, d.slots = nil, map[int][][]int64{}
	require.NoError(d.t, d.j.Scan(journal.SpaceChunk, func(k journal.Key, val []byte) error {
		_, _, index := k.Parts()
		rec, err := journal.ParseChunk(k, val)
		for _, p := range rec.Copies {
			disk := int(p.Device) - 1
			var slot []int64
			for b := range int(rec.Slot) {
				off := p.Off + int64(b)*blockSize
				slot = append(slot, off)
				if bitmap(rec.Written).has(b) {
					d.blocks = append(d.blocks, copyBlock{disk, off, int(index)*16 + b})
				}
			}
			d.slots[disk] = append(d.slots[disk], slot)
		}
		return err
	}))
}

func (d *damaged) peek(disk int, off int64) []byte {
	p := make([]byte, blockSize)
	d.disks[disk].Peek(p, off)
	return p
}

// wrong returns the blocks of the export whose copy on disk is not what it should be.
func (d *damaged) wrong(disk int) (list []int) {
	for _, b := range d.blocks {
		if b.dev != disk {
			continue
		}
		if ver, err := versionOf(d.peek(disk, b.off), b.block); err != nil || ver != d.vers[b.block] {
			list = append(list, b.block)
		}
	}
	return list
}

// harms is what happens to disk 0 while the volume is closed.
var harms = map[string]func(d *damaged){
	"bit flips": func(d *damaged) {
		for range 20 {
			b := d.some()
			p := d.peek(0, b.off)
			p[d.rng.IntN(len(p))] ^= 1 << d.rng.IntN(8)
			d.disks[0].Poke(b.off, p)
		}
	},
	"a zeroed range": func(d *damaged) {
		slot := d.slots[0][d.rng.IntN(len(d.slots[0]))]
		d.disks[0].Poke(slot[2], make([]byte, 7*blockSize))
	},
	"swapped chunks": func(d *damaged) {
		a, b := d.slots[0][0], d.slots[0][len(d.slots[0])-1]
		for i := range a {
			pa, pb := d.peek(0, a[i]), d.peek(0, b[i])
			d.disks[0].Poke(a[i], pb)
			d.disks[0].Poke(b[i], pa)
		}
	},
	"swapped blocks of a chunk": func(d *damaged) {
		s := d.slots[0][1]
		pa, pb := d.peek(0, s[7]), d.peek(0, s[8])
		d.disks[0].Poke(s[7], pb)
		d.disks[0].Poke(s[8], pa)
	},
	"misdirected writes": func(d *damaged) {
		for range 10 {
			d.disks[0].Poke(d.some().off, d.peek(0, d.some().off))
		}
	},
	"an older disk":   func(d *damaged) { d.disks[0].Restore(d.before) },
	"an empty disk":   func(d *damaged) { d.disks[0].Poke(0, make([]byte, d.cfg.size)) },
	"a disk of noise": func(d *damaged) { d.noise(0) },
}

// some returns a random written block on disk 0.
func (d *damaged) some() copyBlock {
	for {
		if b := d.blocks[d.rng.IntN(len(d.blocks))]; b.dev == 0 {
			return b
		}
	}
}

func (d *damaged) noise(disk int) {
	p := make([]byte, d.cfg.size)
	for i := range p {
		p[i] = byte(d.rng.Uint32())
	}
	d.disks[disk].Poke(0, p)
}

// read reads a run of blocks and compares it with what was written.
func (d *damaged) read(e *Export, first, n int) error {
	p := make([]byte, n*blockSize)
	if err := e.ReadAt(context.Background(), p, int64(first)*blockSize); err != nil {
		return err
	}
	for i := range n {
		ver, err := versionOf(p[i*blockSize:(i+1)*blockSize], first+i)
		require.NoError(d.t, err, "wrong bytes reached the client")
		require.Equal(d.t, d.vers[first+i], ver, "block %d: an old version reached the client", first+i)
	}
	return nil
}

// TestCorruptionIsHealed damages one of two copies in each way: clients see neither error nor
// wrong bytes, and what was read is sound again.
func TestCorruptionIsHealed(t *testing.T) {
	for name, harm := range harms {
		for _, disks := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s/%d disks", name, disks), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDamaged(t, 2, disks, uint64(disks))
					harm(d)
					wrong := d.wrong(0)
					require.NotEmpty(t, wrong, "the harm did nothing")
					d.open()
					ctx := context.Background()
					for _, m := range d.v.devs()[1:] { // so that the bad copy is the one that is read
						d.v.bal.SetReadable(m.id, false)
					}
					e := d.export("e")
					for first := 0; first < len(d.vers); {
						n := min(1+d.rng.IntN(40), len(d.vers)-first)
						require.NoError(t, d.read(e, first, n))
						first += n
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					require.Empty(t, d.wrong(0), "not healed")
					st := d.v.Status()
					require.Equal(t, int64(len(wrong)), st.Healed)
					require.Empty(t, st.Bad)
					require.NoError(t, d.v.checkCopies(ctx))
					for _, m := range d.v.devs() {
						d.v.bal.SetReadable(m.id, true)
					}
					require.NoError(t, d.read(e, 0, len(d.vers)))
					require.Equal(t, int64(len(wrong)), d.v.Status().Healed)
					e.Close()
					require.NoError(t, d.close())
				})
			})
		}
	}
}

// TestCorruptionWithoutAnotherCopy damages the only copy: exactly the bad blocks are errors, and
// are listed until they are written again.
func TestCorruptionWithoutAnotherCopy(t *testing.T) {
	for name, harm := range harms {
		for _, disks := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d disks", name, disks), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDamaged(t, 1, disks, uint64(disks))
					harm(d)
					wrong := map[int]bool{}
					for _, b := range d.wrong(0) {
						wrong[b] = true
					}
					require.NotEmpty(t, wrong)
					d.open()
					ctx := context.Background()
					e := d.export("e")
					for i := range d.vers {
						if err := d.read(e, i, 1); wrong[i] {
							require.ErrorIs(t, err, ErrUnreadable, "block %d", i)
						} else {
							require.NoError(t, err, "block %d", i)
						}
					}
					for first := 0; first < len(d.vers); first += 5 {
						n, bad := min(5, len(d.vers)-first), false
						for i := first; i < first+n; i++ {
							bad = bad || wrong[i]
						}
						if err := d.read(e, first, n); bad {
							require.ErrorIs(t, err, ErrUnreadable)
						} else {
							require.NoError(t, err)
						}
					}
					d.requireListed(wrong)
					// Written anew, in part of it (refused), in whole, or trimmed.
					for i := range d.vers {
						if !wrong[i] {
							continue
						}
						require.ErrorIs(t, e.WriteAt(ctx, []byte("x"), int64(i)*blockSize+9, false), ErrUnreadable)
						if i%4 == 1 {
							require.NoError(t, e.Trim(ctx, int64(i)*blockSize, blockSize, false))
							d.vers[i] = 0
						} else {
							require.NoError(t, e.WriteAt(ctx, stamped(i, 1, 9), int64(i)*blockSize, false))
							d.vers[i] = 9
						}
						delete(wrong, i)
						if i%3 == 0 {
							require.NoError(t, e.Sync(ctx))
							d.requireListed(wrong)
						}
					}
					require.NoError(t, e.Sync(ctx))
					require.Empty(t, d.v.Status().Bad)
					require.NoError(t, d.read(e, 0, len(d.vers)))
					require.NoError(t, d.v.checkCopies(ctx))
					e.Close()
					require.NoError(t, d.close())
					d.open()
					e = d.export("e")
					require.NoError(t, d.read(e, 0, len(d.vers)))
					e.Close()
					require.NoError(t, d.close())
				})
			})
		}
	}
}

// requireListed compares the status with the blocks that are unreadable.
func (d *damaged) requireListed(wrong map[int]bool) {
	d.t.Helper()
	listed := map[int]bool{}
	for _, r := range d.v.Status().Bad {
		require.Equal(d.t, "e", r.Export)
		for off := r.Off; off < r.Off+r.Size; off += blockSize {
			listed[int(off/blockSize)] = true
		}
	}
	require.Equal(d.t, wrong, listed)
}

// TestCorruptionOfBothCopies damages different blocks of both copies, which is within the budget
// of each block, while clients write.
func TestCorruptionOfBothCopies(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			d := newDamaged(t, 2, 2, seed)
			for _, b := range d.blocks {
				if (b.block+b.dev)%2 == 0 && d.rng.IntN(3) == 0 {
					p := d.peek(b.dev, b.off)
					p[d.rng.IntN(len(p))] ^= 0x40
					d.disks[b.dev].Poke(b.off, p)
				}
			}
			d.open()
			ctx := context.Background()
			e := d.export("e")
			for ver := uint32(10); ver < 60; ver++ {
				first := d.rng.IntN(len(d.vers))
				n := min(1+d.rng.IntN(20), len(d.vers)-first)
				switch d.rng.IntN(4) {
				case 0:
					require.NoError(t, e.WriteAt(ctx, stamped(first, n, ver), int64(first)*blockSize, false))
					for i := range n {
						d.vers[first+i] = ver
					}
				case 1:
					require.NoError(t, e.Sync(ctx))
				default:
					require.NoError(t, d.read(e, first, n))
				}
			}
			for _, id := range []devices.ID{1, 2} { // each copy in turn
				d.v.bal.SetReadable(id, false)
				require.NoError(t, d.read(e, 0, len(d.vers)))
				d.v.bal.SetReadable(id, true)
				time.Sleep(time.Minute)
			}
			require.NoError(t, d.v.checkCopies(ctx))
			require.Empty(t, d.v.Status().Bad)
			e.Close()
			require.NoError(t, d.close())
		})
	}
}
