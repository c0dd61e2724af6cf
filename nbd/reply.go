package nbd

import (
	"encoding/binary"
	"errors"
	"net"
	"time"

	"ballast/nbd/wire"

	"golang.org/x/sys/unix"
)

// How replies get out
//
// Whoever completes a request appends it to conn.out; if nobody is writing he becomes the writer
// and stays it until out is empty, taking all there is each time and sending it with one writev.
// So one reply costs one system call, and under load many share one; nobody ever waits for a
// lock that is held over a write. The reader of the connection completes requests too (those
// served inline), and it must never wait for the peer to take replies: a client may well send
// everything before it reads anything. So it holds its replies while its buffer has further
// requests, then writes without waiting, and if the socket is full leaves the rest to a
// goroutine. A dedicated writer goroutine was the plainer choice; it costs a switch of
// goroutines for every batch, which is most of the price of a small request.

var zeros [256 << 10]byte

// finish queues r for its reply, and writes unless somebody is at it.
func (c *conn) finish(r *request) {
	took := time.Since(r.begin)
	c.mu.Lock()
	c.stats.record(r, took)
	c.out = append(c.out, r)
	writing := c.writing
	c.writing = true
	c.mu.Unlock()
	if !writing {
		c.write(true)
	}
}

// hold keeps a reply of the reader until the end of the batch.
func (c *conn) hold(r *request) {
	c.held = append(c.held, r)
	if c.heldBytes += r.cost; c.heldBytes >= holdBytes {
		c.flushHeld()
	}
}

// flushHeld is finish for what the reader held. It does not wait for the peer.
func (c *conn) flushHeld() {
	if len(c.held) == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	for _, r := range c.held {
		c.stats.record(r, now.Sub(r.begin))
	}
	c.out = append(c.out, c.held...)
	writing := c.writing
	c.writing = true
	c.mu.Unlock()
	clear(c.held)
	c.held, c.heldBytes = c.held[:0], 0
	switch {
	case writing:
	case c.raw == nil:
		c.wg.Go(func() { c.write(true) })
	default:
		c.write(false)
	}
}

// write sends what is queued until nothing is left. Only the goroutine that set c.writing calls
// it. If it may not wait and would have to, a new goroutine goes on.
func (c *conn) write(mayWait bool) {
	for c.takeBatch() {
		if !c.send(mayWait) {
			c.wg.Go(func() {
				c.send(true)
				c.settle()
				c.write(true)
			})
			return
		}
		c.settle()
	}
}

// takeBatch moves replies from out to batch and encodes them. It is false, and the caller no
// longer the writer, when there are none.
func (c *conn) takeBatch() bool {
	c.mu.Lock()
	if len(c.out) == 0 {
		c.writing = false
		c.mu.Unlock()
		return false
	}
	n, size := 0, int64(0)
	for n < len(c.out) && size < batchBytes {
		size += c.out[n].cost
		n++
	}
	if n == len(c.out) {
		c.batch, c.out = c.out, c.batch[:0]
	} else {
		c.batch = append(c.batch[:0], c.out[:n]...)
		left := copy(c.out, c.out[n:])
		clear(c.out[left:])
		c.out = c.out[:left]
	}
	c.mu.Unlock()
	c.vec = c.vec[:0]
	for _, r := range c.batch {
		c.vec = c.encode(c.vec, r)
	}
	c.vecLeft = c.vec
	c.sendSize.Store(size)
	c.sendSeq.Add(1)
	c.sending.Store(true)
	return true
}

// settle ends the life of the requests of a batch.
func (c *conn) settle() {
	c.sending.Store(false)
	cost, n := int64(0), int64(len(c.batch))
	for i, r := range c.batch {
		cost += r.cost
		r.recycle()
		c.batch[i] = nil
	}
	clear(c.vec)
	if cap(c.vec) > 16<<10 {
		c.vec = nil
	}
	c.batch = c.batch[:0]
	c.used.Add(-cost)
	c.s.total.release(cost)
	c.pending.Add(-n)
	if c.waiting.Load() {
		select {
		case c.room <- struct{}{}:
		default:
		}
	}
}

// send writes vecLeft. It is false if it would have had to wait and may not. After an error the
// connection is dead and everything counts as sent.
func (c *conn) send(mayWait bool) bool {
	if c.dead.Load() {
		return true
	}
	if c.raw == nil {
		bufs := net.Buffers(c.vecLeft)
		if _, err := bufs.WriteTo(c.nc); err != nil {
			c.kill(err)
		}
		return true
	}
	c.mayWait, c.sendErr = mayWait, nil
	err := c.raw.Write(c.writeFunc)
	if err == nil {
		err = c.sendErr
	}
	if err != nil {
		c.kill(err)
		return true
	}
	return len(c.vecLeft) == 0
}

// writev is called by the runtime with the connection's descriptor, which does not block. It
// returns false to be called again once the descriptor is writable.
func (c *conn) writev(fd uintptr) bool {
	for len(c.vecLeft) > 0 {
		iov := c.iov[:0]
		for _, b := range c.vecLeft[:min(len(c.vecLeft), maxIovecs)] {
			if len(b) > 0 {
				v := unix.Iovec{Base: &b[0]}
				v.SetLen(len(b))
				iov = append(iov, v)
			}
		}
		c.iov = iov
		if len(iov) == 0 {
			c.vecLeft = nil
			break
		}
		n, err := writev(fd, iov)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return !c.mayWait
		case err != nil:
			c.sendErr = err
			return true
		}
		for n > 0 {
			b := c.vecLeft[0]
			if n < len(b) {
				c.vecLeft[0] = b[n:]
				break
			}
			n -= len(b)
			c.vecLeft = c.vecLeft[1:]
		}
	}
	clear(c.iov)
	return true
}

// encode appends the reply to r.
func (c *conn) encode(vec [][]byte, r *request) [][]byte {
	errno := errnoOf(r.err, r.Type, r.CommandFlags)
	r.head = r.head[:0]
	switch {
	case !c.structured || errno == wire.OK && r.Type != wire.CmdRead && r.Type != wire.CmdBlockStatus:
		r.head = wire.AppendReply(r.head, wire.Reply{ReplyMagic: wire.MagicReply, Error: uint32(errno), Handle: r.Handle})
		vec = append(vec, r.head)
		if errno == wire.OK {
			for _, p := range r.data.Pieces {
				vec = appendPiece(vec, p)
			}
		}
		return vec
	case errno != wire.OK:
		msg := message(r.err)
		r.head = r.chunk(wire.ChunkFlagDone, wire.ChunkError, 6+len(msg))
		r.head = binary.BigEndian.AppendUint32(r.head, uint32(errno))
		r.head = binary.BigEndian.AppendUint16(r.head, uint16(len(msg)))
		r.head = append(r.head, msg...)
		return append(vec, r.head)
	case r.Type == wire.CmdRead:
		return r.encodeRead(vec)
	default:
		r.encodeStatus()
		return append(vec, r.head)
	}
}

// chunk appends the header of a chunk to r.head.
func (r *request) chunk(flags, typ uint16, length int) []byte {
	return wire.AppendChunk(r.head, wire.Chunk{
		Magic: wire.MagicChunk, Flags: flags, Type: typ, Handle: r.Handle, Length: uint32(length),
	})
}

// encodeRead appends one chunk for each run of data or hole; with DF one for everything.
func (r *request) encodeRead(vec [][]byte) [][]byte {
	pieces := r.data.Pieces
	if len(pieces) == 0 {
		r.head = r.chunk(wire.ChunkFlagDone, wire.ChunkNone, 0)
		return append(vec, r.head)
	}
	// The slices of head in vec must stay where they are.
	if need := (len(pieces) + int(r.size/maxChunk) + 1) * (wire.ChunkSize + 12); cap(r.head) < need {
		r.head = make([]byte, 0, need)
	}
	df := r.CommandFlags&wire.CmdFlagDF != 0 && len(pieces) > 1
	off, left := r.Offset, r.size
	for len(pieces) > 0 {
		first := len(r.head)
		if pieces[0].Bytes == nil && !df {
			n := pieces[0].Size
			left -= n
			r.head = r.chunk(doneIf(left == 0), wire.ChunkOffsetHole, 12)
			r.head = binary.BigEndian.AppendUint64(r.head, off)
			r.head = binary.BigEndian.AppendUint32(r.head, uint32(n))
			vec = append(vec, r.head[first:])
			off += uint64(n)
			pieces = pieces[1:]
			continue
		}
		run, n := 0, int64(0)
		for run < len(pieces) && n < maxChunk && (df || pieces[run].Bytes != nil) {
			n += pieces[run].Size
			run++
		}
		if over := n - maxChunk; over > 0 { // the last piece goes on in the next chunk
			last := &pieces[run-1]
			rest := last.Bytes[last.Size-over:]
			vec = r.dataChunk(vec, off, maxChunk, false, pieces[:run-1], last.Bytes[:last.Size-over])
			last.Bytes, last.Size = rest, over
			off, left, pieces = off+maxChunk, left-maxChunk, pieces[run-1:]
			continue
		}
		left -= n
		vec = r.dataChunk(vec, off, n, left == 0, pieces[:run], nil)
		off += uint64(n)
		pieces = pieces[run:]
	}
	return vec
}

func (r *request) dataChunk(vec [][]byte, off uint64, n int64, done bool, pieces []Piece, tail []byte) [][]byte {
	first := len(r.head)
	r.head = r.chunk(doneIf(done), wire.ChunkOffsetData, 8+int(n))
	r.head = binary.BigEndian.AppendUint64(r.head, off)
	vec = append(vec, r.head[first:])
	for _, p := range pieces {
		vec = appendPiece(vec, p)
	}
	if tail != nil {
		vec = append(vec, tail)
	}
	return vec
}

// encodeStatus makes the chunk of base:allocation, the only context there is.
func (r *request) encodeStatus() {
	r.head = r.chunk(wire.ChunkFlagDone, wire.ChunkBlockStatus, 4+8*len(r.extents))
	r.head = binary.BigEndian.AppendUint32(r.head, allocationID)
	for _, e := range r.extents {
		var state uint32
		if e.Hole {
			state |= wire.StateHole
		}
		if e.Zero {
			state |= wire.StateZero
		}
		r.head = binary.BigEndian.AppendUint32(r.head, uint32(e.Size))
		r.head = binary.BigEndian.AppendUint32(r.head, state)
	}
}

func doneIf(done bool) uint16 {
	if done {
		return wire.ChunkFlagDone
	}
	return 0
}

func appendPiece(vec [][]byte, p Piece) [][]byte {
	if p.Bytes != nil {
		return append(vec, p.Bytes)
	}
	for n := p.Size; n > 0; n -= int64(len(zeros)) {
		vec = append(vec, zeros[:min(n, int64(len(zeros)))])
	}
	return vec
}

// message is the text of err as clients get it.
func message(err error) string {
	s := err.Error()
	if len(s) > maxMessage {
		s = s[:maxMessage]
	}
	return s
}
