package journal

import (
	"errors"
	"fmt"
	"slices"
)

// unit is a unit of a ring as read back.
type unit struct {
	kind       unitKind
	start, end uint64
	tail       uint64
	life       Life
	state      State
	before     uint32 // sum of the frame before it, as it says
	sum        uint32 // of its last frame, for the next one's prev
	payload    []byte
}

// ringReader reads the units of one ring. It is for one goroutine.
type ringReader struct {
	area Area
	id   ringID
	size uint64

	window    []byte // read at once
	windowPos uint64 // its position; a window does not run over the end of the ring
	ahead     int    // bytes of a window
}

func newRingReader(area Area, id ringID, size uint64) *ringReader {
	return &ringReader{area: area, id: id, size: size, ahead: 1 << 20}
}

// bytes returns n bytes at pos, which do not run over the end of the ring. They are valid until
// the next call.
func (r *ringReader) bytes(pos uint64, n int) ([]byte, error) {
	if uint64(n) > r.size-pos%r.size {
		return nil, fmt.Errorf("%w: frame runs over the end of the ring", ErrCorrupt)
	}
	if pos < r.windowPos || pos+uint64(n) > r.windowPos+uint64(len(r.window)) {
		want := int(min(uint64(max(n, r.ahead)), r.size-pos%r.size))
		if cap(r.window) < want {
			r.window = alignedBytes(want)
		}
		r.window = r.window[:want]
		r.windowPos = pos
		if err := readFull(r.area, r.window, int64(ringStart+pos%r.size)); err != nil {
			r.window = r.window[:0]
			return nil, err
		}
	}
	return r.window[pos-r.windowPos:][:n], nil
}

func readFull(area Area, p []byte, off int64) error {
	n, err := area.ReadAt(p, off)
	if err == nil && n != len(p) {
		err = fmt.Errorf("read of %d bytes gave %d", len(p), n)
	}
	return err
}

// frame reads the frame at pos.
func (r *ringReader) frame(pos uint64) (frame, []byte, error) {
	b, err := r.bytes(pos, ringBlock)
	if err != nil {
		return frame{}, nil, err
	}
	f, id, err := parseFrame(b)
	if err == nil && (id != r.id || f.pos != pos) {
		err = fmt.Errorf("%w: frame at %d is one of ring %x at %d", ErrCorrupt, pos, id.ring, f.pos)
	}
	if err == nil {
		b, err = r.bytes(pos, int(f.size()))
	}
	if err == nil {
		err = checkPayload(b, &f)
	}
	if err != nil {
		return frame{}, nil, err
	}
	return f, b[frameHeader : frameHeader+f.length], nil
}

// unit reads the unit at pos. prev is the sum of the frame before, nil if it is not known.
func (r *ringReader) unit(pos uint64, prev *uint32) (*unit, error) {
	u := &unit{start: pos}
	for {
		f, payload, err := r.frame(pos)
		if err != nil {
			return nil, err
		}
		if prev != nil && f.prev != *prev {
			return nil, fmt.Errorf("%w: frame at %d does not follow the one before", ErrCorrupt, pos)
		}
		if pos == u.start {
			u.kind, u.tail, u.life, u.state, u.before = f.kind, f.tail, f.life, f.State, f.prev
		}
		if f.unit != u.start || f.kind != u.kind || f.State != u.state || f.life != u.life || f.tail != u.tail || len(u.payload)+f.length > unitMax {
			return nil, fmt.Errorf("%w: frame at %d is of another unit", ErrCorrupt, pos)
		}
		u.payload = append(u.payload, payload...)
		pos += f.size()
		u.sum = f.sum
		prev = &u.sum
		if f.last {
			u.end = pos
			return u, nil
		}
	}
}

// unitMax is more than the largest group takes, with what it carries.
const unitMax = 2*carryMax + MaxBatchBytes

// Survey is what the area of a device says it holds, without all of it having been read.
type Survey struct {
	Place Place
	Life  Life
	State State // the last that the ring has reached
	Bytes int64 // from tail to head
	Err   error // why it is none; ErrNotFound: nothing was ever written there

	beyondSeq Seq // behind a damage there is this sequence

	lives  lives
	header ringHeader
	reader *ringReader
	head   unit // the last unit, without payload
	marks  []mark
}

// mark is where in a ring the journal had a state; units after it lead on from there.
type mark struct {
	state State
	end   uint64
	sum   uint32
}

// survey finds the end of the ring in an area.
func survey(p Place, volume [16]byte) *Survey {
	s := &Survey{Place: p}
	s.Err = s.look(volume)
	return s
}

func (s *Survey) look(volume [16]byte) error {
	if !s.Place.usable() {
		return fmt.Errorf("%w: the area is too small", ErrNotFound)
	}
	headers, err := readRingHeaders(s.Place.Area)
	var best error
	for _, h := range headers {
		if h.volume != volume || h.device != s.Place.Device {
			err = errors.Join(err, fmt.Errorf("%w: ring of device %x of volume %x", ErrForeign, h.device, h.volume))
			continue
		}
		if h.size != ringSize(s.Place.Area.Size()) {
			err = errors.Join(err, fmt.Errorf("%w: ring of %d bytes in an area of %d", ErrCorrupt, h.size, s.Place.Area.Size()))
			continue
		}
		if best = s.follow(h, h.at); best == nil || errors.Is(best, ErrNotFound) {
			return best // it is whole, or was never completed: then nothing else is there
		}
	}
	if len(headers) == 0 && err == nil {
		return fmt.Errorf("%w: no ring", ErrNotFound)
	}
	// Both headers are lost, or what they lead to is: look at every block.
	if h, at, ok := s.scan(volume); ok {
		if len(headers) > 0 {
			h.writes = headers[0].writes // the next header must count as the newest
		}
		if best = s.follow(h, at); best == nil {
			return nil
		}
	}
	if err = errors.Join(best, err); err == nil {
		err = fmt.Errorf("%w: no ring", ErrNotFound)
	}
	return err
}

// readRingHeaders returns the sound headers, the newest first. The error tells of the others,
// unless nothing was ever there.
func readRingHeaders(area Area) (headers []ringHeader, err error) {
	var zero [ringBlock]byte
	for i := range int64(2) {
		b := alignedBytes(ringBlock)
		e := readFull(area, b, i*ringBlock)
		if e == nil && string(b) == string(zero[:]) {
			continue
		}
		var h ringHeader
		if e == nil {
			h, e = parseRingHeader(b)
		}
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		headers = append(headers, h)
	}
	slices.SortFunc(headers, func(a, b ringHeader) int { return int(int64(b.writes - a.writes)) })
	return headers, err
}

// follow reads on from the unit at a position to the end of the ring.
func (s *Survey) follow(h ringHeader, at uint64) error {
	s.header, s.lives = h, h.lives
	s.reader = newRingReader(s.Place.Area, h.ringID, h.size)
	s.marks = nil
	var last *unit
	var prev *uint32
	for pos := at; ; {
		u, err := s.reader.unit(pos, prev)
		if err != nil {
			if last == nil || errors.Is(err, ErrVersion) {
				return err
			}
			if !errors.Is(err, ErrCorrupt) {
				return fmt.Errorf("ring at %d: %w", pos, err) // the device's own error
			}
			if beyond, ok := s.beyond(pos); ok {
				s.beyondSeq = beyond
				return fmt.Errorf("%w: ring is damaged at %d, there is sequence %d behind it: %w", ErrCorrupt, pos, beyond, err)
			}
			break
		}
		switch u.kind {
		case unitWhole, unitGroup:
			s.marks = append(s.marks, mark{u.state, u.end, u.sum})
		}
		if !s.lives.has(u.life) { // no header that says it is left
			s.lives = s.lives.add(opening{Life: u.life})
		}
		u.payload = nil
		last, pos, prev = u, u.end, &u.sum
	}
	if last.kind == unitBegin || last.kind == unitDump {
		return fmt.Errorf("%w: the ring was never completed", ErrNotFound)
	}
	s.head, s.Life, s.State = *last, last.life, last.state
	s.Bytes = int64(last.end - last.tail)
	return nil
}

// beyond looks for frames behind a place where the ring seems to end, that were written when that
// place was on stable media already: then it has been damaged since.
func (s *Survey) beyond(pos uint64) (Seq, bool) {
	end := pos + min(beyondMax, s.reader.size)
	for at := pos + ringBlock; at < end; at += ringBlock {
		b, err := s.reader.bytes(at, ringBlock)
		if err != nil {
			continue
		}
		f, id, err := parseFrame(b)
		if err == nil && id == s.reader.id && f.pos == at && f.synced > pos {
			return f.Seq, true
		}
	}
	return 0, false
}

// beyondMax is more than what one writing of a ring can be.
const beyondMax = 4 * unitMax

// scan finds a ring without its headers, by looking at every block.
func (s *Survey) scan(volume [16]byte) (h ringHeader, at uint64, ok bool) {
	size := ringSize(s.Place.Area.Size())
	r := newRingReader(s.Place.Area, ringID{}, size)
	var newest frame
	var of ringID
	for pos := uint64(0); pos < size; pos += ringBlock {
		b, err := r.bytes(pos, ringBlock)
		if err != nil {
			continue
		}
		f, id, err := parseFrame(b)
		if err != nil || id.volume != volume || id.device != s.Place.Device || f.pos%size != pos || f.kind == unitDump || f.kind == unitBegin {
			continue
		}
		if !ok || f.life.Number > newest.life.Number || f.life.Number == newest.life.Number && f.pos > newest.pos && id.ring == of.ring {
			newest, of, ok = f, id, true
		}
	}
	return ringHeader{ringID: of, size: size}, newest.tail, ok
}

// walk calls fn for every unit from one position to another. It returns the last.
func (s *Survey) walk(from, to uint64, prev *uint32, fn func(u *unit) error) (last unit, err error) {
	r := newRingReader(s.Place.Area, s.reader.id, s.reader.size)
	r.ahead = walkAhead
	last.end = from
	for last.end < to {
		u, err := r.unit(last.end, prev)
		if err != nil {
			return last, s.at(last.end, err)
		}
		if err := fn(u); err != nil {
			return last, err
		}
		u.payload = nil
		last, prev = *u, &u.sum
	}
	return last, nil
}

// walkAhead is how much is read at once when much of a ring is read.
const walkAhead = 4 << 20

func (s *Survey) at(pos uint64, err error) error {
	return fmt.Errorf("device %s: journal copy at %d: %w", s.Place.Name, pos, err)
}

func (s *Survey) checkHead(last unit) error {
	if last.end != s.head.end || last.sum != s.head.sum {
		return fmt.Errorf("%w: device %s: journal copy changed while it was read", ErrCorrupt, s.Place.Name)
	}
	return nil
}

// sinceMax bounds the bytes of the groups that since returns.
const sinceMax = 64 << 20

// since returns the groups that lead on from a state, if the ring still has them and they are few.
func (s *Survey) since(state State) (units []*unit, ok bool, err error) {
	if s.Err != nil || state.Seq > s.State.Seq {
		return nil, false, nil
	}
	from, prev := s.head.tail, (*uint32)(nil)
	if i := slices.IndexFunc(s.marks, func(m mark) bool { return m.state == state }); i >= 0 {
		from, prev, ok = s.marks[i].end, &s.marks[i].sum, true
	}
	bytes := 0
	for pos := from; pos < s.head.end; {
		u, err := s.reader.unit(pos, prev)
		if err != nil {
			return nil, ok, err
		}
		switch {
		case !ok:
			ok = u.state == state && (u.kind == unitGroup || u.kind == unitWhole)
			if u.state.Seq > state.Seq {
				return nil, false, nil
			}
		case u.kind == unitGroup:
			units = append(units, u)
			if bytes += len(u.payload); bytes > sinceMax {
				return nil, false, nil
			}
		}
		pos, prev = u.end, &u.sum
	}
	return units, ok, nil
}
