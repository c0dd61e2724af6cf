package devices

import (
	"time"
)

// Kind is what a request does.
type Kind uint8

// The kinds of request.
const (
	Read Kind = iota
	Write
	Sync
	Discard
)

func (k Kind) String() string { return [...]string{"read", "write", "sync", "discard"}[k] }

// Class says on whose behalf a request is made.
type Class uint8

// The classes. Background requests start only when they do not delay foreground ones.
const (
	Foreground Class = iota
	Background
)

// Request is one operation on a device. The fields above the blank line are set by the caller
// and not changed until Returned.
type Request struct {
	Kind    Kind
	Class   Class
	Off     int64
	Bufs    [][]byte      // each a multiple of BlockSize, in length and address
	Timeout time.Duration // from dispatch; 0 means the device's default
	// Done is called exactly once, from a goroutine of the device or from Submit itself, with
	// no lock held: with the result, or with ErrTimeout when the deadline passed first.
	Done func(r *Request, err error)
	// Returned, if set, is called exactly once when the disk holds the request no longer:
	// right after Done, or much later when a timed-out operation comes back. Until then the
	// buffers must stay untouched and the range must not be given to anybody else.
	Returned func(r *Request)

	submitted, dispatched time.Time
}

// Size is the number of bytes the request transfers.
func (r *Request) Size() int64 {
	var n int64
	for _, b := range r.Bufs {
		n += int64(len(b))
	}
	return n
}

// Options of a device. The zero value is usable.
type Options struct {
	ID            ID
	Name          string        // for messages; default ID.String()
	Rotational    bool          // a spinning disk: seek classes count, depth stays low
	Timeout       time.Duration // deadline of an operation, from dispatch; default 30 s
	MaxWorkers    int           // most operations in the disk at once, hung ones included; default 64
	TargetLatency time.Duration // dispatched work allowed per device; default 20 ms, 60 ms if Rotational
}

// Device is a Disk with a queue, a depth limit, deadlines and measurements.
type Device struct {
	disk Disk
	opts Options
}

// NewDevice returns a device over disk, which it owns from now on.
func NewDevice(disk Disk, opts Options) *Device { return &Device{disk: disk, opts: opts} }

// Submit queues r.
func (d *Device) Submit(r *Request) {
	go func() {
		var err error
		switch r.Kind {
		case Read:
			off := r.Off
			for _, b := range r.Bufs {
				if _, err = d.disk.ReadAt(b, off); err != nil {
					break
				}
				off += int64(len(b))
			}
		case Write:
			off := r.Off
			for _, b := range r.Bufs {
				if _, err = d.disk.WriteAt(b, off); err != nil {
					break
				}
				off += int64(len(b))
			}
		case Sync:
			err = d.disk.Sync()
		}
		r.Done(r, err)
		if r.Returned != nil {
			r.Returned(r)
		}
	}()
}

// Do carries out r and waits for it: in the calling goroutine when the device has room, which
// saves a hand-over. r.Done must be nil; r.Returned is honoured.
func (d *Device) Do(r *Request) error {
	ch := make(chan error, 1)
	r.Done = func(_ *Request, err error) { ch <- err }
	d.Submit(r)
	return <-ch
}

// Cancel takes r out of the queue and reports whether it was still there; Done and Returned are
// then not called.
func (d *Device) Cancel(r *Request) bool { return false }

// Expect is the time until a request of this kind and size at off, submitted now, would be done
// (E of the placement and replica formulas): the backlog plus the predicted service time.
func (d *Device) Expect(kind Kind, off, size int64) time.Duration { return 0 }

// Load is what placement and replica choice look at, read in one go.
type Load struct {
	Backlog     time.Duration // W: expected time until the device is free
	Outstanding int           // own operations queued or dispatched
	Idle        bool          // nothing queued or dispatched
	Overdue     bool          // the oldest operation in flight takes longer than expected
}

// Load returns the device's load now.
func (d *Device) Load() Load { return Load{} }

// OnComplete sets fn to be called, with no lock held, whenever an operation completes or leaves
// the queue: the moment to place what was waiting.
func (d *Device) OnComplete(fn func()) {}

// Fail gives the device up: queued requests and all later ones end with ErrFailed, those in
// flight are answered with ErrFailed at once and returned when the disk returns them.
func (d *Device) Fail(cause error) {}

// Failed returns why the device was given up, or nil.
func (d *Device) Failed() error { return nil }

// ID returns the device's ID.
func (d *Device) ID() ID { return d.opts.ID }

// Size returns the disk's size in bytes.
func (d *Device) Size() int64 { return d.disk.Size() }

// Close waits for what is in flight, at most for the timeout, and closes the disk.
func (d *Device) Close() error { return d.disk.Close() }
