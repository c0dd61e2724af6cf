package devices

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
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
// and not changed until Returned. After Returned the request may be submitted again.
type Request struct {
	Kind    Kind
	Class   Class
	Off     int64
	Bufs    [][]byte      // each a multiple of BlockSize, in length and address
	Timeout time.Duration // from dispatch; 0 means the device's default
	// Done is called exactly once, from a goroutine of the device or from Submit itself, with
	// no lock held: with the result, or with ErrTimeout when the deadline passed first. Without
	// an error it must not wait for other requests of the device: they may be waiting for it.
	Done func(r *Request, err error)
	// Returned, if set, is called exactly once, after Done, when the disk holds the request no
	// longer: right after Done, or much later when a timed-out operation comes back. Until then the
	// buffers must stay untouched and the range must not be given to anybody else.
	Returned func(r *Request)

	// Guarded by Device.mu from Submit to Returned. Times count from Device.epoch.
	submitted, dispatched time.Duration
	timeout               time.Duration
	size                  int64
	pattern               pattern
	state                 requestState
	answered              bool // Done has been called, or is about to be
	held                  bool // it was answered while in the disk
	answering             bool // held, and Done has not returned yet
	returnDue             bool // the disk let go meanwhile: whoever answers calls Returned
	inline                bool // a caller of Do is in the disk itself and cannot be answered early
	probe                 bool
	after, entered        chan struct{} // a spinning disk gets its operations in order: see startLocked
	list                  *requestList  // it is in this one
	prev, next            *Request
}

type requestState uint8

const (
	requestIdle     requestState = iota
	requestQueued                // waits in the daemon
	requestInDisk                // dispatched
	requestReturned              // the disk let go; callbacks run
)

// Size is the number of bytes the request transfers.
func (r *Request) Size() int64 {
	var n int64
	for _, b := range r.Bufs {
		n += int64(len(b))
	}
	return n
}

// Held reports, within Done, whether the disk still holds the request: then the buffers are not
// the caller's before Returned.
func (r *Request) Held() bool { return r.held }

// Options of a device. The zero value is usable.
type Options struct {
	ID            ID
	Name          string        // for messages; default ID.String()
	Rotational    bool          // a spinning disk: seek classes count, depth stays low
	Timeout       time.Duration // deadline of an operation, from dispatch; default 30 s
	MaxWorkers    int           // most operations in the disk at once, hung ones included; default 64
	TargetLatency time.Duration // dispatched work allowed per device; default 20 ms, 60 ms if Rotational

	// Learned is what Device.Speeds returned in an earlier life; nil if there was none.
	Learned *Speeds
	// ScratchOff and ScratchSize name a range that holds nothing: write probes go there. Without
	// one, or with one smaller than a probe, a device is probed by reads alone.
	ScratchOff, ScratchSize int64
	// BackgroundFloor is the share of the device's time that background requests get even when
	// foreground ones never pause; default 0.02, negative for none.
	BackgroundFloor float64
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = o.ID.String()
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.MaxWorkers <= 0 {
		o.MaxWorkers = 64
	}
	if o.TargetLatency <= 0 {
		o.TargetLatency = 20 * time.Millisecond
		if o.Rotational {
			o.TargetLatency = 60 * time.Millisecond
		}
	}
	if o.BackgroundFloor == 0 {
		o.BackgroundFloor = 0.02
	}
	return o
}

// Device is a Disk with a queue, a depth limit, deadlines and measurements.
//
// The queue stands in the daemon, where work can be reordered, cancelled and given to another
// device; the disk gets only as much as its depth limit allows: one more while fewer than two
// operations, or less than TargetLatency of predicted work, are in it (a spinning disk: at most
// 16 operations), and never more than MaxWorkers. Reads go before waiting writes; writes that
// wait get at least a fifth of the device's time. Background requests start when nothing of the
// foreground is queued or in the disk, one at a time, nor a read is likely to come at once
// (anticipate.go), and otherwise as BackgroundFloor says, some at a time if that takes it. Small
// writes to a disk that answers sooner than a goroutine is woken (memory) go one after the other.
//
// A Sync covers every write that completed before it was submitted. It runs beside other
// operations; at most one is in the disk, and those that wait share the next (queue rules in
// sync.go). A failed Sync is final: all later ones fail as it did.
//
// An operation that is not done by its deadline is answered with ErrTimeout while its goroutine
// stays in the disk; hung operations count for MaxWorkers, so a dead disk pins a bounded number
// of threads. A queued request is answered with ErrTimeout when the disk has completed nothing
// for the request's timeout.
//
// Device is safe for concurrent use. Its mutex is held neither during disk I/O nor during
// callbacks. It owns a bounded pool of worker goroutines, a watchdog for deadlines from the
// first operation on, and the prober after StartProbes; Close ends them all, save those that
// are stuck in the disk.
type Device struct {
	disk  Disk
	vec   Vectored  // disk, or nil
	disc  Discarder // disk, or nil
	opts  Options
	epoch time.Time

	stats    deviceStats
	stop     chan struct{} // closed by Close
	kick     chan struct{} // wakes the watchdog; capacity 1
	routines sync.WaitGroup

	onComplete atomic.Pointer[[]func()]

	mu      sync.Mutex
	model   model
	failed  error // why the device was given up
	closed  bool
	drained chan struct{} // closed when closed and inDisk is 0

	reads, writes, background requestList   // queued; writes holds discards as well
	inDisk                    int           // operations in the disk, of every kind
	returning                 int           // workers that are calling back and then look for work
	pace                      time.Duration // that of small writes in the disk, averaged
	flight                    requestList   // in the disk, but for syncs, in order of dispatch
	flightOps                 [patterns]int
	flightBytes               [patterns]int64
	flightBackground          int
	backgroundOps             [patterns]int // waiting ones
	backgroundBytes           [patterns]int64
	readCredit                float64       // seconds of reads dispatched past a waiting write
	floorAt                   time.Duration // a background request may start from then on
	lastProgress              time.Duration // last completion of any kind
	busySince                 time.Duration // valid while outstanding > 0
	busy                      time.Duration // time with something outstanding, up to busySince
	outstanding               int           // reads and writes queued or in the disk
	syncs                     syncState
	idle                      []*worker
	entered                   chan struct{} // closed when the last operation enters a spinning disk
	wakeAt                    time.Duration // the watchdog looks again then; 0: it sleeps
	watching                  bool          // the watchdog runs
	probing                   bool          // StartProbes was called
	workedAt                  time.Duration // the last request that was no probe came or ended then
	readAt                    time.Duration // the last read of the foreground came then
	pauses                    pauses        // between reads of the foreground
}

// NewDevice returns a device over disk, which it owns from now on.
func NewDevice(disk Disk, opts Options) *Device {
	opts = opts.withDefaults()
	d := &Device{
		disk:  disk,
		opts:  opts,
		epoch: time.Now(),
		stop:  make(chan struct{}),
		kick:  make(chan struct{}, 1),
		model: *newModel(opts.Rotational, opts.Learned),
	}
	d.vec, _ = disk.(Vectored)
	d.disc, _ = disk.(Discarder)
	return d
}

func (d *Device) now() time.Duration { return time.Since(d.epoch) }

// Submit queues r.
func (d *Device) Submit(r *Request) {
	size := r.Size()
	now := d.now()
	d.mu.Lock()
	d.enrol(r, size, now)
	if err := d.refusalLocked(); err != nil {
		r.state = requestReturned
		r.answered = true
		d.mu.Unlock()
		d.answer(r, d.wrap(r, err))
		d.returned(r)
		return
	}
	if r.Kind == Sync {
		d.joinSyncLocked(r, now)
	} else {
		d.enqueueLocked(r, now)
		d.dispatchLocked(now)
	}
	d.watchLocked(r, now)
	d.mu.Unlock()
}

// SubmitAll queues reads or writes in this order, as Submit does one by one, but in one go.
func (d *Device) SubmitAll(list []Request) {
	now := d.now()
	d.mu.Lock()
	err := d.refusalLocked()
	for i := range list {
		r := &list[i]
		d.enrol(r, r.Size(), now)
		if err != nil {
			r.state, r.answered = requestReturned, true
			continue
		}
		d.enqueueLocked(r, now)
		d.watchLocked(r, now)
	}
	d.dispatchLocked(now)
	d.mu.Unlock()
	if err != nil {
		for i := range list {
			d.answer(&list[i], d.wrap(&list[i], err))
			d.returned(&list[i])
		}
	}
}

// enrol prepares r for one trip through the device.
func (d *Device) enrol(r *Request, size int64, now time.Duration) {
	r.size = size
	r.submitted = now
	r.dispatched = 0
	r.timeout = r.Timeout
	if r.timeout <= 0 {
		r.timeout = d.opts.Timeout
	}
	r.state = requestQueued
	r.answered, r.held, r.answering, r.returnDue = false, false, false, false
	r.inline = false
}

func (d *Device) refusalLocked() error {
	switch {
	case d.failed != nil:
		return d.failed
	case d.closed:
		return ErrClosed
	}
	return nil
}

// Do carries out r and waits for it. r.Done must be nil; r.Returned is honoured. When Do returns
// ErrTimeout or ErrFailed the disk may still hold the buffers, until Returned.
//
// A read or write runs in the calling goroutine, which saves a hand-over, when the device has
// room and is well: nothing queued, nothing overdue, no marked slowdown. The price is that such
// a call cannot return before the disk does: deadline and Fail do not reach it. On a device that
// is not well, a worker carries the request out, and the deadline holds.
func (d *Device) Do(r *Request) error {
	if r.Kind == Read || r.Kind == Write {
		size := r.Size()
		now := d.now()
		d.mu.Lock()
		if d.inlineLocked(r, size, now) {
			d.enrol(r, size, now)
			r.inline = true
			r.pattern = d.model.patternOf(r.Kind, r.Off)
			d.countLocked(r, now)
			d.startLocked(r, now)
			d.watchLocked(r, now)
			d.mu.Unlock()
			err := d.carryOut(r)
			return d.complete(r, err, 0)
		}
		d.mu.Unlock()
	}
	ch := make(chan error, 1)
	r.Done = func(_ *Request, err error) { ch <- err }
	d.Submit(r)
	err := <-ch
	r.Done = nil
	return err
}

// inlineLocked tells whether r may be carried out by its caller.
func (d *Device) inlineLocked(r *Request, size int64, now time.Duration) bool {
	if r.Class != Foreground || d.failed != nil || d.closed || d.reads.n+d.writes.n > 0 || !d.roomLocked() {
		return false
	}
	// A large factor on a tiny time is no illness: a disk that is measured under deep queues
	// answers a single request "slower" than that.
	p := writeSeq
	if r.Kind == Read {
		p = readSeq
	}
	if d.model.sigma[p.direction()] >= 4 && d.model.service(p, size) > 1e-3 {
		return false
	}
	return !d.overdueLocked(now)
}

// carryOut does what r asks for. It is called without the lock.
func (d *Device) carryOut(r *Request) error {
	if r.entered != nil {
		if r.after != nil {
			<-r.after
		}
		close(r.entered)
	}
	var n int
	var err error
	switch r.Kind {
	case Read:
		if d.vec != nil && len(r.Bufs) > 1 {
			n, err = d.vec.ReadVec(r.Bufs, r.Off)
			break
		}
		n, err = transfer(r, d.disk.ReadAt)
	case Write:
		if d.vec != nil && len(r.Bufs) > 1 {
			n, err = d.vec.WriteVec(r.Bufs, r.Off)
			break
		}
		n, err = transfer(r, d.disk.WriteAt)
	case Discard:
		if d.disc != nil {
			err = d.disc.Discard(r.Off, r.size)
		}
		return err
	default:
		panic(fmt.Sprintf("devices: %s: %s in the request queue", d.opts.Name, r.Kind))
	}
	if err == nil && int64(n) != r.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func transfer(r *Request, op func(p []byte, off int64) (int, error)) (int, error) {
	done := 0
	for _, b := range r.Bufs {
		n, err := op(b, r.Off+int64(done))
		done += n
		if err != nil || n != len(b) {
			return done, err
		}
	}
	return done, nil
}

// wrap tells what failed where. An error that tells already is left alone.
func (d *Device) wrap(r *Request, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*OpError](err); ok {
		return err
	}
	return &OpError{Op: r.Kind, Device: d.opts.Name, Off: r.Off, Size: r.size, Err: err}
}

func (d *Device) answer(r *Request, err error) {
	if r.Done != nil {
		r.Done(r, err)
	}
}

func (d *Device) returned(r *Request) {
	if fn := r.Returned; fn != nil {
		fn(r)
	}
}

// Cancel takes r out of the queue and reports whether it was still there; Done and Returned are
// then not called.
func (d *Device) Cancel(r *Request) bool {
	d.mu.Lock()
	ok := false
	if r.Kind == Sync {
		ok = d.leaveSyncLocked(r)
	} else if r.list == &d.reads || r.list == &d.writes || r.list == &d.background {
		d.unqueueLocked(r, d.now())
		ok = true
	}
	if ok {
		r.state = requestIdle
	}
	d.mu.Unlock()
	if ok {
		d.left()
	}
	return ok
}

// OnComplete adds fn to what is called, with no lock held, whenever an operation completes or
// leaves the queue: the moment to place what was waiting.
func (d *Device) OnComplete(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var fns []func()
	if old := d.onComplete.Load(); old != nil {
		fns = append(fns, *old...)
	}
	fns = append(fns, fn)
	d.onComplete.Store(&fns)
}

// left tells those who wait for room.
func (d *Device) left() {
	if fns := d.onComplete.Load(); fns != nil {
		for _, fn := range *fns {
			fn()
		}
	}
}

// Fail gives the device up: queued requests and all later ones end with ErrFailed, those in
// flight are answered with ErrFailed at once and returned when the disk returns them (a call of
// Do that is in the disk itself returns with it).
func (d *Device) Fail(cause error) {
	d.mu.Lock()
	if d.failed != nil {
		d.mu.Unlock()
		return
	}
	d.failed = ErrFailed
	if cause != nil {
		d.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	}
	err := d.failed
	gone := d.emptyQueueLocked(d.now())
	var held []*Request
	for r := d.flight.head; r != nil; r = r.next {
		if !r.answered && !r.inline {
			held = append(held, r.hold())
		}
	}
	gone, held = d.failSyncsLocked(gone, held)
	d.mu.Unlock()
	d.answerAll(gone, held, err)
}

// answerAll ends requests that left the queue, and answers those that are still in the disk.
func (d *Device) answerAll(gone, held []*Request, err error) {
	for _, r := range gone {
		d.answer(r, d.wrap(r, err))
		d.returned(r)
	}
	for _, r := range held {
		d.answer(r, d.wrap(r, err))
		d.mu.Lock()
		r.answering = false
		due := r.returnDue
		d.mu.Unlock()
		if due {
			d.returned(r)
		}
	}
	d.left()
}

// hold marks r, which is in the disk, as answered.
func (r *Request) hold() *Request {
	r.answered, r.held, r.answering = true, true, true
	return r
}

// Failed returns why the device was given up, or nil.
func (d *Device) Failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// ID returns the device's ID.
func (d *Device) ID() ID { return d.opts.ID }

// Name returns the name used in messages.
func (d *Device) Name() string { return d.opts.Name }

// Size returns the disk's size in bytes.
func (d *Device) Size() int64 { return d.disk.Size() }

// Disk returns the disk under the device. What is done to it directly is neither queued nor
// measured.
func (d *Device) Disk() Disk { return d.disk }

// Rotational reports whether the device has moving parts.
func (d *Device) Rotational() bool { return d.opts.Rotational }

// Speeds returns what was learned about the device, for Options.Learned in its next life.
func (d *Device) Speeds() Speeds {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.model.speeds()
}

// Rate returns the bytes per second the device reads or writes at large sequential operations
// when it is well, as far as is known.
func (d *Device) Rate(kind Kind) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.model.rate(kind)
}

// RateAt is Rate at sequential operations of that size.
func (d *Device) RateAt(kind Kind, size int64) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := writeSeq
	if kind == Read {
		p = readSeq
	}
	return float64(size) / d.model.fits[p].predict(size)
}

// closeStuck is how long Close waits for a disk that completes nothing.
const closeStuck = 2 * time.Second

// Close answers what is queued with ErrClosed, waits for what is in flight, as long as the disk
// completes something every closeStuck and at most for the timeout, and closes the disk. Operations
// that hang longer are answered with ErrTimeout; their goroutines end when the disk lets go of them.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	d.closed = true
	gone := d.emptyQueueLocked(d.now())
	gone = d.closeSyncsLocked(gone)
	drained := make(chan struct{})
	d.drained = drained
	if d.inDisk == 0 {
		close(drained)
	}
	d.mu.Unlock()
	d.answerAll(gone, nil, ErrClosed)
	d.drain(drained)
	close(d.stop)
	d.mu.Lock()
	for _, w := range d.idle {
		close(w.next)
	}
	d.idle = nil
	hung := d.inDisk
	d.mu.Unlock()
	if hung == 0 {
		d.routines.Wait()
	}
	return d.disk.Close()
}

// drain waits for what is in flight when the device is closed.
func (d *Device) drain(drained <-chan struct{}) {
	began := d.now()
	for {
		d.mu.Lock()
		end := min(max(began, d.lastProgress)+closeStuck, began+d.opts.Timeout)
		d.mu.Unlock()
		left := end - d.now()
		if left <= 0 {
			d.expire(true)
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-drained:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
