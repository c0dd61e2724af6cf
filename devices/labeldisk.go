package devices

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// LabelCopy is what stands where a copy of the label should.
type LabelCopy struct {
	Off   int64
	Label Label
	Err   error // ErrNoLabel, ErrCorrupt, ErrFuture, or what the disk returned
}

// labelOffsets returns where the copies stand on a device of size bytes: first the pair of the
// odd writings, then that of the even ones, each with one copy at either end.
func labelOffsets(size int64) [2][2]int64 {
	return [2][2]int64{{0, size - 2*LabelSize}, {LabelSize, size - LabelSize}}
}

// pairOf is the pair of copies that writing number n goes to. Neighbours go to different ones.
func pairOf(n uint64) int { return int((n + 1) % 2) }

// ReadLabelCopies reads all copies of the label: two at the start and two at the end of the
// disk, and, if the disk has grown, two more where its end was.
func ReadLabelCopies(disk Disk) []LabelCopy {
	if disk.Size() < 2*labelArea {
		return nil
	}
	var copies []LabelCopy
	read := func(off int64) {
		if slices.ContainsFunc(copies, func(c LabelCopy) bool { return c.Off == off }) {
			return
		}
		c := LabelCopy{Off: off}
		b := AlignedBytes(LabelSize)
		if _, c.Err = disk.ReadAt(b, off); c.Err == nil {
			c.Label, c.Err = ParseLabel(b, off)
		}
		if c.Err == nil {
			c.Err = c.Label.checkPlace(off)
		}
		copies = append(copies, c)
	}
	at := labelOffsets(disk.Size())
	for _, off := range []int64{at[0][0], at[1][0], at[0][1], at[1][1]} {
		read(off)
	}
	for _, c := range copies[:2] {
		if c.Err == nil && c.Label.Size < disk.Size() {
			old := labelOffsets(c.Label.Size)
			read(old[0][1])
			read(old[1][1])
		}
	}
	return copies
}

// checkPlace tells whether this label may stand at off.
func (l *Label) checkPlace(off int64) error {
	if want := labelOffsets(l.Size)[pairOf(l.Writes)]; off != want[0] && off != want[1] {
		return &CorruptError{Off: off, What: fmt.Sprintf("place of writing %d", l.Writes), Want: want, Have: off}
	}
	return nil
}

// ReadLabel returns the newest sound label of a disk. Without one it returns what is wrong:
// ErrNoLabel, ErrCorrupt, or the disk's error. It refuses with ErrFuture if any copy is from a
// newer version, and with ErrConflict if sound copies contradict each other. With ErrShrunk the
// label is returned too.
func ReadLabel(disk Disk) (Label, error) {
	newest, err := newestLabel(ReadLabelCopies(disk))
	if err == nil && newest.Size > disk.Size() {
		err = fmt.Errorf("%w: %d bytes, label: %d", ErrShrunk, disk.Size(), newest.Size)
	}
	return newest, err
}

// NewerLabelLost reports whether there may have been a newer label than l, which was read from disk: both
// copies where the writing after l goes are damaged.
func NewerLabelLost(disk Disk, l *Label) bool {
	for _, off := range labelOffsets(l.Size)[pairOf(l.Writes+1)] {
		b := AlignedBytes(LabelSize)
		if _, err := disk.ReadAt(b, off); err != nil {
			continue
		}
		if _, err := ParseLabel(b, off); err == nil || !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) {
			return false
		}
	}
	return true
}

func newestLabel(copies []LabelCopy) (Label, error) {
	var newest *LabelCopy
	var problem error
	for i := range copies {
		c := &copies[i]
		switch {
		case c.Err == nil && newest == nil:
			newest = c
		case c.Err == nil:
			if err := contradiction(newest, c); err != nil {
				return Label{}, err
			}
			if c.Label.Writes > newest.Label.Writes {
				newest = c
			}
		case errors.Is(c.Err, ErrFuture):
			return Label{}, c.Err
		case problem == nil || errors.Is(problem, ErrNoLabel):
			problem = c.Err
		}
	}
	switch {
	case newest != nil:
		return newest.Label, nil
	case problem == nil:
		return Label{}, ErrNoLabel
	default:
		return Label{}, problem
	}
}

func contradiction(a, b *LabelCopy) error {
	if a.Label.Volume != b.Label.Volume || a.Label.Device != b.Label.Device {
		return fmt.Errorf("%w: at %#x device %s of volume %s, at %#x device %s of volume %s", ErrConflict,
			a.Off, a.Label.Device, a.Label.Volume, b.Off, b.Label.Device, b.Label.Volume)
	}
	if a.Label.Writes != b.Label.Writes {
		return nil
	}
	pa, errA := a.Label.Pack(0)
	pb, errB := b.Label.Pack(0)
	if errA != nil || errB != nil || !bytes.Equal(pa, pb) {
		return fmt.Errorf("%w: at %#x and %#x, both of writing %d", ErrConflict, a.Off, b.Off, a.Label.Writes)
	}
	return nil
}

// WriteLabel writes l durably, as the next writing of the disk's label, whose number it sets in
// l. It syncs the disk before, so that a label never speaks of what is not there yet, and after.
// The newest copies stay untouched; a disk without a label gets all four copies. It refuses to
// write over the label of another device (see EraseLabel), and what ReadLabel refuses. After an
// error the disk holds the old label, the new one, or both.
func WriteLabel(disk Disk, l *Label) error {
	if l.ReadOnly() {
		return fmt.Errorf("label has unknown features %#x: %w", l.ROCompat, ErrFuture)
	}
	if l.Size > disk.Size() {
		return fmt.Errorf("%w: %d bytes, label: %d", ErrShrunk, disk.Size(), l.Size)
	}
	old, err := ReadLabel(disk)
	switch {
	case errors.Is(err, ErrNoLabel):
		l.Writes = 0
		if err := writeNextLabel(disk, l); err != nil {
			return err
		}
		return writeNextLabel(disk, l)
	case err != nil:
		return err
	case old.Device != l.Device || old.Volume != l.Volume:
		return fmt.Errorf("%w: device %s of volume %q (%s)", ErrOtherLabel, old.ID, old.Name, old.Volume)
	}
	l.Writes = old.Writes
	return writeNextLabel(disk, l)
}

func writeNextLabel(disk Disk, l *Label) error {
	l.Writes++
	var packed [2][]byte
	at := labelOffsets(l.Size)[pairOf(l.Writes)]
	for i, off := range at {
		var err error
		if packed[i], err = l.Pack(off); err != nil {
			return err
		}
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("label: sync before: %w", err)
	}
	var errs []error
	for i, off := range at {
		// If one end of the disk is bad, the other still gets its copy.
		if _, err := disk.WriteAt(packed[i], off); err != nil {
			errs = append(errs, fmt.Errorf("label at %#x: %w", off, err))
		}
	}
	if err := disk.Sync(); err != nil {
		errs = append(errs, fmt.Errorf("label: sync after: %w", err))
	}
	return errors.Join(errs...)
}

// GrowLabel is WriteLabel of a label with a new size: both pairs of copies get it, so that nothing at
// the device's old end is needed any more.
func GrowLabel(disk Disk, l *Label) error {
	if err := WriteLabel(disk, l); err != nil {
		return err
	}
	return WriteLabel(disk, l)
}

// EraseLabel durably overwrites with zeros every place where a label is or may be found, damaged
// ones too.
func EraseLabel(disk Disk) error {
	var errs []error
	zeros := AlignedBytes(LabelSize)
	for _, c := range ReadLabelCopies(disk) {
		if _, err := disk.WriteAt(zeros, c.Off); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, disk.Sync())
	return errors.Join(errs...)
}
