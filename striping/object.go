package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"ballast/journal"
	"ballast/striping/balance"
)

// MaxExportSize is the largest size of an export, in bytes.
const MaxExportSize = 1 << 56

// MaxFileSize is the largest size of a file, in bytes.
const MaxFileSize = 1 << 56

// object is a sparse, byte-addressed thing.
type object struct {
	number  uint64
	sized   bool // of a file: size and slots are known; guarded by Volume.mu
	isFile  bool // known only while it is open or unsettled; see File
	size    atomic.Int64
	removed atomic.Bool
	open    atomic.Int32  // handles
	ops     atomic.Int64  // requests under way
	idle    chan struct{} // told when ops falls to zero after removal; nil for a file
	slots   atomic.Int64  // bytes of placed slots, one copy counted
	claimed atomic.Int64  // bytes of slots that its chunks were promised
	behind  atomic.Bool   // chunks behind the end were found at open
	streams streams

	unsettled atomic.Int32 // chunks in touched
	blank     atomic.Bool  // the journal has never had a record of a chunk of it: none is looked for
	dropped   atomic.Bool  // of a file: it goes, and so do the records of its chunks

	resize ioLock // one change of the record, or of the size, at a time; nil for a file

	mu      sync.Mutex // a leaf: nothing is locked under it
	rec     journal.Object
	touched map[uint64]*chunk // chunks that the journal does not wholly know; each holds a reference
	runs    [maxRuns]run      // of spinning disks: those written to last
}

// run is a range of chunks that are placed side by side.
type run struct {
	index uint64 // of the run in the object
	at    *balance.Neighbours
}

const (
	maxRuns  = 8       // sequential writers of one object, and whole chunks under way
	runBytes = 4 << 20 // of 4 and 8 MiB, 4 reads better with segments of 16 MiB and 32 MiB read ahead
	runLeast = 4       // chunks
)

// beside returns the run that a chunk of that size belongs to. Runs begin at multiples of their
// length, so that rewriting a part of one, long after, does not shift the others.
func (o *object) beside(index uint64, chunkSize int64) *balance.Neighbours {
	r := run{index: index / max(runLeast, uint64(runBytes/chunkSize))}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.runs {
		if x.at != nil && x.index == r.index {
			return x.at
		}
	}
	copy(o.runs[1:], o.runs[:])
	r.at = &balance.Neighbours{}
	o.runs[0] = r
	return r.at
}

func newObject(rec journal.Object) *object {
	o := &object{number: rec.Number, rec: rec, isFile: rec.Kind == journal.File}
	if !o.isFile { // those come and go with each open
		o.idle, o.resize = make(chan struct{}, 1), newIOLock()
	}
	o.size.Store(rec.Size)
	return o
}

// begin registers a request; it fails once the object is removed.
func (o *object) begin() error {
	o.ops.Add(1)
	if o.removed.Load() {
		o.end()
		return ErrRemoved
	}
	return nil
}

func (o *object) end() {
	if o.ops.Add(-1) == 0 && o.removed.Load() {
		select {
		case o.idle <- struct{}{}:
		default:
		}
	}
}

// drain waits until no request is under way on a removed object.
func (o *object) drain(ctx context.Context) error {
	for o.ops.Load() != 0 {
		select {
		case <-o.idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (o *object) name() string {
	if o.isFile {
		return fmt.Sprintf("file %d", o.number)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rec.Name
}

func (o *object) readOnly() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rec.Flags&journal.FlagReadOnly != 0
}

// touch notes that the journal does not know all of c, and reports whether that is new. Callers
// hold c.mu.
func (o *object) touch(c *chunk) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.touched[c.key.index]; ok {
		return false
	}
	c.refs.Add(1)
	if o.touched == nil {
		o.touched = map[uint64]*chunk{}
	}
	o.touched[c.key.index] = c
	o.unsettled.Add(1)
	return true
}

// settle is touch's reverse; it does nothing while c is not clean. Callers hold c.mu.
func (v *Volume) settle(o *object, c *chunk) {
	if !c.cleanLocked() {
		return
	}
	o.mu.Lock()
	_, ok := o.touched[c.key.index]
	delete(o.touched, c.key.index)
	o.mu.Unlock()
	if ok {
		v.touched.Add(-1)
		v.cache.put(c)
		if o.unsettled.Add(-1) == 0 {
			v.forgetIdle(o)
		}
	}
}

// touchedList returns the touched chunks with index in [from, to), each with a reference of the
// caller's, in order.
func (v *Volume) touchedList(o *object, from, to uint64) []*chunk {
	if o.unsettled.Load() == 0 {
		return nil
	}
	o.mu.Lock()
	list := make([]*chunk, 0, len(o.touched))
	for i, c := range o.touched {
		if i >= from && i < to {
			c.refs.Add(1)
			list = append(list, c)
		}
	}
	o.mu.Unlock()
	slices.SortFunc(list, func(a, b *chunk) int {
		if a.key.index < b.key.index {
			return -1
		}
		return 1
	})
	return list
}

func (v *Volume) object(number uint64) *object {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.objects[number]
}

// CheckExportName reports what is wrong with a name for an export.
func CheckExportName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > 255:
		return fmt.Errorf("the name has %d bytes; 255 are possible", len(name))
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' }):
		return errors.New("the name has a slash or a control character")
	}
	return nil
}

func checkExportSize(size int64) error {
	if size <= 0 || size > MaxExportSize {
		return fmt.Errorf("size %d: between 1 byte and 64 PiB are possible", size)
	}
	return nil
}

// CreateExport makes an export of size bytes, all zeros; it takes no space until it is written.
func (v *Volume) CreateExport(ctx context.Context, name string, size int64) error {
	if err := errors.Join(CheckExportName(name), checkExportSize(size)); err != nil {
		return fmt.Errorf("export %q: %w", name, err)
	}
	v.mu.Lock()
	if _, ok := v.names[name]; ok {
		v.mu.Unlock()
		return fmt.Errorf("export %q: %w", name, ErrExists)
	}
	o := newObject(journal.Object{Number: v.nextID, Kind: journal.Export, Name: name, Size: size, Created: time.Now().UTC()})
	o.removed.Store(true) // until it is durable
	v.nextID++
	v.names[name] = o
	v.mu.Unlock()

	b := &journal.Batch{}
	putObject(b, &o.rec)
	err := v.commitVolume(ctx, b)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		delete(v.names, name)
		return fmt.Errorf("export %q: %w", name, err)
	}
	v.objects[o.number] = o
	o.removed.Store(false)
	return nil
}

func putObject(b *journal.Batch, rec *journal.Object) {
	key := journal.MakeKey(journal.SpaceObject, rec.Number, 0)
	b.Put(key, rec.Pack(key))
}

func (v *Volume) export(name string) (*object, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.names[name]
	if o == nil || o.removed.Load() {
		return nil, fmt.Errorf("export %q: %w", name, ErrNotExist)
	}
	return o, nil
}

// lockExport is export with the object's resize lock held: no other change of it is under way,
// and it was not removed meanwhile.
func (v *Volume) lockExport(name string) (*object, error) {
	o, err := v.export(name)
	if err != nil {
		return nil, err
	}
	o.resize.Lock()
	if o.removed.Load() {
		o.resize.Unlock()
		return nil, fmt.Errorf("export %q: %w", name, ErrNotExist)
	}
	return o, nil
}

// SetReadOnly makes an export refuse writes, or take them again.
func (v *Volume) SetReadOnly(ctx context.Context, name string, ro bool) error {
	o, err := v.lockExport(name)
	if err != nil {
		return err
	}
	defer o.resize.Unlock()
	return v.changeObject(ctx, o, func(rec *journal.Object) {
		rec.Flags &^= journal.FlagReadOnly
		if ro {
			rec.Flags |= journal.FlagReadOnly
		}
	})
}

// changeObject journals a change of an object's record, then makes it. Called with o.resize.
func (v *Volume) changeObject(ctx context.Context, o *object, change func(*journal.Object)) error {
	o.mu.Lock()
	rec := o.rec
	o.mu.Unlock()
	change(&rec)
	b := &journal.Batch{}
	putObject(b, &rec)
	if err := v.j.Commit(ctx, b); err != nil {
		return fmt.Errorf("export %q: %w", rec.Name, err)
	}
	o.mu.Lock()
	o.rec = rec
	o.mu.Unlock()
	return nil
}

// ResizeExport changes the size of an export while it is in use. What is cut off is gone; what
// is added reads as zeros.
func (v *Volume) ResizeExport(ctx context.Context, name string, size int64) error {
	if err := checkExportSize(size); err != nil {
		return fmt.Errorf("export %q: %w", name, err)
	}
	o, err := v.lockExport(name)
	if err != nil {
		return err
	}
	defer o.resize.Unlock()
	old := o.size.Load()
	if size > old {
		// A shrink may have been cut short by a crash: what lies behind the present end, up to
		// the end of its chunk, becomes zeros before it can be seen again.
		chunkEnd := min((old/int64(v.info.ChunkSize)+1)*int64(v.info.ChunkSize), size)
		if err := v.zeroTail(ctx, o, old, chunkEnd); err != nil {
			return err
		}
	} else {
		o.size.Store(size) // no new I/O beyond it from here on
	}
	if err := v.changeObject(ctx, o, func(rec *journal.Object) { rec.Size = size }); err != nil {
		o.size.Store(old)
		return err
	}
	o.size.Store(size)
	if size < old {
		return v.dropBehind(ctx, o, size)
	}
	return nil
}

// zeroTail makes [off, end) read as zeros although it may lie beyond the size, and durable.
func (v *Volume) zeroTail(ctx context.Context, o *object, off, end int64) error {
	if off >= end {
		return nil
	}
	if err := v.zeroRange(ctx, o, off, end-off, false); err != nil {
		return err
	}
	return v.flushRange(ctx, o, 0, ^uint64(0))
}

// dropBehind gives the chunks behind size back and zeros the rest of the last one.
func (v *Volume) dropBehind(ctx context.Context, o *object, size int64) error {
	cs := int64(v.info.ChunkSize)
	first := uint64((size + cs - 1) / cs)
	v.cache.barrier(o.number) // whoever writes later sees the new size
	if end := int64(first) * cs; size < end {
		if err := v.zeroRange(ctx, o, size, end-size, false); err != nil {
			return err
		}
	}
	err := v.forPlaced(o, first, ^uint64(0), func(index uint64) error {
		return v.zeroChunk(ctx, o, index)
	})
	return errors.Join(err, v.flushRange(ctx, o, 0, ^uint64(0)))
}

// RemoveExport removes an export and gives its space back. While clients hold it open it is
// refused with ErrBusy unless force is set; their requests then fail.
func (v *Volume) RemoveExport(ctx context.Context, name string, force bool) error {
	o, err := v.lockExport(name)
	if err != nil {
		return err
	}
	defer o.resize.Unlock()
	if o.open.Load() > 0 && !force {
		return fmt.Errorf("export %q: %w by %d clients", name, ErrBusy, o.open.Load())
	}
	if err := v.changeObject(ctx, o, func(rec *journal.Object) { rec.Flags |= journal.FlagDeleted }); err != nil {
		return err
	}
	v.mu.Lock()
	o.removed.Store(true)
	delete(v.names, name)
	v.mu.Unlock()
	if err := o.drain(ctx); err != nil {
		return err // the next open gives the space back
	}
	return v.reap(ctx, o)
}

// reap gives back the space of a deleted object and at last forgets it.
func (v *Volume) reap(ctx context.Context, o *object) error {
	err := v.forPlaced(o, 0, ^uint64(0), func(index uint64) error { return v.zeroChunk(ctx, o, index) })
	if err = errors.Join(err, v.flushRange(ctx, o, 0, ^uint64(0))); err != nil {
		return err
	}
	// The records of its chunks are tombstones now. Their number is never used again, so they
	// may go together with the object's record.
	var keys []journal.Key
	err = v.j.ScanFrom(journal.MakeKey(journal.SpaceChunk, o.number, 0), func(k journal.Key, _ []byte) error {
		if space, num, _ := k.Parts(); space != journal.SpaceChunk || num != o.number {
			return errStop
		}
		keys = append(keys, k)
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	for part := range slices.Chunk(keys, 1000) {
		b := &journal.Batch{}
		for _, k := range part {
			b.Delete(k)
		}
		if err := v.j.Commit(ctx, b); err != nil {
			return err
		}
	}
	b := &journal.Batch{}
	b.Delete(journal.MakeKey(journal.SpaceObject, o.number, 0))
	if err := v.j.Commit(ctx, b); err != nil {
		return err
	}
	v.mu.Lock()
	delete(v.objects, o.number)
	v.mu.Unlock()
	return nil
}

var errStop = errors.New("stop")

// forPlaced calls fn for every chunk of o in [from, to) that the journal or the cache knows to
// be placed or written, in order.
func (v *Volume) forPlaced(o *object, from, to uint64, fn func(index uint64) error) error {
	var list []uint64
	for _, c := range v.touchedList(o, from, to) {
		list = append(list, c.key.index)
		v.cache.put(c)
	}
	err := v.j.ScanFrom(journal.MakeKey(journal.SpaceChunk, o.number, from), func(k journal.Key, val []byte) error {
		space, num, index := k.Parts()
		if space != journal.SpaceChunk || num != o.number || index >= to {
			return errStop
		}
		list = append(list, index)
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	slices.Sort(list)
	for _, index := range slices.Compact(list) {
		if err := fn(index); err != nil {
			return err
		}
	}
	return nil
}

// Exports lists the exports in order of names.
func (v *Volume) Exports() []ExportInfo {
	v.mu.Lock()
	list := make([]*object, 0, len(v.names))
	for _, o := range v.names {
		if !o.removed.Load() {
			list = append(list, o)
		}
	}
	v.mu.Unlock()
	infos := make([]ExportInfo, 0, len(list))
	for _, o := range list {
		o.mu.Lock()
		rec := o.rec
		o.mu.Unlock()
		infos = append(infos, ExportInfo{Name: rec.Name, SizeBytes: o.size.Load(), UsedBytes: o.slots.Load(),
			ReadOnly: rec.Flags&journal.FlagReadOnly != 0, Created: rec.Created})
	}
	slices.SortFunc(infos, func(a, b ExportInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}
