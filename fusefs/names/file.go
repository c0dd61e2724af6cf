package names

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/journal"
	"ballast/striping"
)

// File is an open regular file. Its methods may be called concurrently.
type File struct {
	n      *node
	writes bool
	closed atomic.Bool
}

// Ino is the file's inode number.
func (f *File) Ino() Ino { return f.n.ino }

// Attr returns the file's attributes.
func (f *File) Attr(ctx context.Context) (Attr, error) { return f.n.t.Attr(ctx, f.n.ino) }

// share keeps the size from being cut meanwhile and returns it.
func (n *node) share(ctx context.Context) (size int64, err error) {
	if err := n.io.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.size, nil
}

// ReadAt fills p from off on; n < len(p) only at the end of the file, without an error.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	size, err := f.n.share(ctx)
	if err != nil {
		return 0, err
	}
	defer f.n.io.Release(1)
	if off < 0 {
		return 0, syscall.EINVAL
	}
	p = p[:max(min(int64(len(p)), size-off), 0)]
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.n.data.file.ReadAt(ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read delivers [off, off+size), as far as the file reaches, to sink and returns how much that is.
func (f *File) Read(ctx context.Context, off, size int64, sink striping.Sink) (int64, error) {
	end, err := f.n.share(ctx)
	if err != nil {
		return 0, err
	}
	defer f.n.io.Release(1)
	if off < 0 || size < 0 {
		return 0, syscall.EINVAL
	}
	if size = max(min(size, end-off), 0); size == 0 {
		return 0, nil
	}
	return size, f.n.data.file.Read(ctx, off, size, sink)
}

// WriteAt writes p at off; the file grows as needed.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	return f.n.retry(ctx, func() error { return f.n.write(ctx, p, off) })
}

// retry runs what needs space again when there was none but some is about to be given back.
func (n *node) retry(ctx context.Context, do func() error) error {
	if n.t.dead.Load() {
		return journal.ErrDead
	}
	err := do()
	if errors.Is(err, striping.ErrNoSpace) && n.t.reclaimable() {
		if n.t.reclaim(ctx) == nil {
			err = do()
		}
	}
	return err
}

func (n *node) write(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	if off < 0 {
		return syscall.EINVAL
	}
	if end > MaxSize || end < off {
		return syscall.EFBIG
	}
	if len(p) == 0 {
		return nil
	}
	size, err := n.share(ctx)
	if err != nil {
		return err
	}
	held := int64(1)
	if off > size { // what lies between is to be zero: nobody else grows the file meanwhile
		n.io.Release(1)
		if err := n.io.Acquire(ctx, ioAll); err != nil {
			return err
		}
		held = ioAll
	}
	defer n.io.Release(held)
	if held == ioAll {
		if err := n.extend(ctx, off); err != nil {
			return err
		}
	}
	n.data.file.Grow(end)
	err = n.data.file.WriteAt(ctx, p, off)
	n.mu.Lock()
	if err == nil {
		n.size = max(n.size, end)
	}
	n.wroteLocked(time.Now().UTC()) // a part of it may have been written
	n.mu.Unlock()
	n.changed()
	return err
}

// Sync makes the file's data and attributes durable, with all operations on names before it.
func (f *File) Sync(ctx context.Context) error {
	return f.n.t.commits.ask(ctx, &request{nodes: []*node{f.n}})
}

// Allocate is fallocate: 0 and KeepSize reserve space, PunchHole|KeepSize makes a hole, ZeroRange
// (with or without KeepSize) makes zeros. Space behind the end is kept only while the file is in
// use, and not after a restart.
func (f *File) Allocate(ctx context.Context, mode uint32, off, size int64) error {
	switch {
	case off < 0 || size <= 0:
		return syscall.EINVAL
	case off+size < off || off+size > MaxSize:
		return syscall.EFBIG
	}
	switch mode {
	case 0, KeepSize, ZeroRange, ZeroRange | KeepSize, PunchHole | KeepSize:
	default:
		return syscall.EOPNOTSUPP
	}
	return f.n.retry(ctx, func() error { return f.n.allocate(ctx, mode, off, size) })
}

func (n *node) allocate(ctx context.Context, mode uint32, off, size int64) error {
	if err := n.io.Acquire(ctx, ioAll); err != nil {
		return err
	}
	defer n.io.Release(ioAll)
	n.mu.Lock()
	old := n.size
	n.mu.Unlock()
	end := off + size
	var err error
	switch {
	case mode == PunchHole|KeepSize:
		if end = min(end, old); off < end {
			err = n.data.file.Zero(ctx, off, end-off, false)
		}
		end = old
	default:
		if end > old {
			err = n.extend(ctx, end)
		}
		if err == nil && mode&ZeroRange != 0 {
			err = n.data.file.Zero(ctx, off, size, true)
		} else if err == nil {
			err = n.data.file.Reserve(ctx, off, size)
		}
		if mode&KeepSize != 0 || err != nil {
			end = old
		}
	}
	n.mu.Lock()
	n.size = max(n.size, end)
	n.wroteLocked(time.Now().UTC())
	n.mu.Unlock()
	n.changed()
	return err
}

// Seek returns where the next data, or the next hole, is from off on; ENXIO behind the end.
func (f *File) Seek(ctx context.Context, off int64, data bool) (int64, error) {
	size, err := f.n.share(ctx)
	if err != nil {
		return 0, err
	}
	defer f.n.io.Release(1)
	if off < 0 || off >= size {
		return 0, syscall.ENXIO
	}
	for off < size {
		ext, err := f.n.data.file.Extents(ctx, nil, off, size-off, 64)
		if err != nil {
			return 0, err
		}
		for _, e := range ext {
			if !e.Zero == data {
				return off, nil
			}
			off += e.Size
		}
	}
	if data {
		return 0, syscall.ENXIO
	}
	return size, nil
}

// copyStep is how much CopyTo has in memory.
const copyStep = 4 << 20

// CopyTo copies size bytes from off to dst at dstOff, holes as holes, and returns how much was
// copied: less at the end of the file. Where both are one file, the ranges must not overlap.
func (f *File) CopyTo(ctx context.Context, dst *File, off, dstOff, size int64) (done int64, err error) {
	if off < 0 || dstOff < 0 || size < 0 || f.n == dst.n && off < dstOff+size && dstOff < off+size {
		return 0, syscall.EINVAL
	}
	buf := striping.NewBuffer(int(min(size, copyStep)))
	defer buf.Release()
	for done < size {
		at, err := f.Seek(ctx, off+done, true)
		if errors.Is(err, syscall.ENXIO) { // a hole, or nothing, up to the end
			a, err := f.Attr(ctx)
			if err != nil {
				return done, err
			}
			at = max(a.Size, off+done)
		} else if err != nil {
			return done, err
		}
		if hole := min(at, off+size) - (off + done); hole > 0 {
			if err := dst.hole(ctx, dstOff+done, hole); err != nil {
				return done, err
			}
			done += hole
			continue
		}
		p := buf.Bytes()[:min(size-done, copyStep)]
		n, err := f.ReadAt(ctx, p, off+done)
		if err != nil || n == 0 {
			return done, err
		}
		if err := dst.WriteAt(ctx, p[:n], dstOff+done); err != nil {
			return done, err
		}
		done += int64(n)
	}
	return done, nil
}

// hole makes a range read as zeros; the file grows as needed.
func (f *File) hole(ctx context.Context, off, size int64) error {
	if err := f.Allocate(ctx, PunchHole|KeepSize, off, size); err != nil {
		return err
	}
	a, err := f.Attr(ctx)
	if err == nil && a.Size < off+size {
		err = f.n.resize(ctx, off+size)
	}
	return err
}
