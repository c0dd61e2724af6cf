package simdisk

import (
	"maps"
	"math/rand/v2"

	"ballast/devices/faultdisk"
)

// Write is a write or discard that a power cut may lose.
type Write struct {
	Off, Size int64
	Discard   bool
	Done      bool // its call has returned, or was about to
}

// Fate is what a power cut does to a pending write. The zero value drops it.
type Fate struct {
	Keep bool
	// Sectors, if not nil, tears the write: of its sectors of 512 bytes only those reach the
	// media that are true. Discards are not torn.
	Sectors []bool
}

// Policy says what becomes of each pending write, in order of arrival. It may return fewer
// fates than there are writes; the rest is dropped.
type Policy func(rng *rand.Rand, pending []Write) []Fate

// KeepNone loses everything since the last sync.
func KeepNone(_ *rand.Rand, _ []Write) []Fate { return nil }

// KeepAll loses nothing.
func KeepAll(_ *rand.Rand, pending []Write) []Fate {
	return choose(len(pending), func(int) bool { return true })
}

// KeepPrefix keeps the first n pending writes.
func KeepPrefix(n int) Policy {
	return func(_ *rand.Rand, pending []Write) []Fate {
		return choose(len(pending), func(i int) bool { return i < n })
	}
}

// DropOnly keeps all pending writes but number i, counted from 0.
func DropOnly(i int) Policy {
	return func(_ *rand.Rand, pending []Write) []Fate {
		return choose(len(pending), func(j int) bool { return j != i })
	}
}

// KeepOnly keeps pending write i and nothing else.
func KeepOnly(i int) Policy {
	return func(_ *rand.Rand, pending []Write) []Fate {
		return choose(len(pending), func(j int) bool { return j == i })
	}
}

// KeepMask keeps pending write i if bit i of mask is set; those from 64 on are dropped.
func KeepMask(mask uint64) Policy {
	return func(_ *rand.Rand, pending []Write) []Fate {
		return choose(len(pending), func(i int) bool { return i < 64 && mask>>i&1 == 1 })
	}
}

// TearWrite applies rest and then tears pending write i: the sectors for which kept returns
// true reach the media. kept nil means by chance, as faultdisk.Tear does.
func TearWrite(i int, kept func(sector, sectors int) bool, rest Policy) Policy {
	return func(rng *rand.Rand, pending []Write) []Fate {
		fates := make([]Fate, len(pending))
		copy(fates, rest(rng, pending))
		if i >= len(pending) || pending[i].Discard {
			return fates
		}
		n := int(pending[i].Size / faultdisk.SectorSize)
		fates[i] = Fate{Keep: true, Sectors: make([]bool, n)}
		if kept == nil {
			fates[i].Sectors = faultdisk.Tear(n, rng)
			return fates
		}
		for s := range n {
			fates[i].Sectors[s] = kept(s, n)
		}
		return fates
	}
}

// Random draws a fate for each pending write by itself: kept, dropped or torn. How likely they
// are is drawn first, so that all, nothing and almost all come up often too.
func Random(rng *rand.Rand, pending []Write) []Fate {
	keep := [...]float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
	tear := [...]float64{0, 0, 0.1, 0.5}[rng.IntN(4)]
	fates := make([]Fate, len(pending))
	for i, w := range pending {
		switch {
		case !w.Discard && w.Size > 0 && rng.Float64() < tear:
			fates[i] = Fate{Keep: true, Sectors: faultdisk.Tear(int(w.Size/faultdisk.SectorSize), rng)}
		case rng.Float64() < keep:
			fates[i] = Fate{Keep: true}
		}
	}
	return fates
}

func choose(n int, keep func(int) bool) []Fate {
	fates := make([]Fate, n)
	for i := range fates {
		fates[i].Keep = keep(i)
	}
	return fates
}

// Pending is the number of writes and discards that are not durable.
func (d *Disk) Pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// PendingWrites lists what is not durable, in order of arrival.
func (d *Disk) PendingWrites() []Write {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writesLocked()
}

func (d *Disk) writesLocked() []Write {
	w := make([]Write, len(d.pending))
	for i, e := range d.pending {
		w[i] = Write{Off: e.off, Size: e.size, Discard: e.data == nil, Done: e.done}
	}
	return w
}

// Crash returns the disk as it comes back from a power cut now: the durable blocks, with the
// pending writes that policy lets through. It has the same options, an empty fault table and
// nothing pending. Damage to the media stays. The disk itself goes on as if nothing had
// happened, so that many outcomes of one moment can be looked at; a closed disk may crash too,
// and with KeepAll that is opening it again. rng may be nil for policies that need none.
func (d *Disk) Crash(rng *rand.Rand, policy Policy) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	fates := policy(rng, d.writesLocked())
	c := d.newLike()
	c.durable = maps.Clone(d.durable)
	for i, e := range d.pending {
		if i >= len(fates) {
			break
		}
		if !fates[i].Keep {
			continue
		}
		survivor := &entry{off: e.off, size: e.size, data: e.data, done: true}
		if fates[i].Sectors != nil && e.data != nil {
			survivor.data = make([]byte, e.size)
			c.peekLocked(survivor.data, e.off)
			faultdisk.Mix(survivor.data, e.data, fates[i].Sectors)
		}
		survivor.settle(c.durable)
	}
	c.truth = d.truth.Clone()
	c.space = d.opts.Space - int64(len(c.durable))*block
	return c
}

// newLike returns an empty disk with d's options, timing and size as they are now.
func (d *Disk) newLike() *Disk {
	d.server.mu.Lock()
	opts := d.opts
	opts.Timing = d.server.timing
	opts.Seed += 0x9e3779b97f4a7c15
	d.server.mu.Unlock()
	opts.Size = max(d.Size(), opts.Size)
	c := New(opts)
	c.size.Store(d.Size())
	return c
}

// State is what a disk held at one moment, cache included.
type State struct {
	blocks map[int64][]byte
	truth  faultdisk.Truth
}

// Snapshot returns what the disk holds now.
func (d *Disk) Snapshot() *State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &State{blocks: maps.Clone(d.durable), truth: d.truth.Clone()}
	for n, b := range d.cached {
		if b == nil {
			delete(s.blocks, n)
		} else {
			s.blocks[n] = b
		}
	}
	return s
}

// Restore makes the disk hold what it held when s was taken, durably: the stale disk that
// comes back.
func (d *Disk) Restore(s *State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable = maps.Clone(s.blocks)
	d.pending, d.bytes = nil, 0
	clear(d.cached)
	d.truth = s.truth.Clone()
}

// Blocks is the number of blocks that hold something, cached ones included.
func (d *Disk) Blocks() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.durable)
	for k, b := range d.cached {
		_, ok := d.durable[k]
		switch {
		case b != nil && !ok:
			n++
		case b == nil && ok:
			n--
		}
	}
	return n
}

// CorruptMedia spoils one sector of every block of [off, off+size), for which what is pending
// there becomes durable. A later write of a block makes it sound again, and so does Heal.
func (d *Disk) CorruptMedia(off, size int64, how faultdisk.Damage, rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for o := off - off%block; o < off+size; o += block {
		b := make([]byte, block)
		d.peekLocked(b, o)
		d.truth.Keep(o, b)
		faultdisk.Spoil(b, how, rng)
		d.pokeLocked(o, b)
	}
}

// Poke makes p stand at off, durably, with no operation and no fault: an edit by hand in a
// test. What is pending there becomes durable before.
func (d *Disk) Poke(off int64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; len(p) > 0; off, p = off+block, p[block:] {
		d.pokeLocked(off, append([]byte(nil), p[:block]...))
	}
}

// Peek reads like ReadAt, with no operation, no time and no fault.
func (d *Disk) Peek(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peekLocked(p, off)
}

// pokeLocked changes the media. Pending writes of the block become durable first, as a disk may
// decide at any time: otherwise they would hide the change and later undo it.
func (d *Disk) pokeLocked(off int64, b []byte) {
	if _, ok := d.cached[off/block]; ok {
		d.settleLocked(func(e *entry) bool { return off >= e.off && off < e.off+e.size })
	}
	d.durable[off/block] = b
}

// Damaged returns the offsets of the blocks that hold something else than what was written
// there, by a fault, ascending.
func (d *Disk) Damaged() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.truth.Damaged()
}

// Heal undoes all damage: lost and misdirected writes and spoiled media hold what they should.
func (d *Disk) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, off := range d.truth.Damaged() {
		d.pokeLocked(off, d.truth.Take(off))
	}
}
