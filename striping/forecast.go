package striping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// Forecast is what a job would do, as far as can be told without doing it.
type Forecast struct {
	Kind    string           `json:"kind"`
	Chunks  int64            `json:"chunks"`
	Bytes   int64            `json:"bytes"`   // to be copied
	Seconds float64          `json:"seconds"` // while clients leave the disks alone
	Devices []ForecastDevice `json:"devices"`
}

// ForecastDevice is what a device holds now and would hold then.
type ForecastDevice struct {
	Name      string `json:"id"`
	SizeBytes int64  `json:"size_bytes"`
	UsedBytes int64  `json:"used_bytes"`
	ThenBytes int64  `json:"then_used_bytes"`
}

// forecasting adds up the work of a job, copy by copy: each is read where that is done soonest, and
// written where that is done soonest, as the mover will choose. The busiest device says how long it
// takes.
type forecasting struct {
	v    *Volume
	f    Forecast
	busy map[devices.ID]float64 // seconds
	then map[devices.ID]int64
	size map[devices.ID]int64
}

func (v *Volume) newForecast(kind journal.JobKind) *forecasting {
	c := &forecasting{v: v, f: Forecast{Kind: jobKinds[kind]}, busy: map[devices.ID]float64{}, then: map[devices.ID]int64{}, size: map[devices.ID]int64{}}
	for _, m := range v.devs() {
		c.then[m.id], c.size[m.id] = m.alloc.usage()
	}
	return c
}

// seconds is how long a device reads or writes so many bytes, piece by piece.
func (m *member) seconds(kind devices.Kind, bytes int64) float64 {
	if bytes <= 0 {
		return 0
	}
	piece := int64(pieceBlocks(m.Device.Rotational(), m.Device.Rate(kind), false)) * blockSize
	return float64(bytes) / m.Device.RateAt(kind, min(piece, max(bytes, blockSize)))
}

// copy adds one copy of bytes: read from one of from, written to to if that is given, else to where
// it is written soonest among those that take data beside kept.
func (c *forecasting) copy(bytes, slot int64, from []*member, to *member, kept []place, among func(devices.ID) bool) {
	c.f.Bytes += bytes
	var src *member
	for _, m := range from {
		if src == nil || c.busy[m.id]+m.seconds(devices.Read, bytes) < c.busy[src.id]+src.seconds(devices.Read, bytes) {
			src = m
		}
	}
	if src != nil {
		c.busy[src.id] += src.seconds(devices.Read, bytes)
	}
	given := to != nil
	for _, m := range c.v.devs() {
		if given || !m.takes() || c.then[m.id]+slot > c.size[m.id] || among != nil && !among(m.id) ||
			slices.ContainsFunc(kept, func(p place) bool { return c.v.dev(p.dev).domain() == m.domain() }) {
			continue
		}
		if to == nil || c.busy[m.id]+m.seconds(devices.Write, bytes) < c.busy[to.id]+to.seconds(devices.Write, bytes) {
			to = m
		}
	}
	if to == nil {
		return
	}
	c.busy[to.id] += to.seconds(devices.Write, bytes)
	c.then[to.id] += slot
}

func (c *forecasting) done() *Forecast {
	for _, m := range c.v.devs() {
		used, size := m.alloc.usage()
		c.f.Devices = append(c.f.Devices, ForecastDevice{m.id.String(), size, used, c.then[m.id]})
		c.f.Seconds = max(c.f.Seconds, c.busy[m.id])
	}
	return &c.f
}

// goodMembers are the devices from which a chunk with these copies can be read.
func (v *Volume) goodMembers(places []place) (list []*member) {
	for i := range places {
		if m := v.dev(places[i].dev); !places[i].stale && m.counts() {
			list = append(list, m)
		}
	}
	return list
}

// ForecastDrain is what a drain of ids would do. It is refused where the drain would be.
func (v *Volume) ForecastDrain(ctx context.Context, ids []devices.ID) (*Forecast, error) {
	if err := v.checkLeaving(ids); err != nil {
		return nil, err
	}
	c := v.newForecast(journal.JobDrain)
	stay := func(id devices.ID) bool { return !slices.Contains(ids, id) }
	err := v.scanChunks(ctx, func(_ chunkKey, rec *journal.Chunk, places []place) {
		moved := false
		slot := int64(rec.Slot) * blockSize
		for i := range places {
			if stay(places[i].dev) {
				continue
			}
			moved = true
			c.then[places[i].dev] -= slot
			kept := slices.Delete(slices.Clone(places), i, i+1)
			c.copy(int64(len(rec.Sums))*blockSize, slot, v.goodMembers(places), nil, kept, stay)
		}
		if moved {
			c.f.Chunks++
		}
	})
	return c.done(), err
}

// ForecastRebuild is what a rebuild that waits for no missing device would do.
func (v *Volume) ForecastRebuild(ctx context.Context) (*Forecast, error) {
	c := v.newForecast(journal.JobRebuild)
	r := v.rebuildRule(true)
	err := v.scanChunks(ctx, func(_ chunkKey, rec *journal.Chunk, places []place) {
		act := r.next(places)
		if act == nil {
			return
		}
		c.f.Chunks++
		bytes, slot := int64(len(rec.Sums))*blockSize, int64(rec.Slot)*blockSize
		switch act.kind {
		case actFix:
			m := v.dev(places[act.at].dev)
			c.copy(bytes, 0, v.goodMembers(places), m, nil, nil)
		case actMove:
			c.then[places[act.at].dev] -= slot
			c.copy(bytes, slot, v.goodMembers(places), nil, slices.Delete(slices.Clone(places), act.at, act.at+1), nil)
		case actAdd:
			c.copy(bytes, slot, v.goodMembers(places), nil, places, nil)
		case actDrop:
			c.then[places[act.at].dev] -= slot
		}
	})
	return c.done(), err
}

// ForecastScrub is what a scrub would do of what changed since then, or of everything.
func (v *Volume) ForecastScrub(ctx context.Context, since time.Time) (*Forecast, error) {
	if err := v.settledSince(ctx, since); err != nil {
		return nil, err
	}
	c := v.newForecast(journal.JobScrub)
	total := 0.0
	err := v.scanChunks(ctx, func(_ chunkKey, rec *journal.Chunk, places []place) {
		if !changedSince(rec.Version, since) {
			return
		}
		c.f.Chunks++
		for _, m := range v.goodMembers(places) {
			bytes := int64(len(rec.Sums)) * blockSize
			c.f.Bytes += bytes
			total += m.seconds(devices.Read, bytes)
		}
	})
	f := c.done()
	f.Seconds = total // one device after the other
	return f, err
}

// ForecastRebalance is what a rebalance would do.
func (v *Volume) ForecastRebalance(context.Context) (*Forecast, error) {
	c := v.newForecast(journal.JobRebalance)
	for _, s := range v.shares() {
		if d := s.want - s.have; d > 0 {
			c.f.Bytes += d
			c.busy[s.m.id] = s.m.seconds(devices.Write, d)
		} else {
			c.busy[s.m.id] = s.m.seconds(devices.Read, -d)
		}
		c.then[s.m.id] = s.want
	}
	c.f.Chunks = c.f.Bytes / int64(v.info.ChunkSize)
	return c.done(), nil
}

// scanChunks calls fn for every placed chunk, as the journal has it.
func (v *Volume) scanChunks(ctx context.Context, fn func(key chunkKey, rec *journal.Chunk, places []place)) error {
	return v.scanChunksFrom(ctx, journal.MakeKey(journal.SpaceChunk, 0, 0), func(key chunkKey, rec *journal.Chunk, places []place) bool {
		fn(key, rec, places)
		return true
	})
}

// scanChunksFrom is scanChunks from a key on, until fn returns false. rec is valid during the call.
func (v *Volume) scanChunksFrom(ctx context.Context, from journal.Key, fn func(key chunkKey, rec *journal.Chunk, places []place) bool) error {
	var rec journal.Chunk
	err := v.j.ScanFrom(from, func(k journal.Key, val []byte) error {
		if k.Space() != journal.SpaceChunk {
			return errStop
		}
		if err := rec.Parse(k, val); err != nil {
			return err
		}
		_, object, index := k.Parts()
		if rec.Slot > 0 && !fn(chunkKey{object, index}, &rec, placesOf(&rec)) {
			return errStop
		}
		return ctx.Err()
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// Loss is what the loss of some devices would cost.
type Loss struct {
	Devices  []string     `json:"devices"`
	Chunks   int64        `json:"lost_chunks"`
	Bytes    int64        `json:"lost_bytes"`
	Degraded int64        `json:"degraded_chunks"` // that would have fewer copies than asked for
	Objects  []LossObject `json:"objects"`         // that would lose something
}

// LossObject is the part of one export or file.
type LossObject struct {
	Name   string `json:"name"`
	File   uint64 `json:"file,omitempty"` // its object, if it is a file
	Path   string `json:"path,omitempty"` // of the file; filled in by who knows
	Chunks int64  `json:"lost_chunks"`
	Bytes  int64  `json:"lost_bytes"`
	First  int64  `json:"first_offset"` // of the first chunk that would be lost
}

// IfLost tells what would be lost with these devices, on top of what is out already.
func (v *Volume) IfLost(ctx context.Context, ids []devices.ID) (*Loss, error) {
	l := &Loss{Devices: []string{}, Objects: []LossObject{}}
	for _, id := range ids {
		if _, err := v.member(id); err != nil {
			return nil, err
		}
		l.Devices = append(l.Devices, id.String())
	}
	if err := v.Flush(ctx); err != nil {
		return nil, err
	}
	by := map[uint64]*LossObject{}
	err := v.scanChunks(ctx, func(key chunkKey, rec *journal.Chunk, places []place) {
		good := 0
		for i := range places {
			if !places[i].stale && v.dev(places[i].dev).counts() && !slices.Contains(ids, places[i].dev) {
				good++
			}
		}
		if good > 0 {
			if good < int(v.info.Copies) {
				l.Degraded++
			}
			return
		}
		bytes := int64(len(rec.Sums)) * blockSize
		l.Chunks++
		l.Bytes += bytes
		o := by[key.object]
		if o == nil {
			o = &LossObject{Name: fmt.Sprintf("file %d", key.object), File: key.object, First: int64(key.index) * int64(v.info.ChunkSize)}
			if x := v.object(key.object); x != nil && !x.isFile {
				o.Name, o.File = x.name(), 0
			}
			by[key.object] = o
		}
		o.Chunks++
		o.Bytes += bytes
	})
	for _, o := range by {
		l.Objects = append(l.Objects, *o)
	}
	slices.SortFunc(l.Objects, func(a, b LossObject) int {
		if a.Bytes != b.Bytes {
			return int(min(max(b.Bytes-a.Bytes, -1), 1))
		}
		return slices.Compare([]byte(a.Name), []byte(b.Name))
	})
	return l, err
}

// Why tells where an export or a file stands.
type Why struct {
	Name     string      `json:"name"`
	Chunks   int64       `json:"chunks"` // that are placed
	Bytes    int64       `json:"bytes"`  // written, one copy counted
	Degraded int64       `json:"degraded_chunks"`
	Lost     int64       `json:"lost_chunks"`
	Devices  []WhyDevice `json:"devices"`
	Chunk    *WhyChunk   `json:"chunk,omitempty"` // that holds the offset asked for
}

// WhyDevice is one device's part, and why it has no more.
type WhyDevice struct {
	Name    string  `json:"id"`
	State   string  `json:"state"`
	Chunks  int64   `json:"chunks"`
	Stale   int64   `json:"stale_chunks"`
	Rate    float64 `json:"write_rate_bytes_per_second"` // that it can do, as measured
	Rule    string  `json:"rule"`
	Percent float64 `json:"share_percent"` // of its copies
}

// WhyChunk is one chunk.
type WhyChunk struct {
	Index      int64     `json:"index"`
	Offset     int64     `json:"offset"`
	Generation uint64    `json:"generation"`
	Slot       int64     `json:"slot_bytes"`
	Written    int64     `json:"written_bytes"`
	Copies     []WhyCopy `json:"copies"`
}

// WhyCopy is one copy of a chunk.
type WhyCopy struct {
	Device string `json:"device"`
	Offset int64  `json:"offset"`
	Stale  bool   `json:"stale"`
}

// WhyExport tells where an export's chunks are and by which rule; off, if not negative, names a byte
// whose chunk is wanted.
func (v *Volume) WhyExport(ctx context.Context, name string, off int64) (*Why, error) {
	o, err := v.export(name)
	if err != nil {
		return nil, err
	}
	w, err := v.why(ctx, o.number, off)
	if err == nil {
		w.Name = name
	}
	return w, err
}

// WhyFile is WhyExport for a file's object; the answer has no name.
func (v *Volume) WhyFile(ctx context.Context, number uint64, off int64) (*Why, error) {
	return v.why(ctx, number, off)
}

func (v *Volume) why(ctx context.Context, object uint64, off int64) (*Why, error) {
	if err := v.Flush(ctx); err != nil {
		return nil, err
	}
	w := &Why{}
	by := map[devices.ID]*WhyDevice{}
	copies := int64(0)
	err := v.scanChunks(ctx, func(key chunkKey, rec *journal.Chunk, places []place) {
		if key.object != object {
			return
		}
		w.Chunks++
		w.Bytes += int64(len(rec.Sums)) * blockSize
		switch v.rate(int(rec.Slot), places) {
		case degraded:
			w.Degraded++
		case lost:
			w.Lost++
		}
		for i := range places {
			d := by[places[i].dev]
			if d == nil {
				d = &WhyDevice{}
				by[places[i].dev] = d
			}
			d.Chunks++
			copies++
			if places[i].stale {
				d.Stale++
			}
		}
		if at := int64(key.index) * int64(v.info.ChunkSize); off >= at && off < at+int64(v.info.ChunkSize) {
			w.Chunk = &WhyChunk{Index: int64(key.index), Offset: at, Generation: rec.Generation, Slot: int64(rec.Slot) * blockSize, Written: int64(len(rec.Sums)) * blockSize}
			for i := range places {
				w.Chunk.Copies = append(w.Chunk.Copies, WhyCopy{places[i].dev.String(), places[i].off, places[i].stale})
			}
		}
	})
	w.Devices = v.whyDevices(by, copies)
	return w, err
}

// whyDevices completes what the devices have of an object's copies.
func (v *Volume) whyDevices(by map[devices.ID]*WhyDevice, copies int64) (list []WhyDevice) {
	for _, m := range v.devs() {
		d := by[m.id]
		if d == nil {
			d = &WhyDevice{}
		}
		s, reason := v.stateOf(m)
		d.Name, d.State = m.id.String(), stateName(s)
		if m.Device != nil {
			d.Rate = m.Device.Rate(devices.Write)
		}
		if copies > 0 {
			d.Percent = 100 * float64(d.Chunks) / float64(copies)
		}
		used, size := m.alloc.usage()
		switch {
		case !m.takes():
			d.Rule = "takes no new chunks: it is " + stateName(s)
			if reason != "" {
				d.Rule += " (" + reason + ")"
			}
		case used >= size:
			d.Rule = "it is full"
		default:
			d.Rule = "new chunks go where they are expected to be written first"
		}
		list = append(list, *d)
	}
	return list
}
