package devices

import (
	"errors"
	"fmt"
)

var (
	// ErrAlignment is returned by operations whose offset, length or buffer address is not a
	// multiple of BlockSize. Nothing was transferred.
	ErrAlignment = errors.New("not a multiple of the block size")
	// ErrRange is returned by operations that reach beyond the end of the disk. Nothing was
	// transferred.
	ErrRange = errors.New("beyond the end of the disk")
)

// CheckIO tells whether bufs may be transferred at off of a disk of the given size: every
// offset, length and address aligned, nothing outside. All disks check by it, those too that
// could do without, so that what works in a simulation works with O_DIRECT.
func CheckIO(bufs [][]byte, off, size int64) (total int64, err error) {
	for _, b := range bufs {
		if len(b)%BlockSize != 0 {
			return 0, fmt.Errorf("buffer of %d bytes: %w", len(b), ErrAlignment)
		}
		if len(b) > 0 && addressOf(b)%BlockSize != 0 {
			return 0, fmt.Errorf("buffer at address %#x: %w", addressOf(b), ErrAlignment)
		}
		total += int64(len(b))
	}
	return total, CheckRange(off, total, size)
}

// CheckRange tells whether [off, off+n) is aligned and inside a disk of the given size.
func CheckRange(off, n, size int64) error {
	if off%BlockSize != 0 || n%BlockSize != 0 {
		return fmt.Errorf("%d bytes at %#x: %w", n, off, ErrAlignment)
	}
	if off < 0 || n < 0 || n > size || off > size-n {
		return fmt.Errorf("%d bytes at %#x of %#x: %w", n, off, size, ErrRange)
	}
	return nil
}
