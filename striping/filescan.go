package striping

import (
	"context"
	"errors"
	"fmt"

	"ballast/journal"
)

// fileScan tells, while the chunks are read at open, which files there are. Objects of files are
// numbered like their inodes, but for those whose content was replaced; so the inode records come
// in the order of the chunks, and only the exceptions are held in memory.
type fileScan struct {
	v   *Volume
	ctx context.Context

	moved map[uint64]*scannedFile // by object
	page  []scannedFile           // of those that did not move, by ascending number
	next  uint64                  // inode behind the page
	done  bool

	now  *scannedFile // the file whose chunks come
	drop []journal.Key
	fix  journal.Batch
}

// scannedFile is what the scan keeps of an inode.
type scannedFile struct {
	ino, object uint64
	size        int64
	blocks      int64 // as the inode has it
	found       int64 // as the chunks have it
}

const filePage = 4096

// newFileScan looks at all inodes once: what their numbers are, which are to be given up, and which
// have moved.
func newFileScan(ctx context.Context, v *Volume) (*fileScan, error) {
	s := &fileScan{v: v, ctx: ctx, moved: map[uint64]*scannedFile{}}
	err := v.j.Scan(journal.SpaceInode, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseInode(k, val)
		if err != nil {
			return err
		}
		v.inodes++
		v.nextID = max(v.nextID, rec.Number+1, rec.Object+1)
		if rec.Links == 0 {
			v.orphans = append(v.orphans, rec.Number)
		} else if rec.Object != 0 && rec.Object != rec.Number {
			s.moved[rec.Object] = scanned(&rec)
		}
		return nil
	})
	return s, err
}

func scanned(rec *journal.Inode) *scannedFile {
	return &scannedFile{ino: rec.Number, object: rec.Object, size: rec.Size, blocks: rec.Blocks}
}

// load reads the next page.
func (s *fileScan) load() error {
	s.page = s.page[:0]
	n := 0
	err := s.v.j.ScanFrom(journal.InodeKey(s.next), func(k journal.Key, val []byte) error {
		if n++; n > filePage {
			return errStop
		}
		rec, err := journal.ParseInode(k, val)
		if err != nil {
			return err
		}
		s.next = rec.Number + 1
		if rec.Object == rec.Number && rec.Links > 0 {
			s.page = append(s.page, *scanned(&rec))
		}
		return nil
	})
	s.done = err == nil
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// file returns the file that has that object, or nil; numbers never fall from call to call.
func (s *fileScan) file(object uint64) (*scannedFile, error) {
	if f := s.moved[object]; f != nil {
		return f, nil
	}
	if s.now != nil && s.now.object == object {
		return s.now, nil
	}
	if err := s.pass(object); err != nil {
		return nil, err
	}
	if len(s.page) > 0 && s.page[0].object == object {
		f := s.page[0]
		s.page, s.now = s.page[1:], &f
		return s.now, nil
	}
	return nil, nil
}

// pass settles the files before object.
func (s *fileScan) pass(object uint64) error {
	if s.now != nil {
		if err := s.settle(s.now); err != nil {
			return err
		}
		s.now = nil
	}
	for {
		for len(s.page) > 0 && s.page[0].object < object {
			if err := s.settle(&s.page[0]); err != nil {
				return err
			}
			s.page = s.page[1:]
		}
		if len(s.page) > 0 || s.done {
			return nil
		}
		if err := s.load(); err != nil {
			return err
		}
	}
}

// settle corrects what the inode says of the space that the file takes: after a crash it may be of
// another moment than the chunks.
func (s *fileScan) settle(f *scannedFile) error {
	if f.found == f.blocks {
		return nil
	}
	k := journal.InodeKey(f.ino)
	val, err := s.v.j.Get(k)
	if err != nil {
		return err
	}
	rec, err := journal.ParseInode(k, val)
	if err != nil {
		return err
	}
	rec.Blocks = f.found
	s.fix.Put(k, rec.Pack(k))
	return s.commit(filePage)
}

// chunk looks at a chunk record of a file, and returns whether it stays: those of files that are
// gone, and those behind the end, are forgotten.
func (s *fileScan) chunk(k journal.Key, slot uint32) (stays bool, err error) {
	_, num, index := k.Parts()
	f, err := s.file(num)
	if err != nil {
		return false, err
	}
	cs := int64(s.v.info.ChunkSize)
	if f == nil || slot == 0 || int64(index) >= (f.size+cs-1)/cs {
		s.drop = append(s.drop, k)
		return false, s.commit(filePage)
	}
	f.found += int64(slot)
	s.v.fileBytes.Add(int64(slot) * blockSize)
	return true, nil
}

// commit forgets and corrects what has come together, if that is at least so much.
func (s *fileScan) commit(least int) error {
	if len(s.drop)+len(s.fix.Ops) < least {
		return nil
	}
	b := &s.fix
	for _, k := range s.drop {
		b.Delete(k)
	}
	s.drop = s.drop[:0]
	if err := s.v.j.Commit(s.ctx, b); err != nil {
		return fmt.Errorf("chunks of files that are gone: %w", err)
	}
	b.Ops = nil
	return nil
}

// finish ends the scan.
func (s *fileScan) finish() error {
	if err := s.pass(1 << 48); err != nil {
		return err
	}
	for _, f := range s.moved {
		if err := s.settle(f); err != nil {
			return err
		}
	}
	return s.commit(1)
}

// TakeOrphans returns the inodes without names that were found at open. Their space has been given
// back; their records are up to the caller.
func (v *Volume) TakeOrphans() []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.orphans
	v.orphans = nil
	return list
}

// FoundInodes is how many inodes there were at open.
func (v *Volume) FoundInodes() int64 { return v.inodes }
