package striping

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"ballast/devices"
	"ballast/journal"
)

// At open every chunk's record is read. Reading and checking them is most of the work, and is done for
// several ranges of keys at once; what comes out is small, and is claimed in the order of the keys by
// one goroutine.

// cutter is a journal that can be read in parts.
type cutter interface {
	// Cuts returns keys, by ascending key, that part the records of a space into ranges of some MiB.
	Cuts(space journal.Space) ([]journal.Key, error)
}

var _ cutter = (*journal.Store)(nil)

// placedChunk is what the claims need of a chunk's record.
type placedChunk struct {
	key        journal.Key
	generation uint64
	slot       uint32
	copies     uint8
	places     [maxCopies]journal.Copy
}

const (
	loadBatch = 1024 // chunks handed over at once: some 80 KiB
	loadAhead = 32   // batches that wait for the claims, for each part
)

// chunkPart is a range of keys that is being read.
type chunkPart struct {
	batches chan []placedChunk
	err     error // once batches is closed
}

// loadChunks marks the slots in use. Chunks of objects that are gone are forgotten.
func (v *Volume) loadChunks(files *fileScan) error {
	cuts := []journal.Key{journal.MakeKey(journal.SpaceChunk, 0, 0)}
	if c, ok := v.opts.Journal.(cutter); ok {
		more, err := c.Cuts(journal.SpaceChunk)
		if err != nil {
			return fmt.Errorf("chunks: %w", err)
		}
		cuts = append(cuts, more...)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	quit := make(chan struct{})
	defer close(quit)
	atOnce := runtime.GOMAXPROCS(0) + 1
	parts := make([]*chunkPart, len(cuts))
	begin := func(i int) {
		if i >= len(cuts) {
			return
		}
		p := &chunkPart{batches: make(chan []placedChunk, loadAhead)}
		parts[i] = p
		var before *journal.Key
		if i+1 < len(cuts) {
			before = &cuts[i+1]
		}
		wg.Go(func() { // ends with the part, or with quit
			defer close(p.batches)
			p.err = v.readPart(p, cuts[i], before, quit)
		})
	}
	for i := range atOnce {
		begin(i)
	}
	for i := range parts {
		for batch := range parts[i].batches {
			for k := range batch {
				if err := v.claimChunk(&batch[k], files); err != nil {
					return fmt.Errorf("chunks: %w", err)
				}
			}
		}
		if err := parts[i].err; err != nil {
			return fmt.Errorf("chunks: %w", err)
		}
		parts[i] = nil
		begin(i + atOnce)
	}
	return files.finish()
}

// readPart reads the records of a range of keys.
func (v *Volume) readPart(p *chunkPart, from journal.Key, before *journal.Key, quit <-chan struct{}) error {
	var rec journal.Chunk
	var batch []placedChunk
	send := func() error {
		select {
		case p.batches <- batch:
			batch = nil
			return nil
		case <-quit:
			return errStop
		}
	}
	err := v.j.ScanFrom(from, func(k journal.Key, val []byte) error {
		if before != nil && string(k[:]) >= string(before[:]) {
			return errStop
		}
		if err := rec.ParsePlacement(k, val); err != nil {
			return err
		}
		c := placedChunk{key: k, generation: rec.Generation, slot: rec.Slot, copies: uint8(len(rec.Copies))}
		copy(c.places[:], rec.Copies)
		if batch == nil {
			batch = make([]placedChunk, 0, loadBatch)
		}
		if batch = append(batch, c); len(batch) == loadBatch {
			return send()
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	if err == nil && len(batch) > 0 {
		send() // quit: nobody wants it
	}
	return err
}

// claimChunk marks a chunk's slots at open and counts the chunk.
func (v *Volume) claimChunk(c *placedChunk, files *fileScan) error {
	_, num, index := c.key.Parts()
	o := v.objects[num]
	if o == nil {
		if stays, err := files.chunk(c.key, c.slot); err != nil || !stays {
			return err
		}
	}
	if c.slot == 0 {
		return nil
	}
	if int(c.slot) > v.blocks {
		return fmt.Errorf("%w: slot of %d blocks", journal.ErrCorrupt, c.slot)
	}
	if c.generation >= v.gen.Load() {
		return fmt.Errorf("%w: generation %d was never given out", journal.ErrCorrupt, c.generation)
	}
	if o != nil {
		if int64(index) >= (o.rec.Size+int64(v.info.ChunkSize)-1)/int64(v.info.ChunkSize) {
			o.behind.Store(true)
		}
		o.slots.Add(int64(c.slot) * blockSize)
	}
	v.placedBy.Add(1)
	var places [maxCopies]place
	for i, p := range c.places[:c.copies] {
		m := v.dev(devices.ID(p.Device))
		if m == nil {
			return fmt.Errorf("%w: a copy on device %d, which the volume does not have", journal.ErrCorrupt, p.Device)
		}
		if err := m.alloc.mark(p.Off, int64(c.slot)*blockSize); err != nil {
			return fmt.Errorf("%w: device %v: %w", journal.ErrCorrupt, m.id, err)
		}
		m.copies.Add(1)
		places[i] = place{dev: m.id, stale: p.Stale, off: p.Off}
	}
	v.health.count(v.rate(int(c.slot), places[:c.copies]), 1)
	return nil
}
