package balance

import (
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ballast/devices"
	"ballast/striping/policy"
)

var (
	// ErrNoSpace is given to writes that would need space which the asked number of copies
	// cannot use.
	ErrNoSpace = errors.New("no space for that many copies")
	// ErrNoDevice is given to writes when no device takes data, and to reads when none of the
	// devices that hold the range is left.
	ErrNoDevice = errors.New("no device left")
	// ErrClosed is given to requests after Close.
	ErrClosed = errors.New("balancer is closed")
)

// Space is where slots come from: the engine's allocators. Its methods are called with no lock
// of the balancer held.
type Space interface {
	// Reserve takes size bytes, a multiple of 4 KiB, of a device.
	Reserve(id devices.ID, size int64) (off int64, ok bool)
	// Release gives back a slot that was never published.
	Release(id devices.ID, off, size int64)
	// Usage is what is taken of a device, and what there is in all, in bytes.
	Usage(id devices.ID) (used, capacity int64)
}

// Member is one device of a volume.
type Member struct {
	Device *devices.Device
	Domain string // failure domain; "" is the device itself
}

// Options of a Balancer. Space must be set.
type Options struct {
	Copies int // of each chunk; default 1
	Space  Space
	Seed   uint64 // breaks ties
	// Reserved is how many logical bytes the volume must still be able to take: only that much is
	// kept placeable, and speed may strand the rest. Nil, for all that fits, is right wherever
	// the free space is shown to people; what is claimed at this moment is not what is meant.
	Reserved func() int64
	// NoHedges has nothing done twice because it is late; for measurements.
	NoHedges bool
	// OnError is told of each error of a device, timeouts included. It may be nil.
	OnError func(id devices.ID, err error)
}

// Balancer places writes and directs reads.
type Balancer struct {
	opts   Options
	set    atomic.Pointer[memberSet]
	adding sync.Mutex // over changes of set
	epoch  time.Time
	timers *timers

	waiting atomic.Int64 // in both queues

	mu      sync.Mutex
	closed  bool
	queues  [2][]*write // by class, in order of arrival; the foreground goes first
	placing bool        // one goroutine places; the others tell it to look again
	again   bool
	counts  Stats
	writes  policy.Tokens
	reads   policy.Tokens

	// Used by the placing goroutine alone.
	busyAt    time.Duration
	busyShare float64
	targetsAt time.Duration
	ties      uint64
}

// memberSet is the devices at one moment; it is replaced, never changed. Devices are only added, so
// an index stays that of the same device for good. Those that were removed are gone, which bars them
// from everything.
type memberSet struct {
	list    []*member
	byID    map[devices.ID]*member
	domains map[string]int
	next    int // unused domain number
}

func (b *Balancer) devs() []*member           { return b.set.Load().list }
func (b *Balancer) dev(id devices.ID) *member { return b.set.Load().byID[id] }

// member is one device. domain and the device never change.
type member struct {
	dev    *devices.Device
	id     devices.ID
	domain int

	gone                atomic.Bool // it was removed
	placeable, readable atomic.Bool
	writes, writeBytes  atomic.Uint64
	reads, readBytes    atomic.Uint64
	next                atomic.Int64 // where the last slot taken ends

	// Used by the placing goroutine alone.
	busy   time.Duration
	target float64
}

// New returns a balancer over members. Devices stay the caller's.
func New(members []Member, o Options) *Balancer {
	o.Copies = max(1, o.Copies)
	b := &Balancer{
		opts:  o,
		epoch: time.Now(),
		ties:  o.Seed,
	}
	b.set.Store(&memberSet{})
	b.targetsAt = math.MinInt64
	b.timers = newTimers(b.epoch)
	for _, m := range members {
		b.Add(m)
	}
	return b
}

// Add takes in one more device. A device with the ID of one that is there takes its place.
func (b *Balancer) Add(m Member) {
	b.adding.Lock()
	defer b.adding.Unlock()
	s := b.set.Load()
	n := &memberSet{list: slices.Clone(s.list), byID: maps.Clone(s.byID), domains: maps.Clone(s.domains), next: s.next}
	if n.byID == nil {
		n.byID, n.domains = map[devices.ID]*member{}, map[string]int{}
	}
	mm := &member{dev: m.Device, id: m.Device.ID()}
	if d, ok := n.domains[m.Domain]; ok && m.Domain != "" {
		mm.domain = d
	} else {
		mm.domain, n.next = n.next, n.next+1
		if m.Domain != "" {
			n.domains[m.Domain] = mm.domain
		}
	}
	mm.placeable.Store(true)
	mm.readable.Store(true)
	if old := n.byID[mm.id]; old != nil {
		old.leave()
	}
	n.byID[mm.id] = mm
	n.list = append(n.list, mm)
	b.set.Store(n)
	mm.dev.OnComplete(b.place)
	b.place()
}

// Remove bars a device from everything. Requests that it has go on.
func (b *Balancer) Remove(id devices.ID) {
	b.adding.Lock()
	defer b.adding.Unlock()
	if m := b.dev(id); m != nil {
		m.leave()
		b.place()
	}
}

// leave bars m from everything.
func (m *member) leave() {
	m.gone.Store(true)
	m.placeable.Store(false)
	m.readable.Store(false)
}

// Close ends the balancer's goroutines and answers writes that wait for room with ErrClosed.
// What the devices already have is completed by them.
func (b *Balancer) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.place() // ends what waits
	b.timers.close()
}

func (b *Balancer) now() time.Duration { return time.Since(b.epoch) }

// SetPlaceable says whether a device takes new chunks. One that is draining, slow or failed
// should not; the space on it does not count then.
func (b *Balancer) SetPlaceable(id devices.ID, ok bool) {
	if m := b.dev(id); m != nil {
		m.placeable.Store(ok)
		b.place()
	}
}

// SetReadable says whether a device serves reads while other copies can.
func (b *Balancer) SetReadable(id devices.ID, ok bool) {
	if m := b.dev(id); m != nil {
		m.readable.Store(ok)
	}
}

func (b *Balancer) fail(id devices.ID, err error) {
	if b.opts.OnError != nil {
		b.opts.OnError(id, err)
	}
}

// forecast is what a device's load means to a request of the given class: foreground requests
// overtake those of the background that wait.
func (m *member) forecast(kind devices.Kind, class devices.Class, off, size int64) devices.Forecast {
	f := m.dev.Forecast(kind, off, size)
	if class == devices.Background {
		f.Expect += f.Background
		f.Backlog += f.Background
		f.Outstanding += f.Waiting
		f.Idle = f.Outstanding == 0
	}
	return f
}

// candidates reads the load of all devices for a write of size bytes.
func (b *Balancer) candidates(size int64, class devices.Class) []policy.Candidate {
	members := b.devs()
	cands := make([]policy.Candidate, len(members))
	for i, m := range members {
		f := m.forecast(devices.Write, class, m.next.Load(), size)
		c := &cands[i]
		*c = policy.Candidate{
			Expect:      f.Expect,
			Backlog:     f.Backlog,
			Pause:       f.Pause,
			Outstanding: f.Outstanding,
			Idle:        f.Idle,
			Domain:      m.domain,
			Barred:      f.Failed || !m.placeable.Load(),
		}
		if m.gone.Load() {
			continue
		}
		used, capacity := b.opts.Space.Usage(m.id)
		c.Used, c.Free = used, max(0, capacity-used)
	}
	return cands
}

// commonCause reports whether most devices are overdue.
func (b *Balancer) commonCause() bool {
	overdue, n := 0, 0
	for _, m := range b.devs() {
		f := m.dev.Forecast(devices.Read, 0, 0)
		if f.Failed || m.gone.Load() {
			continue
		}
		n++
		if f.Overdue {
			overdue++
		}
	}
	return policy.CommonCause(overdue, n)
}

// Stats is what a balancer has done.
type Stats struct {
	Placements   uint64 // writes that were given to devices
	Waiting      int    // writes that wait for room now
	Replacements uint64 // overdue copies of writes that were written elsewhere as well
	Rewrites     uint64 // copies of writes that failed and were written elsewhere
	Short        uint64 // writes that got fewer copies than asked for
	Hedges       uint64 // reads that were tried a second time because the first was late
	Redirects    uint64 // reads that failed and were tried on another copy
	WriteTokens  float64
	ReadTokens   float64
	Shares       []Share
}

// Share is what one device was given.
type Share struct {
	Device             devices.ID
	Writes, WriteBytes uint64
	Reads, ReadBytes   uint64
	Target             float64 // of all copies
}

// Stats returns the balancer's counters.
func (b *Balancer) Stats() Stats {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.counts
	s.Waiting = len(b.queues[0]) + len(b.queues[1])
	s.WriteTokens, s.ReadTokens = b.writes.Left(now), b.reads.Left(now)
	for _, m := range b.devs() {
		if m.gone.Load() {
			continue
		}
		s.Shares = append(s.Shares, Share{
			Device: m.id,
			Writes: m.writes.Load(), WriteBytes: m.writeBytes.Load(),
			Reads: m.reads.Load(), ReadBytes: m.readBytes.Load(),
		})
	}
	return s
}
