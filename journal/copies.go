package journal

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// The copies on the devices are rings: logs of all committed groups, each on a device of its own.
// The committer hands a group to all of them at once, and to Badger; each ring has a goroutine
// that writes and syncs, so that one that hangs stops none but itself. What the tail of a ring
// still holds alive is carried to its head, so a ring never needs a second place for a snapshot,
// and never stops for one.

// Limits of copies.
const (
	copiesMost  = 3
	backlogMax  = 64 << 20 // bytes that wait for a ring that is being made
	queueMax    = 16 << 20 // bytes that wait for a ring
	gatherMax   = 1 << 20  // bytes of a lazy one that wait for more to come
	gatherMost  = 32       // groups of a lazy one that do: the store can lead it on over twice as many
	inlineCount = 4096     // a journal of so few records is copied while StartCopies waits
	dumpUnit    = 192 << 10
	tailReadMax = 1 << 20
	carryMax    = 4 << 20 // of the tail that one group leaves behind
	retryMost   = 60      // times Retry
)

// CopyOptions of StartCopies; the zero value keeps three synchronous copies if there are places.
type CopyOptions struct {
	Places []Place
	// Async lets Commit return before any copy has the group.
	Async bool
	// Need is how many copies must have a group before Commit returns, if so many are in use;
	// default 2.
	Need int
	// Delay is how long groups gather for a copy that Commit does not wait for; default 500 ms.
	Delay time.Duration
	// Timeout is how long a copy may lag before it is given up; default 5 s.
	Timeout time.Duration
	// Retry is how long a place that failed is left alone at first, and up to 60 times that when it
	// fails again and again; default 10 s.
	Retry time.Duration
	// Tell, if set, is called with a device and a text when the journal comes to take half of the area of
	// a copy, and again when half as much has been added: before a copy can be lost for lack of room. It
	// must not wait for the journal.
	Tell func(device, text string)
}

func (o *CopyOptions) setDefaults() {
	o.Delay = cmp.Or(o.Delay, 500*time.Millisecond)
	o.Need = cmp.Or(o.Need, 2)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Retry = cmp.Or(o.Retry, 10*time.Second)
	if o.Async {
		o.Need = 0
	}
}

// CopyState says how a copy is.
type CopyState string

// The states of a copy.
const (
	CopyGood   CopyState = "good"
	CopyMaking CopyState = "making" // it is being written for the first time
	CopyFailed CopyState = "failed" // it was given up and is tried again later
	CopyUnused CopyState = "unused" // the device is kept in reserve
)

// CopyStatus is a copy as people look at it.
type CopyStatus struct {
	Device [16]byte
	Name   string
	State  CopyState
	Seq    Seq   // what is durable there
	Bytes  int64 // it takes
	Size   int64 // it may take
	Reason string
}

// CopiesStatus is all copies as people look at them.
type CopiesStatus struct {
	Wanted, Good int
	Written      int64 // bytes since they were started
	Ahead        int64 // of these: zeros ahead of a head that has not gone round yet (see Thin)
	Live         int64 // bytes of the journal's records; 0: far less than the copies have room for
	Copies       []CopyStatus
}

// keeper keeps the copies of one store.
type keeper struct {
	s     *Store
	log   *slog.Logger
	opts  CopyOptions
	lives lives

	quit    chan struct{}
	routine sync.WaitGroup // the monitor, and who watches the room

	mu      sync.Mutex
	places  []Place
	copies  []*copyRing // in use
	penalty map[[16]byte]*penalty
	changed chan struct{} // closed and renewed when a copy has got on or was given up
	closed  bool
	making  int // goroutines that read the store for new copies
	live    int64
	// Goroutines that write, by device. While one that was given up hangs there, nobody else writes
	// there: what it holds may still land.
	writers map[[16]byte]int
	written int64
	ahead   int64 // of written
}

type penalty struct {
	until  time.Time
	wait   time.Duration
	reason string
}

// copyRing is a ring in use.
type copyRing struct {
	place Place
	state CopyState // making or good, or failed when given up
	good  time.Time // since then

	resumed bool // it was there before this life

	ring    *ring       // of the committer while good, of the dump while making
	backlog []groupUnit // groups that came while it was being made
	queue   []ringWrite
	bytes   int // of backlog and queue
	since   time.Time
	work    chan struct{} // has one element when the queue may have grown
	ended   chan struct{} // closed when the writer has ended

	lazy bool          // Commit does not wait for it: groups gather
	took time.Duration // a write and its sync, smoothed

	seq     Seq    // durable
	synced  uint64 // durable position
	kept    uint64 // the tail of the newest durable unit
	hurry   bool   // somebody waits for what is queued
	lastAt  uint64 // the newest unit that is durable
	used    uint64
	writing bool

	header ringHeader // the newest written; of the writer
	laid   uint64     // before this position blocks of a Thin area have been written; of the writer

	tails    []*tailUnit // read back from the tail, in order
	tailNext uint64      // where reading goes on
	reading  bool
}

type groupUnit struct {
	state   State
	payload []byte
}

type tailUnit struct {
	ops []Op
	end uint64
}

// StartCopies begins to keep copies of the journal on devices: those that Open found to hold what
// the store holds go on, the others are written anew, the first wanted ones at once. It is called
// once, before the first Commit.
func (s *Store) StartCopies(o CopyOptions) error {
	o.setDefaults()
	k := &keeper{s: s, log: s.log, opts: o, lives: s.lives, quit: make(chan struct{}), penalty: map[[16]byte]*penalty{}, writers: map[[16]byte]int{},
		changed: make(chan struct{})}
	if len(k.lives) == 0 { // opened without places: the store alone knows the lives before
		before, err := s.readLives()
		if err != nil {
			return err
		}
		if k.lives, err = s.beginLife(before); err != nil {
			return err
		}
		s.lives = k.lives
	}
	k.places = usablePlaces(o.Places)
	k.resume(s.surveys)
	if s.State().Count <= inlineCount {
		for _, p := range k.candidates() {
			k.adopt(p).Wait()
		}
	}
	s.mu.Lock()
	s.copies = k
	s.mu.Unlock()
	k.routine.Go(k.monitor)   // ends with quit
	k.routine.Go(k.watchRoom) // too
	return nil
}

func usablePlaces(places []Place) (usable []Place) {
	for _, p := range places {
		if p.usable() {
			usable = append(usable, p)
		}
	}
	return usable
}

// SetPlaces says where copies may be from now on. Copies elsewhere are ended.
func (s *Store) SetPlaces(places []Place) {
	s.mu.Lock()
	k := s.copies
	s.mu.Unlock()
	if k == nil {
		return
	}
	k.mu.Lock()
	k.places = usablePlaces(places)
	for _, c := range slices.Clone(k.copies) {
		if !slices.ContainsFunc(k.places, func(p Place) bool { return p.Device == c.place.Device }) {
			k.endLocked(c)
		}
	}
	k.mu.Unlock()
	s.wake()
}

// Copies tells how the copies are.
func (s *Store) Copies() CopiesStatus {
	s.mu.Lock()
	k := s.copies
	s.mu.Unlock()
	if k == nil {
		return CopiesStatus{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	st := CopiesStatus{Wanted: k.wantedLocked(), Written: k.written, Ahead: k.ahead, Live: k.live}
	for _, p := range k.places {
		c := CopyStatus{Device: p.Device, Name: p.Name, State: CopyUnused, Size: int64(ringSize(p.Area.Size()))}
		if i := k.indexLocked(p.Device); i >= 0 {
			r := k.copies[i]
			c.State, c.Seq, c.Bytes = r.state, r.seq, int64(r.used)
			if r.state == CopyGood {
				st.Good++
			}
		} else if pen := k.penalty[p.Device]; pen != nil {
			c.State, c.Reason = CopyFailed, pen.reason
		}
		st.Copies = append(st.Copies, c)
	}
	return st
}

func (k *keeper) wantedLocked() int { return min(copiesMost, len(k.places)) }

func (k *keeper) indexLocked(device [16]byte) int {
	return slices.IndexFunc(k.copies, func(c *copyRing) bool { return c.place.Device == device })
}

func (k *keeper) newCopy(p Place, r *ring) *copyRing {
	return &copyRing{place: p, ring: r, state: CopyMaking, work: make(chan struct{}, 1), ended: make(chan struct{}), tailNext: r.tail, kept: r.tail, used: r.used()}
}

// candidates returns the places that copies should be made in, the best first: in failure domains
// that have none, and large.
func (k *keeper) candidates() (list []Place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	taken := map[string]int{}
	for _, c := range k.copies {
		taken[c.place.domain()]++
	}
	var rest []Place
	for _, p := range k.places {
		pen := k.penalty[p.Device]
		if k.indexLocked(p.Device) < 0 && k.writers[p.Device] == 0 && (pen == nil || !time.Now().Before(pen.until)) {
			rest = append(rest, p)
		}
	}
	for len(k.copies)+len(list) < k.wantedLocked() && len(rest) > 0 {
		best := 0
		for i := range rest {
			a, b := taken[rest[i].domain()], taken[rest[best].domain()]
			if a < b || a == b && rest[i].Area.Size() > rest[best].Area.Size() {
				best = i
			}
		}
		taken[rest[best].domain()]++
		list = append(list, rest[best])
		rest = slices.Delete(rest, best, best+1)
	}
	return list
}

// adopt begins a copy in a place; only the committer may call it, between groups.
func (k *keeper) adopt(p Place) *sync.WaitGroup {
	var made sync.WaitGroup
	c := k.newCopy(p, newRing(k.s.uuid, &p, k.lives.last()))
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return &made
	}
	k.copies = append(k.copies, c)
	k.making++
	k.writers[p.Device]++
	k.mu.Unlock()
	txn, state := k.s.db.NewTransaction(false), k.s.State()
	made.Add(1)
	go func() { // ends with the last record, with Close or with the first error; it may hang with its device
		defer made.Done()
		err := k.make(c, txn, state)
		txn.Discard()
		if err != nil {
			k.drop(c, err)
		}
		k.mu.Lock()
		k.making--
		k.writers[p.Device]--
		k.noteLocked()
		k.mu.Unlock()
	}()
	return &made
}

// adoptMore makes copies where they are wanted. The committer calls it between groups.
func (k *keeper) adoptMore() {
	for _, p := range k.candidates() {
		k.adopt(p)
	}
}

// monitor gives up copies that hang and has new ones made.
func (k *keeper) monitor() {
	every := min(time.Second, k.opts.Timeout/4, k.opts.Retry)
	t := time.NewTicker(every)
	defer t.Stop()
	for last := time.Now(); ; {
		select {
		case <-k.quit:
			return
		case <-t.C:
		}
		now := time.Now()
		if paused := now.Sub(last) - 2*every; paused > 0 { // see patience
			k.forgive(paused, now)
		}
		last = now
		k.dropLaggards(0)
		if len(k.candidates()) > 0 {
			k.s.wake()
		}
	}
}

// forgive has a pause not count for what is overdue.
func (k *keeper) forgive(paused time.Duration, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.copies {
		if c.since = c.since.Add(paused); c.since.After(now) {
			c.since = now
		}
	}
}

// dropLaggards gives up copies whose oldest write is overdue, or, if a sequence is given, those
// that do not have it.
func (k *keeper) dropLaggards(seq Seq) {
	late := map[*copyRing]error{}
	k.mu.Lock()
	for _, c := range k.copies {
		waits := c.state == CopyGood && (len(c.queue) > 0 || c.writing)
		switch {
		case waits && (seq > 0 && c.seq < seq || seq == 0 && time.Since(c.since) > k.opts.Timeout+k.opts.Delay):
			late[c] = fmt.Errorf("it does not answer for %v", k.opts.Timeout)
		case c.state == CopyGood && c.bytes > queueMax, c.bytes > backlogMax:
			late[c] = fmt.Errorf("it is %d MiB behind", c.bytes>>20)
		}
	}
	k.mu.Unlock()
	for c, why := range late {
		k.drop(c, why)
	}
}

// drop gives up a copy and leaves its place alone for a while.
func (k *keeper) drop(c *copyRing, why error) {
	k.mu.Lock()
	if c.state == CopyFailed || k.closed {
		k.endLocked(c)
		k.mu.Unlock()
		return
	}
	k.endLocked(c)
	pen := k.penalty[c.place.Device]
	if pen == nil || !c.good.IsZero() && time.Since(c.good) > retryMost*k.opts.Retry {
		pen = &penalty{wait: k.opts.Retry / 2}
		k.penalty[c.place.Device] = pen
	}
	pen.wait = min(2*pen.wait, retryMost*k.opts.Retry)
	pen.until, pen.reason = time.Now().Add(pen.wait), why.Error()
	k.mu.Unlock()
	k.log.Warn("a copy of the journal is given up", "device", c.place.Name, "error", why)
}

func (k *keeper) endLocked(c *copyRing) {
	c.state = CopyFailed
	c.queue, c.backlog, c.tails = nil, nil, nil
	k.copies = slices.DeleteFunc(k.copies, func(x *copyRing) bool { return x == c })
	k.chooseLocked()
	k.noteLocked()
	poke(c.work)
}

func (k *keeper) noteLocked() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// close lets the copies write what is queued, as long as they get on. It reports whether nobody reads
// the store any more.
func (k *keeper) close() (idle bool) {
	close(k.quit)
	k.routine.Wait()
	k.mu.Lock()
	k.closed = true
	copies := slices.DeleteFunc(slices.Clone(k.copies), func(c *copyRing) bool { return c.state != CopyGood })
	for _, c := range slices.Clone(k.copies) {
		if c.state == CopyMaking {
			k.endLocked(c)
		}
		poke(c.work)
	}
	k.mu.Unlock()
	for _, c := range copies {
		if !k.awaitEnd(c) {
			k.log.Warn("a copy of the journal hangs", "device", c.place.Name)
		}
	}
	timeout := time.NewTimer(k.opts.closeStuck())
	defer timeout.Stop()
	for {
		k.mu.Lock()
		making, changed := k.making, k.changed
		k.mu.Unlock()
		if making == 0 {
			return true
		}
		select {
		case <-changed:
		case <-timeout.C:
			return false
		}
	}
}
