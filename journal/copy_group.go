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
	copies := slices.Clone(k.copies)
	k.mu.Unlock()
	for _, c := range copies {
		if err := k.groupTo(c, g, payload); err != nil {
			return err
		}
	}
	return nil
}

// groupTo appends a group to one copy. What is alive of the tail goes into the same unit, as changes
// that change nothing; so the tail can move with it.
func (k *keeper) groupTo(c *copyRing, g *groupTxn, payload []byte) error {
	tails, good := k.takeTails(c, g.after, payload)
	if !good {
		return nil
	}
	alive, err := g.alive(tails)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state != CopyGood {
		return nil
	}
	r, tail := c.ring, c.ring.tail
	if all := append(slices.Clip(payload), alive...); len(tails) > 0 && r.fits(len(all)) {
		payload, tail = all, tails[len(tails)-1].end
	} else {
		c.tails = append(slices.Clone(tails), c.tails...) // a smaller part of it may fit another time
	}
	if !r.fits(len(payload)) {
		go k.drop(c, fmt.Errorf("the journal does not fit: %d of %d KiB are taken", r.used()>>10, r.size>>10)) // wants the lock
		return nil
	}
	k.pushLocked(c, r.add(unitGroup, g.after, tail, c.synced, payload))
	return nil
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
	if len(c.tails) == 0 && r.used()+2*need > r.size-r.size/8 {
		k.awaitTailLocked(c)
	}
	budget := min(4*need+64<<10, carryMax)
	for n := 0; n < len(c.tails) && (n == 0 || c.tails[n].end-r.tail <= budget); n++ {
		tails = c.tails[: n+1 : n+1]
	}
	c.tails = c.tails[len(tails):]
	return tails, true
}

// awaitTailLocked waits for the read of the tail that is under way, for a second at most.
func (k *keeper) awaitTailLocked(c *copyRing) {
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for c.reading && c.state == CopyGood {
		changed := k.changed
		k.mu.Unlock()
		late := false
		select {
		case <-changed:
		case <-timeout.C:
			late = true
		}
		k.mu.Lock()
		if late {
			return
		}
	}
}

// alive returns what is still so after the group of what units say, packed.
func (g *groupTxn) alive(tails []*tailUnit) (payload []byte, err error) {
	for _, t := range tails {
		for i := range t.ops {
			op := &t.ops[i]
			if op.Value == nil {
				continue // what it hid is gone with the units before
			}
			h, err := g.look(op.Key)
			if err != nil {
				return nil, err
			}
			if h.there && h.hash == RecordDigest(op.Key, op.Value) {
				payload = appendOps(payload, t.ops[i:i+1])
			}
		}
	}
	return payload, nil
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
