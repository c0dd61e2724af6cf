package nbd

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

var inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}

// input is the buffered read side of a connection. What peek returned is valid until the next
// fill.
type input struct {
	conn net.Conn
	rest io.Reader // reads what follows of a payload that has begun
	buf  []byte
	r, w int

	// After a payload that was read straight into its own memory another is likely. What the
	// buffer gets of it has to be copied, so for once only little is read ahead.
	little bool

	mid *midRequest
	in  bool // mid is set
}

const littleAhead = 1 << 10

// midRequest tells the watch that a request has begun to arrive and is not complete.
type midRequest struct {
	seq  atomic.Uint64 // 0: between requests
	size atomic.Int64  // bytes of the request's payload
	n    uint64
}

// middle notes that what is read next is the rest of a request with a payload of size bytes, or
// that it is a new request.
func (in *input) middle(yes bool, size int64) {
	if !yes {
		if in.in {
			in.in = false
			in.mid.seq.Store(0)
		}
		return
	}
	in.in = true
	in.mid.n++
	in.mid.size.Store(size)
	in.mid.seq.Store(in.mid.n)
}

func (in *input) isMiddle() bool { return in.in }

func (in *input) buffered() int { return in.w - in.r }

func (in *input) peek(n int) []byte { return in.buf[in.r : in.r+n : in.r+n] }

func (in *input) skip(n int) {
	if in.r += n; in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// fill reads until n bytes are buffered; n is at most the size of the buffer. On an error what
// has come stays buffered.
func (in *input) fill(n int) error {
	if in.buffered() < n && in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for in.buffered() < n {
		to := len(in.buf)
		if in.little {
			to = max(n, littleAhead)
		}
		k, err := in.conn.Read(in.buf[in.w:to])
		in.w += k
		if err != nil && in.buffered() < n {
			return err
		}
		if !in.in && in.buffered() < n {
			in.middle(true, 0)
		}
	}
	in.little = false
	in.middle(false, 0)
	return nil
}

// readFull fills p, first from the buffer, then without going through it.
func (in *input) readFull(p []byte) error {
	n := copy(p, in.buf[in.r:in.w])
	in.skip(n)
	for n < len(p) {
		k, err := in.rest.Read(p[n:])
		n += k
		if err != nil && n < len(p) {
			return err
		}
	}
	in.little = in.buffered() == 0
	in.middle(false, 0)
	return nil
}

// discard reads n bytes and forgets them.
func (in *input) discard(n int) error {
	k := min(n, in.buffered())
	in.skip(k)
	for n -= k; n > 0; n -= k { // the buffer is empty
		var err error
		k, err = in.conn.Read(in.buf[:min(n, len(in.buf))])
		if err != nil && k < n {
			return err
		}
	}
	in.middle(false, 0)
	return nil
}
