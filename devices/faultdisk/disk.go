package faultdisk

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"ballast/devices"
)

// Disk is a disk that does what another one does, but for the faults in its table.
type Disk struct {
	Faults

	disk devices.Disk

	mu      sync.Mutex // never held while waiting
	truth   Truth
	written map[int64]struct{} // block numbers; for NoSpace
}

var (
	_ devices.Disk      = (*Disk)(nil)
	_ devices.Vectored  = (*Disk)(nil)
	_ devices.Discarder = (*Disk)(nil)
)

// Wrap returns a disk over disk, which it owns from now on. NoSpace faults take every block to
// be new that was not written through the wrapper.
func Wrap(disk devices.Disk) *Disk {
	return &Disk{disk: disk, written: map[int64]struct{}{}}
}

// Size implements devices.Disk.
func (d *Disk) Size() int64 { return d.disk.Size() }

// Close implements devices.Disk. It lifts no fault: what hangs goes on hanging.
func (d *Disk) Close() error { return d.disk.Close() }

// ReadAt implements devices.Disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.ReadVec([][]byte{p}, off) }

// WriteAt implements devices.Disk.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) { return d.WriteVec([][]byte{p}, off) }

// ReadVec implements devices.Vectored, whether or not the disk below does.
func (d *Disk) ReadVec(bufs [][]byte, off int64) (int, error) {
	total, err := devices.CheckIO(bufs, off, d.Size())
	if err != nil {
		return 0, err
	}
	v := d.Begin(devices.Read, off, total, d.Size())
	if !v.Struck {
		return readVec(d.disk, bufs, off)
	}
	v.Wait()
	start := time.Now()
	switch {
	case v.Err != nil:
	case v.Lose: // the disk says that it has read, and has not
	case v.Moved:
		_, v.Err = readVec(d.disk, bufs, v.Target)
	default:
		_, v.Err = readVec(d.disk, bufs, off)
	}
	if v.Err == nil && v.Corrupt && total > 0 {
		Spoil(bufs[v.Rng.IntN(len(bufs))], v.Damage, v.Rng)
	}
	v.linger(start)
	return count(total, v.Err)
}

// WriteVec implements devices.Vectored, whether or not the disk below does.
func (d *Disk) WriteVec(bufs [][]byte, off int64) (int, error) {
	total, err := devices.CheckIO(bufs, off, d.Size())
	if err != nil {
		return 0, err
	}
	v := d.Begin(devices.Write, off, total, d.Size())
	if v.NoSpace && !d.allWritten(off, total) {
		v.Err, v.Extent = syscall.ENOSPC, Nothing
	}
	var done error
	if v.HoldDone {
		done = d.write(bufs, off, total, &v)
	}
	v.Wait()
	start := time.Now()
	if !v.HoldDone {
		done = d.write(bufs, off, total, &v)
	}
	v.linger(start)
	if v.Err == nil {
		v.Err = done
	}
	return count(total, v.Err)
}

// write carries out as much of a write as its verdict allows.
func (d *Disk) write(bufs [][]byte, off, total int64, v *Verdict) error {
	if v.Err != nil && v.Extent == Nothing || total == 0 {
		return nil
	}
	if v.Err == nil && v.Lose {
		d.note(func(t *Truth) { t.Set(off, flatten(bufs, total)) })
		return nil
	}
	if v.Err == nil && v.Moved {
		old := devices.AlignedBytes(int(total))
		if _, err := d.disk.ReadAt(old, v.Target); err != nil {
			return err
		}
		d.note(func(t *Truth) {
			t.Keep(v.Target, old)
			t.Set(off, flatten(bufs, total))
		})
		_, err := writeVec(d.disk, bufs, v.Target)
		return err
	}
	if v.Err == nil && v.Corrupt {
		data := flatten(bufs, total)
		d.note(func(t *Truth) { t.Set(off, data) })
		Spoil(data, v.Damage, v.Rng)
		_, err := d.disk.WriteAt(data, off)
		return err
	}
	if v.Err != nil && v.Extent == Torn {
		old, data := devices.AlignedBytes(int(total)), flatten(bufs, total)
		if _, err := d.disk.ReadAt(old, off); err != nil {
			return err
		}
		Mix(old, data, Tear(len(data)/SectorSize, v.Rng))
		bufs = [][]byte{old}
	}
	d.note(func(t *Truth) {
		t.Wrote(off, total)
		for o := off; o < off+total; o += devices.BlockSize {
			d.written[o/devices.BlockSize] = struct{}{}
		}
	})
	_, err := writeVec(d.disk, bufs, off)
	return err
}

func (d *Disk) note(fn func(*Truth)) {
	d.mu.Lock()
	fn(&d.truth)
	d.mu.Unlock()
}

func (d *Disk) allWritten(off, size int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for o := off; o < off+size; o += devices.BlockSize {
		if _, ok := d.written[o/devices.BlockSize]; !ok {
			return false
		}
	}
	return true
}

// Sync implements devices.Disk.
func (d *Disk) Sync() error {
	v := d.Begin(devices.Sync, 0, 0, d.Size())
	v.Wait()
	start := time.Now()
	if v.Err == nil && !v.Lose {
		v.Err = d.disk.Sync()
	}
	v.linger(start)
	return v.Err
}

// Discard implements devices.Discarder. Over a disk that cannot discard it does nothing, which
// is allowed.
func (d *Disk) Discard(off, size int64) error {
	if err := devices.CheckRange(off, size, d.Size()); err != nil {
		return err
	}
	v := d.Begin(devices.Discard, off, size, d.Size())
	v.Wait()
	start := time.Now()
	below, ok := d.disk.(devices.Discarder)
	if v.Err == nil && !v.Lose && ok {
		d.note(func(t *Truth) {
			t.Wrote(off, size)
			for o := off; o < off+size; o += devices.BlockSize {
				delete(d.written, o/devices.BlockSize)
			}
		})
		v.Err = below.Discard(off, size)
	}
	v.linger(start)
	return v.Err
}

// CorruptMedia spoils one sector of every block of [off, off+size) on the disk below. A later
// write of a block makes it sound again, and so does Heal.
func (d *Disk) CorruptMedia(off, size int64, how Damage, rng *rand.Rand) error {
	b := devices.AlignedBytes(devices.BlockSize)
	for o := off - off%devices.BlockSize; o < off+size; o += devices.BlockSize {
		if _, err := d.disk.ReadAt(b, o); err != nil {
			return err
		}
		d.note(func(t *Truth) { t.Keep(o, b) })
		Spoil(b, how, rng)
		if _, err := d.disk.WriteAt(b, o); err != nil {
			return err
		}
	}
	return nil
}

// Damaged returns the offsets of the blocks that hold something else than what was written
// there, by a fault, ascending.
func (d *Disk) Damaged() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.truth.Damaged()
}

// Heal undoes all damage.
func (d *Disk) Heal() error {
	b := devices.AlignedBytes(devices.BlockSize)
	for _, off := range d.Damaged() {
		d.note(func(t *Truth) { copy(b, t.Take(off)) })
		if _, err := d.disk.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}

// linger waits for as much longer as the verdict says, given when the operation started.
func (v *Verdict) linger(start time.Time) {
	if v.Factor == 1 && v.Delay == 0 {
		return
	}
	more := v.Delay
	if v.Factor > 1 {
		more += time.Duration(float64(time.Since(start)) * (v.Factor - 1))
	}
	if more > 0 {
		time.Sleep(more)
	}
}

// Mix copies those sectors of from into p that are true in sectors.
func Mix(p, from []byte, sectors []bool) {
	for i, kept := range sectors {
		if s := i * SectorSize; kept {
			copy(p[s:s+SectorSize], from[s:])
		}
	}
}

func flatten(bufs [][]byte, total int64) []byte {
	p := devices.AlignedBytes(int(total))
	n := 0
	for _, b := range bufs {
		n += copy(p[n:], b)
	}
	return p
}

func count(total int64, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return int(total), nil
}

func readVec(d devices.Disk, bufs [][]byte, off int64) (int, error) {
	if v, ok := d.(devices.Vectored); ok {
		return v.ReadVec(bufs, off)
	}
	return inTurn(bufs, off, d.ReadAt)
}

func writeVec(d devices.Disk, bufs [][]byte, off int64) (int, error) {
	if v, ok := d.(devices.Vectored); ok {
		return v.WriteVec(bufs, off)
	}
	return inTurn(bufs, off, d.WriteAt)
}

func inTurn(bufs [][]byte, off int64, transfer func([]byte, int64) (int, error)) (int, error) {
	total := 0
	for _, b := range bufs {
		n, err := transfer(b, off)
		total += n
		if err != nil {
			return total, err
		}
		off += int64(n)
	}
	return total, nil
}
