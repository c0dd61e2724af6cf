package striping

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ballast/devices"
	"ballast/journal"
	"ballast/striping/balance"
	"ballast/striping/policy"
)

// Options of a volume. Journal, Members and Volume are needed; of the rest zero values do.
type Options struct {
	Journal journal.Journal
	Members []Member
	Volume  journal.Volume
	Logger  *slog.Logger

	// DirtyLimit bounds buffered writes, in bytes; default: what the devices are measured to write
	// in a second, but not less than 64 MiB and not more than a fortieth of the RAM.
	DirtyLimit int64
	// FlushInterval is how long written data may stay volatile without a flush; default 5 s.
	FlushInterval time.Duration
	// WriteAge is how long a partly written chunk waits for more; default 2 s.
	WriteAge time.Duration
	// CacheBytes bounds the cache of placements and block sums; default 64 MiB.
	CacheBytes int64
	// ReadAhead bounds what is read ahead for one sequential reader, in bytes; default 64 MiB;
	// negative: none.
	ReadAhead int64
	// Seed makes placement repeatable.
	Seed uint64
	// Degraded allows a volume of one copy to start with devices missing.
	Degraded bool
	// Rebalance has the volume even out by itself what its devices hold, while clients are quiet.
	Rebalance bool
	// BackgroundFloor is the share of a busy device's time that jobs get in any case; default 0.02. Data with
	// one copy left gets a tenth or more.
	BackgroundFloor float64
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 5 * time.Second
	}
	if o.WriteAge == 0 {
		o.WriteAge = 2 * time.Second
	}
	if o.BackgroundFloor == 0 {
		o.BackgroundFloor = floorUsual
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = 64 << 20
	}
}

// member is a device of an open volume.
type member struct {
	Member
	id    devices.ID
	alloc *allocator
	left  bool // it is no device of the volume any more

	writes atomic.Uint64 // writes that completed
	synced atomic.Uint64 // of these, how many are on stable media
	out    atomic.Bool   // not written: copies there miss what is written meanwhile
	away   atomic.Bool   // copies there do not count
	barred atomic.Bool   // gets no new chunks
	silent atomic.Bool   // out because it does not answer
	record deviceRecord
	errors atomic.Int64

	writeErrors atomic.Int64

	hungMu sync.Mutex
	hung   map[int64]*hungOp // writes in place that the device holds, by slot

	copies atomic.Int64 // chunk copies placed on it
	coming atomic.Int64 // bytes of chunks that are being moved to it and are not written yet

	// The state and what it is judged by; guarded by Volume.mu.
	state    journal.DeviceState
	reason   string
	since    time.Time
	health   policy.Health
	hanging  bool                // out because operations hang; awaitReturn looks after it
	before   journal.DeviceState // hanging
	removing bool                // RemoveDevice is at it: nothing may be placed there any more
}

// usable reports whether new data may be written to the device.
func (m *member) usable() bool { return m.Device != nil && !m.out.Load() }

// takes reports whether new chunks may be placed on the device.
func (m *member) takes() bool { return m.usable() && !m.barred.Load() }

// counts reports whether copies on the device count as good.
func (m *member) counts() bool { return m.Device != nil && !m.away.Load() }

// Volume is an open volume.
type Volume struct {
	opts   Options
	log    *slog.Logger
	j      journal.Journal // watched
	info   journal.Volume
	blocks int // of a chunk
	bal    *balance.Balancer
	cache  *cache
	dirty  budget
	wb     writeback

	rotates atomic.Bool // a device spins
	set     atomic.Pointer[memberSet]

	gen      atomic.Uint64 // next generation
	claimed  atomic.Int64  // regionShares promised to chunks that are not placed yet
	transit  atomic.Int64  // of claimed, what write-outs under way may have slots for already
	placedBy atomic.Int64  // chunks with a slot
	touched  atomic.Int64  // chunks that the journal does not wholly know
	retired  atomic.Int64  // bytes of slots that wait for a commit to be given back

	fileBytes atomic.Int64 // of slots of files, one copy counted
	inodes    int64        // found at open

	window, windowUntil atomic.Int64 // see readWindow

	infoLock   ioLock // over commits of the volume's record: they reach the journal in order
	recordLock ioLock // the same for the records of devices

	mu       sync.Mutex
	objects  map[uint64]*object
	names    map[string]*object // exports
	genLimit uint64             // generations below it may be given out
	bad      []badRange
	health   healthCounts
	closed   bool
	nextID   uint64           // next object number
	idLimit  uint64           // numbers of files below it may be given out
	newborn  [newborns]uint64 // numbers given out and not opened yet, at number%newborns; 0: none
	idWanted uint64           // bound of object numbers to be journaled
	orphans  []uint64

	hasBad  atomic.Bool // bad is not empty
	flushes flusher
	events  eventLog
	heals   healer
	stats   counters
	anchor  anchorState
	watched *watchedJournal

	jobs   jobTable
	opened time.Time

	rebuildDue atomic.Bool // redundancy may have fallen: jobs make way
	quiet      quiet

	ctx    context.Context // ends when the volume closes
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// counters are totals since open.
type counters struct {
	healed, checkFailures, unreadable   atomic.Int64
	readAheadHits, readAheadWasted      atomic.Int64
	writeOuts, inPlace, placed, rewrote atomic.Int64
	commits, flushes                    atomic.Int64
	readBytes, writtenBytes             atomic.Int64
}

// Format writes the first records of a new volume into an empty journal.
func Format(ctx context.Context, j journal.Journal, v journal.Volume, devs []journal.Device) error {
	if j.State().Count != 0 {
		return errors.New("journal is not empty")
	}
	if v.NextObject == 0 {
		v.NextObject = 1
	}
	if v.Generation == 0 {
		v.Generation = 1
	}
	b := &journal.Batch{}
	key := journal.MakeKey(journal.SpaceVolume, 0, 0)
	b.Put(key, v.Pack(key))
	for i := range devs {
		key := journal.MakeKey(journal.SpaceDevice, uint64(devs[i].ID), 0)
		b.Put(key, devs[i].Pack(key))
	}
	return j.Commit(ctx, b)
}

// generationStep is how many generations are journaled as given out at once.
const generationStep = 1 << 20

// Open starts a volume: it reads the journal, repairs what the last crash left half done, and
// serves. Devices and journal are closed by the caller, after Close.
func Open(ctx context.Context, o Options) (*Volume, error) {
	o.setDefaults()
	v := &Volume{opened: time.Now(), anchor: anchorState{due: make(chan struct{}, 1)}, opts: o, log: o.Logger, info: o.Volume, infoLock: newIOLock(), recordLock: newIOLock(),
		objects: map[uint64]*object{}, names: map[string]*object{}}
	v.set.Store(&memberSet{})
	if err := v.checkGeometry(); err != nil {
		return nil, err
	}
	v.watched = newWatchedJournal(v, o.Journal)
	v.j = v.watched
	v.blocks = int(o.Volume.ChunkSize) / blockSize
	v.cache = newCache(o.CacheBytes, v.blocks)
	v.dirty.limit, v.dirty.changed = max(o.DirtyLimit, 1), make(chan struct{}, 1)
	v.ctx, v.cancel = context.WithCancel(context.Background())

	members := slices.Clone(o.Members)
	slices.SortFunc(members, func(a, b Member) int { return int(a.Record.ID) - int(b.Record.ID) })
	var bm []balance.Member
	for _, m := range members {
		mem := v.newMember(m)
		if m.Device != nil {
			bm = append(bm, balanceMember(mem))
			v.rotates.Store(v.rotates.Load() || m.Device.Rotational())
		}
		v.loadState(mem)
		if err := v.loadRecord(mem); err != nil {
			v.cancel()
			return nil, fmt.Errorf("device %v: %w", mem.id, err)
		}
		v.putMember(mem)
	}
	if err := errors.Join(v.load(ctx), v.loadEvents(), v.initJobs()); err != nil {
		v.cancel()
		return nil, err
	}
	v.bal = balance.New(bm, balance.Options{Copies: int(o.Volume.Copies), Space: (*volumeSpace)(v), Seed: o.Seed, OnError: v.deviceError})
	v.restoreDrains()
	for _, m := range v.devs() {
		e := v.effectsOf(m.state)
		v.bal.SetPlaceable(m.id, e.place)
		v.bal.SetReadable(m.id, e.read)
	}
	if err := errors.Join(v.settleAreas(ctx), v.recover(ctx)); err != nil {
		v.bal.Close()
		v.cancel()
		return nil, err
	}
	v.start()
	return v, nil
}

func balanceMember(m *member) balance.Member {
	return balance.Member{Device: m.Device, Domain: m.Record.Domain}
}

func (v *Volume) checkGeometry() error {
	c := v.opts.Volume.ChunkSize
	if c < 64<<10 || c > 16<<20 || c&(c-1) != 0 {
		return fmt.Errorf("chunk size %d is not a power of two from 64 KiB to 16 MiB", c)
	}
	if k := v.opts.Volume.Copies; k < 1 || k > maxCopies {
		return fmt.Errorf("%d copies: between 1 and %d are possible", k, maxCopies)
	}
	if len(v.opts.Members) == 0 || len(v.opts.Members) > 64 {
		return fmt.Errorf("%d devices: between 1 and 64 are possible", len(v.opts.Members))
	}
	return nil
}

// start begins the background work of an open volume.
func (v *Volume) start() {
	v.sizeBudget()
	v.wb.init(v)
	v.flushes.init(v)
	v.heals.init(v)
	v.wg.Go(v.anchorLoop)
	v.wg.Go(v.learnLoop)
	v.wg.Go(v.watched.run)
	v.wg.Go(v.cleanUp)
	v.wg.Go(v.watch)
	v.wg.Go(v.runJobs)
}

// Close flushes, commits, writes the anchors and ends the volume's work. No I/O may be under
// way. An error tells that not everything acknowledged became durable.
func (v *Volume) Close(ctx context.Context) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.mu.Unlock()
	v.stopJobs()
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	err := v.Flush(ctx)
	v.flushes.close()
	v.cancel()
	v.dirty.close()
	v.wg.Wait()
	v.bal.Close()
	v.learn(ctx)
	return errors.Join(err, v.writeAnchors())
}

// newGeneration returns a number that no placement has had.
func (v *Volume) newGeneration() uint64 {
	g := v.gen.Add(1) - 1
	if g+generationStep/4 >= v.generationLimit() {
		v.raiseGenerations()
	}
	return g
}

func (v *Volume) generationLimit() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.genLimit
}

// raiseGenerations journals a higher bound long before the present one is reached.
func (v *Volume) raiseGenerations() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gen.Load()+generationStep/4 < v.genLimit || v.closed {
		return
	}
	v.genLimit += generationStep
	v.wg.Go(func() {
		if err := v.commitVolume(v.ctx, &journal.Batch{}); err != nil {
			v.log.Error("journal", "op", "raise generations", "err", err)
		}
	})
}

// commitVolume commits b together with the volume's record as it is then: an older one never
// comes after a newer one.
func (v *Volume) commitVolume(ctx context.Context, b *journal.Batch) error {
	v.infoLock.Lock()
	defer v.infoLock.Unlock()
	v.mu.Lock()
	info := v.info
	info.Generation, info.NextObject = v.genLimit, max(v.nextID, v.idWanted)
	v.mu.Unlock()
	putVolume(b, &info)
	return v.j.Commit(ctx, b)
}

func putVolume(b *journal.Batch, info *journal.Volume) {
	key := journal.MakeKey(journal.SpaceVolume, 0, 0)
	b.Put(key, info.Pack(key))
}

// slotBytes is the length of the slot that chunk index of an object of that size gets.
func (v *Volume) slotBlocks(size int64, index uint64) int {
	rest := size - int64(index)*int64(v.info.ChunkSize)
	return int(min(int64(v.blocks), (rest+blockSize-1)/blockSize))
}

// volumeSpace is the Volume as the balancer's source of slots.
type volumeSpace Volume

func (s *volumeSpace) Reserve(id devices.ID, size int64) (int64, bool) {
	m := s.dev(id)
	off, ok := m.alloc.reserve(size)
	if ok {
		m.copies.Add(1)
	}
	return off, ok
}

func (s *volumeSpace) Release(id devices.ID, off, size int64) {
	m := s.dev(id)
	m.alloc.release(off, size)
	m.copies.Add(-1)
}

func (s *volumeSpace) Usage(id devices.ID) (used, capacity int64) { return s.dev(id).alloc.usage() }
