package nbd

import (
	"sync"
	"time"

	"ballast/nbd/wire"
)

// request is one request from its header to the end of its reply. It is owned by the reader,
// then by a worker or the list of held replies, then by the writer, which recycles it.
type request struct {
	wire.Request
	size  int64     // of the range
	cost  int64     // what it takes of the budgets
	begin time.Time // when its header was there
	err   error

	data    Data     // of a READ
	extents []Extent // of a BLOCK_STATUS
	small   []byte   // payload of a WRITE, in store
	large   Payload  // or in memory of the export
	own     *[]byte  // or in pooled memory of ours

	store []byte // memory for small
	head  []byte // encoded headers of the reply
	next  *request
}

var requests = sync.Pool{New: func() any { return &request{head: make([]byte, 0, 128)} }}

// recycle releases what r holds and r itself.
func (r *request) recycle() {
	r.data.Release()
	r.dropPayload()
	r.err, r.next = nil, nil
	r.extents = r.extents[:0]
	if cap(r.extents) > 1024 {
		r.extents = nil
	}
	if cap(r.head) > 4096 {
		r.head = make([]byte, 0, 128)
	}
	if cap(r.data.Pieces) > 1024 {
		r.data = Data{}
	}
	requests.Put(r)
}

func (r *request) dropPayload() {
	r.small = nil
	if r.large != nil {
		r.large.Release()
		r.large = nil
	}
	if r.own != nil {
		putBuffer(r.own)
		r.own = nil
	}
}

// keepSmall copies a payload out of the read buffer.
func (r *request) keepSmall(p []byte) {
	if cap(r.store) < len(p) {
		r.store = make([]byte, max(4096, len(p)))
	}
	r.small = r.store[:len(p)]
	copy(r.small, p)
}

// check returns what is wrong with r, before anything is allocated for it or asked of the
// export, or nil.
func (c *conn) check(r *request) error {
	allowed := wire.CmdFlagFUA
	switch r.Type {
	case wire.CmdRead:
		if c.structured {
			allowed |= wire.CmdFlagDF
		}
	case wire.CmdWriteZeroes:
		allowed |= wire.CmdFlagNoHole | wire.CmdFlagFastZero
	case wire.CmdBlockStatus:
		allowed |= wire.CmdFlagReqOne
	case wire.CmdWrite, wire.CmdFlush, wire.CmdTrim, wire.CmdCache:
	default:
		return errCommand
	}
	if r.CommandFlags&^allowed != 0 {
		return errFlags
	}
	switch r.Type {
	case wire.CmdFlush:
		if r.Offset != 0 || r.Length != 0 {
			return errFlushRange
		}
		return nil
	case wire.CmdWrite:
		return c.checkRange(r, true, maxRequest)
	case wire.CmdTrim:
		if c.trimmer == nil && !c.info.ReadOnly {
			return errCommand
		}
		if c.info.ReadOnly {
			return errReadOnly
		}
		return c.checkRange(r, false, 0)
	case wire.CmdWriteZeroes:
		if c.zeroer == nil && !c.info.ReadOnly {
			return errCommand
		}
		return c.checkRange(r, true, 0)
	case wire.CmdCache:
		if c.prefetcher == nil {
			return errCommand
		}
		return c.checkRange(r, false, 0)
	case wire.CmdBlockStatus:
		if !c.allocation {
			return errNoContext
		}
		if r.Length == 0 {
			return errNoLength
		}
		return c.checkRange(r, false, 0)
	}
	if r.CommandFlags&wire.CmdFlagDF != 0 && r.Length > maxChunk {
		return errFragment
	}
	return c.checkRange(r, false, maxRequest)
}

func (c *conn) checkRange(r *request, write bool, limit uint32) error {
	if write && c.info.ReadOnly {
		return errReadOnly
	}
	if limit > 0 && r.Length > limit {
		return errTooLong
	}
	size := uint64(max(c.export.Size(), 0))
	if r.Offset > size || uint64(r.Length) > size-r.Offset {
		if write {
			return errPastEndWrite
		}
		return errPastEndRead
	}
	return nil
}

// buffers holds memory for payloads of exports that are no Receiver, by power of two.
var buffers [27]sync.Pool

func getBuffer(size int) *[]byte {
	class := 14
	for 1<<class < size {
		class++
	}
	if b, ok := buffers[class].Get().(*[]byte); ok {
		*b = (*b)[:size]
		return b
	}
	b := make([]byte, 1<<class)[:size]
	return &b
}

func putBuffer(b *[]byte) {
	class := 14
	for 1<<class < cap(*b) {
		class++
	}
	buffers[class].Put(b)
}
