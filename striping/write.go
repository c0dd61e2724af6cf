package striping

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ballast/journal"
	"ballast/striping/policy"
)

// Writes are taken into RAM: each request is cut at chunk boundaries and put into the chunks'
// dirty overlays, blocks as they are, parts of blocks after the rest of the block was read. A
// request that starts a new chunk first claims the space that the chunk will take, so that the
// volume being full is told to the writer and not found out later.

// acquireOf returns a chunk of o, loaded and with a reference of the caller's.
func (v *Volume) acquireOf(o *object, index uint64) (*chunk, error) {
	c := v.cache.get(chunkKey{o.number, index})
	c.mu.Lock()
	c.loaded = c.loaded || o.blank.Load()
	return v.loaded(c)
}

// acquire is acquireOf for a chunk of which only the key is known.
func (v *Volume) acquire(key chunkKey) (*chunk, error) {
	c := v.cache.get(key)
	c.mu.Lock()
	return v.loaded(c)
}

// loaded reads the placement of a chunk from the journal if it is not known. Called with c.mu, which it
// unlocks; after an error the reference is gone, too.
func (v *Volume) loaded(c *chunk) (*chunk, error) {
	defer c.mu.Unlock()
	if c.loaded {
		return c, nil
	}
	k := c.key.record()
	val, err := v.j.Get(k)
	if err == nil {
		var rec journal.Chunk
		if rec, err = journal.ParseChunk(k, val); err == nil {
			c.setLocked(&rec)
			c.rated = v.rate(c.slot, c.places)
		}
	}
	if err != nil && !errors.Is(err, journal.ErrNotFound) {
		v.cache.put(c)
		return nil, fmt.Errorf("%v: %w", c.key, err)
	}
	c.loaded = true
	return c, nil
}

// claimLocked promises c the space that holding blocks up to end will take. Blocks behind the end
// of an object that shrank meanwhile are refused. Called with c.mu.
func (v *Volume) claimLocked(o *object, c *chunk, end int) error {
	if int64(c.key.index)*int64(v.info.ChunkSize)+int64(end-1)*blockSize >= o.size.Load() {
		return ErrRange
	}
	if end <= c.slot {
		return nil
	}
	size := int64(v.slotWanted(o, c, end)) * blockSize
	if size <= c.claim {
		return nil
	}
	share := v.regionShare(size)
	more := share - v.regionShare(c.claim)
	claimed := v.claimed.Add(more)
	if v.capacityLeft() < claimed && (claimed != share || !v.fitsPartly(size)) {
		v.claimed.Add(-more)
		return ErrNoSpace
	}
	o.claimed.Add(size - c.claim)
	c.claim = size
	return nil
}

// regionShare is the part of a region that a slot takes when the region is filled with slots of its
// size: many that wait to be placed may leave a rest in each.
func (v *Volume) regionShare(size int64) int64 {
	if size == 0 {
		return 0
	}
	cs := int64(v.info.ChunkSize)
	n := cs / size
	return (cs + n - 1) / n
}

// slotWanted is how many blocks the slot of c is to have when blocks up to end do not fit into the
// present one. An export gets as many as it has there. A file gets what it needs, for it may be
// small or sparse, but at least twice as many as before, so that appending to it does not copy its
// last chunk again and again. Called with c.mu.
func (v *Volume) slotWanted(o *object, c *chunk, end int) int {
	if o.isFile {
		return max(end, min(2*c.slot, v.blocks))
	}
	return max(end, v.slotBlocks(o.size.Load(), c.key.index)) // end: being zeroed behind the object's end
}

// fitsPartly reports whether a slot shorter than a region fits into partly used regions of as many
// devices as there are to be copies. It counts for one claim at a time: capacityLeft speaks of
// whole regions, so that nobody promises the same gap twice.
func (v *Volume) fitsPartly(size int64) bool {
	all, fit := map[string]bool{}, map[string]bool{}
	for _, m := range v.devs() {
		if m.takes() {
			all[m.domain()] = true
			if m.alloc.fits(size) {
				fit[m.domain()] = true
			}
		}
	}
	return len(fit) > 0 && len(fit) >= min(int(v.info.Copies), len(all))
}

// capacityLeft is how many bytes of chunks the free slots can hold at the wanted number of
// copies, or at as many as there are domains left.
func (v *Volume) capacityLeft() int64 {
	free := map[string]int64{}
	for _, m := range v.devs() {
		if m.takes() {
			free[m.domain()] += m.alloc.freeRegions() * int64(v.info.ChunkSize)
		}
	}
	list := make([]int64, 0, len(free))
	for _, f := range free {
		list = append(list, f)
	}
	k := min(int(v.info.Copies), len(list))
	if k == 0 {
		return 0
	}
	return policy.Capacity(list, k)
}

// domain is what the device fails together with.
func (m *member) domain() string {
	if m.Record.Domain != "" {
		return m.Record.Domain
	}
	return m.id.String()
}

// buffered puts blocks [first, first+n) of c into its dirty overlay; buf nil means zeros. It takes
// over the caller's reference to buf and cost bytes of the dirty budget. Called with c.mu.
func (v *Volume) bufferedLocked(o *object, c *chunk, first, n int, buf *Buffer, off int, cost int64) {
	if c.dirty == nil {
		c.dirty = &overlay{id: c.nextID, born: time.Now()}
		c.nextID++
		if o.touch(c) && v.touched.Add(1)%flushSoonAfter == 0 {
			v.flushes.soon()
		}
	}
	c.dirty.put(first, n, buf, off)
	c.dirty.budget += cost
	c.change++
}

// afterWrite lets the write-back know of new dirty data. Called without locks.
func (v *Volume) afterWrite(c *chunk, full bool, id uint64) {
	if full {
		v.wb.now(c)
	} else {
		v.wb.age(c, id)
	}
}

// smallChunk is the size of a last chunk up to which it waits like a partly written one: the chunks of many
// small files go to a device together.
const smallChunk = 128 << 10

// fullLocked tells whether c's dirty overlay has all of the chunk, so that it is to go at once. The
// last chunk of a file may yet become longer: see File.Rest. Called with c.mu.
func (v *Volume) fullLocked(o *object, c *chunk) bool {
	n := v.slotBlocks(o.size.Load(), c.key.index)
	return (n == v.blocks || !o.isFile && n*blockSize > smallChunk) && c.dirty.covers(n)
}

// putBlocks writes whole blocks of one chunk. It takes buf over; off is the first byte in it.
func (v *Volume) putBlocks(o *object, c *chunk, first, n int, buf *Buffer, off int, cost int64) error {
	if buf != nil {
		buf.sum(off, n)
	}
	c.mu.Lock()
	if buf != nil {
		if err := v.claimLocked(o, c, first+n); err != nil {
			c.mu.Unlock()
			buf.Release()
			v.dirty.give(cost)
			return err
		}
	}
	isNew := c.dirty == nil
	v.bufferedLocked(o, c, first, n, buf, off, cost)
	full := v.fullLocked(o, c)
	id := c.dirty.id
	c.mu.Unlock()
	if full || isNew {
		v.afterWrite(c, full, id)
	}
	return nil
}

// putBytes writes part of one block: the rest of it is read first, unless it is behind the object's
// end. When the chunk changes meanwhile, it is read again.
func (v *Volume) putBytes(ctx context.Context, o *object, c *chunk, block, off int, p []byte) error {
	for {
		c.mu.Lock()
		change := c.change
		c.mu.Unlock()
		buf := NewBuffer(blockSize)
		if at := int64(c.key.index)*int64(v.info.ChunkSize) + int64(block)*blockSize; off == 0 && at+int64(len(p)) >= o.size.Load() {
			clear(buf.Bytes()[len(p):]) // behind the end
		} else if err := v.readBlock(ctx, o, c, block, buf.Bytes()); err != nil {
			buf.Release()
			return err
		}
		copy(buf.Bytes()[off:], p)
		buf.sum(0, 1)
		c.mu.Lock()
		if c.change != change {
			c.mu.Unlock()
			buf.Release()
			continue
		}
		if err := v.claimLocked(o, c, block+1); err != nil {
			c.mu.Unlock()
			buf.Release()
			return err
		}
		isNew := c.dirty == nil
		v.bufferedLocked(o, c, block, 1, buf, 0, blockSize)
		full, id := v.fullLocked(o, c), c.dirty.id
		c.mu.Unlock()
		if full || isNew {
			v.afterWrite(c, full, id)
		}
		return nil
	}
}

// writeAt writes p, copying it.
func (v *Volume) writeAt(ctx context.Context, o *object, p []byte, off int64) error {
	cs := int64(v.info.ChunkSize)
	for len(p) > 0 {
		index, in := uint64(off/cs), off%cs
		n := min(int64(len(p)), cs-in)
		if err := v.withSpace(ctx, func() error { return v.writeChunk(ctx, o, index, int(in), p[:n]) }); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// writeChunk writes bytes [in, in+len(p)) of one chunk, copying p.
func (v *Volume) writeChunk(ctx context.Context, o *object, index uint64, in int, p []byte) error {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	if head := in % blockSize; head != 0 || len(p) < blockSize {
		n := min(blockSize-head, len(p))
		if err := v.dirty.take(ctx, blockSize); err != nil {
			return err
		}
		if err := v.putBytes(ctx, o, c, in/blockSize, head, p[:n]); err != nil {
			v.dirty.give(blockSize)
			return err
		}
		in, p = in+n, p[n:]
	}
	if n := len(p) &^ (blockSize - 1); n > 0 {
		if !v.overwrite(o, c, in/blockSize, p[:n]) {
			if err := v.dirty.take(ctx, int64(n)); err != nil {
				return err
			}
			if err := v.putCopy(o, c, in/blockSize, p[:n]); err != nil {
				return err
			}
		}
		in, p = in+n, p[n:]
	}
	if len(p) > 0 {
		if err := v.dirty.take(ctx, blockSize); err != nil {
			return err
		}
		if err := v.putBytes(ctx, o, c, in/blockSize, 0, p); err != nil {
			v.dirty.give(blockSize)
			return err
		}
	}
	return nil
}

// smallWrite is the size up to which writes that follow each other share a buffer.
const smallWrite = 32 << 10

// overwrite writes whole blocks where they are buffered already, if that needs no more memory. It
// makes the memory of a block that is written again and again the last one's.
func (v *Volume) overwrite(o *object, c *chunk, first int, p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dirty == nil || v.claimLocked(o, c, first+len(p)/blockSize) != nil || !c.dirty.overwrite(first, p) {
		return false
	}
	c.change++
	return true
}

// putCopy writes whole blocks, copied from p: behind the last write's, when that left room.
func (v *Volume) putCopy(o *object, c *chunk, first int, p []byte) error {
	if len(p) <= smallWrite {
		c.mu.Lock()
		if done, full, id := v.growLocked(o, c, first, p); done {
			c.mu.Unlock()
			if full {
				v.afterWrite(c, full, id)
			}
			return nil
		}
		c.mu.Unlock()
	}
	buf := NewBuffer(len(p))
	copy(buf.Bytes(), p)
	return v.putBlocks(o, c, first, len(p)/blockSize, buf, 0, int64(len(p)))
}

// growLocked appends p to the extent that ends at block first, if its buffer has room; a run of
// small sequential writes so becomes one extent. Called with c.mu.
func (v *Volume) growLocked(o *object, c *chunk, first int, p []byte) (done, full bool, id uint64) {
	d := c.dirty
	if d == nil || len(d.ext) == 0 {
		return false, false, 0
	}
	e := &d.ext[len(d.ext)-1]
	n := len(p) / blockSize
	if e.end() != first || e.buf == nil || v.claimLocked(o, c, first+n) != nil {
		return false, false, 0
	}
	at := e.off + e.n*blockSize
	if !e.grow {
		buf := NewBuffer(min(8*smallWrite, (v.blocks-first)*blockSize))
		if buf.size < len(p) {
			buf.Release()
			return false, false, 0
		}
		copy(buf.mem, p)
		buf.sum(0, n)
		v.bufferedLocked(o, c, first, n, buf, 0, int64(len(p)))
		d.ext[len(d.ext)-1].grow = true
	} else {
		if at+len(p) > e.buf.size {
			e.grow = false
			return false, false, 0
		}
		copy(e.buf.mem[at:], p)
		e.buf.sum(at, n)
		e.n += n
		d.budget += int64(len(p))
		c.change++
	}
	return true, v.fullLocked(o, c), d.id
}

// writeBuffer writes whole blocks from buf, which it takes over; off is a multiple of a block.
func (v *Volume) writeBuffer(ctx context.Context, o *object, buf *Buffer, off int64) error {
	cs := int64(v.info.ChunkSize)
	defer buf.Release()
	for at := int64(0); at < int64(buf.size); {
		n := min(int64(buf.size)-at, cs-(off+at)%cs)
		if err := v.withSpace(ctx, func() error { return v.putPart(ctx, o, buf, at, n, off+at) }); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// putPart writes n of buf's bytes, from at on, which belong at off and lie in one chunk.
func (v *Volume) putPart(ctx context.Context, o *object, buf *Buffer, at, n, off int64) error {
	if err := v.dirty.take(ctx, n); err != nil {
		return err
	}
	cs := int64(v.info.ChunkSize)
	c, err := v.acquireOf(o, uint64(off/cs))
	if err != nil {
		v.dirty.give(n)
		return err
	}
	defer v.cache.put(c)
	return v.putBlocks(o, c, int(off%cs/blockSize), int(n/blockSize), buf.Retain(), int(at), n)
}

// zeroRange makes [off, off+size) read as zeros. keep asks for the space to stay allocated.
func (v *Volume) zeroRange(ctx context.Context, o *object, off, size int64, keep bool) error {
	cs := int64(v.info.ChunkSize)
	for size > 0 {
		index, in := uint64(off/cs), off%cs
		n := min(size, cs-in)
		if in == 0 && n == cs && !keep { // whole chunks: only those that exist
			last := index + uint64(size/cs)
			if err := v.forPlaced(o, index, last, func(i uint64) error { return v.zeroChunk(ctx, o, i) }); err != nil {
				return err
			}
			n = int64(last-index) * cs
		} else if err := v.withSpace(ctx, func() error { return v.zeroPart(ctx, o, index, in, n, keep) }); err != nil {
			return err
		}
		off, size = off+n, size-n
	}
	return nil
}

// zeroPart zeros bytes [in, in+n) of one chunk.
func (v *Volume) zeroPart(ctx context.Context, o *object, index uint64, in, n int64, keep bool) error {
	head := min((blockSize-in%blockSize)%blockSize, n)
	tail := (in + n) % blockSize
	if head == n {
		tail = 0
	}
	// The last block may end at the object's end: what lies behind it is zero anyway.
	if end := int64(index)*int64(v.info.ChunkSize) + in + n; end >= o.size.Load() && tail > 0 {
		n += blockSize - tail
		tail = 0
	}
	zeros := func(in, n int64) error {
		if n == 0 {
			return nil
		}
		if !keep {
			if isZero, err := v.isZero(o, index, int(in/blockSize)); err != nil || isZero {
				return err
			}
		}
		return v.writeChunk(ctx, o, index, int(in), zeroPage[:n])
	}
	if err := zeros(in, head); err != nil {
		return err
	}
	if err := zeros(in+n-tail, tail); err != nil {
		return err
	}
	if first, last := (in+head)/blockSize, (in+n-tail)/blockSize; first < last {
		return v.zeroBlocks(o, index, int(first), int(last-first), keep)
	}
	return nil
}

// isZero reports whether a block is known to read as zeros.
func (v *Volume) isZero(o *object, index uint64, block int) (bool, error) {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return false, err
	}
	defer v.cache.put(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ov := range []*overlay{c.dirty, c.out} {
		if e, _ := ov.lookup(block, block+1); e != nil {
			return e.buf == nil, nil
		}
	}
	return !c.written.has(block), nil
}

func (v *Volume) zeroChunk(ctx context.Context, o *object, index uint64) error {
	return v.zeroBlocks(o, index, 0, v.blocks, false)
}

// zeroBlocks makes whole blocks read as zeros.
func (v *Volume) zeroBlocks(o *object, index uint64, first, n int, keep bool) error {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	c.mu.Lock()
	if keep {
		if err := v.claimLocked(o, c, first+n); err != nil {
			c.mu.Unlock()
			return err
		}
	} else if c.dirty == nil && c.out == nil && c.written.empty() && c.slot == 0 {
		c.mu.Unlock()
		return nil
	}
	isNew := c.dirty == nil
	v.bufferedLocked(o, c, first, n, nil, 0, 0)
	if keep {
		c.dirty.keep = true
	} else if first == 0 && n == v.blocks {
		c.dirty.keep, c.dirty.drop = false, true
	}
	id := c.dirty.id
	full := v.fullLocked(o, c)
	c.mu.Unlock()
	if full || isNew {
		v.afterWrite(c, full, id)
	}
	return nil
}

// pickPlaces returns the copies of a chunk that may be written, and those that may not.
func (v *Volume) pickPlaces(places []place) (good, bad []int) {
	for i := range places {
		if !places[i].stale && v.dev(places[i].dev).usable() {
			good = append(good, i)
		} else {
			bad = append(bad, i)
		}
	}
	return good, bad
}

// flushSoonAfter is how many chunks may become unknown to the journal before a commit is due. It
// leaves those that are dirty, so what counts is not how many there are.
const flushSoonAfter = 2048
