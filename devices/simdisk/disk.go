package simdisk

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
)

const block = devices.BlockSize

// Options of a disk. Only Size must be set.
type Options struct {
	Size   int64 // bytes, a multiple of devices.BlockSize
	Seed   uint64
	Timing Timing
	// NoData makes the disk forget what is written: reads leave the buffer as it is. For
	// benches of scheduling, where copying would be most of the work.
	NoData bool
	// CacheSize bounds the volatile cache in bytes: beyond it the oldest writes become durable
	// by themselves. 0 means no bound, below 0 that there is no cache.
	CacheSize int64
	// Space is how many bytes may ever be written, as on a thin disk: writes of blocks beyond it
	// that have not been written before fail with ENOSPC. 0 means all.
	Space int64
}

// Disk is a simulated disk. It is safe for concurrent use.
type Disk struct {
	faultdisk.Faults

	opts   Options
	server server
	size   atomic.Int64
	closed atomic.Bool

	mu      sync.Mutex       // never held while waiting
	durable map[int64][]byte // by block number; the slices are never written to
	cached  map[int64][]byte // blocks with pending writes, as they read; nil means discarded
	pending []*entry         // in order of arrival
	bytes   int64            // of pending
	truth   faultdisk.Truth
	space   int64 // bytes left of opts.Space
	stats   Stats
}

// entry is a write or discard in the volatile cache.
type entry struct {
	off, size int64
	data      []byte // nil: discarded
	done      bool   // the call has returned, or is about to
}

// Stats counts what a disk has done, since it was made.
type Stats struct {
	Reads, Writes, Syncs, Discards int64
	ReadBytes, WriteBytes          int64
}

var (
	_ devices.Disk      = (*Disk)(nil)
	_ devices.Vectored  = (*Disk)(nil)
	_ devices.Discarder = (*Disk)(nil)
)

// New returns an empty disk.
func New(opts Options) *Disk {
	if opts.Size < 0 || opts.Size%block != 0 {
		panic("simdisk: size is not a multiple of the block size")
	}
	d := &Disk{opts: opts, durable: map[int64][]byte{}, cached: map[int64][]byte{}, space: opts.Space}
	d.size.Store(opts.Size)
	d.server.rng = rand.New(rand.NewPCG(opts.Seed, 1))
	d.Faults.Seed(rand.New(rand.NewPCG(opts.Seed, 2)))
	if !opts.Timing.none() {
		d.server.set(opts.Timing)
	}
	return d
}

// ReadAt implements devices.Disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.ReadVec([][]byte{p}, off) }

// WriteAt implements devices.Disk.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) { return d.WriteVec([][]byte{p}, off) }

// Size implements devices.Disk.
func (d *Disk) Size() int64 { return d.size.Load() }

// Resize makes the disk smaller or larger, as a disk that was copied to another or has turned
// out to be a fake. What lies beyond the end comes back when it grows again.
func (d *Disk) Resize(size int64) { d.size.Store(size) }

// Close implements devices.Disk. Operations under way end as they would have.
func (d *Disk) Close() error {
	d.closed.Store(true)
	return nil
}

// SetTiming changes how long operations take, from those on that have not reached the disk yet.
func (d *Disk) SetTiming(t Timing) { d.server.set(t) }

// SetSlow changes Timing.Slow and nothing else; phases and stalls go on.
func (d *Disk) SetSlow(factor float64) {
	d.server.mu.Lock()
	d.server.timing.Slow = factor
	d.server.mu.Unlock()
}

// Queued is the number of operations that wait for the disk or occupy it.
func (d *Disk) Queued() int {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	return d.server.queued
}

// Busy is the time for which the disk has been, or is already planned to be, occupied.
func (d *Disk) Busy() time.Duration {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	return d.server.busy
}

// Stats returns what the disk has done; operations that failed count.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// ReadVec implements devices.Vectored.
func (d *Disk) ReadVec(bufs [][]byte, off int64) (int, error) {
	if d.closed.Load() {
		return 0, devices.ErrClosed
	}
	total, err := devices.CheckIO(bufs, off, d.Size())
	if err != nil {
		return 0, err
	}
	v := d.Begin(devices.Read, off, total, d.Size())
	v.Wait()
	d.server.serve(devices.Read, off, total, v.Factor, v.Delay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Reads++
	d.stats.ReadBytes += total
	if v.Err != nil {
		return 0, v.Err
	}
	if v.Moved {
		off = v.Target
	}
	if v.Lose || d.opts.NoData {
		return int(total), nil
	}
	for _, b := range bufs {
		d.peekLocked(b, off)
		off += int64(len(b))
	}
	if v.Corrupt && total > 0 {
		faultdisk.Spoil(bufs[v.Rng.IntN(len(bufs))], v.Damage, v.Rng)
	}
	return int(total), nil
}

func (d *Disk) peekLocked(p []byte, off int64) {
	for n := off / block; len(p) > 0; n++ {
		b, ok := d.cached[n]
		if !ok {
			b = d.durable[n]
		}
		if b == nil {
			clear(p[:block])
		} else {
			copy(p, b)
		}
		p = p[block:]
	}
}

// WriteVec implements devices.Vectored.
func (d *Disk) WriteVec(bufs [][]byte, off int64) (int, error) {
	if d.closed.Load() {
		return 0, devices.ErrClosed
	}
	total, err := devices.CheckIO(bufs, off, d.Size())
	if err != nil {
		return 0, err
	}
	v := d.Begin(devices.Write, off, total, d.Size())
	var e []*entry
	if v.HoldDone {
		e = d.write(bufs, off, total, &v)
	}
	v.Wait()
	if !v.HoldDone {
		if v.Err == nil && !d.allocate(off, total, v.NoSpace) {
			v.Err, v.Extent = syscall.ENOSPC, faultdisk.Nothing
		}
		// A power cut may find the write half done, so it is pending from now on.
		e = d.write(bufs, off, total, &v)
	}
	d.server.serve(devices.Write, off, total, v.Factor, v.Delay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Writes++
	d.stats.WriteBytes += total
	for _, e := range e {
		e.done = true
	}
	d.destageLocked()
	if v.Err != nil {
		return 0, v.Err
	}
	return int(total), nil
}

// allocate takes the space of blocks that have never been written, or returns false.
func (d *Disk) allocate(off, size int64, none bool) bool {
	if d.opts.Space == 0 && !none {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var fresh int64
	for n := off / block; n < (off+size)/block; n++ {
		if d.durable[n] == nil && d.cached[n] == nil {
			fresh += block
		}
	}
	if fresh == 0 {
		return true
	}
	if none || fresh > d.space && d.opts.Space > 0 {
		return false
	}
	d.space -= fresh
	return true
}

// write puts what reaches the disk into the cache, and notes the truth where that is another
// thing than what was asked for.
func (d *Disk) write(bufs [][]byte, off, total int64, v *faultdisk.Verdict) []*entry {
	if total == 0 || d.opts.NoData {
		return nil
	}
	data := make([]byte, 0, total)
	for _, b := range bufs {
		data = append(data, b...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.Err != nil && v.Extent == faultdisk.Nothing:
		return nil
	case v.Err == nil && v.Lose:
		d.truth.Set(off, data)
		return nil
	case v.Err == nil && v.Moved:
		old := make([]byte, total)
		d.peekLocked(old, v.Target)
		d.truth.Keep(v.Target, old)
		d.truth.Set(off, data)
		return []*entry{d.putLocked(v.Target, data)}
	case v.Err == nil && v.Corrupt:
		d.truth.Set(off, data)
		data = slices.Clone(data)
		faultdisk.Spoil(data, v.Damage, v.Rng)
		return []*entry{d.putLocked(off, data)}
	case v.Err != nil && v.Extent == faultdisk.Torn:
		old := make([]byte, total)
		d.peekLocked(old, off)
		faultdisk.Mix(old, data, faultdisk.Tear(len(data)/faultdisk.SectorSize, v.Rng))
		data = old
	}
	d.truth.Wrote(off, total)
	return []*entry{d.putLocked(off, data)}
}

// putLocked adds a pending write of data, which nobody changes afterwards.
func (d *Disk) putLocked(off int64, data []byte) *entry {
	e := &entry{off: off, size: int64(len(data)), data: data}
	d.addLocked(e)
	return e
}

func (d *Disk) addLocked(e *entry) {
	d.pending = append(d.pending, e)
	d.bytes += e.size
	e.apply(d.cached)
}

// apply makes blocks hold what e writes.
func (e *entry) apply(blocks map[int64][]byte) {
	for i := int64(0); i < e.size; i += block {
		var b []byte
		if e.data != nil {
			b = e.data[i : i+block : i+block]
		}
		blocks[(e.off+i)/block] = b
	}
}

// settle is apply for the durable blocks, of which those that hold nothing are absent.
func (e *entry) settle(blocks map[int64][]byte) {
	e.apply(blocks)
	if e.data == nil {
		for n := e.off / block; n < (e.off+e.size)/block; n++ {
			delete(blocks, n)
		}
	}
}

// destageLocked makes the oldest completed writes durable while the cache is too full.
func (d *Disk) destageLocked() {
	if d.opts.CacheSize == 0 || d.bytes <= max(d.opts.CacheSize, 0) {
		return
	}
	over, done := d.bytes-max(d.opts.CacheSize, 0), map[*entry]bool{}
	for _, e := range d.pending {
		if over <= 0 {
			break
		}
		if e.done {
			done[e] = true
			over -= e.size
		}
	}
	d.settleLocked(func(e *entry) bool { return done[e] })
}

// settleLocked makes the pending writes durable that which selects, in order.
func (d *Disk) settleLocked(which func(*entry) bool) {
	var left []*entry
	for _, e := range d.pending {
		if !which(e) {
			left = append(left, e)
			continue
		}
		e.settle(d.durable)
	}
	d.pending, d.bytes = left, 0
	if len(d.cached) > 1024 {
		d.cached = map[int64][]byte{} // clearing costs what the map has ever held
	} else {
		clear(d.cached)
	}
	for _, e := range left {
		e.apply(d.cached)
		d.bytes += e.size
	}
}

// Sync implements devices.Disk: the writes that had returned when it began are durable when it
// returns nil; those still under way stay pending.
func (d *Disk) Sync() error {
	if d.closed.Load() {
		return devices.ErrClosed
	}
	v := d.Begin(devices.Sync, 0, 0, d.Size())
	d.mu.Lock()
	d.stats.Syncs++
	covered := make(map[*entry]bool, len(d.pending))
	for _, e := range d.pending {
		if e.done {
			covered[e] = true
		}
	}
	d.mu.Unlock()
	v.Wait()
	d.server.serve(devices.Sync, 0, 0, v.Factor, v.Delay)
	if v.Err != nil || v.Lose {
		return v.Err
	}
	d.mu.Lock()
	d.settleLocked(func(e *entry) bool { return covered[e] })
	d.mu.Unlock()
	return nil
}

// Discard implements devices.Discarder: the range reads as zeros, and like a write that is
// durable after the next Sync.
func (d *Disk) Discard(off, size int64) error {
	if d.closed.Load() {
		return devices.ErrClosed
	}
	if err := devices.CheckRange(off, size, d.Size()); err != nil {
		return err
	}
	v := d.Begin(devices.Discard, off, size, d.Size())
	v.Wait()
	d.server.serve(devices.Discard, off, size, v.Factor, v.Delay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Discards++
	if v.Err != nil || v.Lose || size == 0 || d.opts.NoData {
		return v.Err
	}
	if d.opts.Space > 0 {
		for n := off / block; n < (off+size)/block; n++ {
			b, ok := d.cached[n]
			if ok && b != nil || !ok && d.durable[n] != nil {
				d.space += block
			}
		}
	}
	d.truth.Wrote(off, size)
	d.addLocked(&entry{off: off, size: size, done: true})
	d.destageLocked()
	return nil
}
