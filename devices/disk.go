package devices

import (
	"errors"
	"fmt"
)

// BlockSize is the unit of device I/O and of checksums, in bytes. Offsets, lengths and the
// memory addresses of buffers handed to a [Disk] are multiples of it.
const BlockSize = 4096

// ID names a device within its volume. It is given once, starts at 1 and never changes or
// returns, whatever path the disk is found under.
type ID uint16

// String returns the ID as people see it: "d3".
func (id ID) String() string { return fmt.Sprintf("d%d", uint16(id)) }

// Disk is raw storage: a block device, a file standing in for one, memory, or a simulation.
//
// ReadAt and WriteAt transfer all of p or return an error; there is no short success. They may
// be called concurrently; overlapping writes in flight have no order. The buffer belongs to
// the call until it returns, however long that takes. Sync returns nil only when every WriteAt
// that returned before Sync was called is on stable media. A failed Sync is final: a later one
// proves nothing about earlier writes.
type Disk interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
	Size() int64
	Close() error
}

// Vectored is a Disk that can transfer one contiguous range to or from several buffers in one
// call. Each buffer's length and address is a multiple of BlockSize.
type Vectored interface {
	ReadVec(bufs [][]byte, off int64) (int, error)
	WriteVec(bufs [][]byte, off int64) (int, error)
}

// Discarder is a Disk that can be told that a range is no longer needed. What a discarded
// range reads as is undefined.
type Discarder interface {
	Discard(off, size int64) error
}

var (
	// ErrFailed is returned by every request to a device that has been given up.
	ErrFailed = errors.New("device has failed")
	// ErrTimeout is returned when an operation was not done by its deadline. The disk may
	// still carry it out at any time until Request.Returned is called.
	ErrTimeout = errors.New("operation timed out")
	// ErrClosed is returned by requests to a closed device.
	ErrClosed = errors.New("device is closed")
)

// OpError is an error of one disk operation.
type OpError struct {
	Op     Kind
	Device string
	Off    int64
	Size   int64
	Err    error
}

func (e *OpError) Error() string {
	if e.Op == Sync {
		return fmt.Sprintf("device %s: sync: %v", e.Device, e.Err)
	}
	return fmt.Sprintf("device %s: %s %d bytes at %#x: %v", e.Device, e.Op, e.Size, e.Off, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }
