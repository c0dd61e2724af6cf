package striping

import (
	"errors"

	"ballast/journal"
)

// What a file had when it was synced must survive that more is appended to it. Its last block is then
// written over in place, and a disk with sectors of 512 bytes may tear it when the power fails: some of
// them are old, some new, on each copy. A file system without sums would not notice, as up to the end of
// what was synced both are the same; and behind it the old version has zeros. So it can be made again.

// blockSource is where the content of a block stands.
type blockSource struct {
	buf *Buffer
	off int
}

// tailOf makes an earlier version of a block that is torn on every copy, if it is the last one of a file as
// the journal knows it. It returns which of sums that has, -1 if none, and its content, to be released.
func (r *recovery) tailOf(block, i int, copies []recoveredCopy, sums []uint32) (which int, source blockSource) {
	end := r.fileSize() - int64(r.vw.c.key.index)*int64(r.v.info.ChunkSize) - int64(block)*blockSize
	if end <= 0 || end >= blockSize {
		return -1, source
	}
	buf := NewBuffer(blockSize)
	mem := buf.Bytes()
	for at := range copies {
		if copies[at].blocks[i] == nil {
			continue
		}
		copy(mem, copies[at].bytes(i))
		// The size may be of an earlier sync than the sums: data that is on devices is committed without it.
		for from := blockSize - 1; from >= int(end); from-- {
			mem[from] = 0
			if n := lastIndex(sums, blockSum(r.seed, block, mem)); n >= 0 {
				return n, blockSource{buf: buf}
			}
		}
	}
	buf.Release()
	return -1, source
}

// fileSize is the size of the file that the chunk is of, as the journal knows it; 0 if that is none.
func (r *recovery) fileSize() int64 {
	if r.size < 0 {
		var err error
		if r.size, err = r.v.fileSize(r.vw.c.key.object); err != nil {
			r.v.log.Warn("the size of a file with a torn block", "object", r.vw.c.key.object, "err", err)
		}
	}
	return r.size
}

// fileSize is the size of the file that has an object.
func (v *Volume) fileSize(object uint64) (int64, error) {
	if o := v.object(object); o != nil && !o.isFile {
		return 0, nil
	}
	k := journal.InodeKey(object)
	val, err := v.j.Get(k)
	if err == nil {
		rec, err := journal.ParseInode(k, val)
		if err != nil || rec.Object == object {
			return rec.Size, err
		}
	} else if !errors.Is(err, journal.ErrNotFound) {
		return 0, err
	}
	size := int64(0) // its content was replaced: another inode has it
	err = v.j.Scan(journal.SpaceInode, func(k journal.Key, val []byte) error {
		rec, err := journal.ParseInode(k, val)
		if err == nil && rec.Object == object {
			size, err = rec.Size, errStop
		}
		return err
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return size, err
}
