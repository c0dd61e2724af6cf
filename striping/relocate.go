package striping

import (
	"errors"
	"fmt"
	"syscall"

	"ballast/devices"
)

// relocate writes the whole chunk to new slots: what p holds over what can be read of the rest.
//
// A block of which no copy is good any more moves as what it is: its new place says so (lostSum).
// So its neighbours become durable, and it stays an error, and never turns into zeros, until it is
// written again. But where a copy may still be had, on a disk that does not answer now, nothing is
// given up: the chunk stays, and flushes that cover its new data fail meanwhile.
func (v *Volume) relocate(p *plan) {
	v.stats.rewrote.Add(1)
	c := p.c
	c.mu.Lock()
	vw := c.viewLocked()
	// The journal may know a version of it that stands on a disk although it is not the newest.
	open := make(map[int]bool, len(c.keep))
	for _, cand := range c.keep {
		open[int(cand.Block)] = true
	}
	for b := 0; c.lost && b < c.slot; b++ {
		open[b] = true
	}
	c.mu.Unlock()
	base := &overlay{}
	lost, err := v.gatherRest(p, &vw, base, open)
	if err != nil {
		base.release()
		v.finish(p, err)
		return
	}
	c.mu.Lock()
	p.ov.under(base) // readers see the same bytes as before
	p.slot, p.lost = max(p.slot, c.slot), lost
	v.prepare(p, v.newGeneration())
	c.mu.Unlock()
	v.placeNew(p)
}

// gatherRest puts into base what p does not replace, and returns the blocks that are lost. open are
// those of which the next start may find another version.
func (v *Volume) gatherRest(p *plan, vw *view, base *overlay, open map[int]bool) (lost []int, err error) {
	for i := 0; i < vw.slot; {
		e, gap := p.ov.lookup(i, vw.slot)
		if e != nil {
			i = e.end()
			continue
		}
		n, data := vw.written.run(i, i+gap)
		if !data {
			i += n
			continue
		}
		bad := v.gatherRun(vw, i, n, base)
		for _, b := range bad {
			buf, err := v.lastCopy(vw, b)
			if err == nil && buf == nil && open[b] {
				err = errors.New("the next start may find an older version")
			}
			switch {
			case err != nil:
				return nil, fmt.Errorf("%v: block %d: %w: %w", vw.c.key, b, ErrUnreadable, err)
			case buf == nil:
				lost = append(lost, b)
				_ = v.unreadable(p.o, vw, b, 1, deviceSet{}, errors.New("no copy is good when its chunk moves"))
			default:
				base.put(b, 1, buf, 0)
			}
		}
		i += n
	}
	return lost, nil
}

// gatherRun reads a run of blocks at once, and returns those that are not good so.
func (v *Volume) gatherRun(vw *view, first, n int, base *overlay) (bad []int) {
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	var buf *Buffer
	if list := v.readable(vw, nil); len(list) > 0 {
		buf, _, _ = v.readCopies(vw, list, first, n) // else block by block
	}
	for i := range n {
		b := first + i
		if buf == nil {
			bad = append(bad, b)
			continue
		}
		buf.sum(i*blockSize, 1)
		if bindSum(seed, b, buf.sums[i]) != vw.sums[b] {
			bad = append(bad, b)
			continue
		}
		base.put(b, 1, buf.Retain(), i*blockSize)
	}
	if buf != nil {
		buf.Release()
	}
	return bad
}

// lastCopy looks for a good copy of a block everywhere, also where other blocks are stale. Without
// one, an error says that there may be one yet; nil that there is none.
func (v *Volume) lastCopy(vw *view, block int) (*Buffer, error) {
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	var hope error
	for i, pl := range vw.places {
		m := v.dev(pl.dev)
		if m.Device == nil {
			if !pl.stale {
				hope = fmt.Errorf("device %v is missing", m.id)
			}
			continue
		}
		buf, _, err := v.readCopies(vw, []int{i}, block, 1)
		if err != nil {
			if !pl.stale && (awaited(err) || !m.answers()) {
				hope = err
			}
			continue
		}
		buf.sum(0, 1)
		if bindSum(seed, block, buf.sums[0]) == vw.sums[block] {
			return buf, nil
		}
		buf.Release()
	}
	return nil, hope
}

// awaited reports whether a read that failed so may succeed when the disk answers again: the error
// is not about what stands in the place that was read.
func awaited(err error) bool {
	for _, medium := range []error{syscall.EIO, syscall.ENODATA, syscall.EILSEQ, syscall.EBADMSG} {
		if errors.Is(err, medium) {
			return errors.Is(err, devices.ErrFailed)
		}
	}
	return true
}

// answers reports whether the disk serves reads now. One that was pulled may say EIO to everything.
func (m *member) answers() bool {
	buf := NewBuffer(blockSize)
	buf.Retain()
	defer buf.Release()
	return m.Device.Do(&devices.Request{Kind: devices.Read, Off: m.DataOff, Bufs: [][]byte{buf.Bytes()},
		Returned: func(*devices.Request) { buf.Release() }}) == nil
}
