package striping

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ballast/devices"
	"ballast/striping/balance"
)

// Sequential readers get the speed of all devices at any queue depth because their chunks are
// read ahead: a window of up to 64 MiB over chunks that stand on different devices keeps each of
// them at work. A stream is recognised by reads that continue each other exactly; requests that
// a deep queue hands over out of order are held until the gap before them closes, so that random
// reads which happen to lie close together do not count.

const (
	maxStreams    = 8
	maxEarly      = 64 // requests of a stream that arrived before their turn
	earlyDistance = 64 << 20
	startAfter    = 2 // reads in sequence before reading ahead
)

// streams are the sequential readers of an object.
type streams struct {
	mu    sync.Mutex
	list  []*stream
	clock uint64
}

// stream is one sequential reader.
type stream struct {
	v    *Volume
	next int64 // where the next read is expected
	hits int
	used uint64

	early  []span // reads beyond next
	window int64  // bytes to keep in flight or ready
	ahead  uint64 // chunks below it have been fetched or skipped

	seeks balance.Stream // how spinning mirrors share the stream

	mu      sync.Mutex
	fetched map[uint64]*fetch
	dropped uint64 // below it nothing is in fetched
	reading []span // by reads under way
}

type span struct{ off, end int64 }

// fetch is one chunk being read ahead, or ready.
type fetch struct {
	refs   atomic.Int32
	c      *chunk
	change uint64 // the chunk's when it was read
	ready  chan struct{}
	buf    *Buffer // of a chunk; written blocks only
	err    error
}

func (f *fetch) retain() *fetch {
	f.refs.Add(1)
	return f
}

func (f *fetch) release() {
	if f.refs.Add(-1) == 0 {
		if f.buf != nil {
			f.buf.Release()
		}
		f.c.refs.Add(-1)
	}
}

// underWay is a read that its stream knows of.
type underWay struct {
	st *stream
	span
}

// end tells the stream that the read is over. It does nothing to the zero value.
func (u underWay) end() {
	if u.st == nil {
		return
	}
	st := u.st
	st.mu.Lock()
	defer st.mu.Unlock()
	n := len(st.reading) - 1
	st.reading[slices.Index(st.reading, u.span)] = st.reading[n]
	st.reading = st.reading[:n]
}

// noteRead tells the streams of a read. It returns the one it belongs to, if that reads ahead, and
// what is to be ended with the read.
func (v *Volume) noteRead(o *object, off, size int64) (*stream, underWay) {
	if v.opts.ReadAhead < 0 {
		return nil, underWay{}
	}
	s := &o.streams
	s.mu.Lock()
	s.clock++
	var st *stream
	for _, x := range s.list {
		if off == x.next {
			st = x
			break
		}
		if off > x.next && off-x.next <= earlyDistance && x.hits > 0 || off < x.next && x.next-off <= v.opts.ReadAhead && x.hits >= startAfter {
			st = x // but look on for an exact one
		}
	}
	if st == nil {
		st = s.add(v, off)
	}
	st.used = s.clock
	switch {
	case off == st.next:
		st.next = off + size
		st.hits++
		st.joinEarly()
	case off > st.next:
		if len(st.early) == maxEarly {
			st.early = append(st.early[:0], st.early[1:]...)
		}
		st.early = append(st.early, span{off, off + size})
	}
	under := underWay{st, span{off, off + size}}
	st.mu.Lock()
	st.reading = append(st.reading, under.span)
	st.mu.Unlock()
	if st.hits <= startAfter {
		s.mu.Unlock()
		return nil, under
	}
	from, to := st.advance(o)
	s.mu.Unlock()
	for i := from; i < to; i++ {
		st.start(o, i)
	}
	return st, under
}

// add begins a stream at off in place of the one unused for longest.
func (s *streams) add(v *Volume, off int64) *stream {
	st := &stream{v: v, next: off, fetched: map[uint64]*fetch{}}
	if len(s.list) < maxStreams {
		s.list = append(s.list, st)
		return st
	}
	old := 0
	for i, x := range s.list {
		if x.used < s.list[old].used {
			old = i
		}
	}
	s.list[old].dropBelow(^uint64(0))
	s.list[old] = st
	return st
}

// joinEarly moves next over reads that came before their turn.
func (st *stream) joinEarly() {
	for again := true; again; {
		again = false
		for i, e := range st.early {
			if e.off <= st.next {
				if e.end > st.next {
					st.next = e.end
					st.hits++
				}
				st.early = append(st.early[:i], st.early[i+1:]...)
				again = true
				break
			}
		}
	}
}

// readWindow is how much is worth reading ahead: while the slowest device reads one chunk, the
// others must not run out of work, so (Little) the sum of the rates times the longest time of a
// chunk, ten times because chunks of one device come in clumps. More would only push what is ready
// out of the processor's caches.
// Spinning disks want all of it, for long runs between seeks.
func (v *Volume) readWindow() int64 {
	now := time.Now().UnixNano()
	if until := v.windowUntil.Load(); now < until {
		return v.window.Load()
	}
	sum, slowest := 0.0, math.Inf(1)
	spins := false
	for _, m := range v.devs() {
		if !m.usable() {
			continue
		}
		rate := m.Device.Rate(devices.Read)
		sum += rate
		slowest = min(slowest, rate)
		spins = spins || m.Device.Rotational()
	}
	cs := int64(v.info.ChunkSize)
	w := v.opts.ReadAhead
	if !spins && slowest > 0 {
		if need := 10 * float64(cs) * sum / slowest; need < float64(w) {
			w = int64(need)
		}
	}
	w = max(w, min(2*cs, v.opts.ReadAhead))
	v.window.Store(w)
	v.windowUntil.Store(now + int64(time.Second))
	return w
}

// advance returns the chunks to start reading now, and drops those that were passed.
func (st *stream) advance(o *object) (from, to uint64) {
	cs := int64(st.v.info.ChunkSize)
	limit := st.v.readWindow()
	if st.window == 0 {
		st.window = min(2*cs, limit)
	}
	at := uint64(st.next / cs)
	if st.ahead < at || st.ahead > at+uint64(st.v.opts.ReadAhead/cs)+1 {
		st.ahead = at
		if st.next%cs != 0 {
			st.ahead++
		}
	}
	end := (min(st.next+st.window, o.size.Load()) + cs - 1) / cs
	from, to = st.ahead, max(uint64(end), st.ahead)
	if to > from {
		st.ahead = to
		st.window = min(st.window*2, limit)
	}
	if at > 0 {
		st.dropBelow(at - 1) // a client may come back for the rest of a chunk
	}
	return from, to
}

// isReadLocked reports whether reads under way want a part of a chunk, and whether one of them wants all of it. Called
// with st.mu.
func (st *stream) isReadLocked(index uint64) (part, all bool) {
	cs := int64(st.v.info.ChunkSize)
	off := int64(index) * cs
	for _, r := range st.reading {
		part = part || r.off < off+cs && off < r.end
		all = all || r.off <= off && off+cs <= r.end
	}
	return part, all
}

// dropBelow forgets fetched chunks below index, but for those that reads under way want: in a deep
// queue, those of a slow device fall behind the others.
func (st *stream) dropBelow(index uint64) {
	st.mu.Lock()
	if index <= st.dropped { // as for nearly all small reads
		st.mu.Unlock()
		return
	}
	var drop []*fetch
	all := true
	for i, f := range st.fetched {
		if i >= index {
			continue
		}
		if part, _ := st.isReadLocked(i); part {
			all = false
			continue
		}
		drop = append(drop, f)
		delete(st.fetched, i)
	}
	if all {
		st.dropped = index
	}
	st.mu.Unlock()
	for _, f := range drop {
		f.release()
	}
}

// start begins to read one chunk ahead.
func (st *stream) start(o *object, index uint64) {
	v := st.v
	c, err := v.acquireOf(o, index)
	if err != nil {
		return
	}
	c.mu.Lock()
	vw := c.viewLocked()
	none := c.slot == 0 || c.dirty != nil || c.out != nil || c.written.empty()
	c.mu.Unlock()
	if none {
		v.cache.put(c)
		return
	}
	f := &fetch{c: c, change: vw.change, ready: make(chan struct{})}
	f.refs.Store(2) // the stream's and the reader's
	st.mu.Lock()
	if _, all := st.isReadLocked(index); all { // it came before us, from further back in its queue
		st.mu.Unlock()
		f.release()
		f.release()
		return
	}
	old := st.fetched[index]
	st.fetched[index] = f
	st.dropped = min(st.dropped, index) // later reads may have gone past it meanwhile
	st.mu.Unlock()
	if old != nil {
		old.release()
	}
	// Spinning disks are asked from here: goroutines would ask in any order, and a head that has to
	// go back loses a turn.
	var begun *readingRun
	if v.rotates.Load() {
		i := 0
		n, data := vw.written.run(i, vw.slot)
		if !data {
			i = n
			n, data = vw.written.run(i, vw.slot)
		}
		if data {
			begun = v.startRun(&vw, i, n, &st.seeks)
		}
	}
	load := func() {
		defer f.release()
		defer close(f.ready)
		buf := NewBuffer(vw.slot * blockSize)
		for i := 0; i < vw.slot; {
			n, data := vw.written.run(i, vw.slot)
			if data {
				var pre *readingRun
				if begun != nil && begun.first == i {
					pre, begun = begun, nil
				}
				part, err := v.loadRun(o, &vw, i, n, pre)
				if err != nil {
					f.err = err
					buf.Release()
					return
				}
				if i == 0 && n == vw.slot { // all of it: no copying
					buf.Release()
					buf = part
					break
				}
				copy(buf.mem[i*blockSize:], part.Bytes())
				part.Release()
			}
			i += n
		}
		f.buf = buf
	}
	if !v.goBackground(load) {
		load() // for the reader that is here when the volume closes; Close waits for neither
	}
}

// take returns the fetched content of c, with a reference, if it is still what c holds. Called
// with c.mu.
func (st *stream) take(c *chunk) *fetch {
	st.mu.Lock()
	defer st.mu.Unlock()
	f := st.fetched[c.key.index]
	if f == nil || f.change != c.change {
		return nil
	}
	return f.retain()
}

// fromFetch points s at fetched memory, waiting for it if need be. It reports false when the
// fetch failed.
func (s *segment) fromFetch(ctx context.Context) bool {
	select {
	case <-s.fetch.ready:
	default:
		select {
		case <-s.fetch.ready:
		case <-ctx.Done():
			return false
		}
	}
	if s.fetch.err != nil {
		return false
	}
	s.buf, s.off = s.fetch.buf.Retain(), s.first*blockSize
	return true
}

// endStreams drops everything read ahead.
func (o *object) endStreams() {
	o.streams.mu.Lock()
	defer o.streams.mu.Unlock()
	for _, st := range o.streams.list {
		st.dropBelow(^uint64(0))
	}
	o.streams.list = nil
}

func (f *fetch) isReady() bool {
	select {
	case <-f.ready:
		return true
	default:
		return false
	}
}

// find returns the stream that reads ahead around off, if there is one.
func (s *streams) find(off int64) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.list {
		if x.hits > startAfter && off >= x.next-2*int64(x.v.info.ChunkSize) && off <= x.next+x.window {
			return x
		}
	}
	return nil
}

// prefetch reads chunks of [off, off+size) ahead, as far as the window goes.
func (v *Volume) prefetch(o *object, off, size int64) {
	if v.opts.ReadAhead < 0 || size == 0 {
		return
	}
	s := &o.streams
	s.mu.Lock()
	st := s.add(v, off)
	s.clock++
	st.used = s.clock
	st.hits = startAfter + 1
	st.window = v.opts.ReadAhead
	s.mu.Unlock()
	cs := int64(v.info.ChunkSize)
	for i := off / cs; i*cs < min(off+size, off+v.opts.ReadAhead); i++ {
		st.start(o, uint64(i))
	}
	s.mu.Lock()
	st.ahead = uint64((min(off+size, off+v.opts.ReadAhead) + cs - 1) / cs)
	s.mu.Unlock()
}
