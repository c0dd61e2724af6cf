package faultdisk

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/devices"
)

// Ops is a set of kinds of operation.
type Ops uint8

// The kinds of operation that a fault may strike.
const (
	OnRead Ops = 1 << iota
	OnWrite
	OnSync
	OnDiscard

	OnAll = OnRead | OnWrite | OnSync | OnDiscard
)

// Has reports whether kind is in the set.
func (o Ops) Has(kind devices.Kind) bool { return o&(1<<kind) != 0 }

// Effect is what a fault does to an operation.
type Effect uint8

// The effects.
const (
	Fail      Effect = iota + 1 // returns Fault.Err
	Hang                        // returns when released, or after Fault.Delay if that is set
	Slow                        // takes Fault.Factor times as long and Fault.Delay more
	Lose                        // returns nil and does nothing: a lost write, a lying sync
	Misdirect                   // a read or write goes to another place of the disk
	Corrupt                     // what is read, or what a write leaves on the media, is damaged
	NoSpace                     // a write to blocks that have never been written fails with ENOSPC
)

// Extent says how much of a failing or hanging write reaches the disk nevertheless.
type Extent uint8

// The extents.
const (
	Nothing Extent = iota // no byte; a hanging write is carried out when it is released
	Whole                 // all of it, before it fails or hangs
	Torn                  // some of its sectors
	Any                   // one of the others, by chance
)

// Damage says how bytes are spoiled.
type Damage uint8

// The kinds of damage.
const (
	Flip    Damage = iota // one bit of a sector
	Zero                  // a sector reads as zeros
	Garbage               // a sector reads as random bytes
)

// SectorSize is the unit in bytes that a disk writes wholly or not at all.
const SectorSize = 512

// Fault is a rule: which operations it strikes, and what happens to them. Of the operations
// that match On and the range it passes over the first Nth-1, and strikes once, or with Sticky
// for as long as it is in the table; with Rate each one is struck with that chance.
type Fault struct {
	On        Ops
	Off, Size int64   // only operations that touch this range; Size 0: all. Syncs always match
	Nth       int64   // 0 means 1
	Rate      float64 // chance of each operation from the Nth on; 0 means certain
	Sticky    bool

	Effect Effect
	Err    error         // of Fail; nil means EIO
	Extent Extent        // of a write under Fail; under Hang all but Nothing count as Whole
	Delay  time.Duration // of Hang and Slow
	Factor float64       // of Slow; 0 means 1
	Damage Damage        // of Corrupt
	Target int64         // of Misdirect: where to; below 0 means any other aligned place
}

// Seen tells of one operation that was struck.
type Seen struct {
	Op        devices.Kind
	Off, Size int64
	N         int64 // number of the operation, from 1, among all that the table was asked about
	Fault     *Active
}

// Active is a fault in a table.
type Active struct {
	Fault
	table   *Faults
	matched int64 // guarded by table.mu
	spent   bool  // guarded by table.mu: struck, and not sticky
	lifted  bool  // guarded by table.mu
	seen    atomic.Int64
	release chan struct{}
}

// Seen is how many operations the fault has struck.
func (a *Active) Seen() int64 { return a.seen.Load() }

// Lift takes the fault out of its table and lets the operations go on that hang by it.
func (a *Active) Lift() { a.table.lift(func(b *Active) bool { return a == b }) }

// Faults is a table of faults, shared by everything that injects them. The zero value is an
// empty table with a fixed seed. All methods may be called at any time and concurrently.
type Faults struct {
	mu      sync.Mutex
	rng     *rand.Rand
	active  []*Active
	onFault func(Seen)

	busy atomic.Bool // something is in active, or onFault is set: look closer
	all  atomic.Int64
	n    [4]atomic.Int64
}

// Seed makes all later chances follow from rng, which belongs to the table from now on.
func (f *Faults) Seed(rng *rand.Rand) {
	f.mu.Lock()
	f.rng = rng
	f.mu.Unlock()
}

// OnFault sets fn to be called for every operation that is struck, before it is, from its
// goroutine and with no lock held.
func (f *Faults) OnFault(fn func(Seen)) {
	f.mu.Lock()
	f.onFault = fn
	f.mu.Unlock()
}

// Add puts a fault into the table.
func (f *Faults) Add(fault Fault) *Active {
	if fault.On == 0 || fault.Effect == 0 {
		panic("faultdisk: fault without On or Effect")
	}
	a := &Active{Fault: fault, table: f, release: make(chan struct{})}
	f.mu.Lock()
	f.active = append(f.active, a)
	f.busy.Store(true)
	f.mu.Unlock()
	return a
}

// FailNth makes the n-th operation of the kinds in on, from now and counted from 1, fail with
// err: once, or with sticky that one and all later ones.
func (f *Faults) FailNth(on Ops, n int64, err error, sticky bool) *Active {
	return f.Add(Fault{On: on, Nth: n, Effect: Fail, Err: err, Sticky: sticky})
}

// Disappear makes everything fail with ENXIO, as a disk that was pulled.
func (f *Faults) Disappear() *Active {
	return f.Add(Fault{On: OnAll, Effect: Fail, Err: syscall.ENXIO, Sticky: true})
}

// ReadOnly makes writes and discards fail with EROFS.
func (f *Faults) ReadOnly() *Active {
	return f.Add(Fault{On: OnWrite | OnDiscard, Effect: Fail, Err: syscall.EROFS, Sticky: true})
}

// HangAll makes every operation of the kinds in on hang until the fault is lifted.
func (f *Faults) HangAll(on Ops) *Active {
	return f.Add(Fault{On: on, Effect: Hang, Sticky: true})
}

// Clear lifts all faults.
func (f *Faults) Clear() { f.lift(func(*Active) bool { return true }) }

func (f *Faults) lift(which func(*Active) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := f.active[:0]
	for _, a := range f.active {
		switch {
		case !which(a):
			keep = append(keep, a)
		case !a.lifted:
			a.lifted = true
			close(a.release)
		}
	}
	clear(f.active[len(keep):])
	f.active = keep
	f.busy.Store(len(keep) > 0)
}

// Count is the number of operations of the kinds in on that have begun so far.
func (f *Faults) Count(on Ops) int64 {
	var n int64
	for k := range f.n {
		if on.Has(devices.Kind(k)) {
			n += f.n[k].Load()
		}
	}
	return n
}

// Verdict is what an operation is to suffer. The zero value means nothing.
type Verdict struct {
	Struck   bool
	Err      error
	Extent   Extent        // never Any
	Hang     []*Active     // wait for each, at most for its Delay
	Delay    time.Duration // more time than usual
	Factor   float64       // times the usual time; at least 1 unless a fault says otherwise
	Lose     bool
	NoSpace  bool
	Moved    bool
	Target   int64
	Corrupt  bool
	Damage   Damage
	Rng      *rand.Rand // for damage and tears; nil unless needed
	HoldDone bool       // the operation is carried out before it hangs
}

// Begin counts an operation and says what it is to suffer; diskSize bounds where misdirected
// ones go.
func (f *Faults) Begin(op devices.Kind, off, size, diskSize int64) Verdict {
	f.n[op].Add(1)
	n := f.all.Add(1)
	if !f.busy.Load() {
		return Verdict{Factor: 1}
	}
	return f.judge(op, off, size, diskSize, n)
}

func (f *Faults) judge(op devices.Kind, off, size, diskSize, n int64) Verdict {
	v := Verdict{Factor: 1}
	var struck []*Active
	f.mu.Lock()
	if f.rng == nil {
		f.rng = rand.New(rand.NewPCG(1, 2))
	}
	for _, a := range f.active {
		if !a.strikesLocked(op, off, size) {
			continue
		}
		struck = append(struck, a)
		f.applyLocked(&v, a, off, size, diskSize)
	}
	if len(struck) > 0 {
		v.Struck = true
		v.Rng = rand.New(rand.NewPCG(f.rng.Uint64(), f.rng.Uint64()))
	}
	fn := f.onFault
	f.mu.Unlock()

	for _, a := range struck {
		a.seen.Add(1)
		if fn != nil {
			fn(Seen{Op: op, Off: off, Size: size, N: n, Fault: a})
		}
	}
	return v
}

func (a *Active) strikesLocked(op devices.Kind, off, size int64) bool {
	if !a.On.Has(op) {
		return false
	}
	if a.Size > 0 && op != devices.Sync && (off >= a.Off+a.Size || off+size <= a.Off) {
		return false
	}
	a.matched++
	if a.matched < a.Nth || a.spent {
		return false
	}
	if a.Rate > 0 && a.table.rng.Float64() >= a.Rate {
		return false
	}
	a.spent = !a.Sticky
	return true
}

func (f *Faults) applyLocked(v *Verdict, a *Active, off, size, diskSize int64) {
	extent := a.Extent
	if extent == Any {
		extent = Extent(f.rng.IntN(3))
	}
	switch a.Effect {
	case Fail:
		if v.Err == nil {
			v.Err, v.Extent = a.Err, extent
			if v.Err == nil {
				v.Err = syscall.EIO
			}
		}
	case Hang:
		v.Hang = append(v.Hang, a)
		v.HoldDone = v.HoldDone || extent != Nothing
	case Slow:
		if a.Factor > 0 {
			v.Factor *= a.Factor
		}
		v.Delay += a.Delay
	case Lose:
		v.Lose = true
	case NoSpace:
		v.NoSpace = true
	case Corrupt:
		v.Corrupt, v.Damage = true, a.Damage
	case Misdirect:
		v.Target = a.Target
		if v.Target < 0 {
			v.Target = f.otherPlaceLocked(off, size, diskSize)
		}
		v.Moved = v.Target != off && v.Target+size <= diskSize
	}
}

// otherPlaceLocked is a random aligned offset other than off where size bytes fit.
func (f *Faults) otherPlaceLocked(off, size, diskSize int64) int64 {
	places := (diskSize-size)/devices.BlockSize + 1
	if places < 2 {
		return off
	}
	p := f.rng.Int64N(places-1) * devices.BlockSize
	if p >= off {
		p += devices.BlockSize
	}
	return p
}

// Wait holds the operation for as long as the verdict says that it hangs.
func (v *Verdict) Wait() {
	for _, a := range v.Hang {
		if a.Delay <= 0 {
			<-a.release
			continue
		}
		t := time.NewTimer(a.Delay)
		select {
		case <-a.release:
			t.Stop()
		case <-t.C:
		}
	}
}

// Spoil damages one sector of p, or returns false when p is empty.
func Spoil(p []byte, how Damage, rng *rand.Rand) bool {
	if len(p) == 0 {
		return false
	}
	s := rng.IntN((len(p)+SectorSize-1)/SectorSize) * SectorSize
	sector := p[s:min(s+SectorSize, len(p))]
	switch how {
	case Flip:
		sector[rng.IntN(len(sector))] ^= 1 << rng.IntN(8)
	case Zero:
		clear(sector)
	case Garbage:
		for i := range sector {
			sector[i] = byte(rng.Uint32())
		}
	}
	return true
}

// Tear says which sectors of a torn write of n sectors reach the disk: a prefix, a suffix or
// any subset, at least one missing.
func Tear(n int, rng *rand.Rand) []bool {
	kept := make([]bool, n)
	cut := rng.IntN(n)
	mode := rng.IntN(3)
	for i := range kept {
		switch mode {
		case 0:
			kept[i] = i < cut
		case 1:
			kept[i] = i > cut
		case 2:
			kept[i] = i != cut && rng.IntN(2) == 0
		}
	}
	return kept
}
