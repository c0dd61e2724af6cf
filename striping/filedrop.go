package striping

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"ballast/journal"
)

// dropAtOnce is how many chunks are given back with one commit.
const dropAtOnce = 1000

// DropFiles gives the space of files back that nobody has open, and forgets them. The caller has
// made durable before that they are not there any more.
func (v *Volume) DropFiles(ctx context.Context, numbers []uint64) error {
	numbers = slices.Compact(slices.Sorted(slices.Values(numbers)))
	d := &fileDrop{v: v, ctx: ctx, objects: map[uint64]*object{}}
	defer d.close()
	for _, n := range numbers {
		f := v.OpenFile(n, 0, 0)
		f.e.o.dropped.Store(true)
		d.files, d.objects[n] = append(d.files, f), f.e.o
	}
	if err := v.forPlacedOf(d.files, d.add); err != nil {
		return err
	}
	return d.flush()
}

// Limits of one scan for chunks of several files.
const (
	maxSkipped = 64      // records of other files in a row: to seek is as quick
	maxPlaced  = 1 << 16 // chunks kept, once one file is through
)

// forPlacedOf is forPlaced for all chunks of files, which come by their numbers. Files that were made
// one after the other lie side by side in the journal, and share a scan.
func (v *Volume) forPlacedOf(files []*File, fn func(chunkKey) error) error {
	for len(files) > 0 {
		list, n, err := v.placedOf(files)
		if err != nil {
			return err
		}
		for _, k := range list {
			if err := fn(k); err != nil {
				return err
			}
		}
		files = files[n:]
	}
	return nil
}

// placedOf returns the chunks of the first n of files.
func (v *Volume) placedOf(files []*File) (list []chunkKey, n int, err error) {
	var touched []chunkKey // before the scan: what a commit takes out of there meanwhile is found in both
	for _, f := range files {
		for _, c := range v.touchedList(f.e.o, 0, ^uint64(0)) {
			touched = append(touched, c.key)
			v.cache.put(c)
		}
	}
	skipped := 0
	err = v.j.ScanFrom(journal.MakeKey(journal.SpaceChunk, files[0].Number(), 0), func(k journal.Key, _ []byte) error {
		_, num, index := k.Parts()
		for n < len(files) && files[n].Number() < num {
			n++
		}
		switch {
		case n == len(files):
			return errStop
		case num < files[n].Number():
			if skipped++; skipped > maxSkipped {
				return errStop
			}
			return nil
		case len(list) >= maxPlaced && index == 0:
			return errStop
		}
		skipped = 0
		list = append(list, chunkKey{num, index})
		return nil
	})
	if err == nil {
		n = len(files) // no chunks lie behind
	} else if !errors.Is(err, errStop) {
		return nil, 0, err
	}
	for _, k := range touched {
		if n == len(files) || k.object < files[n].Number() {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b chunkKey) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.index, b.index))
	})
	return slices.Compact(list), n, nil
}

// fileDrop collects chunks of files that go.
type fileDrop struct {
	v       *Volume
	ctx     context.Context
	files   []*File
	objects map[uint64]*object
	n       int        // chunks since the last flush
	bare    []chunkKey // of these: there may be no commit of theirs that deletes the record
}

func (d *fileDrop) add(k chunkKey) error {
	if err := d.v.zeroChunk(d.ctx, d.objects[k.object], k.index); err != nil {
		return err
	}
	if !d.v.goesWithCommit(d.objects[k.object], k.index) {
		d.bare = append(d.bare, k)
	}
	if d.n++; d.n < dropAtOnce {
		return nil
	}
	return d.flush()
}

// flush commits that the chunks are gone: not as tombstones, for a number is never used again.
func (d *fileDrop) flush() error {
	if err := errors.Join(d.v.SyncFiles(d.ctx, d.files)...); err != nil {
		return err
	}
	b := &journal.Batch{}
	for _, k := range d.bare {
		b.Delete(k.record())
	}
	d.bare, d.n = d.bare[:0], 0
	return d.v.j.Commit(d.ctx, b)
}

// goesWithCommit tells whether a chunk of a file that goes has a slot that is about to be given up: the commit of
// that deletes its record.
func (v *Volume) goesWithCommit(o *object, index uint64) bool {
	o.mu.Lock()
	c := o.touched[index]
	if c != nil {
		c.refs.Add(1)
	}
	o.mu.Unlock()
	if c == nil {
		return false
	}
	defer v.cache.put(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slot > 0 && (c.dirty != nil || c.out != nil)
}

// isDropped tells whether an object is a file that goes.
func (v *Volume) isDropped(number uint64) bool {
	o := v.object(number)
	return o != nil && o.dropped.Load()
}

func (d *fileDrop) close() {
	for _, f := range d.files {
		f.Close()
	}
}
