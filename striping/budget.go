package striping

import (
	"context"
	"sync"

	"ballast/devices"
)

// budget bounds the bytes that are buffered and not yet on devices. Those who want more wait in
// turn; when what is buffered cannot be written out (no space, no device) and fills the budget,
// they get that error instead of waiting for ever.
//
// Of what is used, the part that is on its way to devices (sent) is told from the part that still
// gathers neighbours: the longer that waits, the fewer and larger are the operations it makes.
type budget struct {
	mu     sync.Mutex
	limit  int64
	used   int64
	sent   int64
	stuck  int64 // part of used whose write-out failed
	err    error // of the newest failed write-out
	queue  []*budgetWaiter
	closed bool

	pressed bool          // see pressure
	flowing bool          // see flows
	changed chan struct{} // has one element when one of the two is to be asked again
}

type budgetWaiter struct {
	size int64
	got  chan error
}

// try takes size bytes if that needs no waiting.
func (b *budget) try(size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.queue) > 0 || b.used+size > b.limit && b.used > 0 {
		return false
	}
	b.used += size
	b.tellLocked()
	return true
}

// take waits until size bytes are there.
func (b *budget) take(ctx context.Context, size int64) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return devices.ErrClosed
	}
	if len(b.queue) == 0 && (b.used+size <= b.limit || b.used == 0) {
		b.used += size
		b.tellLocked()
		b.mu.Unlock()
		return nil
	}
	if b.stuck > 0 && b.stuck+size > b.limit/2 {
		err := b.err
		b.mu.Unlock()
		return err
	}
	w := &budgetWaiter{size, make(chan error, 1)}
	b.queue = append(b.queue, w)
	b.tellLocked()
	b.mu.Unlock()
	select {
	case err := <-w.got:
		return err
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, q := range b.queue {
			if q == w {
				b.queue = append(b.queue[:i], b.queue[i+1:]...)
				return ctx.Err()
			}
		}
		if err := <-w.got; err == nil { // granted at the same moment
			b.used -= size
			b.wakeLocked()
		}
		return ctx.Err()
	}
}

// give returns size bytes.
func (b *budget) give(size int64) { b.giveSent(size, 0) }

// giveSent returns size bytes, of which sent were on their way to devices.
func (b *budget) giveSent(size, sent int64) {
	if size == 0 {
		return
	}
	b.mu.Lock()
	b.used -= size
	b.sent -= sent
	b.wakeLocked()
	b.tellLocked()
	b.tellFlowLocked()
	b.mu.Unlock()
}

// send notes that size bytes more (or fewer, when negative) are on their way to devices.
func (b *budget) send(size int64) {
	b.mu.Lock()
	b.sent += size
	b.mu.Unlock()
}

// setLimit changes the bound; what is over it stays until it was written out.
func (b *budget) setLimit(limit int64) {
	b.mu.Lock()
	b.limit = limit
	b.wakeLocked()
	b.mu.Unlock()
}

// setStuck adds size (or takes it away, when negative) to what cannot be written out.
func (b *budget) setStuck(size int64, err error) {
	b.mu.Lock()
	b.stuck += size
	if err != nil {
		b.err = err
	}
	if b.stuck > 0 && b.stuck > b.limit/2 {
		for _, w := range b.queue {
			w.got <- b.err
		}
		b.queue = nil
	}
	b.tellFlowLocked()
	b.mu.Unlock()
}

// close ends all waiting with an error.
func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, w := range b.queue {
		w.got <- devices.ErrClosed
	}
	b.queue = nil
}

func (b *budget) wakeLocked() {
	n := 0
	for _, w := range b.queue {
		if b.used+w.size > b.limit && b.used > 0 {
			break
		}
		b.used += w.size
		w.got <- nil
		n++
	}
	if n > 0 {
		b.queue = append(b.queue[:0:0], b.queue[n:]...)
	}
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// pressure tells whether the oldest of what gathers neighbours should go before its time: when that takes
// half of the budget, until it is a little less, so that what goes does so together; or when somebody
// waits and less than a quarter is on its way.
func (b *budget) pressure() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch gathers := b.used - b.sent; {
	case gathers > b.limit/2:
		b.pressed = true
	case gathers <= b.limit/2-b.limit/32:
		b.pressed = false
	}
	return b.pressed || b.starvesLocked()
}

func (b *budget) starvesLocked() bool { return len(b.queue) > 0 && b.sent < b.limit/4 }

// flows tells whether what has waited long enough should go: as long as less than a sixteenth of the
// budget is on its way, and once it was more, not before it is half of that. What random writes left
// in all chunks of an export grows old at the same moment. At once it would fill the disks' queues,
// and those who write or read would stand still until it is out; and little by little each piece
// would have its intents committed for itself.
func (b *budget) flows() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch sent := b.sent - b.stuck; {
	case sent <= b.limit/32:
		b.flowing = true
	case sent >= b.limit/16:
		b.flowing = false
	}
	return b.flowing
}

// tellLocked lets the one who asks for pressure know that there is some now.
func (b *budget) tellLocked() {
	if begins := !b.pressed && b.used-b.sent > b.limit/2; begins || b.starvesLocked() {
		b.pressed = b.pressed || begins
		poke(b.changed)
	}
}

// tellFlowLocked lets him know that there is room again for what has waited long enough.
func (b *budget) tellFlowLocked() {
	if !b.flowing && b.sent-b.stuck <= b.limit/32 {
		poke(b.changed)
	}
}
