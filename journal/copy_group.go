package journal

import (
	"fmt"
	"slices"
	"time"
)

// group hands a committed group to the copies, and lets them carry what is alive of their tails.
// The committer calls it once the group's changes are known to g.
func (k *keeper) group(g *groupTxn, ops []Op) error {
	size := 0
	for i := range ops {
		size += opSize(&ops[i])
	}
	payload := appendOps(make([]byte, 0, size), ops)
	k.mu.Lock()
	k.chooseLocked()
	copies := slices.Clone(k.copies)
	k.mu.Unlock()
	for _, c := range copies {
		crowded, err := k.groupTo(c, g, payload)
		// One group may be larger than what it may carry: then more follows that carries only.
		for more := 0; more < carriesMost && crowded && err == nil; more++ {
			crowded, err = k.groupTo(c, g, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// carriesMost bounds what a commit waits for.
const carriesMost = 8

// groupTo appends a group to one copy. What is alive of the tail goes into the same unit, as changes
// that change nothing; so the tail can move with it. It reports whether there is little room left, and
// more to be gained by the same again without the group.
func (k *keeper) groupTo(c *copyRing, g *groupTxn, payload []byte) (crowded bool, err error) {
	tails, good := k.takeTails(c, g.after, payload)
	if !good {
		return false, nil
	}
	alive, ends, err := g.alive(tails)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state != CopyGood {
		return false, nil
	}
	r, tail := c.ring, c.ring.tail
	n := k.awaitRoomLocked(c, len(payload), ends)
	c.tails = append(slices.Clone(tails[n:]), c.tails...)
	if n > 0 {
		payload, tail = append(slices.Clip(payload), alive[:ends[n-1]]...), tails[n-1].end
	} else if len(payload) == 0 || c.state != CopyGood {
		return false, nil
	}
	if !c.hasRoom(len(payload)) {
		go k.drop(c, fmt.Errorf("the journal does not fit: %d of %d KiB are taken", r.used()>>10, r.size>>10)) // wants the lock
		return false, nil
	}
	k.pushLocked(c, r.add(unitGroup, g.after, tail, c.synced, payload))
	return r.used() > r.crowdedAt(), nil
}

// awaitRoomLocked returns how many units of the tail can be carried by a unit of so many bytes more. While
// there is little room it waits for what is on its way to the device: the tail that the newest durable
// unit needs is not overwritten.
func (k *keeper) awaitRoomLocked(c *copyRing, bytes int, ends []int) (n int) {
	for c.state == CopyGood {
		n = len(ends)
		for n > 0 && !c.hasRoom(bytes+ends[n-1]) {
			n--
		}
		enough := n == len(ends) || n > 0 && c.ring.used() <= c.ring.crowdedAt()
		if enough && c.hasRoom(bytes) || c.kept == c.ring.tail {
			break
		}
		k.hurryLocked(c, nil)
	}
	return n
}

// hasRoom tells whether a unit of n bytes can be written without overwriting what is needed if the power
// fails before that.
func (c *copyRing) hasRoom(n int) bool {
	r := c.ring
	return r.head-c.kept+unitSize(r.head, r.size, n) <= r.size
}

// hurryLocked waits until something has become of a copy or of its tail. It reports whether it was in
// time.
func (k *keeper) hurryLocked(c *copyRing, late <-chan time.Time) bool {
	c.hurry = true
	poke(c.work)
	changed := k.changed
	k.mu.Unlock()
	defer k.mu.Lock()
	select {
	case <-changed: // that comes: a copy that hangs is given up
		return true
	case <-late:
		return false
	}
}

// takeTails returns the units of the tail that a copy should leave behind now, if it is good. A ring
// that is nearly full waits a moment for its tail to be read; one that is being made keeps the group.
func (k *keeper) takeTails(c *copyRing, after State, payload []byte) (tails []*tailUnit, good bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state == CopyMaking {
		c.backlog = append(c.backlog, groupUnit{after, payload})
		c.bytes += len(payload)
	}
	if c.state != CopyGood {
		return nil, false
	}
	r := c.ring
	need := unitSize(0, r.size, len(payload))
	if r.used()+need <= r.reclaimAt() {
		return nil, true
	}
	k.readTailLocked(c)
	if len(c.tails) == 0 && r.used()+2*need > min(r.crowdedAt(), r.size-r.size/8) {
		k.awaitTailLocked(c)
	}
	// A unit is carried as a whole: it must not become so large that it finds no room.
	budget := min(carryMax, max(r.size/32, 64<<10))
	if len(payload) > 0 {
		budget = min(4*need+64<<10, budget)
	}
	for n := 0; n < len(c.tails) && (n == 0 || c.tails[n].end-r.tail <= budget); n++ {
		tails = c.tails[: n+1 : n+1]
	}
	c.tails = c.tails[len(tails):]
	return tails, true
}

// awaitTailLocked waits until some of the tail is read, for a second at most.
func (k *keeper) awaitTailLocked(c *copyRing) {
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for len(c.tails) == 0 && c.state == CopyGood && (c.reading || c.synced < c.ring.head) && k.hurryLocked(c, timeout.C) {
		k.readTailLocked(c)
	}
}

// alive returns what is still so after the group of what units say, packed, and where in it each of
// them ends.
func (g *groupTxn) alive(tails []*tailUnit) (payload []byte, ends []int, err error) {
	for _, t := range tails {
		for i := range t.ops {
			op := &t.ops[i]
			if op.Value == nil {
				continue // what it hid is gone with the units before
			}
			h, err := g.look(op.Key)
			if err != nil {
				return nil, nil, err
			}
			if h.there && h.hash == RecordDigest(op.Key, op.Value) {
				payload = appendOps(payload, t.ops[i:i+1])
			}
		}
		ends = append(ends, len(payload))
	}
	return payload, ends, nil
}

// readTailLocked reads on at the tail, beside everything else, if little was read ahead.
func (k *keeper) readTailLocked(c *copyRing) {
	ready := uint64(0)
	if n := len(c.tails); n > 0 {
		ready = c.tails[n-1].end - c.ring.tail
	}
	if c.reading || ready > 2*tailReadMax || c.tailNext >= c.synced {
		return
	}
	c.reading = true
	from, end := c.tailNext, c.synced
	reader := newRingReader(c.place.Area, c.ring.id, c.ring.size)
	go func() { // ends with the read
		units, err := readTail(reader, from, end)
		k.mu.Lock()
		c.reading = false
		k.noteLocked()
		if c.state == CopyGood && err == nil {
			c.tails = append(c.tails, units...)
			c.tailNext = units[len(units)-1].end
		}
		k.mu.Unlock()
		if err != nil {
			k.drop(c, fmt.Errorf("reading its tail: %w", err))
		}
	}()
}

func readTail(r *ringReader, from, end uint64) (units []*tailUnit, err error) {
	for pos := from; pos < end && pos-from < tailReadMax; {
		u, err := r.unit(pos, nil)
		if err != nil {
			return nil, err
		}
		ops, err := parseOps(u.payload)
		if err != nil {
			return nil, err
		}
		units = append(units, &tailUnit{ops, u.end})
		pos = u.end
	}
	return units, nil
}
