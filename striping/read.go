package striping

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ballast/devices"
	"ballast/striping/balance"
)

// Sink takes what a read returns, in order and without gaps.
type Sink interface {
	// Append adds b, which the sink must not change. owner, if not nil, is to be released when b
	// is no longer needed.
	Append(b []byte, owner interface{ Release() })
	// AppendHole adds size zero bytes.
	AppendHole(size int64)
}

// view is a chunk's placement at one moment, to be used without its lock.
type view struct {
	c       *chunk
	change  uint64
	gen     uint64
	slot    int
	places  []place
	written bitmap
	sums    []uint32
}

// viewLocked takes a view. Called with c.mu.
func (c *chunk) viewLocked() view {
	return view{c, c.change, c.gen, c.slot, c.places, c.written, c.sums}
}

// segment is a piece of a read: a hole, memory, or a run of blocks to be loaded.
type segment struct {
	size  int64 // bytes delivered
	skip  int   // bytes left out at the run's begin
	buf   *Buffer
	off   int // of the run in buf
	first int // with n > 0: blocks to load
	n     int
	fetch *fetch
	err   error
}

// read delivers [off, off+size) of o to sink.
func (v *Volume) read(ctx context.Context, o *object, off, size int64, sink Sink) error {
	v.stats.readBytes.Add(size)
	cs := int64(v.info.ChunkSize)
	ahead, under := v.noteRead(o, off, size)
	defer under.end()
	var err error
	if in := off % cs; in+size <= cs {
		err = v.readChunk(ctx, o, uint64(off/cs), in, size, ahead, sink)
	} else {
		err = v.readChunks(ctx, o, off, size, ahead, sink)
	}
	return err
}

// readChunks reads several chunks side by side.
func (v *Volume) readChunks(ctx context.Context, o *object, off, size int64, ahead *stream, sink Sink) error {
	cs := int64(v.info.ChunkSize)
	type part struct {
		gather
		err error
	}
	var parts []*part
	var wg sync.WaitGroup
	for size > 0 {
		index, in := uint64(off/cs), off%cs
		n := min(size, cs-in)
		p := &part{}
		parts = append(parts, p)
		if off, size = off+n, size-n; size > 0 {
			wg.Go(func() { p.err = v.readChunk(ctx, o, index, in, n, ahead, p) })
		} else {
			p.err = v.readChunk(ctx, o, index, in, n, ahead, p)
		}
	}
	wg.Wait()
	var err error
	for _, p := range parts {
		p.pass(sink)
		err = errors.Join(err, p.err)
	}
	return err
}

// gather is a Sink that keeps what it gets until it is passed on.
type gather struct {
	pieces []gathered
}

type gathered struct {
	b     []byte
	owner interface{ Release() }
	hole  int64
}

func (g *gather) Append(b []byte, owner interface{ Release() }) {
	g.pieces = append(g.pieces, gathered{b: b, owner: owner})
}

func (g *gather) AppendHole(size int64) { g.pieces = append(g.pieces, gathered{hole: size}) }

func (g *gather) pass(sink Sink) {
	for _, p := range g.pieces {
		if p.b != nil {
			sink.Append(p.b, p.owner)
		} else {
			sink.AppendHole(p.hole)
		}
	}
}

// maxRereads bounds how often a read starts over because the chunk changed under it.
const maxRereads = 100

// readChunk delivers bytes [in, in+size) of one chunk.
func (v *Volume) readChunk(ctx context.Context, o *object, index uint64, in, size int64, ahead *stream, sink Sink) error {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	var space [8]segment
	for range maxRereads {
		segs, vw := v.planRead(c, in, size, ahead, space[:0])
		again := v.fill(ctx, o, &vw, segs)
		if !again {
			return deliver(segs, sink)
		}
		dropSegments(segs)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%v: changes faster than it can be read: %w", c.key, ErrUnreadable)
}

// planRead cuts the range into segments by where each block stands now.
func (v *Volume) planRead(c *chunk, in, size int64, ahead *stream, segs []segment) ([]segment, view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	vw := c.viewLocked()
	first, last := int(in/blockSize), int((in+size+blockSize-1)/blockSize)
	var fetched *fetch
	if ahead != nil && c.dirty == nil && c.out == nil {
		fetched = ahead.take(c)
	}
	for i := first; i < last; {
		s := segment{}
		n := last - i
		if e, gap := c.dirty.lookup(i, last); e != nil {
			n = s.fromExtent(e, i, last)
		} else if e, gap2 := c.out.lookup(i, i+gap); e != nil {
			n = s.fromExtent(e, i, i+gap)
		} else {
			n = min(gap, gap2)
			var data bool
			if i < c.slot {
				n, data = c.written.run(i, min(i+n, c.slot))
			}
			if data {
				s.first, s.n = i, n
				if fetched != nil {
					s.fetch = fetched.retain()
				}
			}
		}
		lo, hi := int64(i)*blockSize, int64(i+n)*blockSize
		s.skip = int(max(in-lo, 0))
		s.size = min(hi, in+size) - max(lo, in)
		if k := len(segs); k > 0 && segs[k-1].isHole() && s.isHole() {
			segs[k-1].size += s.size
		} else {
			segs = append(segs, s)
		}
		i += n
	}
	if fetched != nil {
		fetched.release()
	}
	return segs, vw
}

func (s *segment) isHole() bool { return s.buf == nil && s.n == 0 }

// fromExtent points s at the part of e from block i on, at most to limit, and returns its blocks.
func (s *segment) fromExtent(e *extent, i, limit int) int {
	n := min(e.end(), limit) - i
	if e.buf != nil {
		s.buf, s.off = e.buf.Retain(), e.off+(i-e.first)*blockSize
	}
	return n
}

// fill loads the segments that are on devices. again is set when the chunk changed meanwhile so
// that the plan no longer holds.
func (v *Volume) fill(ctx context.Context, o *object, vw *view, segs []segment) (again bool) {
	var loads []*segment
	for i := range segs {
		s := &segs[i]
		if s.n == 0 {
			continue
		}
		if s.fetch != nil {
			if s.fromFetch(ctx) {
				v.stats.readAheadHits.Add(1)
				continue
			}
			if ctx.Err() != nil {
				s.err = ctx.Err()
				continue
			}
		}
		loads = append(loads, s)
	}
	switch len(loads) {
	case 0:
	case 1:
		loads[0].load(v, o, vw)
	default:
		var wg sync.WaitGroup
		for _, s := range loads[1:] {
			wg.Go(func() { s.load(v, o, vw) })
		}
		loads[0].load(v, o, vw)
		wg.Wait()
	}
	for _, s := range loads {
		again = again || errors.Is(s.err, errChanged)
	}
	return again
}

// errChanged says that a block failed its check because the chunk changed during the read.
var errChanged = errors.New("chunk changed")

func (s *segment) load(v *Volume, o *object, vw *view) {
	s.buf, s.err = v.loadRun(o, vw, s.first, s.n, nil)
	s.off = 0
}

// deliver appends the segments to sink, which takes over their memory.
func deliver(segs []segment, sink Sink) error {
	for i := range segs {
		if err := segs[i].err; err != nil {
			dropSegments(segs[i:])
			return err
		}
		s := &segs[i]
		if s.buf == nil {
			sink.AppendHole(s.size)
			continue
		}
		from := s.off + s.skip
		sink.Append(s.buf.mem[from:from+int(s.size)], s.buf)
		s.buf = nil
		if s.fetch != nil {
			s.fetch.release()
			s.fetch = nil
		}
	}
	return nil
}

func dropSegments(segs []segment) {
	for i := range segs {
		if segs[i].buf != nil {
			segs[i].buf.Release()
			segs[i].buf = nil
		}
		if segs[i].fetch != nil {
			segs[i].fetch.release()
			segs[i].fetch = nil
		}
	}
}

// diskRead is one read of a run of blocks from devices. It is used again when its caller and all
// disks are through with it; each of its buffers has a reference of the disk's, so that one in a
// hung operation stays alive.
type diskRead struct {
	r      balance.Read
	copies [maxCopies]balance.Copy
	size   int

	mu   sync.Mutex // the balancer asks for buffers while disks return others
	bufs []*Buffer
	vecs [2][1][]byte // memory of the first ones' vectors
	refs int          // the caller's and one for each buffer in a disk
}

var diskReads sync.Pool // of *diskRead

func init() {
	diskReads.New = func() any {
		d := &diskRead{}
		d.r.NewBufs = d.fresh
		d.r.Returned = d.returned
		return d
	}
}

// newRead makes a read of n blocks at first from the copies in list (indexes of vw.places).
func newRead(vw *view, list []int, first, n int) *diskRead {
	d := diskReads.Get().(*diskRead)
	d.size, d.refs = n*blockSize, 1
	d.r.Class = devices.Foreground
	d.r.Copies, d.r.Size = d.copies[:0], int64(d.size)
	for _, i := range list {
		d.r.Copies = append(d.r.Copies, balance.Copy{Device: vw.places[i].dev, Off: vw.places[i].off + int64(first)*blockSize})
	}
	d.r.Bufs = d.fresh()
	return d
}

// fresh gives the balancer memory for an attempt.
func (d *diskRead) fresh() [][]byte {
	b := NewBuffer(d.size)
	b.Retain() // the disk's
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs++
	d.bufs = append(d.bufs, b)
	if n := len(d.bufs) - 1; n < len(d.vecs) {
		d.vecs[n][0] = b.Bytes()
		return d.vecs[n][:]
	}
	return [][]byte{b.Bytes()}
}

// returned is told that a disk has let go of bufs.
func (d *diskRead) returned(bufs [][]byte) {
	d.mu.Lock()
	for _, b := range d.bufs {
		if &b.mem[0] == &bufs[0][0] {
			b.Release()
			d.leaveLocked()
			return
		}
	}
	panic("striping: buffer of another read")
}

// leaveLocked gives up a reference, and unlocks.
func (d *diskRead) leaveLocked() {
	d.refs--
	last := d.refs == 0
	if last {
		clear(d.bufs)
		d.bufs = d.bufs[:0]
		d.vecs = [2][1][]byte{}
		d.r.Bufs, d.r.Stream, d.r.Done = nil, nil, nil
	}
	d.mu.Unlock()
	if last {
		diskReads.Put(d)
	}
}

// finish takes the winning buffer out, if there is one, and gives the others up.
func (d *diskRead) finish(won [][]byte, err error) (buf *Buffer) {
	d.mu.Lock()
	for _, b := range d.bufs {
		if err == nil && &b.mem[0] == &won[0][0] {
			buf = b
		} else {
			b.Release()
		}
	}
	d.leaveLocked()
	return buf
}

// readCopies reads n blocks at first from one of the copies in list (indexes of vw.places), and
// returns which one answered.
func (v *Volume) readCopies(vw *view, list []int, first, n int) (buf *Buffer, from int, err error) {
	d := newRead(vw, list, first, n)
	i, bufs, err := v.bal.ReadSync(&d.r)
	if buf = d.finish(bufs, err); err != nil {
		return nil, 0, err
	}
	return buf, list[i], nil
}

// readingRun is a run of blocks that was asked for and is waited for later.
type readingRun struct {
	d     *diskRead
	first int
	n     int
	list  []int
	done  chan struct{}
	copy  int
	bufs  [][]byte
	err   error
}

// startRun asks for n blocks from first on, as a part of a stream, and does not wait.
func (v *Volume) startRun(vw *view, first, n int, stream *balance.Stream) *readingRun {
	p := &readingRun{first: first, n: n, list: v.readable(vw, nil), done: make(chan struct{})}
	if len(p.list) == 0 {
		return nil // whoever loads the run says so
	}
	p.d = newRead(vw, p.list, first, n)
	p.d.r.Stream = stream
	p.d.r.Done = func(_ *balance.Read, copy int, bufs [][]byte, err error) {
		p.copy, p.bufs, p.err = copy, bufs, err
		close(p.done)
	}
	v.bal.Read(&p.d.r)
	return p
}

// wait returns what readCopies would have.
func (p *readingRun) wait() (buf *Buffer, from int, err error) {
	<-p.done
	if buf = p.d.finish(p.bufs, p.err); p.err != nil {
		return nil, 0, p.err
	}
	return buf, p.list[p.copy], nil
}

// readable appends the copies (indexes of vw.places) that can be read to list.
func (v *Volume) readable(vw *view, list []int) []int {
	for i := range vw.places {
		if !vw.places[i].stale && v.dev(vw.places[i].dev).Device != nil {
			list = append(list, i)
		}
	}
	return list
}

// loadRun returns n blocks from first on, checked against their sums. What one copy has wrong is
// taken from another and the copy is healed. begun, if not nil, is the reading of just these blocks.
func (v *Volume) loadRun(o *object, vw *view, first, n int, begun *readingRun) (*Buffer, error) {
	var space [maxCopies]int
	list := v.readable(vw, space[:0])
	if len(list) == 0 {
		return nil, v.unreadable(o, vw, first, n, deviceSet{}, errors.New("no copy is there"))
	}
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	var buf *Buffer
	var from int
	var err error
	if begun != nil {
		buf, from, err = begun.wait()
	} else {
		buf, from, err = v.readCopies(vw, list, first, n)
	}
	if err != nil {
		if v.changed(vw) {
			return nil, errChanged
		}
		if n == 1 || len(list) == 1 && awaited(err) {
			return nil, v.unreadable(o, vw, first, n, awaiting(vw, err), err)
		}
		buf, from = NewBuffer(n*blockSize), -1 // block by block: some may be readable
	}
	var bad []int
	mem := buf.Bytes()
	for i := range n {
		if from < 0 || blockSum(seed, first+i, mem[i*blockSize:(i+1)*blockSize]) != vw.sums[first+i] {
			bad = append(bad, first+i)
		}
	}
	if len(bad) == 0 {
		return buf, nil
	}
	if v.changed(vw) {
		buf.Release()
		return nil, errChanged
	}
	if err := v.loadBad(o, vw, seed, list, from, bad, first, mem); err != nil {
		buf.Release()
		return nil, err
	}
	return buf, nil
}

// loadBad fills in the blocks that copy from had wrong, from the others.
func (v *Volume) loadBad(o *object, vw *view, seed uint64, list []int, from int, bad []int, first int, mem []byte) error {
	for _, b := range bad {
		if from >= 0 && vw.sums[b] == lostSum(seed, b) {
			return v.unreadable(o, vw, b, 1, deviceSet{}, errors.New("no copy was good when its chunk moved"))
		}
		var last error // of a disk
		wrong := make([]int, 0, maxCopies)
		if from >= 0 {
			wrong = append(wrong, from)
			v.stats.checkFailures.Add(1)
			v.checkFailed(vw.places[from].dev, vw.c.key, b)
		}
		good := false
		for _, i := range list {
			if i == from {
				continue
			}
			buf, _, err := v.readCopies(vw, []int{i}, b, 1)
			if err != nil {
				last = err
				continue
			}
			if blockSum(seed, b, buf.Bytes()) == vw.sums[b] {
				copy(mem[(b-first)*blockSize:], buf.Bytes())
				buf.Release()
				good = true
				break
			}
			buf.Release()
			v.stats.checkFailures.Add(1)
			v.checkFailed(vw.places[i].dev, vw.c.key, b)
			wrong = append(wrong, i)
		}
		if v.changed(vw) {
			return errChanged
		}
		if !good {
			return v.unreadable(o, vw, b, 1, awaiting(vw, last), errors.New("no copy passes its check"))
		}
		for _, i := range wrong {
			v.heals.add(vw.c, b, vw.places[i].dev)
		}
	}
	return nil
}

func (v *Volume) changed(vw *view) bool {
	vw.c.mu.Lock()
	defer vw.c.mu.Unlock()
	return vw.c.change != vw.change
}

// checkFailed notes a block that failed its check on one device.
func (v *Volume) checkFailed(id devices.ID, key chunkKey, block int) {
	v.dev(id).errors.Add(1)
	v.log.Warn("block failed its check", "device", id.String(), "chunk", key.String(), "block", block)
}

// readView reads blocks of a view into p, checked.
func (v *Volume) readView(_ context.Context, vw view, first, n int, p []byte) error {
	buf, err := v.loadRun(v.object(vw.c.key.object), &vw, first, n, nil)
	if err != nil {
		return err
	}
	copy(p, buf.Bytes())
	buf.Release()
	return nil
}

// readBlock reads one block of a chunk as clients see it.
func (v *Volume) readBlock(ctx context.Context, o *object, c *chunk, block int, p []byte) error {
	s := intoBytes{p: p}
	for range maxRereads {
		segs, vw := v.planRead(c, int64(block)*blockSize, blockSize, nil, nil)
		if v.fill(ctx, o, &vw, segs) {
			dropSegments(segs)
			continue
		}
		return deliver(segs, &s)
	}
	return fmt.Errorf("%v: changes faster than it can be read: %w", c.key, ErrUnreadable)
}

// intoBytes is a Sink that copies.
type intoBytes struct {
	p []byte
}

func (s *intoBytes) Append(b []byte, owner interface{ Release() }) {
	n := copy(s.p, b)
	s.p = s.p[n:]
	if owner != nil {
		owner.Release()
	}
}

func (s *intoBytes) AppendHole(size int64) {
	clear(s.p[:size])
	s.p = s.p[size:]
}

// inlineBelow is the expected time below which a read from a device is done by the goroutine that
// reads the connection: handing it to another would cost as much.
const inlineBelow = 30 * time.Microsecond

// tryRead reads within one chunk if that takes no waiting: from memory, or from a device that
// answers faster than a goroutine could be woken.
func (v *Volume) tryRead(o *object, index uint64, in, size int64, sink Sink) (done bool, err error) {
	c, err := v.acquireOf(o, index)
	if err != nil {
		return true, err
	}
	defer v.cache.put(c)
	off := int64(index)*int64(v.info.ChunkSize) + in
	ahead := o.streams.find(off)
	var space [4]segment
	segs, vw := v.planRead(c, in, size, ahead, space[:0])
	for i := range segs {
		s := &segs[i]
		switch {
		case s.n == 0:
		case s.fetch != nil && s.fetch.isReady() && s.fromFetch(context.Background()):
		case s.fetch == nil && len(segs) == 1 && v.isFast(&vw, s):
			if s.load(v, o, &vw); s.err == nil {
				continue
			}
			fallthrough
		default:
			dropSegments(segs)
			return false, nil
		}
	}
	_, under := v.noteRead(o, off, size)
	under.end()
	v.stats.readBytes.Add(size)
	return true, deliver(segs, sink)
}

// isFast reports whether a device that holds s would answer faster than a goroutine is woken.
func (v *Volume) isFast(vw *view, s *segment) bool {
	for i := range vw.places {
		p := &vw.places[i]
		m := v.dev(p.dev)
		if p.stale || !m.usable() {
			continue
		}
		f := m.Device.Forecast(devices.Read, p.off+int64(s.first)*blockSize, int64(s.n)*blockSize)
		if f.Expect < inlineBelow && !f.Overdue {
			return true
		}
	}
	return false
}
