package balance

import (
	"sync"
	"time"

	"ballast/devices"
	"ballast/striping/policy"
)

// Copy is where one copy of the wanted range lies.
type Copy struct {
	Device devices.ID
	Off    int64 // of the wanted range on that device, in bytes
}

// Read is one contiguous range that lies on one or several devices.
type Read struct {
	Copies []Copy
	Size   int64
	Bufs   [][]byte      // destination of the first attempt
	Class  devices.Class // Background for reads that no client waits for; they are not hedged
	// NewBufs returns another destination of the same size, for an attempt while the disk still
	// holds an earlier one. Nil means that there is none: such attempts are then not made.
	NewBufs func() [][]byte
	// Stream, if set, is the sequential stream that the read belongs to.
	Stream *Stream
	// Done is called once: with the data in bufs, which are Bufs or what NewBufs gave, and the
	// index of the copy they come from, or with the error of the last copy.
	Done func(r *Read, copy int, bufs [][]byte, err error)
	// Returned is called once for each destination, Bufs and what NewBufs gave, when the disk has
	// let go of it, at any time; also for the destination that Done named. It may be nil.
	Returned func(bufs [][]byte)
}

func (r *Read) returned(bufs [][]byte) {
	if r.Returned != nil {
		r.Returned(bufs)
	}
}

// read is a Read on its way.
type read struct {
	b *Balancer
	r *Read

	mu       sync.Mutex
	attempts []*attempt
	live     int
	done     bool
	err      error
	first    attempt // the usual one, without an allocation of its own
}

// attempt is one try to read one copy.
type attempt struct {
	timer // when to consider another attempt
	rd    *read
	copy  int
	m     *member
	bufs  [][]byte
	began time.Duration
	exp   time.Duration
	req   devices.Request

	answered bool // guarded by rd.mu
	passedOn bool // the buffers went to the next attempt
}

// Read serves r. It does not wait.
func (b *Balancer) Read(r *Read) {
	rd := &read{b: b, r: r}
	i, exp := b.pick(r, nil, r.Stream)
	if i < 0 {
		r.Done(r, -1, nil, ErrNoDevice)
		r.returned(r.Bufs)
		return
	}
	if len(r.Copies) > 1 {
		b.mu.Lock()
		b.reads.Earn()
		b.mu.Unlock()
	}
	rd.try(&rd.first, i, r.Bufs, exp)
}

// inlineBelow is the expected time below which a read is done by the caller of ReadSync itself:
// handing it over would cost as much. Only memory, and what is cached in memory, is that fast; it
// lies below what is assumed of a device that has not been measured.
const inlineBelow = 15 * time.Microsecond

// ReadSync is Read for callers that wait; r.Done is not used. A range that has a single usable
// copy on a device that is expected to answer at once is read by the calling goroutine itself:
// nothing could be gained by a second attempt, and handing the read over would cost more than the
// read. Everything else is handed over, so that a device that hangs holds the caller no longer
// than the device's deadline.
func (b *Balancer) ReadSync(r *Read) (copy int, bufs [][]byte, err error) {
	if i, ok := b.only(r); ok && b.inline(r, i) {
		m := b.dev(r.Copies[i].Device)
		m.reads.Add(1)
		m.readBytes.Add(uint64(r.Size))
		call := calls.Get().(*inlineRead)
		call.r = r
		call.req.Class = r.Class
		call.req.Off, call.req.Bufs = r.Copies[i].Off, r.Bufs
		err := m.dev.Do(&call.req)
		call.leave()
		if err != nil {
			b.fail(m.id, err)
			return -1, nil, err
		}
		return i, r.Bufs, nil
	}
	type result struct {
		copy int
		bufs [][]byte
		err  error
	}
	ch := make(chan result, 1)
	done := r.Done
	r.Done = func(_ *Read, copy int, bufs [][]byte, err error) { ch <- result{copy, bufs, err} }
	b.Read(r)
	res := <-ch
	r.Done = done
	return res.copy, res.bufs, res.err
}

// inlineRead is a request that is carried out by its caller. It goes back to the pool when both
// the caller and the disk are through with it.
type inlineRead struct {
	req devices.Request
	r   *Read

	mu    sync.Mutex
	users int
}

var calls sync.Pool // of *inlineRead

func newInlineRead() any {
	c := &inlineRead{users: 2}
	c.req.Kind = devices.Read
	c.req.Returned = func(*devices.Request) {
		c.r.returned(c.req.Bufs)
		c.leave()
	}
	return c
}

func init() { calls.New = newInlineRead }

func (c *inlineRead) leave() {
	c.mu.Lock()
	c.users--
	last := c.users == 0
	if last {
		c.users, c.r, c.req.Bufs = 2, nil, nil
	}
	c.mu.Unlock()
	if last {
		calls.Put(c)
	}
}

// only returns the one copy of r that can be read, if there is just one.
func (b *Balancer) only(r *Read) (int, bool) {
	if len(r.Copies) == 1 {
		return 0, b.dev(r.Copies[0].Device) != nil
	}
	usable := -1
	for i := range r.Copies {
		m := b.dev(r.Copies[i].Device)
		if m == nil || m.gone.Load() || m.dev.Failed() != nil {
			continue
		}
		if usable >= 0 {
			return -1, false
		}
		usable = i
	}
	return usable, usable >= 0
}

// inline reports whether copy i is expected to be read faster than it could be handed over.
func (b *Balancer) inline(r *Read, i int) bool {
	f := b.dev(r.Copies[i].Device).forecast(devices.Read, r.Class, r.Copies[i].Off, r.Size)
	return f.Expect < inlineBelow && !f.Overdue
}

// pick returns the copy to read next and what it is expected to take; -1 if all were tried.
func (b *Balancer) pick(r *Read, tried func(copy int) bool, stream *Stream) (int, time.Duration) {
	var buf [4]policy.Source
	sources := buf[:0]
	alone := true
	for i, c := range r.Copies {
		m := b.dev(c.Device)
		if m == nil || m.gone.Load() {
			sources = append(sources, policy.Source{Gone: true})
			continue
		}
		f := m.forecast(devices.Read, r.Class, c.Off, r.Size)
		sources = append(sources, policy.Source{
			Expect:   f.Expect,
			Idle:     f.Idle,
			Readable: m.readable.Load(),
			Gone:     f.Failed,
			Tried:    tried != nil && tried(i),
		})
		alone = alone && !f.Overdue
	}
	if stream != nil && alone {
		if i := stream.pick(b, r, sources); i >= 0 {
			return i, sources[i].Expect
		}
	}
	i := policy.Replica(sources)
	if i < 0 {
		return -1, 0
	}
	return i, sources[i].Expect
}

func (rd *read) tried(copy int) bool {
	for _, a := range rd.attempts {
		if a.copy == copy {
			return true
		}
	}
	return false
}

// try reads copy i into bufs.
func (rd *read) try(a *attempt, i int, bufs [][]byte, exp time.Duration) {
	b, r := rd.b, rd.r
	c := r.Copies[i]
	a.rd, a.copy, a.bufs, a.m = rd, i, bufs, b.dev(c.Device)
	a.began, a.exp = b.now(), exp
	a.req = devices.Request{
		Kind: devices.Read, Class: r.Class, Off: c.Off, Bufs: bufs,
		Done: a.result, Returned: a.letGo,
	}
	a.m.reads.Add(1)
	a.m.readBytes.Add(uint64(r.Size))
	rd.mu.Lock()
	rd.attempts = append(rd.attempts, a)
	rd.live++
	rd.mu.Unlock()
	if len(r.Copies) > 1 && r.NewBufs != nil && !b.opts.NoHedges && r.Class == devices.Foreground {
		a.fire = a.overdue
		b.timers.set(&a.timer, a.began+policy.HedgeAt(exp, a.slack(), a.m.dev.Pause(devices.Read)))
	}
	a.m.dev.Submit(&a.req)
}

func (a *attempt) slack() time.Duration {
	if a.m.dev.Rotational() {
		return policy.RotationalReadSlack
	}
	return policy.ReadSlack
}

// result takes in the answer of a device.
func (a *attempt) result(_ *devices.Request, err error) {
	rd, b, r := a.rd, a.rd.b, a.rd.r
	if a.fire != nil {
		b.timers.remove(&a.timer)
	}
	if err != nil {
		b.fail(a.m.id, err)
	}
	rd.mu.Lock()
	a.answered = true
	rd.live--
	if rd.done {
		rd.mu.Unlock()
		return
	}
	if err == nil {
		rd.done = true
		var late []*attempt
		for _, o := range rd.attempts {
			if !o.answered {
				late = append(late, o)
			}
		}
		rd.mu.Unlock()
		r.Done(r, a.copy, a.bufs, nil)
		for _, o := range late {
			b.timers.remove(&o.timer)
			if o.m.dev.Cancel(&o.req) {
				r.returned(o.bufs)
			}
		}
		return
	}
	rd.err = err
	waits := rd.live > 0
	rd.mu.Unlock()
	if !waits { // else another attempt is under way already
		rd.redirect(a)
	}
}

// redirect tries the next copy after a has failed.
func (rd *read) redirect(a *attempt) {
	b, r := rd.b, rd.r
	rd.mu.Lock()
	i, exp := b.pick(r, rd.tried, nil)
	rd.mu.Unlock()
	var bufs [][]byte
	switch {
	case i < 0:
	case !a.req.Held():
		bufs, a.passedOn = a.bufs, true
	case r.NewBufs != nil:
		bufs = r.NewBufs()
	}
	if bufs == nil {
		rd.mu.Lock()
		over := rd.done || rd.live > 0 // a second attempt began meanwhile
		rd.done = rd.done || !over
		err := rd.err
		rd.mu.Unlock()
		if !over {
			r.Done(r, -1, nil, err)
		}
		return
	}
	b.mu.Lock()
	b.counts.Redirects++
	b.mu.Unlock()
	rd.try(&attempt{}, i, bufs, exp)
}

// letGo takes in that the disk no longer holds the attempt's buffers.
func (a *attempt) letGo(*devices.Request) {
	if !a.passedOn {
		a.rd.r.returned(a.bufs)
	}
}

// overdue considers to read another copy as well. It runs on the timers' goroutine.
func (a *attempt) overdue() {
	rd, b, r := a.rd, a.rd.b, a.rd.r
	now := b.now()
	rd.mu.Lock()
	if rd.done || a.answered || rd.live > 1 {
		rd.mu.Unlock()
		return
	}
	i, other := b.pick(r, rd.tried, nil)
	useless := i < 0 || !b.dev(r.Copies[i].Device).readable.Load()
	rd.mu.Unlock()
	if useless {
		return
	}
	if !policy.HedgePays(now-a.began, a.exp, other) {
		b.timers.set(&a.timer, max(a.began+a.exp+other, now+recheckHedge))
		return
	}
	if b.commonCause() {
		b.timers.set(&a.timer, now+retryHedge)
		return
	}
	b.mu.Lock()
	token := b.reads.Take(now)
	if token {
		b.counts.Hedges++
	}
	b.mu.Unlock()
	if !token {
		b.timers.set(&a.timer, now+retryHedge)
		return
	}
	// Once the read is done, r may be its owner's next one: it is not touched then. The new
	// buffers keep it from being done with.
	rd.mu.Lock()
	if rd.done || a.answered {
		rd.mu.Unlock()
		return
	}
	bufs := r.NewBufs()
	rd.mu.Unlock()
	rd.try(&attempt{}, i, bufs, other)
}
