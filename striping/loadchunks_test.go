package striping

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// TestOpenReadsEveryPart opens a volume whose chunks are read in several parts, and then one whose
// journal contradicts itself in one of them, wherever that is: it is refused, and nobody reads on.
func TestOpenReadsEveryPart(t *testing.T) {
	const chunks = 40
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rigConfig{disks: 2, copies: 1, size: 8 << 20})
		e := r.fillExport(chunks)
		size, free := r.v.Space()
		e.Close()
		require.NoError(t, r.close())
		cuts, err := r.j.Cuts(journal.SpaceChunk)
		require.NoError(t, err)
		require.Len(t, cuts, 3)
		r.open()
		sizeNow, freeNow := r.v.Space()
		require.Equal(t, []int64{size, free}, []int64{sizeNow, freeNow})
		require.EqualValues(t, chunks, r.v.placedBy.Load())
		e = r.export("s")
		r.requireStamped(e, chunks, 1)
		number := e.o.number
		e.Close()
		require.NoError(t, r.close())

		key := func(i int) journal.Key { return journal.MakeKey(journal.SpaceChunk, number, uint64(i)) }
		for i := range chunks {
			val, err := r.j.Get(key(i))
			require.NoError(t, err)
			sound, err := journal.ParseChunk(key(i), val)
			require.NoError(t, err)
			other, err := r.j.Get(key((i + chunks/2) % chunks))
			require.NoError(t, err)
			twin, err := journal.ParseChunk(key((i+chunks/2)%chunks), other)
			require.NoError(t, err)
			for what, bad := range map[string]journal.Chunk{
				"used twice":          {Generation: sound.Generation, Version: sound.Version, Slot: sound.Slot, Copies: twin.Copies, Written: sound.Written, Sums: sound.Sums},
				"was never given out": {Generation: 1 << 60, Version: sound.Version, Slot: sound.Slot, Copies: sound.Copies, Written: sound.Written, Sums: sound.Sums},
				"does not have":       {Generation: sound.Generation, Version: sound.Version, Slot: sound.Slot, Copies: []journal.Copy{{Device: 9}}, Written: sound.Written, Sums: sound.Sums},
			} {
				b := &journal.Batch{}
				b.Put(key(i), bad.Pack(key(i)))
				require.NoError(t, r.j.Commit(context.Background(), b))
				err = r.tryOpen()
				require.ErrorIs(t, err, journal.ErrCorrupt, "chunk %d", i)
				require.ErrorContains(t, err, what)
			}
			b := &journal.Batch{}
			b.Put(key(i), val)
			require.NoError(t, r.j.Commit(context.Background(), b))
		}
		r.open()
		require.NoError(t, r.close())
	})
}

// TestOpenByPlacements opens a volume whose journal has read all records itself and tells where the chunks
// are, and again with one that does not: both come to the same, and refuse the same.
func TestOpenByPlacements(t *testing.T) {
	const chunks, chunkSize = 200, 64 << 10
	info := journal.Volume{UUID: [16]byte{1}, Name: "v", ChunkSize: chunkSize, Copies: 2, NextDevice: 3, NextObject: 4, Generation: chunks + 1, Created: time.Now()}
	members := make([]Member, 2)
	for i := range members {
		members[i] = Member{DataSize: chunks * chunkSize, Record: journal.Device{ID: uint16(i + 1), UUID: [16]byte{2, byte(i)}, Size: chunks * chunkSize,
			State: journal.Missing, Since: time.Now(), Epoch: 1}}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	slots := [2][]int{rng.Perm(chunks), rng.Perm(chunks)}
	record := func(i int) (journal.Key, journal.Chunk) {
		c := journal.Chunk{Generation: uint64(i), Version: 1, Slot: 1 + uint32(i)%(chunkSize/blockSize)}
		for d := range 1 + i%2 {
			c.Copies = append(c.Copies, journal.Copy{Device: uint16(d + 1), Stale: i%5 == 4 && d == 1, Off: int64(slots[d][i]) * chunkSize})
		}
		c.Written = make([]uint64, 1)
		return journal.MakeKey(journal.SpaceChunk, uint64(1+i/100), uint64(i%100)), c
	}
	// open returns what a volume with these chunks comes to.
	open := func(t *testing.T, settled bool, chunk func(i int) (journal.Key, journal.Chunk)) ([]int64, error) {
		dir := t.TempDir() + "/journal"
		require.NoError(t, journal.Build(dir, info.UUID, func(add func(journal.Key, []byte) error) error {
			var all error
			for i := range chunks {
				key, c := chunk(i)
				all = errors.Join(all, add(key, c.Pack(key)))
			}
			for i := range members {
				key := journal.MakeKey(journal.SpaceDevice, uint64(members[i].Record.ID), 0)
				all = errors.Join(all, add(key, members[i].Record.Pack(key)))
			}
			for n, name := range []string{"a", "b", "c"} {
				o := journal.Object{Number: uint64(n + 1), Kind: journal.Export, Name: name, Size: 100 * chunkSize, Created: time.Now()}
				key := journal.MakeKey(journal.SpaceObject, o.Number, 0)
				all = errors.Join(all, add(key, o.Pack(key)))
			}
			return errors.Join(all, add(journal.VolumeKey(), info.Pack(journal.VolumeKey())))
		}))
		o := journal.Options{UUID: info.UUID}
		if settled {
			o.Preflight = func(dir string) error {
				require.Zero(t, journal.SettleMain(dir, io.Discard))
				return nil
			}
		}
		j, err := journal.Open(dir, o)
		require.NoError(t, err)
		defer j.Close()
		v, err := Open(t.Context(), Options{Journal: j, Members: members, Volume: info})
		require.Nil(t, j.TakePlacements())
		if err != nil {
			return nil, err
		}
		defer v.Close(t.Context())
		size, free := v.Space()
		found := []int64{size, free, v.placedBy.Load(), v.health.degraded.Load(), v.health.lost.Load()}
		for _, name := range []string{"a", "b", "c"} {
			found = append(found, v.names[name].slots.Load())
		}
		for _, m := range v.devs() {
			used, _ := m.alloc.usage()
			found = append(found, used, m.copies.Load())
		}
		return found, nil
	}
	var both [][]int64
	for _, settled := range []bool{false, true} {
		found, err := open(t, settled, record)
		require.NoError(t, err)
		require.EqualValues(t, chunks, found[2])
		both = append(both, found)
		for what, spoil := range map[string]func(c *journal.Chunk){
			"used twice": func(c *journal.Chunk) {
				c.Slot, c.Copies = 16, []journal.Copy{{Device: 1, Off: int64(slots[0][3]) * chunkSize}}
			},
			"was never given out": func(c *journal.Chunk) { c.Generation = 1 << 60 },
			"does not have":       func(c *journal.Chunk) { c.Copies = []journal.Copy{{Device: 9}} },
			"slot of":             func(c *journal.Chunk) { c.Slot = 17 },
		} {
			_, err := open(t, settled, func(i int) (journal.Key, journal.Chunk) {
				key, c := record(i)
				if i == 150 {
					spoil(&c)
				}
				return key, c
			})
			require.ErrorIs(t, err, journal.ErrCorrupt, "%s", what)
			require.ErrorContains(t, err, what)
		}
	}
	require.Equal(t, both[0], both[1])
}
