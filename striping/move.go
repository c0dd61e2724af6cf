package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ballast/devices"

	"golang.org/x/sync/errgroup"
)

// A mover changes where the copies of one chunk stand, or makes a stale copy good, while clients read
// and write the chunk:
//
//  1. The written blocks are read from the copy that is expected to answer first, each checked against
//     its sum, and written to the new slot in the background class. The chunk is held by nobody
//     meanwhile; what is written to it goes to its present copies.
//  2. Blocks whose sums have changed since are copied again. If that does not come to an end by
//     itself, the chunk is held for the last of them.
//  3. The target is synced. Only then does the new slot become one of the chunk's places, and the
//     chunk must be committed by the next flush.
//  4. A commit makes the placement durable, and after that the old slot is given back (D7).
//
// The generation stays: the sums do not say on which device a block lies.

var (
	// errLater is returned for a chunk that cannot be moved now and may be later.
	errLater = errors.New("not now")
	// errOpen is returned for a chunk of which a copy that is away may have what no other copy has.
	errOpen = errors.New("a device that is away may have blocks of them that were torn on the others when the machine or the daemon went down; " +
		"attach it, or write these blocks anew")
	// errNoTarget is returned for a chunk that no device can take.
	errNoTarget = errors.New("no device in another failure domain has space for it")
)

// actionKind is what is to be done with one copy.
type actionKind uint8

const (
	actFix   actionKind = iota + 1 // the copy at index at is stale: make it good where it is
	actMove                        // make a copy elsewhere, then give up the one at index at
	actAdd                         // make one more copy
	actDrop                        // give up the copy at index at, there are enough others
	actDoubt                       // the copy at index at is stale from now on
)

// action is one change of a chunk's copies.
type action struct {
	kind actionKind
	at   int
}

// moveTask is a chunk for a mover.
type moveTask struct {
	key chunkKey
	// next says what is to be done first with a chunk that has these copies; nil: nothing.
	next func(places []place) *action
	// among limits the targets; nil: all.
	among func(devices.ID) bool
	count func(n int64) // is told of the bytes that have another copy now
	lost  func(n int64) // of blocks that no copy could give
	// urgent: clients may feel it.
	urgent bool
}

// maxActions bounds what is done with one chunk in a row.
const maxActions = 2 * maxCopies

// move does with a chunk what is to be done, and commits the result.
func (v *Volume) move(ctx context.Context, t *moveTask) error {
	o, release := v.hold(t.key.object)
	defer release()
	c, err := v.acquire(t.key)
	if err != nil {
		return err
	}
	defer v.cache.put(c)
	changed := false
	for range maxActions {
		c.mu.Lock()
		vw := c.viewLocked()
		open := len(c.open) > 0
		skip := c.slot == 0 || open || c.lost
		var act *action
		if c.slot > 0 {
			act = t.next(c.places)
		}
		blocked := skip && act != nil && c.slot > 0
		c.mu.Unlock()
		switch {
		case blocked && open:
			return errOpen
		case blocked:
			return errLater
		}
		if skip || act == nil {
			break
		}
		if err := v.act(ctx, o, &vw, t, act); err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return v.flushes.ask(ctx, &flushRequest{objects: []*object{o}, from: t.key.index, to: t.key.index + 1, settle: true, commit: true}).err
}

// act carries out one action.
func (v *Volume) act(ctx context.Context, o *object, vw *view, t *moveTask, act *action) error {
	if act.kind == actDrop || act.kind == actDoubt {
		return v.swap(ctx, o, vw, nil, act, place{})
	}
	cp := &chunkCopy{v: v, o: o, vw: *vw, t: t, size: int64(vw.slot) * blockSize, missed: newBitmap(vw.slot)}
	if act.kind == actFix {
		cp.m, cp.off = v.dev(vw.places[act.at].dev), vw.places[act.at].off
		cp.fix = true
	} else {
		if err := cp.reserve(act); err != nil {
			return err
		}
	}
	err := cp.copyAll(ctx)
	cp.m.coming.Add(-cp.coming)
	cp.coming = 0
	if err == nil {
		err = cp.sync(ctx)
	}
	if err == nil {
		err = v.swap(ctx, o, vw, cp, act, place{dev: cp.m.id, off: cp.off})
	}
	if err != nil && !cp.fix {
		v.freeSlot(slotRef{cp.m.id, cp.off, cp.size})
	}
	if err == nil {
		t.count(int64(vw.written.count()) * blockSize)
	}
	return err
}

// chunkCopy is a copy of a chunk in the making.
type chunkCopy struct {
	v    *Volume
	o    *object
	t    *moveTask
	vw   view // what has been copied: its written blocks with its sums
	m    *member
	off  int64
	size int64
	fix  bool // the slot is that of a stale copy: blocks that are right already are left alone
	// looked: all of the stale copy has been read. It gets nothing from clients, so it has nothing of
	// what was written since.
	looked bool

	mu   sync.Mutex
	need uint64
	// missed are blocks that were being overwritten when they were read.
	missed bitmap
	coming int64 // of the target's
}

// reserve takes a slot on the device that would soonest take the copy.
func (p *chunkCopy) reserve(act *action) error {
	v := p.v
	var kept []devices.ID
	for i := range p.vw.places {
		// The device that is left may share its failure domain with the target.
		if act.kind == actMove && i == act.at {
			continue
		}
		kept = append(kept, p.vw.places[i].dev)
	}
	tried := map[devices.ID]bool{}
	for {
		ahead := func(id devices.ID) time.Duration {
			m := v.dev(id)
			if m.Device == nil {
				return 0
			}
			return time.Duration(m.seconds(devices.Write, m.coming.Load()) * float64(time.Second))
		}
		id, ok := v.bal.Target(p.size, kept, ahead, func(id devices.ID) bool {
			if tried[id] || act.kind == actMove && id == p.vw.places[act.at].dev {
				return false
			}
			return p.t.among == nil || p.t.among(id)
		})
		if !ok {
			return errNoTarget
		}
		if off, ok := (*volumeSpace)(v).Reserve(id, p.size); ok {
			p.m, p.off = v.dev(id), off
			p.m.coming.Add(p.size)
			p.coming = p.size
			return nil
		}
		tried[id] = true
	}
}

// copyAll copies every written block.
func (p *chunkCopy) copyAll(ctx context.Context) error {
	for i := 0; i < p.vw.slot; {
		n, written := p.vw.written.run(i, p.vw.slot)
		if written {
			if err := p.copyRun(ctx, &p.vw, i, n, devices.Background); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

// pieceBlocks is how much goes to the device at once: enough for its speed, and little for whoever
// comes while it is under way.
func (p *chunkCopy) pieceBlocks() int {
	rate, awaited := p.m.Device.Rate(devices.Write), p.m.Device.Awaited(awaitedLately)
	for _, i := range p.v.sources(&p.vw) {
		d := p.v.dev(p.vw.places[i].dev).Device
		rate, awaited = min(rate, d.Rate(devices.Read)), awaited || d.Awaited(awaitedLately)
	}
	return pieceBlocks(p.m.Device.Rotational(), rate, awaited && !p.t.urgent)
}

// pieceTime is how long a background piece may hold up a disk without seeks. With pieces of 256 KiB
// whatever the speed, clients of disks of 50 MB/s saw 4 to 7 times their p99 of reads; with this at most
// 2.6 times, for 5 points less of the time that they leave (TestRebuildBesideClients).
//
// Where clients wait for reads and the data has more than one copy, it is a sixth of that. Two clients of such
// disks kept 56 % of their throughput beside a rebuild, at 3 times the p99; with this 76 %, at 1.5 times, and
// 94 % as the devices let the next read come first (TestRivalsRebuildMakesWay). The journal's copies on a
// device are written in the foreground too, so writes tell nothing.
const (
	pieceTime      = 2000 * time.Microsecond
	shortPieceTime = 320 * time.Microsecond
	awaitedLately  = 50 * time.Millisecond
)

// pieceBlocks is the size of a background piece on a disk of that many bytes per second.
func pieceBlocks(rotational bool, rate float64, short bool) int {
	least, t := 64.0*1024, pieceTime
	switch {
	case rotational:
		return (1 << 20) / blockSize
	case short:
		least, t = 16*1024, shortPieceTime
	}
	return int(max(least, min(256<<10, rate*t.Seconds()))) / blockSize
}

// copyRun copies n blocks from first on, as vw has them.
func (p *chunkCopy) copyRun(ctx context.Context, vw *view, first, n int, class devices.Class) error {
	for n > 0 {
		most := p.pieceBlocks()
		pieces := (n + most - 1) / most
		k := (n + pieces - 1) / pieces // alike: a rest of few blocks would cost an operation of its own
		if err := p.copyPiece(ctx, vw, first, k, class); err != nil {
			return err
		}
		first, n = first+k, n-k
	}
	return nil
}

func (p *chunkCopy) copyPiece(ctx context.Context, vw *view, first, n int, class devices.Class) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v := p.v
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	right := func(b int, data []byte) bool { return blockSum(seed, b, data) == vw.sums[b] }
	var stale *Buffer
	if p.fix && !p.looked { // what the copy did not miss is there
		var err error
		if stale, err = v.readForMove(vw, []int{slices.IndexFunc(vw.places, func(x place) bool { return x.dev == p.m.id })}, first, n, class); err != nil {
			stale = nil
		}
	}
	wanted := newBitmap(n)
	for i := range n {
		if stale == nil || !right(first+i, stale.Bytes()[i*blockSize:(i+1)*blockSize]) {
			wanted.set(i)
		}
	}
	if stale != nil {
		stale.Release()
	}
	for i := 0; i < n; {
		k, want := wanted.run(i, n)
		if want {
			if err := p.copyBlocks(ctx, vw, first+i, k, class, right); err != nil {
				return err
			}
		}
		i += k
	}
	return nil
}

// copyBlocks reads blocks from the copies that are good, checks them, and writes them.
func (p *chunkCopy) copyBlocks(ctx context.Context, vw *view, first, n int, class devices.Class, right func(int, []byte) bool) error {
	v := p.v
	list := v.sources(vw)
	buf, err := v.readForMove(vw, list, first, n, class)
	if err != nil {
		buf = NewBuffer(n * blockSize)
		clear(buf.Bytes())
	}
	mem := buf.Bytes()
	for i := range n {
		b, data := first+i, mem[i*blockSize:(i+1)*blockSize]
		if err == nil && right(b, data) {
			continue
		}
		if v.overwriting(vw) {
			p.mu.Lock()
			p.missed.set(b)
			p.mu.Unlock()
			continue
		}
		if err := p.salvage(vw, list, b, data, right); err != nil {
			buf.Release()
			return err
		}
	}
	return p.write(ctx, first, buf, class)
}

// overwriting reports whether blocks may differ from their sums in vw because they are being written.
func (v *Volume) overwriting(vw *view) bool {
	vw.c.mu.Lock()
	defer vw.c.mu.Unlock()
	return vw.c.change != vw.change || vw.c.out != nil
}

// salvage gets one block from whichever copy has it. If none has, its place is left as zeros, which
// fail the check as before, and it is listed.
func (p *chunkCopy) salvage(vw *view, list []int, b int, data []byte, right func(int, []byte) bool) error {
	v := p.v
	if vw.sums[b] == lostSum(sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen), b) {
		clear(data) // no copy had it when the chunk moved before
		return nil
	}
	var cause error
	for range 2 {
		for _, i := range list {
			buf, err := v.readForMove(vw, []int{i}, b, 1, devices.Foreground)
			if err != nil {
				cause = err
				continue
			}
			ok := right(b, buf.Bytes())
			if ok {
				copy(data, buf.Bytes())
			} else {
				v.checkFailed(vw.places[i].dev, vw.c.key, b)
			}
			buf.Release()
			if ok {
				return nil
			}
		}
	}
	if errors.Is(cause, devices.ErrTimeout) || errors.Is(cause, devices.ErrFailed) || errors.Is(cause, devices.ErrClosed) {
		return errLater // the disk, not the block
	}
	if p.fix || len(list) == 0 {
		return errLater
	}
	clear(data)
	_ = v.unreadable(p.o, vw, b, 1, deviceSet{}, errors.New("no copy passes its check")) // listed there
	p.t.lost(1)
	return nil
}

// write puts blocks into the new slot.
func (p *chunkCopy) write(ctx context.Context, first int, buf *Buffer, class devices.Class) error {
	m := p.m
	key := m.enter(p.off, 1)
	buf.Retain()
	done := make(chan error, 1)
	timeout := time.Duration(0)
	if p.v.info.Copies > 1 {
		timeout = mirrorTimeout
	}
	req := &devices.Request{Kind: devices.Write, Class: class, Timeout: timeout, Off: p.off + int64(first)*blockSize, Bufs: [][]byte{buf.Bytes()},
		Done:     func(_ *devices.Request, err error) { done <- err },
		Returned: func(*devices.Request) { buf.Release(); p.v.leave(m, p.off, key) }}
	defer buf.Release()
	m.Device.Submit(req)
	select {
	case err := <-done:
		if err != nil {
			p.v.deviceError(m.id, err)
			return errLater
		}
	case <-ctx.Done():
		if m.Device.Cancel(req) {
			buf.Release()
			p.v.leave(m, p.off, key)
		} else {
			<-done
		}
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.need = max(p.need, m.writes.Add(1))
	n := min(p.coming, int64(buf.size))
	p.coming -= n
	m.coming.Add(-n)
	return nil
}

// sync brings what was written to stable media.
func (p *chunkCopy) sync(ctx context.Context) error {
	m := p.m
	if p.need == 0 || m.synced.Load() >= p.need {
		return nil
	}
	upTo := m.writes.Load()
	done := make(chan error, 1)
	m.Device.Submit(&devices.Request{Kind: devices.Sync, Done: func(_ *devices.Request, err error) { done <- err }})
	select {
	case err := <-done:
		if err != nil {
			p.v.deviceError(m.id, fmt.Errorf("sync: %w", err))
			return errLater
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	m.raiseSynced(upTo)
	return nil
}

// raiseSynced notes that the first n writes are on stable media.
func (m *member) raiseSynced(n uint64) {
	for {
		old := m.synced.Load()
		if n <= old || m.synced.CompareAndSwap(old, n) {
			return
		}
	}
}

// readForMove reads from one of the copies in list.
func (v *Volume) readForMove(vw *view, list []int, first, n int, class devices.Class) (*Buffer, error) {
	if len(list) == 0 {
		return nil, errLater
	}
	d := newRead(vw, list, first, n)
	d.r.Class = class
	_, bufs, err := v.bal.ReadSync(&d.r)
	buf := d.finish(bufs, err)
	return buf, err
}

// sources are the copies that a move may read from: good ones, and of those the ones on devices that
// are well if there are such.
func (v *Volume) sources(vw *view) []int {
	var well, all []int
	for i := range vw.places {
		m := v.dev(vw.places[i].dev)
		if vw.places[i].stale || m.Device == nil {
			continue
		}
		all = append(all, i)
		if m.counts() {
			well = append(well, i)
		}
	}
	if len(well) > 0 {
		return well
	}
	return all
}

const (
	holdTries   = 4                    // rounds of copying what changed before the chunk is held
	holdPause   = 2 * time.Millisecond // between two looks at a chunk that is being written or committed
	holdLongest = 10 * time.Second
	catchUpRuns = 16 // pieces of a chunk that are copied at once
)

// swap makes cp one of the chunk's copies, or drops one, once what was copied is what the chunk
// holds.
func (v *Volume) swap(ctx context.Context, o *object, vw *view, cp *chunkCopy, act *action, to place) error {
	c := vw.c
	began := time.Now()
	for try := 0; ; {
		c.mu.Lock()
		switch {
		case c.gen != vw.gen || c.slot != vw.slot || !samePlaces(c.places, vw.places):
			c.mu.Unlock()
			return errLater // it was placed anew, or a copy turned stale
		case c.out != nil || c.inCommit || c.holder:
			c.mu.Unlock()
			if err := pause(ctx, holdPause); err != nil {
				return err
			}
			if time.Since(began) > holdLongest {
				return errLater
			}
			continue
		}
		now := c.viewLocked()
		if cp == nil || !cp.behind(&now) {
			v.swapLocked(o, c, act, to)
			c.mu.Unlock()
			return nil
		}
		if try++; try <= holdTries {
			c.mu.Unlock()
			if err := cp.catchUp(ctx, &now); err != nil {
				return err
			}
			continue
		}
		c.holder = true
		c.mu.Unlock()
		err := cp.catchUp(ctx, &now)
		c.mu.Lock()
		if err == nil {
			v.swapLocked(o, c, act, to)
		}
		c.mu.Unlock()
		v.releaseHolder(c)
		return err
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func samePlaces(a, b []place) bool {
	return slices.EqualFunc(a, b, func(x, y place) bool { return x.dev == y.dev && x.off == y.off && x.stale == y.stale })
}

// behind reports whether the chunk holds blocks that are not copied.
func (p *chunkCopy) behind(now *view) bool {
	for i := range now.slot {
		if p.misses(now, i) {
			return true
		}
	}
	return false
}

func (p *chunkCopy) misses(now *view, i int) bool {
	return now.written.has(i) && (p.missed.has(i) || !p.vw.written.has(i) || p.vw.sums[i] != now.sums[i])
}

// catchUp copies what changed since the last time, and syncs. What it copies lies in many places, on disks
// that are busy: one after the other, more would have changed meanwhile than was copied.
func (p *chunkCopy) catchUp(ctx context.Context, now *view) error {
	wanted := newBitmap(now.slot)
	for i := range now.slot {
		if p.misses(now, i) {
			wanted.set(i)
		}
	}
	p.missed = newBitmap(now.slot)
	p.looked = true
	var g errgroup.Group
	g.SetLimit(catchUpRuns)
	for first, n := 0, 0; first < now.slot; first += n {
		var want bool
		if n, want = wanted.run(first, now.slot); want {
			count := n
			g.Go(func() error { return p.copyRun(ctx, now, first, count, devices.Foreground) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.vw.written, p.vw.sums, p.vw.change = now.written, now.sums, now.change
	return p.sync(ctx)
}

// swapLocked changes the copies in memory; the next commit makes that durable. Called with c.mu,
// while nothing is under way for c.
func (v *Volume) swapLocked(o *object, c *chunk, act *action, to place) {
	size := int64(c.slot) * blockSize
	places := slices.Clone(c.places)
	retire := func(p place) {
		c.old = append(c.old, slotRef{p.dev, p.off, size})
		v.retired.Add(size)
	}
	switch act.kind {
	case actFix:
		places[act.at].stale, places[act.at].need = false, 0
	case actDoubt:
		places[act.at].stale = true
	case actMove:
		retire(places[act.at])
		places[act.at] = to
	case actAdd:
		places = append(places, to)
	case actDrop:
		retire(places[act.at])
		places = slices.Delete(places, act.at, act.at+1)
	}
	c.places = places
	c.pending, c.must = true, true
	c.change++
	if o.touch(c) {
		v.touched.Add(1)
	}
}
