package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	v.nextID = max(v.nextID, v.info.NextObject)
	v.gen.Store(v.info.Generation)
	v.genLimit = v.info.Generation + generationStep
	v.info.Generation = v.genLimit
	v.info.NextObject = v.nextID
	b := &journal.Batch{}
	putVolume(b, &v.info)
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	return v.loadChunks(ctx)
}

// loadChunks marks the slots in use. Chunks of objects that are gone are forgotten.
func (v *Volume) loadChunks(ctx context.Context) error {
	var orphans []journal.Key
	err := v.j.ScanFrom(journal.MakeKey(journal.SpaceChunk, 0, 0), func(k journal.Key, val []byte) error {
		space, num, index := k.Parts()
		if space != journal.SpaceChunk {
			return errStop
		}
		o := v.objects[num]
		if o == nil {
			orphans = append(orphans, k)
			return nil
		}
		rec, err := journal.ParseChunk(k, val)
		if err != nil {
			return err
		}
		if rec.Slot == 0 {
			return nil
		}
		if int(rec.Slot) > v.blocks {
			return fmt.Errorf("%w: slot of %d blocks", journal.ErrCorrupt, rec.Slot)
		}
		if rec.Generation >= v.gen.Load() {
			return fmt.Errorf("%w: generation %d was never given out", journal.ErrCorrupt, rec.Generation)
		}
		if int64(index) >= (o.rec.Size+int64(v.info.ChunkSize)-1)/int64(v.info.ChunkSize) {
			o.behind.Store(true)
		}
		o.slots.Add(int64(rec.Slot) * blockSize)
		v.placedBy.Add(1)
		return v.claimSlots(&rec)
	})
	if err != nil && !errors.Is(err, errStop) {
		return fmt.Errorf("chunks: %w", err)
	}
	for part := range slices.Chunk(orphans, 1000) {
		b := &journal.Batch{}
		for _, k := range part {
			b.Delete(k)
		}
		if err := v.j.Commit(ctx, b); err != nil {
			return err
		}
	}
	return nil
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
		if !places[i].stale && v.dev(places[i].dev).usable() {
			good++
		}
	}
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

// claimSlots marks a chunk's slots at open and counts the chunk.
func (v *Volume) claimSlots(rec *journal.Chunk) error {
	for _, p := range rec.Copies {
		m := v.dev(devices.ID(p.Device))
		if m == nil {
			return fmt.Errorf("%w: a copy on device %d, which the volume does not have", journal.ErrCorrupt, p.Device)
		}
		if err := m.alloc.mark(p.Off, int64(rec.Slot)*blockSize); err != nil {
			return fmt.Errorf("%w: device %v: %w", journal.ErrCorrupt, m.id, err)
		}
		m.copies.Add(1)
	}
	v.health.count(v.rate(int(rec.Slot), placesOf(rec)), 1)
	return nil
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
	for _, in := range list {
		if err := v.recoverChunk(ctx, in.key, &in.rec); err != nil {
			return err
		}
	}
	return nil
}

// recoverChunk settles one chunk and commits the result.
func (v *Volume) recoverChunk(ctx context.Context, key chunkKey, in *journal.Intent) error {
	c, err := v.acquire(key)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	b := &journal.Batch{}
	b.Delete(key.intent())
	if v.object(key.object) == nil || c.slot == 0 || in.Base != c.version {
		return v.j.Commit(ctx, b) // from before the record that stands
	}
	candidates := map[int][]journal.Candidate{}
	for _, cand := range in.Candidates {
		if int(cand.Block) < c.slot && c.written.has(int(cand.Block)) {
			candidates[int(cand.Block)] = append(candidates[int(cand.Block)], cand)
		}
	}
	vw := c.viewLocked()
	sums := slices.Clone(c.sums)
	blocks := make([]int, 0, len(candidates))
	for block := range candidates {
		blocks = append(blocks, block)
	}
	slices.Sort(blocks)
	var wrote []*member
	var keep, equal []journal.Candidate
	for _, block := range blocks {
		list := []uint32{sums[block]}
		for _, cand := range candidates[block] {
			if cand.Settled { // what came before is not there any more
				list = list[:0]
			}
			list = append(list, cand.Sum)
		}
		sum, devs, behind, err := v.recoverBlock(&vw, block, list)
		if errors.Is(err, errUnseen) {
			keep = append(keep, candidates[block]...)
			continue
		}
		if err != nil {
			return err
		}
		sums[block] = sum
		if behind {
			keep = append(keep, journal.Candidate{Block: uint32(block), Sum: sum, Settled: true})
		}
		if !behind && len(devs) > 0 {
			equal = append(equal, journal.Candidate{Block: uint32(block), Sum: sum, Settled: true})
		}
		wrote = append(wrote, devs...)
	}
	synced := map[*member]bool{}
	for _, m := range wrote {
		if synced[m] {
			continue
		}
		synced[m] = true
		if err := m.Device.Do(&devices.Request{Kind: devices.Sync, Timeout: mirrorTimeout}); err != nil {
			v.deviceError(m.id, err)
			keep = append(keep, equal...) // not there for sure
			equal = nil
		}
	}
	c.sums = sums
	rec := c.recordLocked()
	k := key.record()
	b.Put(k, rec.Pack(k))
	if len(keep) > 0 {
		v.log.Warn("recovery goes on when the devices of a chunk are back", "chunk", key.String(), "versions", len(keep))
		rest := journal.Intent{Base: rec.Version, Candidates: keep}
		b.Put(key.intent(), rest.Pack(key.intent()))
		c.intents, c.keep = keep, keep
		c.refs.Add(1) // never evicted: the journal's record does not tell all of it
	}
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	c.version = rec.Version
	c.durable = c.written
	return nil
}

// errUnseen says that no copy of a block that can be read holds one of its versions, and that
// there is a copy that cannot be read now.
var errUnseen = errors.New("a copy cannot be read")

// recoverBlock finds the newest version of a block that some copy holds whole, makes the other
// copies equal, and returns its sum and the devices written to. When no copy holds any version
// whole (each was torn), the newest sum stays: reads then fail until the block is written again.
// When a copy could not be looked at instead, the result is errUnseen: the decision waits for it.
// behind tells that a copy could not be made equal now; the next recovery does that.
func (v *Volume) recoverBlock(vw *view, block int, sums []uint32) (sum uint32, wrote []*member, behind bool, err error) {
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	type held struct {
		at  int
		sum uint32
		buf *Buffer
	}
	var copies []held
	defer func() {
		for _, h := range copies {
			if h.buf != nil {
				h.buf.Release()
			}
		}
	}()
	unseen := false
	for i := range vw.places {
		if vw.places[i].stale {
			continue
		}
		m := v.dev(vw.places[i].dev)
		if m.Device == nil || m.out.Load() && m.Device.Load().Outstanding > 0 { // missing, or hung before
			unseen, behind = true, true
			continue
		}
		buf, _, err := v.readCopies(vw, []int{i}, block, 1)
		if err != nil {
			unseen = true
			copies = append(copies, held{at: i})
			continue
		}
		copies = append(copies, held{i, blockSum(seed, block, buf.Bytes()), buf})
	}
	best, from := -1, -1
	for n := len(sums) - 1; n >= 0 && best < 0; n-- {
		for i, h := range copies {
			if h.buf != nil && h.sum == sums[n] {
				best, from = n, i
				break
			}
		}
	}
	if best < 0 && unseen {
		return 0, nil, false, errUnseen
	}
	if best < 0 {
		v.log.Warn("block was torn on every copy", "chunk", vw.c.key.String(), "block", block)
		return sums[len(sums)-1], nil, false, nil
	}
	for _, h := range copies {
		m := v.dev(vw.places[h.at].dev)
		if h.buf != nil && h.sum == sums[best] {
			continue
		}
		if !m.usable() {
			behind = true
			continue
		}
		if err := v.writeBlock(m, vw.places[h.at].off, block, copies[from].buf); err != nil {
			v.deviceError(m.id, err)
			behind = true // the block fails its check there until it is healed
			continue
		}
		wrote = append(wrote, m)
	}
	return sums[best], wrote, behind, nil
}

// writeBlock writes one block of the slot at off and waits for it, no longer than mirrorTimeout.
func (v *Volume) writeBlock(m *member, off int64, block int, buf *Buffer) error {
	key := m.enter(off)
	buf.Retain()
	done := make(chan error, 1)
	m.Device.Submit(&devices.Request{Kind: devices.Write, Timeout: mirrorTimeout, Off: off + int64(block)*blockSize,
		Bufs: [][]byte{buf.Bytes()}, Done: func(_ *devices.Request, err error) { done <- err },
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
