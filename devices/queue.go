package devices

import "time"

const (
	// maxIdleWorkers bounds the workers kept for later; more are started under load.
	maxIdleWorkers = 16
	// maxRotational bounds the operations in a spinning disk: enough to sort by.
	maxRotational = 16
	// writeShare: a waiting write goes before reads once they have taken this many times its own
	// service time since the last write.
	writeShare = 4.0
	// maxBackground bounds the background requests that are in the disk by their floor. Each waits there
	// behind others, up to TargetLatency of them, so with one alone the floor would be out of reach.
	maxBackground = 8
)

// requestList is a doubly linked list through the requests themselves.
type requestList struct {
	head, tail *Request
	n          int
}

func (l *requestList) push(r *Request) {
	r.list, r.prev, r.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = r
	} else {
		l.head = r
	}
	l.tail = r
	l.n++
}

func (l *requestList) remove(r *Request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.tail = r.prev
	}
	r.list, r.prev, r.next = nil, nil, nil
	l.n--
}

// worker is a goroutine that carries out requests; next is handed to it while it is idle.
type worker struct {
	next chan *Request // capacity 1
}

// measured reports whether the model knows about such a request.
func (r *Request) measured() bool { return r.Kind == Read || r.Kind == Write }

// awaited reports whether somebody is likely to wait for the answer: the journal's copies are written in the
// foreground too, and what was buffered, so writes tell nothing.
func (r *Request) awaited() bool { return r.Class == Foreground && r.Kind == Read && !r.probe }

// countLocked takes r into the backlog. Background requests count from their start only: what
// comes from the foreground does not wait for those in the queue.
func (d *Device) countLocked(r *Request, now time.Duration) {
	if !r.measured() {
		return
	}
	d.model.queue(r.pattern, r.size)
	d.model.end = r.Off + r.size
	if !r.probe {
		d.workedAt = now
		if r.awaited() {
			d.readAt = now
			d.pauses.end(now)
		}
	}
	if d.outstanding == 0 {
		d.busySince = now
	}
	d.outstanding++
}

func (d *Device) uncountLocked(r *Request, now time.Duration) {
	if !r.measured() {
		return
	}
	d.model.unqueue(r.pattern, r.size)
	if !r.probe {
		d.workedAt = now
	}
	d.outstanding--
	if d.outstanding == 0 {
		d.busy += now - d.busySince
	}
}

func (d *Device) enqueueLocked(r *Request, now time.Duration) {
	r.pattern = d.model.patternOf(r.Kind, r.Off)
	switch {
	case r.Class == Background:
		if d.background.n == 0 {
			d.floorAt = max(d.floorAt, now+d.floorGap(r))
		}
		d.background.push(r)
		if r.measured() {
			d.backgroundOps[r.pattern]++
			d.backgroundBytes[r.pattern] += r.size
		}
		return
	case r.Kind == Read:
		d.reads.push(r)
	default:
		d.writes.push(r)
	}
	d.countLocked(r, now)
}

func (d *Device) unqueueLocked(r *Request, now time.Duration) {
	if r.list == &d.background {
		d.takeBackgroundLocked(r)
		return
	}
	r.list.remove(r)
	d.uncountLocked(r, now)
}

func (d *Device) takeBackgroundLocked(r *Request) {
	d.background.remove(r)
	if r.measured() {
		d.backgroundOps[r.pattern]--
		d.backgroundBytes[r.pattern] -= r.size
	}
}

// emptyQueueLocked takes out all that waits but syncs, to be answered.
func (d *Device) emptyQueueLocked(now time.Duration) []*Request {
	var gone []*Request
	for _, l := range []*requestList{&d.reads, &d.writes, &d.background} {
		for l.head != nil {
			r := l.head
			d.unqueueLocked(r, now)
			r.state, r.answered = requestReturned, true
			gone = append(gone, r)
		}
	}
	return gone
}

// SetBackgroundFloor changes the share of the device's time that background requests get even when
// foreground ones never pause; negative for none.
func (d *Device) SetBackgroundFloor(share float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if share == d.opts.BackgroundFloor {
		return
	}
	d.opts.BackgroundFloor = share
	d.floorAt = d.now()
	if b := d.background.head; b != nil {
		d.floorAt += d.floorGap(b)
	}
}

// floorGap is the least time between two background requests that start beside foreground ones.
func (d *Device) floorGap(r *Request) time.Duration {
	if d.opts.BackgroundFloor < 0 {
		return 1 << 62
	}
	return seconds(d.model.service(r.pattern, r.size) / d.opts.BackgroundFloor)
}

// roomLocked tells whether the disk may get one more foreground request.
func (d *Device) roomLocked() bool {
	if d.inDisk >= d.opts.MaxWorkers {
		return false
	}
	if d.flight.n < 2 {
		return true
	}
	if d.opts.Rotational && d.flight.n >= maxRotational {
		return false
	}
	return d.model.work(&d.flightOps, &d.flightBytes) < d.opts.TargetLatency.Seconds()
}

// pickLocked takes the request that may start now out of the queue, nil if there is none.
func (d *Device) pickLocked(now time.Duration) *Request {
	if d.failed != nil || d.closed {
		return nil
	}
	waiting := d.reads.n + d.writes.n // those that returning workers do not take
	if b := d.background.head; b != nil && d.inDisk < d.opts.MaxWorkers {
		if waiting == 0 && d.flight.n == 0 && !d.anticipateLocked(b, now) {
			d.takeBackgroundLocked(b)
			return b
		}
		if now >= d.floorAt && d.flightBackground < maxBackground {
			d.takeBackgroundLocked(b)
			return b
		}
	}
	if waiting == 0 || !d.roomLocked() {
		return nil
	}
	r, w := d.reads.head, d.writes.head
	if r != nil && w != nil {
		if d.readCredit >= 0.99*writeShare*d.model.service(w.pattern, w.size) {
			r = nil
		} else {
			d.readCredit += d.model.service(r.pattern, r.size)
		}
	}
	if r != nil {
		d.reads.remove(r)
		return r
	}
	d.readCredit = 0
	d.writes.remove(w)
	return w
}

// startLocked puts r into the disk's hands. Goroutines that start at one time run in any order; a
// spinning disk that gets the parts of a stream in another one may lose a turn for each. So
// each operation waits until the one before it is about to enter the disk.
func (d *Device) startLocked(r *Request, now time.Duration) {
	r.state = requestInDisk
	r.dispatched = now
	d.inDisk++
	d.flight.push(r)
	if d.opts.Rotational {
		r.after, r.entered = d.entered, make(chan struct{})
		d.entered = r.entered
	}
	if r.Class == Background {
		d.countLocked(r, now)
		d.flightBackground++
		gap := d.floorGap(r)
		if d.flight.n == 1 {
			d.floorAt = now
		}
		d.floorAt = max(d.floorAt, now-gap) + gap // on a full disk, who was late catches up with one request
	}
	if r.measured() {
		d.flightOps[r.pattern]++
		d.flightBytes[r.pattern] += r.size
	}
}

// dispatchLocked starts what may start, but for what workers take that are about to come back: no
// goroutine has to be woken for that. Nor is one for a disk that answers sooner than it would run.
func (d *Device) dispatchLocked(now time.Duration) {
	for {
		waiting := d.reads.n + d.writes.n
		if d.background.n == 0 && (waiting <= d.returning || d.quickLocked(now)) {
			return
		}
		r := d.pickLocked(now)
		if r == nil {
			return
		}
		d.startLocked(r, now)
		if n := len(d.idle); n > 0 {
			w := d.idle[n-1]
			d.idle = d.idle[:n-1]
			w.next <- r
			continue
		}
		d.routines.Add(1)
		go d.work(r)
	}
}

// work is a worker goroutine: it ends when there are idle ones enough, or at Close.
func (d *Device) work(r *Request) {
	defer d.routines.Done()
	w := &worker{next: make(chan *Request, 1)}
	for {
		err := d.carryOut(r)
		returning := 0
		if err == nil { // who is told of an error may take his time
			returning = 1
		}
		_ = d.complete(r, err, returning) // told to r.Done
		now := d.now()
		d.mu.Lock()
		d.returning -= returning
		if r = d.pickLocked(now); r != nil {
			d.startLocked(r, now)
			d.mu.Unlock()
			continue
		}
		if d.closed || len(d.idle) >= maxIdleWorkers {
			d.mu.Unlock()
			return
		}
		d.idle = append(d.idle, w)
		d.mu.Unlock()
		var ok bool
		if r, ok = <-w.next; !ok {
			return
		}
	}
}

// complete takes r back from the disk: it measures, starts what may start now, and calls back.
// returning is 1 for a worker that then looks for another request.
func (d *Device) complete(r *Request, err error, returning int) error {
	now := d.now()
	latency := now - r.dispatched
	err = d.wrap(r, err)

	d.mu.Lock()
	d.flight.remove(r)
	d.inDisk--
	d.returning += returning
	d.lastProgress = now
	if r.Class == Background {
		d.flightBackground--
	}
	if r.measured() {
		d.flightOps[r.pattern]--
		d.flightBytes[r.pattern] -= r.size
		if r.Kind == Write && err == nil {
			d.syncs.written++
		}
		d.notePace(r, latency)
		d.model.complete(now, r.dispatched, r.pattern, r.size, r.probe, err == nil)
		d.uncountLocked(r, now)
		if r.awaited() && d.reads.n+d.writes.n == 0 && d.flight.n == d.flightBackground {
			d.pauses.begin(now)
		}
	}
	answered, answering := r.answered, r.answering
	r.answered = true
	r.returnDue = answering
	r.state = requestReturned
	if d.closed && d.inDisk == 0 && d.drained != nil {
		close(d.drained)
		d.drained = nil
	}
	d.startSyncLocked(now) // one may have waited for the thread
	d.dispatchLocked(now)
	d.mu.Unlock()

	d.stats.count(r, latency, err)
	if !answered && !r.inline {
		d.answer(r, err)
	}
	if !answering {
		d.returned(r)
	}
	d.left()
	return err
}

// quickLocked tells whether the writes that wait should be left to the worker that is at it: the
// disk answers small writes sooner than a goroutine is woken, so it is memory, and two at a time
// would only wait for each other. An operation that takes long all the same holds up no others.
func (d *Device) quickLocked(now time.Duration) bool {
	if d.reads.n > 0 || d.pace == 0 || d.pace >= quickPace {
		return false
	}
	if r := d.flight.head; r != nil {
		return now-r.dispatched < quickStuck
	}
	return d.returning > 0
}

const (
	quickPace  = 20 * time.Microsecond
	quickStuck = time.Millisecond
	quickSize  = 16 << 10 // bytes; of larger ones the time is that of their bytes
)

// notePace follows how long small writes are in the disk.
func (d *Device) notePace(r *Request, latency time.Duration) {
	if r.Kind != Write || r.size > quickSize {
		return
	}
	if d.pace == 0 {
		d.pace = 4 * quickPace
	}
	d.pace += (min(latency, 4*quickPace) - d.pace) / 16
}

// oldestLocked finds the operation that is longest in the disk, among those the model knows.
func (d *Device) oldestLocked() (oldest, bool) {
	for r := d.flight.head; r != nil; r = r.next {
		if r.measured() {
			return oldest{r.dispatched, r.pattern, r.size}, true
		}
	}
	return oldest{}, false
}

func (d *Device) backlogLocked(now time.Duration) float64 {
	if o, ok := d.oldestLocked(); ok {
		return d.model.backlog(now, &o)
	}
	return d.model.backlog(now, nil)
}

// overdueLocked tells whether the disk has made no progress for much longer than it should need.
func (d *Device) overdueLocked(now time.Duration) bool {
	o, ok := d.oldestLocked()
	if !ok {
		return false
	}
	slack := 2e-3
	if d.opts.Rotational {
		slack = 10e-3
	}
	e, _ := d.model.stalled(now, o)
	return e > d.model.patience(o, slack)
}
