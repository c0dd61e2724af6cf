package journal

import (
	"fmt"
	"sync"
)

// records calls fn for all records of a copy by ascending key. Where a ring still begins with the
// records of its making, which stand there by key, they are read after the groups behind them and
// merged with these; so nothing but changes since then is sorted, and all is read once. Runs that are
// too large for memory go to files in scratch, before each of which room is asked.
func (s *Survey) records(scratch string, room func() error, fn func(op *Op) error) error {
	end, err := s.dumpEnd()
	if err != nil {
		return s.at(s.head.tail, err)
	}
	sort := &sorter{dir: scratch, room: room}
	defer sort.close()
	first := true
	var before uint32 // sum of the last frame of the dump, as what follows has it
	last, err := s.walk(end, s.head.end, nil, func(u *unit) error {
		if first {
			before, first = u.before, false
		}
		ops, err := parseOps(u.payload)
		if err != nil {
			return err
		}
		return sort.add(ops)
	})
	if err == nil {
		err = s.checkHead(last)
	}
	if err != nil {
		return err
	}
	streams := sort.streams()
	if end > s.head.tail {
		d := s.openDump(s.head.tail, end, before)
		defer d.close()
		streams = append([]opStream{d}, streams...)
	}
	return merge(streams, func(op *Op) error {
		if op.Value == nil {
			return nil
		}
		return fn(op)
	})
}

// dumpEnd returns where the units of the ring's making end that it still has: the position of the
// first other one.
func (s *Survey) dumpEnd() (uint64, error) {
	r := newRingReader(s.Place.Area, s.reader.id, s.reader.size)
	r.ahead = frameMax
	// INVARIANT: a frame begins at low; all before it are of the making, none from high on is.
	low, high := s.head.tail, s.head.start
	first, _, err := r.frame(low)
	if err != nil || !first.dump() {
		return low, err
	}
	for low < high {
		at := low
		if high-low > 4*frameMax { // else one frame after the other
			at = (low + (high-low)/2) / ringBlock * ringBlock
		}
		f, err := r.nextFrame(at, high)
		switch {
		case err != nil:
			return 0, err
		case f.dump():
			low = f.pos + f.size()
		default:
			high = f.unit
		}
	}
	return low, nil
}

func (f *frame) dump() bool { return f.kind == unitBegin || f.kind == unitDump }

// nextFrame finds the first frame at a position or behind it.
func (r *ringReader) nextFrame(from, end uint64) (f frame, err error) {
	for pos := from; pos < end && pos < from+frameMax; pos += ringBlock {
		b, err := r.bytes(pos, ringBlock)
		if err != nil {
			return f, err
		}
		f, id, err := parseFrame(b)
		if err == nil && id == r.id && f.pos == pos {
			return f, nil
		}
	}
	return f, fmt.Errorf("%w: no frame between %d and %d", ErrCorrupt, from, min(end, from+frameMax))
}

// dump is the records of the making, read ahead of their use.
type dump struct {
	units chan []Op
	quit  chan struct{}
	ended sync.WaitGroup
	err   error // of the reader, once units is closed

	ops  []Op
	last Key
	any  bool
}

// openDump reads the units up to end. before is the sum that the last of their frames must have.
func (s *Survey) openDump(from, end uint64, before uint32) *dump {
	d := &dump{units: make(chan []Op, 8), quit: make(chan struct{})}
	d.ended.Go(func() { // ends with the last unit or with close
		defer close(d.units)
		last, err := s.walk(from, end, nil, func(u *unit) error {
			ops, err := parseOps(u.payload)
			if err != nil {
				return err
			}
			select {
			case d.units <- ops:
				return nil
			case <-d.quit:
				return errGivenUp
			}
		})
		if err == nil && (last.end != end || last.sum != before) {
			err = s.at(end, fmt.Errorf("%w: what was written first does not lead to what follows", ErrCorrupt))
		}
		d.err = err
	})
	return d
}

func (d *dump) next() (op Op, ok bool, err error) {
	for len(d.ops) == 0 {
		if d.ops, ok = <-d.units; !ok {
			return op, false, d.err
		}
	}
	op, d.ops = d.ops[0], d.ops[1:]
	if d.any && compareKeys(&op.Key, &d.last) <= 0 {
		return op, false, fmt.Errorf("%w: journal copy has record %v after %v", ErrCorrupt, op.Key, d.last)
	}
	d.last, d.any = op.Key, true
	return op, true, nil
}

// close ends the reading.
func (d *dump) close() {
	close(d.quit)
	for range d.units { // what was under way
	}
	d.ended.Wait()
}
