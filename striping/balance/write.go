package balance

import (
	"slices"
	"time"

	"ballast/devices"
	"ballast/striping/policy"
)

// Run is a contiguous part of a slot.
type Run struct {
	Off  int64    // from the slot's begin; a multiple of devices.BlockSize
	Bufs [][]byte // what is written there
}

// Placed is a slot that holds a copy.
type Placed struct {
	Device devices.ID
	Off    int64
}

// Write is a chunk, or a part of one, that is to get a new slot on several devices.
type Write struct {
	Slot   int64 // bytes to reserve, a multiple of devices.BlockSize
	Runs   []Run // what is written; the rest of the slot is left as it is
	Copies int   // 0 means Options.Copies
	// Class is Background for work that no client waits for: it yields to all other work, and
	// nothing of it is done twice because it is late.
	Class devices.Class
	// Independent says that this is not one of several pieces that somebody waits for at once.
	Independent bool
	// Prefer are the devices that hold the chunk before this one, if it should lie beside it.
	Prefer []devices.ID
	// Beside, if set, is the run of chunks that the write belongs to.
	Beside *Neighbours
	// Done is called once: with the slots that hold the data, as many as asked for, or fewer, but
	// at least one, if there are not more failure domains that take data. An error means that
	// there is none: ErrNoSpace, ErrNoDevice, ErrClosed, or the last error of a device.
	Done func(w *Write, placed []Placed, err error)
	// Returned is called once, after Done, when no disk holds the buffers any more. It may be nil.
	Returned func(w *Write)
}

// Neighbours is a run of chunks that should lie side by side on their devices, so that a spinning
// disk reads them in one go later. Writes that name the same run go where the first of them was
// placed. They may be handed over all at once, and while others wait: a run that has begun on
// devices goes on there although they have their fill by then, else under load, when each
// completion makes room for one chunk, every run would be torn at once. The zero value is ready.
type Neighbours struct {
	devices []devices.ID // used by the placing goroutine alone
}

// maxRun is how many chunks may be placed beyond a device's fill because they go beside another.
const maxRun = 8

// size is the number of bytes to write.
func (w *Write) size() int64 {
	var n int64
	for _, r := range w.Runs {
		for _, b := range r.Bufs {
			n += int64(len(b))
		}
	}
	return n
}

// write is a Write on its way. All but the first four fields is guarded by b.mu.
//
// It begins with want copies. Each copy ends well, or badly, or is overtaken: when as many have
// ended well as are wanted, the write is done, and those still under way are late. A late copy's
// slot is in quarantine: the disk may write to it at any time, so it is given back only when
// the disk has let go of the buffers.
type write struct {
	b    *Balancer
	w    *Write
	size int64
	k    int // copies asked for

	want     int
	copies   []*writeCopy
	placed   []Placed
	live     int // copies under way
	held     int // copies the disk has not let go of
	err      error
	done     bool // decided
	told     bool // Done has returned
	returned bool // Returned was called, or is about to be
}

// writeCopy is one copy of a write on one device.
type writeCopy struct {
	timer // when to consider a second attempt
	wr    *write
	m     *member
	off   int64
	began time.Duration
	exp   time.Duration // E when it began
	pause time.Duration // the device's usual pause
	reqs  []devices.Request

	left   int // requests not answered
	held   int // requests not returned
	err    error
	kept   bool // Done names the slot
	hedged bool // a second attempt was made
}

// Write places w and writes it. It does not wait: if no device has room, the write waits in the
// daemon, first come, first placed (background writes when no other waits).
func (b *Balancer) Write(w *Write) {
	wr := &write{b: b, w: w, size: w.size(), k: w.Copies}
	if wr.k <= 0 {
		wr.k = b.opts.Copies
	}
	b.mu.Lock()
	b.queues[w.Class] = append(b.queues[w.Class], wr)
	b.waiting.Add(1)
	b.mu.Unlock()
	b.place()
}

// addLocked enters one more copy.
func (wr *write) addLocked(m *member, off int64, on *policy.Candidate, now time.Duration) *writeCopy {
	c := &writeCopy{wr: wr, m: m, off: off, began: now, exp: on.Expect, pause: on.Pause}
	c.fire = c.overdue
	c.reqs = make([]devices.Request, len(wr.w.Runs))
	c.left, c.held = len(c.reqs), len(c.reqs)
	for i, run := range wr.w.Runs {
		c.reqs[i] = devices.Request{
			Kind:     devices.Write,
			Class:    wr.w.Class,
			Off:      off + run.Off,
			Bufs:     run.Bufs,
			Done:     c.result,
			Returned: c.letGo,
		}
	}
	wr.copies = append(wr.copies, c)
	wr.live++
	wr.held++
	m.writes.Add(1)
	m.writeBytes.Add(uint64(wr.size))
	return c
}

func (c *writeCopy) submit() {
	if len(c.reqs) == 0 { // nothing to write: an empty slot is complete
		c.answered(0, nil)
		c.release(0)
		return
	}
	if b := c.wr.b; !b.opts.NoHedges && c.wr.w.Class == devices.Foreground {
		b.timers.set(&c.timer, c.began+policy.HedgeAt(c.exp, policy.WriteSlack, c.pause))
	}
	for i := range c.reqs {
		c.m.dev.Submit(&c.reqs[i])
	}
}

func (c *writeCopy) result(_ *devices.Request, err error) { c.answered(1, err) }

func (c *writeCopy) letGo(*devices.Request) { c.release(1) }

// answered takes in the results of n requests.
func (c *writeCopy) answered(n int, err error) {
	wr, b := c.wr, c.wr.b
	b.mu.Lock()
	c.left -= n
	if err != nil && c.err == nil {
		c.err = err
	}
	if c.left > 0 {
		b.mu.Unlock()
		return
	}
	wr.live--
	failed := c.err
	if failed == nil && !wr.done {
		c.kept = true
		wr.placed = append(wr.placed, Placed{c.m.id, c.off})
	}
	if failed != nil {
		wr.err = failed
	}
	settled := wr.settleLocked()
	replace := failed != nil && !wr.done && wr.live+len(wr.placed) < wr.want
	b.mu.Unlock()

	b.timers.remove(&c.timer)
	if failed != nil {
		b.fail(c.m.id, failed)
	}
	if settled {
		wr.finish()
	} else if replace {
		wr.rewrite()
	}
}

// settleLocked decides the write if it can be decided: true exactly once.
func (wr *write) settleLocked() bool {
	if wr.done || wr.want == 0 || len(wr.placed) < wr.want {
		return false
	}
	wr.done = true
	return true
}

// rewrite starts another copy in place of one that has failed. If there is no device left for it,
// the write makes do with fewer copies.
func (wr *write) rewrite() {
	b := wr.b
	for {
		b.mu.Lock()
		missing := !wr.done && wr.live+len(wr.placed) < wr.want
		b.mu.Unlock()
		if !missing {
			return
		}
		c := wr.spare(nil, func() bool {
			if wr.live+len(wr.placed) >= wr.want {
				return false
			}
			b.counts.Rewrites++
			return true
		})
		if c != nil {
			c.submit()
			continue
		}
		b.mu.Lock()
		if missing = wr.live+len(wr.placed) < wr.want; missing && !wr.done {
			wr.want = wr.live + len(wr.placed)
			b.counts.Short++
		}
		settled := wr.settleLocked()
		lost := !wr.done && wr.want == 0
		if lost {
			wr.done = true
		}
		b.mu.Unlock()
		if settled || lost {
			wr.finish()
		}
		return
	}
}

// spare reserves a slot on the best device outside the write's domains and enters the copy, if
// admit, called with the lock held, agrees; nil if there is none. A copy that is merely late is
// not worth space that could be used for another chunk.
func (wr *write) spare(late *writeCopy, admit func() bool) *writeCopy {
	b := wr.b
	cands := b.candidates(wr.size, wr.w.Class)
	for {
		i := wr.bestSpare(cands, late)
		if i < 0 {
			return nil
		}
		m := b.devs()[i]
		off, ok := b.opts.Space.Reserve(m.id, wr.w.Slot)
		if !ok {
			cands[i].Free = 0
			continue
		}
		b.mu.Lock()
		raced := slices.ContainsFunc(wr.copies, func(c *writeCopy) bool { return c.m.domain == m.domain })
		var c *writeCopy
		if !wr.done && !raced && admit() {
			c = wr.addLocked(m, off, &cands[i], b.now())
		}
		b.mu.Unlock()
		if c == nil {
			b.opts.Space.Release(m.id, off, wr.w.Slot)
		}
		if c != nil || !raced {
			return c
		}
	}
}

// bestSpare chooses the device that stands in for a copy that is late, or for one that failed.
// With a late copy, any of those under way may turn out to be the one too many, so the space has
// to suffice without any of them.
func (wr *write) bestSpare(cands []policy.Candidate, late *writeCopy) int {
	b := wr.b
	var kept, lost, live []int
	b.mu.Lock()
	for _, c := range wr.copies {
		switch {
		case c == late || c.err != nil:
			lost = append(lost, c.m.domain)
			continue
		case c.left > 0:
			live = append(live, c.m.domain)
		}
		kept = append(kept, c.m.domain)
	}
	b.mu.Unlock()
	o := policy.Order{Size: wr.w.Slot, Copies: wr.k, Promised: b.promised()}
	i, sound := policy.Spare(cands, o, kept, lost)
	if late == nil || i < 0 {
		return i
	}
	o.Only = func(j int) bool { return j == i }
	for _, other := range live {
		if !sound {
			break
		}
		without := slices.DeleteFunc(slices.Clone(kept), func(d int) bool { return d == other })
		without = append(without, late.m.domain)
		_, sound = policy.Spare(cands, o, without, []int{other})
	}
	if !sound {
		return -1
	}
	return i
}

// overdue considers to write a late copy elsewhere as well. It runs on the timers' goroutine.
func (c *writeCopy) overdue() {
	wr, b := c.wr, c.wr.b
	now := b.now()
	b.mu.Lock()
	skip := wr.done || c.left == 0 || c.hedged
	b.mu.Unlock()
	if skip {
		return
	}
	cands := b.candidates(wr.size, wr.w.Class)
	i := wr.bestSpare(cands, c)
	if i < 0 {
		b.timers.set(&c.timer, now+retryHedge)
		return
	}
	other := cands[i].Expect
	if !policy.HedgePays(now-c.began, c.exp, other) {
		b.timers.set(&c.timer, max(c.began+c.exp+other, now+recheckHedge))
		return
	}
	if b.commonCause() {
		b.timers.set(&c.timer, now+retryHedge)
		return
	}
	n := wr.spare(c, func() bool {
		if c.left == 0 || !b.writes.Take(now) {
			return false
		}
		c.hedged = true
		b.counts.Replacements++
		return true
	})
	if n == nil {
		b.timers.set(&c.timer, now+retryHedge)
		return
	}
	n.submit()
}

const (
	recheckHedge = time.Millisecond      // least time between two looks at a late operation
	retryHedge   = 20 * time.Millisecond // when nothing could be done about it
)

// finish tells the caller, once, and calls back the copies that are late.
func (wr *write) finish() {
	b := wr.b
	b.mu.Lock()
	err := wr.err
	if len(wr.placed) > 0 {
		err = nil
	}
	var late []*writeCopy
	for _, c := range wr.copies {
		if c.left > 0 {
			late = append(late, c)
		}
	}
	b.mu.Unlock()

	for _, c := range late {
		b.timers.remove(&c.timer)
	}
	wr.w.Done(wr.w, wr.placed, err)
	b.mu.Lock()
	wr.told = true
	b.mu.Unlock()
	for _, c := range late {
		n := 0
		for i := range c.reqs {
			if c.m.dev.Cancel(&c.reqs[i]) {
				n++
			}
		}
		if n > 0 {
			c.answered(n, nil)
			c.release(n)
		}
	}
	wr.release()
}

// release takes in that the disk holds n requests no longer.
func (c *writeCopy) release(n int) {
	wr, b := c.wr, c.wr.b
	b.mu.Lock()
	c.held -= n
	if c.held > 0 {
		b.mu.Unlock()
		return
	}
	wr.held--
	kept := c.kept
	b.mu.Unlock()
	if !kept {
		b.opts.Space.Release(c.m.id, c.off, wr.w.Slot)
	}
	wr.release()
}

// release calls Returned when it is due.
func (wr *write) release() {
	b := wr.b
	b.mu.Lock()
	due := wr.told && wr.held == 0 && !wr.returned
	if due {
		wr.returned = true
	}
	b.mu.Unlock()
	if due && wr.w.Returned != nil {
		wr.w.Returned(wr.w)
	}
}

// refuse ends a write that was given to no device.
func (wr *write) refuse(err error) {
	wr.w.Done(wr.w, nil, err)
	if wr.w.Returned != nil {
		wr.w.Returned(wr.w)
	}
}
