package striping

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"ballast/journal"
)

// At open it is found out where every chunk is. A journal that has read all records just now may still know;
// otherwise they are read here, which is most of the work, and is done for several ranges of keys at once.
// What comes out is small, and is claimed in the order of the keys by one goroutine.

// cutter is a journal that can be read in parts.
type cutter interface {
	// Cuts returns keys, by ascending key, that part the records of a space into ranges of some MiB.
	Cuts(space journal.Space) ([]journal.Key, error)
}

// placer is a journal that may know from its opening where all chunks are.
type placer interface {
	TakePlacements() *journal.Placements // nil: the records have to be read
}

var (
	_ cutter = (*journal.Store)(nil)
	_ placer = (*journal.Store)(nil)
)

const (
	loadBatch = 1024 // chunks handed over at once: some 100 KiB
	loadAhead = 32   // batches that wait for the claims, for each part
)

// chunkPart is a range of keys that is being read.
type chunkPart struct {
	batches chan []journal.Placement
	err     error // once batches is closed

	batch []journal.Placement // of the reader
	quit  <-chan struct{}
}

// add hands a chunk over, and flush those that are left. They return errStop when nobody wants them.
func (p *chunkPart) add(c *journal.Placement) error {
	if p.batch == nil {
		p.batch = make([]journal.Placement, 0, loadBatch)
	}
	if p.batch = append(p.batch, *c); len(p.batch) == loadBatch {
		return p.flush()
	}
	return nil
}

func (p *chunkPart) flush() error {
	if len(p.batch) == 0 {
		return nil
	}
	select {
	case p.batches <- p.batch:
		p.batch = nil
		return nil
	case <-p.quit:
		return errStop
	}
}

// chunkReader reads all chunks in parts that ascend: how many there are, and what reads one of them.
func (v *Volume) chunkReader() (parts int, read func(i int, p *chunkPart) error, err error) {
	if j, ok := v.opts.Journal.(placer); ok {
		if known := j.TakePlacements(); known != nil {
			return known.Parts(), func(i int, p *chunkPart) error { return known.Part(i, p.add) }, nil
		}
	}
	cuts := []journal.Key{journal.MakeKey(journal.SpaceChunk, 0, 0)}
	if c, ok := v.opts.Journal.(cutter); ok {
		more, err := c.Cuts(journal.SpaceChunk)
		if err != nil {
			return 0, nil, err
		}
		cuts = append(cuts, more...)
	}
	return len(cuts), func(i int, p *chunkPart) error {
		if i+1 < len(cuts) {
			return v.readPart(p, cuts[i], &cuts[i+1])
		}
		return v.readPart(p, cuts[i], nil)
	}, nil
}

// loadChunks marks the slots in use. Chunks of objects that are gone are forgotten.
func (v *Volume) loadChunks(files *fileScan) error {
	n, read, err := v.chunkReader()
	if err != nil {
		return fmt.Errorf("chunks: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	quit := make(chan struct{})
	defer close(quit)
	atOnce := runtime.GOMAXPROCS(0) + 1
	parts := make([]*chunkPart, n)
	begin := func(i int) {
		if i >= n {
			return
		}
		p := &chunkPart{batches: make(chan []journal.Placement, loadAhead), quit: quit}
		parts[i] = p
		wg.Go(func() { // ends with the part, or with quit
			defer close(p.batches)
			p.err = read(i, p)
			if p.err == nil {
				p.err = p.flush()
			}
			if errors.Is(p.err, errStop) {
				p.err = nil
			}
		})
	}
	for i := range atOnce {
		begin(i)
	}
	claims := v.newClaims(files)
	for i := range parts {
		for batch := range parts[i].batches {
			if err := claims.addAll(batch); err != nil {
				return fmt.Errorf("chunks: %w", err)
			}
		}
		if err := parts[i].err; err != nil {
			return fmt.Errorf("chunks: %w", err)
		}
		parts[i] = nil
		begin(i + atOnce)
	}
	claims.finish()
	return files.finish()
}

// readPart reads the records of a range of keys.
func (v *Volume) readPart(p *chunkPart, from journal.Key, before *journal.Key) error {
	var rec journal.Chunk
	err := v.j.ScanFrom(from, func(k journal.Key, val []byte) error {
		if before != nil && string(k[:]) >= string(before[:]) {
			return errStop
		}
		if err := rec.ParsePlacement(k, val); err != nil {
			return err
		}
		c := journal.Placement{Key: k, Generation: rec.Generation, Slot: rec.Slot, Count: uint8(len(rec.Copies))}
		copy(c.Copies[:], rec.Copies)
		return p.add(&c)
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// claims marks the slots of chunks at open, and counts the chunks. What it counts goes into the volume at
// the end, so that a chunk costs no look into a map, and little else: all are claimed one after the other.
type claims struct {
	v       *Volume
	files   *fileScan
	members []claimedMember // by ID
	object  *object         // of the last chunk; nil: it is no export
	number  uint64
	blocks  int64 // of object
	placed  int64
	rated   [lost + 1]int64
}

type claimedMember struct {
	*member
	counts bool
	copies int64
}

func (v *Volume) newClaims(files *fileScan) *claims {
	c := &claims{v: v, files: files, object: v.objects[0]}
	for id, m := range v.set.Load().byID {
		if n := int(id) + 1; n > len(c.members) {
			c.members = append(c.members, make([]claimedMember, n-len(c.members))...)
		}
		c.members[id] = claimedMember{member: m, counts: m.counts()}
	}
	return c
}

// enter begins with the chunks of another object.
func (c *claims) enter(number uint64) {
	if c.object != nil {
		c.object.slots.Add(c.blocks * blockSize)
	}
	c.number, c.object, c.blocks = number, c.v.objects[number], 0
}

// addAll claims chunks.
func (c *claims) addAll(chunks []journal.Placement) error {
	for i := range c.members {
		if m := &c.members[i]; m.member != nil {
			m.alloc.mu.Lock() // nobody else wants them yet; for each chunk it would be a third of the work
			defer m.alloc.mu.Unlock()
		}
	}
	for i := range chunks {
		if err := c.add(&chunks[i]); err != nil {
			return err
		}
	}
	return nil
}

// add claims a chunk. It is called with the locks of all allocators.
func (c *claims) add(p *journal.Placement) error {
	_, num, index := p.Key.Parts()
	if num != c.number {
		c.enter(num)
	}
	o := c.object
	if o == nil {
		if stays, err := c.files.chunk(p.Key, p.Slot); err != nil || !stays {
			return err
		}
	}
	if p.Slot == 0 {
		return nil
	}
	v := c.v
	if int(p.Slot) > v.blocks {
		return fmt.Errorf("%w: slot of %d blocks", journal.ErrCorrupt, p.Slot)
	}
	if p.Generation >= v.gen.Load() {
		return fmt.Errorf("%w: generation %d was never given out", journal.ErrCorrupt, p.Generation)
	}
	if o != nil {
		if int64(index) >= (o.rec.Size+int64(v.info.ChunkSize)-1)/int64(v.info.ChunkSize) {
			o.behind.Store(true)
		}
		c.blocks += int64(p.Slot)
	}
	c.placed++
	good := 0
	for i := range p.Copies[:p.Count] {
		at := &p.Copies[i]
		if int(at.Device) >= len(c.members) || c.members[at.Device].member == nil {
			return fmt.Errorf("%w: a copy on device %d, which the volume does not have", journal.ErrCorrupt, at.Device)
		}
		m := &c.members[at.Device]
		if err := m.alloc.mark(at.Off, int64(p.Slot)*blockSize); err != nil {
			return fmt.Errorf("%w: device %v: %w", journal.ErrCorrupt, m.id, err)
		}
		m.copies++
		if m.counts && !at.Stale {
			good++
		}
	}
	c.rated[v.rateCopies(good)]++
	return nil
}

// finish counts what was claimed.
func (c *claims) finish() {
	c.enter(0)
	c.v.placedBy.Add(c.placed)
	for i := range c.members {
		if m := &c.members[i]; m.member != nil {
			m.member.copies.Add(m.copies)
		}
	}
	for r, n := range c.rated {
		c.v.health.count(rating(r), n)
	}
}
