package striping

import (
	"context"

	"ballast/journal"
)

// File is an open object whose size, name and life are the business of who opened it: the name
// space, whose inode records say which files there are. The volume knows of a file only while it
// is open or has data that is not settled; millions of others cost no memory.
//
// Its methods may be called concurrently. They reach as far as Grow has allowed.
type File struct {
	e Export
}

// numberStep is how many object numbers are journaled as given out at once.
const numberStep = 1 << 14

// newborns is about how many of the last numbers are known to be new when a file of that number is opened
// for the first time.
const newborns = 1024

// noBlanks notes that the journal is about to have records of chunks.
func (v *Volume) noBlanks(chunks []*chunk) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range chunks {
		if o := v.objects[c.key.object]; o != nil {
			o.blank.Store(false)
		}
	}
}

// NewFileNumber returns a number that no object has had. The number 1 is never given to a file.
func (v *Volume) NewFileNumber(ctx context.Context) (uint64, error) {
	for {
		v.mu.Lock()
		if v.nextID < 2 {
			v.nextID = 2
		}
		if v.nextID < v.idLimit {
			n := v.nextID
			v.nextID++
			v.newborn[n%newborns] = n
			soon := v.nextID+numberStep/4 == v.idLimit
			v.mu.Unlock()
			if soon {
				v.goBackground(func() {
					if err := v.raiseNumbers(v.ctx); err != nil && v.ctx.Err() == nil {
						v.log.Error("journal", "op", "raise object numbers", "err", err)
					}
				})
			}
			return n, nil
		}
		v.mu.Unlock()
		if err := v.raiseNumbers(ctx); err != nil {
			return 0, err
		}
	}
}

// raiseNumbers journals a higher bound of the object numbers given out, and then allows them.
func (v *Volume) raiseNumbers(ctx context.Context) error {
	v.mu.Lock()
	limit := v.nextID + numberStep
	v.idWanted = max(v.idWanted, limit)
	v.mu.Unlock()
	if err := v.commitVolume(ctx, &journal.Batch{}); err != nil {
		return err
	}
	v.mu.Lock()
	v.idLimit = max(v.idLimit, limit)
	v.mu.Unlock()
	return nil
}

// OpenFile opens the file with that object number, of size bytes, with used bytes of slots; Close
// must be called once. What it was opened with before goes before size and used.
func (v *Volume) OpenFile(number uint64, size, used int64) *File {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.fileLocked(number)
	if n := &v.newborn[number%newborns]; *n == number {
		*n = 0
		o.blank.Store(true)
	}
	if !o.sized {
		o.sized = true
		o.size.Store(size)
		o.slots.Add(used)
	}
	return &File{Export{v: v, o: o}}
}

// fileLocked returns the object of a file, opened. Called with v.mu.
func (v *Volume) fileLocked(number uint64) *object {
	o := v.objects[number]
	if o == nil {
		o = newObject(journal.Object{Number: number, Kind: journal.File})
		v.objects[number] = o
	}
	o.open.Add(1)
	return o
}

// Close ends the use of the file. Data that was written stays as durable as it is.
func (f *File) Close() {
	if f.e.closed.Swap(true) {
		return
	}
	if f.e.o.open.Add(-1) == 0 {
		f.e.o.endStreams()
		f.e.v.forgetIdle(f.e.o)
	}
}

// forgetIdle drops a file's object when nobody has it open and the journal knows all of it.
func (v *Volume) forgetIdle(o *object) {
	if !o.isFile || o.unsettled.Load() > 0 || o.open.Load() > 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if o.unsettled.Load() == 0 && o.open.Load() == 0 && v.objects[o.number] == o {
		delete(v.objects, o.number)
	}
}

// hold returns the object of that number and keeps it until release. There is one for each number:
// nobody knows here which files there are that are not open. Its size and use may not be known.
func (v *Volume) hold(number uint64) (o *object, release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o = v.objects[number]; o != nil && !o.isFile {
		return o, func() {}
	}
	f := &File{Export{v: v, o: v.fileLocked(number)}}
	return f.e.o, f.Close
}

// Number is the file's object number.
func (f *File) Number() uint64 { return f.e.o.number }

// Used is how many bytes the file's slots have, or will have once what is buffered is written out,
// one copy counted.
func (f *File) Used() int64 { return f.e.o.slots.Load() + f.e.o.claimed.Load() }

// Grow lets reads and writes reach up to size, if they do not yet. What lay behind the end before
// must read as zeros: that is up to the caller, see Zero.
func (f *File) Grow(size int64) {
	for {
		old := f.e.o.size.Load()
		if size <= old || f.e.o.size.CompareAndSwap(old, size) {
			return
		}
	}
}

// ReadAt fills p from off on.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error { return f.e.ReadAt(ctx, p, off) }

// Read delivers [off, off+size) to sink.
func (f *File) Read(ctx context.Context, off, size int64, sink Sink) error {
	return f.e.Read(ctx, off, size, sink)
}

// WriteAt writes p at off.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	return f.e.WriteAt(ctx, p, off, false)
}

// Zero makes a range read as zeros; with keep its space stays, or becomes, allocated.
func (f *File) Zero(ctx context.Context, off, size int64, keep bool) error {
	return f.e.WriteZeroes(ctx, off, size, keep, false, false)
}

// Extents is as for an Export.
func (f *File) Extents(ctx context.Context, ext []Extent, off, size int64, limit int) ([]Extent, error) {
	return f.e.Extents(ctx, ext, off, size, limit)
}

// Reserve gives the chunks of a range slots that hold it, so that writing there needs no space.
// What is written there already stays.
func (f *File) Reserve(ctx context.Context, off, size int64) error {
	if err := f.e.begin(off, size, true); err != nil {
		return err
	}
	defer f.e.o.end()
	v, o, cs := f.e.v, f.e.o, int64(f.e.v.info.ChunkSize)
	for n := 1; size > 0; n++ {
		in := off % cs
		part := min(size, cs-in)
		err := v.withSpace(ctx, func() error { return v.reserveChunk(ctx, o, uint64(off/cs), in, part) })
		if err == nil && n%dropAtOnce == 0 { // what is not committed takes memory
			err = v.flushRange(ctx, o, 0, ^uint64(0))
		}
		if err != nil {
			return err
		}
		off, size = off+part, size-part
	}
	return nil
}

// reserveChunk makes the slot of one chunk reach over bytes [in, in+size).
func (v *Volume) reserveChunk(ctx context.Context, o *object, index uint64, in, size int64) error {
	first, last := int(in/blockSize), int((in+size+blockSize-1)/blockSize)
	c, err := v.acquireOf(o, index)
	if err != nil {
		return err
	}
	c.mu.Lock()
	slot := c.slot
	c.mu.Unlock()
	v.cache.put(c)
	if slot >= last {
		return nil
	}
	if slot > 0 { // a block at the end makes it grow
		if isZero, err := v.isZero(o, index, last-1); err != nil || !isZero {
			return err
		}
		return v.writeChunk(ctx, o, index, (last-1)*blockSize, zeroPage[:blockSize])
	}
	ext, err := v.chunkHoles(o, index, first, last)
	for i := 0; err == nil && i < len(ext); i += 2 {
		err = v.zeroBlocks(o, index, ext[i], ext[i+1]-ext[i], true)
	}
	return err
}

// chunkHoles returns the begins and ends of what reads as zeros between two blocks of a chunk.
func (v *Volume) chunkHoles(o *object, index uint64, first, last int) (list []int, err error) {
	at := int64(index) * int64(v.info.ChunkSize)
	b := first
	_, err = v.chunkExtents(o, index, at+int64(first)*blockSize, at+int64(last)*blockSize, func(n int64, _, zero bool) bool {
		if zero {
			list = append(list, b, b+int(n/blockSize))
		}
		b += int(n / blockSize)
		return true
	})
	return list, err
}

// Cut makes the file end at size: what lies behind is given back and never seen again. No other
// change of the file may be under way.
func (f *File) Cut(ctx context.Context, size int64) error {
	if err := f.e.o.begin(); err != nil {
		return err
	}
	defer f.e.o.end()
	v, o := f.e.v, f.e.o
	cs := int64(v.info.ChunkSize)
	first := (size + cs - 1) / cs
	if end := min(first*cs, o.size.Load()); size < end {
		if err := v.zeroRange(ctx, o, size, end-size, false); err != nil {
			return err
		}
	}
	o.size.Store(size)
	n := 0
	return v.forPlaced(o, uint64(first), ^uint64(0), func(index uint64) error {
		if n++; n%dropAtOnce == 0 { // dropped chunks take memory until they are committed
			if err := v.flushRange(ctx, o, 0, ^uint64(0)); err != nil {
				return err
			}
		}
		return v.zeroChunk(ctx, o, index)
	})
}

// Rest tells that nobody is about to write more: what the file has in its last chunk goes to the devices
// without waiting for it, unless it is little.
func (f *File) Rest() {
	if f.e.o.begin() != nil {
		return
	}
	defer f.e.o.end()
	v, o := f.e.v, f.e.o
	size := o.size.Load()
	index := uint64(size / int64(v.info.ChunkSize))
	n := v.slotBlocks(size, index)
	if n*blockSize <= smallChunk {
		return
	}
	for _, c := range v.touchedList(o, index, index+1) {
		c.mu.Lock()
		whole := c.dirty != nil && c.dirty.covers(n)
		c.mu.Unlock()
		if whole {
			v.wb.want(c)
		}
		v.cache.put(c)
	}
}

// Sync makes every write of this file durable that returned before it was called.
func (f *File) Sync(ctx context.Context) error { return f.e.Sync(ctx) }

// SyncFiles is Sync for several files, which share what there is to do. It returns an error, or
// nil, for each.
func (v *Volume) SyncFiles(ctx context.Context, files []*File) []error {
	errs, _ := v.SyncFilesWith(ctx, files, nil)
	return errs
}

// SyncFilesWith is SyncFiles with changes of the caller that are to be durable when the files are. When
// all that is left to do is one commit, with is called for the changes (nil: none, after all), and both
// are committed in one journal batch, as joined tells. Else the caller has to commit them. with must
// not wait for what the files do.
func (v *Volume) SyncFilesWith(ctx context.Context, files []*File, with func() *journal.Batch) (errs []error, joined bool) {
	errs = make([]error, len(files))
	r := &flushRequest{to: ^uint64(0), with: with}
	for i, f := range files {
		if f.e.o.unsettled.Load() == 0 {
			continue
		}
		if errs[i] = f.e.o.begin(); errs[i] == nil {
			defer f.e.o.end()
			r.objects = append(r.objects, f.e.o)
		} else {
			r.with = nil
		}
	}
	if len(r.objects) == 0 {
		return errs, false
	}
	result := v.flushes.ask(ctx, r)
	for i, f := range files {
		if errs[i] == nil {
			errs[i] = result.failed[f.e.o.number]
		}
		if errs[i] == nil && result.failed == nil {
			errs[i] = result.err // it was not carried out
		}
	}
	return errs, result.joined
}

// ChunkSize is the size of a chunk in bytes.
func (v *Volume) ChunkSize() int64 { return int64(v.info.ChunkSize) }

// Space returns how much the devices can hold at the wanted number of copies, and what of it is
// free, in bytes.
func (v *Volume) Space() (size, free int64) {
	size, free, _ = v.space()
	return size, free
}
