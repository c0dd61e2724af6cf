package striping

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"ballast/devices"
	"ballast/journal"
)

// load reads the journal: the objects, and of the chunks which slots are in use.
func (v *Volume) load(ctx context.Context) error {
	err := v.j.ScanFrom(journal.MakeKey(journal.SpaceObject, 0, 0), func(k journal.Key, val []byte) error {
		if space, _, _ := k.Parts(); space != journal.SpaceObject {
			return errStop
		}
		rec, err := journal.ParseObject(k, val)
		if err != nil {
			return err
		}
		o := newObject(rec)
		v.objects[rec.Number] = o
		if rec.Flags&journal.FlagDeleted != 0 {
			o.removed.Store(true)
		} else if rec.Kind == journal.Export {
			v.names[rec.Name] = o
		}
		v.nextID = max(v.nextID, rec.Number+1)
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return fmt.Errorf("objects: %w", err)
	}
	files, err := newFileScan(ctx, v)
	if err != nil {
		return fmt.Errorf("inodes: %w", err)
	}
	v.nextID = max(v.nextID, v.info.NextObject)
	v.idLimit = v.nextID
	v.gen.Store(v.info.Generation)
	v.genLimit = v.info.Generation + generationStep
	v.info.Generation = v.genLimit
	v.info.NextObject = v.nextID
	b := &journal.Batch{}
	putVolume(b, &v.info)
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	return v.loadChunks(files)
}

// rating is what is left of a chunk's redundancy.
type rating uint8

const (
	unplaced rating = iota
	whole           // as many good copies as asked for
	degraded
	lost
)

// rate returns the rating of a chunk with these copies.
func (v *Volume) rate(slot int, places []place) rating {
	if slot == 0 {
		return unplaced
	}
	good := 0
	for i := range places {
		if !places[i].stale && v.dev(places[i].dev).counts() {
			good++
		}
	}
	return v.rateCopies(good)
}

// rateCopies returns the rating of a chunk with a slot and so many good copies.
func (v *Volume) rateCopies(good int) rating {
	switch {
	case good == 0:
		return lost
	case good < int(v.info.Copies):
		return degraded
	}
	return whole
}

// count adds n chunks of rating r to the counts.
func (h *healthCounts) count(r rating, n int64) {
	switch r {
	case degraded:
		h.degraded.Add(n)
	case lost:
		h.lost.Add(n)
	}
}

// placesOf returns the copies of a record.
func placesOf(rec *journal.Chunk) []place {
	places := make([]place, len(rec.Copies))
	for i, p := range rec.Copies {
		places[i] = place{dev: devices.ID(p.Device), stale: p.Stale, off: p.Off}
	}
	return places
}

// recover settles what a crash left open: each block that an intent names is one of the versions
// written there last, the same on all copies, before anybody reads it.
func (v *Volume) recover(ctx context.Context) error {
	type open struct {
		key chunkKey
		rec journal.Intent
	}
	var list []open
	err := v.j.ScanFrom(journal.MakeKey(journal.SpaceIntent, 0, 0), func(k journal.Key, val []byte) error {
		space, num, index := k.Parts()
		if space != journal.SpaceIntent {
			return errStop
		}
		rec, err := journal.ParseIntent(k, val)
		if err != nil {
			return err
		}
		list = append(list, open{chunkKey{num, index}, rec})
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return fmt.Errorf("intents: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, min(recoverAtOnce, recoverBytes/(v.blocks*blockSize*int(v.info.Copies)))))
	for _, in := range list {
		g.Go(func() error { return v.recoverChunk(ctx, in.key, &in.rec) })
	}
	return g.Wait()
}

const (
	recoverAtOnce = 32       // chunks
	recoverBytes  = 64 << 20 // of memory for what is read of them
)

// recoverChunk settles one chunk and commits the result.
func (v *Volume) recoverChunk(ctx context.Context, key chunkKey, in *journal.Intent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := v.acquire(key)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	b := &journal.Batch{}
	b.Delete(key.intent())
	if c.slot == 0 || in.Base != c.version {
		return v.j.Commit(ctx, b) // from before the record that stands
	}
	r := &recovery{v: v, vw: c.viewLocked(), sums: slices.Clone(c.sums), size: -1, versions: map[int][]journal.Candidate{}}
	r.seed = sumSeed(v.info.UUID, key.object, key.index, r.vw.gen)
	for _, cand := range in.Candidates {
		if int(cand.Block) < c.slot && c.written.has(int(cand.Block)) {
			r.versions[int(cand.Block)] = append(r.versions[int(cand.Block)], cand)
		}
	}
	r.settle()
	c.sums = r.sums
	rec := c.recordLocked()
	k := key.record()
	b.Put(k, rec.Pack(k))
	if len(r.keep) > 0 {
		v.log.Warn("recovery goes on when the devices of a chunk are back", "chunk", key.String(), "versions", len(r.keep))
		rest := journal.Intent{Base: rec.Version, Candidates: r.keep}
		b.Put(key.intent(), rest.Pack(key.intent()))
		c.intents, c.keep, c.open = r.keep, r.keep, r.open
		c.refs.Add(1) // never evicted: the journal's record does not tell all of it
	}
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	c.version = rec.Version
	c.durable = c.written
	return nil
}

// recovery is what the recovery of one chunk finds out.
type recovery struct {
	v        *Volume
	vw       view
	seed     uint64
	versions map[int][]journal.Candidate // by block, oldest first
	sums     []uint32                    // as they are after it
	size     int64                       // of the file; -1: not looked up

	keep  []journal.Candidate // versions of blocks that are left open, or behind on a copy
	open  []int               // blocks of which no copy that was looked at holds any version
	equal []journal.Candidate // of blocks that were made equal on all copies
	wrote []*member           // devices on which blocks were made equal
}

// settle finds the version of every block and makes the copies equal.
func (r *recovery) settle() {
	blocks := slices.Sorted(maps.Keys(r.versions))
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && blocks[n] == blocks[0]+n {
			n++
		}
		r.settleRun(blocks[0], n)
		blocks = blocks[n:]
	}
	synced := map[*member]bool{}
	for _, m := range r.wrote {
		if synced[m] {
			continue
		}
		synced[m] = true
		if err := m.Device.Do(&devices.Request{Kind: devices.Sync, Timeout: mirrorTimeout}); err != nil {
			r.v.deviceError(m.id, err)
			r.keep = append(r.keep, r.equal...) // not there for sure
			r.equal = nil
		}
	}
}

// settleRun settles blocks that follow each other: all are read at once from each copy.
func (r *recovery) settleRun(first, n int) {
	copies := make([]recoveredCopy, 0, len(r.vw.places))
	var wg sync.WaitGroup
	for i := range r.vw.places {
		if !r.vw.places[i].stale {
			copies = append(copies, recoveredCopy{at: i, m: r.v.dev(r.vw.places[i].dev), blocks: make([]*Buffer, n), offs: make([]int, n)})
		}
	}
	for i := range copies {
		c := &copies[i]
		if c.m.Device == nil || c.m.silent.Load() {
			c.unseen = true
			continue
		}
		wg.Go(func() { c.read(r, first, n) })
	}
	wg.Wait()
	defer func() {
		for _, c := range copies {
			c.release()
		}
	}()
	for i := range n {
		r.settleBlock(first+i, i, copies)
	}
}

// recoveredCopy is a run of blocks as one copy has it.
type recoveredCopy struct {
	at     int // index of the view's places
	m      *member
	unseen bool      // it could not be asked
	blocks []*Buffer // that hold them; nil: could not be read
	offs   []int     // where in the buffer
}

// read reads the run at once, or, where that fails, block by block.
func (c *recoveredCopy) read(r *recovery, first, n int) {
	if buf, _, err := r.v.readCopies(&r.vw, []int{c.at}, first, n); err == nil {
		for i := range n {
			c.blocks[i], c.offs[i] = buf.Retain(), i*blockSize
		}
		buf.Release()
		return
	}
	for i := range n {
		if c.m.silent.Load() {
			return
		}
		if buf, _, err := r.v.readCopies(&r.vw, []int{c.at}, first+i, 1); err == nil {
			c.blocks[i] = buf
		}
	}
}

func (c *recoveredCopy) release() {
	for _, b := range c.blocks {
		if b != nil {
			b.Release()
		}
	}
}

func (c *recoveredCopy) bytes(i int) []byte { return c.blocks[i].mem[c.offs[i] : c.offs[i]+blockSize] }

// settleBlock finds the newest version of a block, the i-th of the run, that some copy holds whole,
// and makes the other copies equal. When no copy holds any version whole (each was torn), and it is no
// file's last block (tail.go), the newest sum stays: reads then fail until the block is written again.
// When a copy could not be looked at instead, the decision waits for it. What cannot be made equal now is
// left to the next recovery.
func (r *recovery) settleBlock(block, i int, copies []recoveredCopy) {
	sums := []uint32{r.sums[block]}
	for _, cand := range r.versions[block] {
		if cand.Settled { // what came before is not there any more
			sums = sums[:0]
		}
		sums = append(sums, cand.Sum)
	}
	held := make([]uint32, len(copies))
	best, source := -1, blockSource{}
	unseen, behind := false, false
	for at := range copies {
		c := &copies[at]
		behind = behind || c.unseen
		if c.blocks[i] == nil {
			unseen = true
			continue
		}
		held[at] = blockSum(r.seed, block, c.bytes(i))
		if n := lastIndex(sums, held[at]); n > best {
			best, source = n, blockSource{c.blocks[i], c.offs[i]}
		}
	}
	if best < 0 && !unseen {
		if best, source = r.tailOf(block, i, copies, sums); best >= 0 {
			defer source.buf.Release()
		}
	}
	switch {
	case best < 0 && unseen:
		r.keep = append(r.keep, r.versions[block]...)
		r.open = append(r.open, block)
		return
	case best < 0:
		r.v.log.Warn("block was torn on every copy", "chunk", r.vw.c.key.String(), "block", block)
		r.sums[block] = sums[len(sums)-1]
		return
	}
	wrote := false
	for at := range copies {
		c := &copies[at]
		if c.unseen || c.blocks[i] != nil && held[at] == sums[best] {
			continue
		}
		if !c.m.usable() {
			behind = true
			continue
		}
		if err := r.v.writeBlock(c.m, r.vw.places[c.at].off, block, source.buf, source.off); err != nil {
			r.v.deviceError(c.m.id, err)
			behind = true // the block fails its check there until it is healed
			continue
		}
		wrote = true
		r.wrote = append(r.wrote, c.m)
	}
	r.sums[block] = sums[best]
	settled := journal.Candidate{Block: uint32(block), Sum: sums[best], Settled: true}
	if behind {
		r.keep = append(r.keep, settled)
	} else if wrote {
		r.equal = append(r.equal, settled)
	}
}

func lastIndex(list []uint32, x uint32) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == x {
			return i
		}
	}
	return -1
}

// writeBlock writes one block, which stands at byte at of buf, to the slot at off and waits for it, no
// longer than mirrorTimeout.
func (v *Volume) writeBlock(m *member, off int64, block int, buf *Buffer, at int) error {
	key := m.enter(off, 1)
	buf.Retain()
	done := make(chan error, 1)
	m.Device.Submit(&devices.Request{Kind: devices.Write, Timeout: mirrorTimeout, Off: off + int64(block)*blockSize,
		Bufs: [][]byte{buf.mem[at : at+blockSize]}, Done: func(_ *devices.Request, err error) { done <- err },
		Returned: func(*devices.Request) { buf.Release(); v.leave(m, off, key) }})
	return <-done
}

// cleanUp finishes removals and shrinks that a crash cut short.
func (v *Volume) cleanUp() {
	for _, o := range v.allObjects() {
		var err error
		if o.removed.Load() {
			err = v.reap(v.ctx, o)
		} else if o.behind.Load() {
			o.resize.Lock()
			err = v.dropBehind(v.ctx, o, o.size.Load())
			o.resize.Unlock()
		}
		if err != nil && v.ctx.Err() == nil {
			v.log.Error("cleaning up", "object", o.number, "err", err)
		}
	}
}

// LoadConfig reads from a journal what Open needs to know of the volume and its devices.
func LoadConfig(j journal.Journal) (journal.Volume, []journal.Device, error) {
	key := journal.MakeKey(journal.SpaceVolume, 0, 0)
	val, err := j.Get(key)
	if err != nil {
		return journal.Volume{}, nil, fmt.Errorf("volume record: %w", err)
	}
	info, err := journal.ParseVolume(key, val)
	if err != nil {
		return journal.Volume{}, nil, err
	}
	var devs []journal.Device
	err = j.Scan(journal.SpaceDevice, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseDevice(k, val)
		devs = append(devs, rec)
		return err
	})
	return info, devs, err
}
