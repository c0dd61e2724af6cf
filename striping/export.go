package striping

import (
	"context"
	"errors"
	"sync/atomic"
)

// Export is an open export of a volume. Its methods may be called concurrently.
type Export struct {
	v      *Volume
	o      *object
	closed atomic.Bool
}

// OpenExport opens an export; Close must be called once.
func (v *Volume) OpenExport(name string) (*Export, error) {
	o, err := v.export(name)
	if err != nil {
		return nil, err
	}
	o.open.Add(1)
	return &Export{v: v, o: o}, nil
}

// Close ends the use of the export. Data that was written stays as durable as it is.
func (e *Export) Close() {
	if e.closed.Swap(true) {
		return
	}
	if e.o.open.Add(-1) == 0 {
		e.o.endStreams()
	}
}

// Size is the size in bytes now.
func (e *Export) Size() int64 { return e.o.size.Load() }

// ReadOnly reports whether writes are refused.
func (e *Export) ReadOnly() bool { return e.o.readOnly() }

// Buffer returns memory for WriteBuffer.
func (e *Export) Buffer(size int) *Buffer { return NewBuffer(size) }

// begin checks a request; end is to be called when it is nil.
func (e *Export) begin(off, size int64, write bool) error {
	if err := e.o.begin(); err != nil {
		return err
	}
	err := error(nil)
	if off < 0 || size < 0 || off+size < off || off+size > e.o.size.Load() {
		err = ErrRange
	} else if write && e.o.readOnly() {
		err = ErrReadOnly
	}
	if err != nil {
		e.o.end()
	}
	return err
}

// Read delivers [off, off+size) to sink.
func (e *Export) Read(ctx context.Context, off, size int64, sink Sink) error {
	if err := e.begin(off, size, false); err != nil {
		return err
	}
	defer e.o.end()
	if size == 0 {
		return nil
	}
	return e.v.read(ctx, e.o, off, size, sink)
}

// ReadAt fills p from off on.
func (e *Export) ReadAt(ctx context.Context, p []byte, off int64) error {
	return e.Read(ctx, off, int64(len(p)), &intoBytes{p})
}

// WriteAt writes p. It is readable when WriteAt returns, and durable after the next Sync, or at
// once with fua.
func (e *Export) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := e.begin(off, int64(len(p)), true); err != nil {
		return err
	}
	defer e.o.end()
	err := e.v.writeAt(ctx, e.o, p, off)
	return e.after(ctx, err, off, int64(len(p)), fua)
}

// WriteBuffer is WriteAt for memory from NewBuffer, which it takes over.
func (e *Export) WriteBuffer(ctx context.Context, b *Buffer, off int64, fua bool) error {
	size := int64(b.size)
	if off%blockSize != 0 || size%blockSize != 0 {
		defer b.Release()
		return e.WriteAt(ctx, b.Bytes(), off, fua)
	}
	if err := e.begin(off, size, true); err != nil {
		b.Release()
		return err
	}
	defer e.o.end()
	err := e.v.writeBuffer(ctx, e.o, b, off)
	return e.after(ctx, err, off, size, fua)
}

// after ends a write: counts it and makes it durable if that is asked for.
func (e *Export) after(ctx context.Context, err error, off, size int64, fua bool) error {
	if err != nil {
		return err
	}
	e.v.stats.writtenBytes.Add(size)
	if !fua || size == 0 {
		return nil
	}
	cs := int64(e.v.info.ChunkSize)
	return e.v.flushRange(ctx, e.o, uint64(off/cs), uint64((off+size+cs-1)/cs))
}

// withSpace runs a write of one chunk again when it found no space, once trimmed space that waits for
// its commit is there, and for as long as what is on its way to the disks may be what it lacks: it
// counts twice, as promised and as taken.
func (v *Volume) withSpace(ctx context.Context, write func() error) error {
	const tries = 8 // other writers may take what there is
	err := write()
	again := true
	for i := 0; i < tries && again && errors.Is(err, ErrNoSpace); i++ {
		if ferr := v.Flush(ctx); ferr != nil {
			return err
		}
		before := v.transit.Load() + v.retired.Load()
		err = write()
		after := v.transit.Load() + v.retired.Load()
		again = before+after > 0 && v.capacityLeft()+after > v.claimed.Load()
	}
	return err
}

// Sync makes every write of this export durable that returned before it was called.
func (e *Export) Sync(ctx context.Context) error {
	if err := e.o.begin(); err != nil {
		return err
	}
	defer e.o.end()
	return e.v.flushRange(ctx, e.o, 0, ^uint64(0))
}

// WriteZeroes makes a range read as zeros. With noHole its space stays, or becomes, allocated.
// It is always faster than writing zeros, except when it must allocate; then fast is refused.
func (e *Export) WriteZeroes(ctx context.Context, off, size int64, noHole, fua, fast bool) error {
	if noHole && fast {
		return ErrNotFast
	}
	if err := e.begin(off, size, true); err != nil {
		return err
	}
	defer e.o.end()
	err := e.v.zeroRange(ctx, e.o, off, size, noHole)
	return e.after(ctx, err, off, size, fua)
}

// Trim gives whole blocks of the range back; they read as zeros from then on.
func (e *Export) Trim(ctx context.Context, off, size int64, fua bool) error {
	if err := e.begin(off, size, true); err != nil {
		return err
	}
	defer e.o.end()
	first := (off + blockSize - 1) / blockSize * blockSize
	end := (off + size) / blockSize * blockSize
	if off+size == e.o.size.Load() {
		end = (off + size + blockSize - 1) / blockSize * blockSize
	}
	if first >= end {
		return e.after(ctx, nil, off, size, fua)
	}
	err := e.v.zeroRange(ctx, e.o, first, end-first, false)
	return e.after(ctx, err, off, size, fua)
}

// TryRead is Read when that needs no device; done is false otherwise and sink untouched.
func (e *Export) TryRead(off, size int64, sink Sink) (done bool, err error) {
	cs := int64(e.v.info.ChunkSize)
	in := off % cs
	if size == 0 || in+size > cs {
		return false, nil
	}
	if err := e.begin(off, size, false); err != nil {
		return true, err
	}
	defer e.o.end()
	return e.v.tryRead(e.o, uint64(off/cs), in, size, sink)
}

// TryWriteAt is WriteAt when that can be done at once.
func (e *Export) TryWriteAt(p []byte, off int64) (done bool, err error) {
	cs := int64(e.v.info.ChunkSize)
	in, n := off%cs, int64(len(p))
	if n == 0 || in%blockSize != 0 || n%blockSize != 0 || in+n > cs {
		return false, nil
	}
	if err := e.begin(off, n, true); err != nil {
		return true, err
	}
	defer e.o.end()
	c, err := e.v.acquireOf(e.o, uint64(off/cs))
	if err != nil {
		return true, err
	}
	defer e.v.cache.put(c)
	first := int(in / blockSize)
	if !e.v.overwrite(e.o, c, first, p) {
		if !e.v.dirty.try(n) {
			return false, nil
		}
		err = e.v.putCopy(e.o, c, first, p)
	}
	if errors.Is(err, ErrNoSpace) {
		return false, nil
	}
	if err == nil {
		e.v.stats.writtenBytes.Add(n)
	}
	return true, err
}

// Extent is a run of bytes of an export in one state.
type Extent struct {
	Size int64
	Hole bool // nothing is allocated
	Zero bool // reads as zeros
}

// Extents appends the states from off on until size bytes or limit extents are covered.
func (e *Export) Extents(ctx context.Context, ext []Extent, off, size int64, limit int) ([]Extent, error) {
	if err := e.begin(off, size, false); err != nil {
		return ext, err
	}
	defer e.o.end()
	return e.v.extents(ctx, e.o, ext, off, size, limit)
}

// Prefetch reads a range so that it is found in memory for a while.
func (e *Export) Prefetch(ctx context.Context, off, size int64) error {
	if err := e.begin(off, size, false); err != nil {
		return err
	}
	defer e.o.end()
	e.v.prefetch(e.o, off, size)
	return nil
}
