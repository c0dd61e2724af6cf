package journal

import (
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// pushLocked queues a write of a copy. The first one starts its clock.
func (k *keeper) pushLocked(c *copyRing, w ringWrite) {
	if len(c.queue) == 0 && !c.writing {
		c.since = time.Now()
	}
	c.queue = append(c.queue, w)
	c.bytes += len(w.buf)
	c.used = c.ring.used()
	poke(c.work)
}

// startLocked begins to write what is queued for a copy.
func (k *keeper) startLocked(c *copyRing) {
	k.writers[c.place.Device]++
	go func() { // ends when the copy is given up or the keeper closes; a device that hangs keeps it
		k.write(c)
		k.mu.Lock()
		k.writers[c.place.Device]--
		k.noteLocked()
		k.mu.Unlock()
		close(c.ended)
	}()
}

// write writes and syncs what is queued, all of it at once, until the copy ends.
func (k *keeper) write(c *copyRing) {
	if err := c.announce(); err != nil {
		k.drop(c, err)
		return
	}
	for {
		k.mu.Lock()
		batch, ended, closed, lazy := c.queue, c.state != CopyGood, k.closed, c.lazy && !k.closed
		k.mu.Unlock()
		switch {
		case ended:
			return
		case len(batch) == 0 && closed:
			k.lastHeader(c)
			return
		case len(batch) == 0:
			<-c.work
			continue
		case lazy:
			k.pause(c)
		}
		k.mu.Lock()
		batch = c.queue
		start := time.Now()
		c.queue, c.writing, c.since = nil, true, start
		k.mu.Unlock()
		err := c.put(batch)
		if err == nil {
			err = c.place.Area.Sync()
		}
		if err != nil {
			k.drop(c, err)
			return
		}
		k.wrote(c, batch, time.Since(start))
		err = c.moveHeader(false)
		if err == nil {
			err = k.layAhead(c)
		}
		if err != nil {
			k.drop(c, err)
			return
		}
	}
}

// pause lets groups gather, as nobody waits for them, but not many.
func (k *keeper) pause(c *copyRing) {
	t := time.NewTimer(k.opts.Delay)
	defer t.Stop()
	for {
		k.mu.Lock()
		much := c.hurry || !c.lazy || c.bytes > gatherMax || len(c.queue) >= gatherMost || c.state != CopyGood
		k.mu.Unlock()
		if much {
			return
		}
		select {
		case <-t.C:
			return
		case <-k.quit:
			return
		case <-c.work:
		}
	}
}

// put writes a batch without a sync.
func (c *copyRing) put(batch []ringWrite) error {
	for len(batch) > 0 {
		n, size := 1, len(batch[0].buf)
		for n < len(batch) && size+len(batch[n].buf) <= 1<<20 {
			size += len(batch[n].buf)
			n++
		}
		b := batch[0].buf
		if n > 1 {
			b = alignedBytes(size)[:0]
			for i := range n {
				b = append(b, batch[i].buf...)
			}
		}
		if err := writeRing(c.place.Area, c.ringSize(), batch[0].pos, b); err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// ringSize does not change with the ring's other fields.
func (c *copyRing) ringSize() uint64 { return ringSize(c.place.Area.Size()) }

// wrote notes that a batch is on stable media, and how long that took.
func (k *keeper) wrote(c *copyRing, batch []ringWrite, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.took == 0 {
		c.took = took
	}
	c.took += (min(took, 2*c.took+time.Millisecond) - c.took) / 8 // once is an accident
	for i := range batch {
		w := &batch[i]
		c.seq, c.synced, c.lastAt, c.kept = w.seq, w.pos+uint64(len(w.buf)), w.unit, w.tail
		c.bytes -= len(w.buf)
		k.written += int64(len(w.buf))
	}
	c.writing, c.hurry = false, false
	k.noteLocked()
}

// moveHeader writes the other header if the newest is far behind, or is wanted to be exact. It is
// made durable by the sync of the next batch; until then the other one serves.
func (c *copyRing) moveHeader(exact bool) error {
	every := max(ringBlock, min(c.header.size/16, 4<<20))
	if behind := c.lastAt - c.header.at; behind < every && !(exact && behind > 0) {
		return nil
	}
	c.header.at = c.lastAt
	return c.writeHeader()
}

// layAhead writes zeros ahead of the ring's head in a Thin area, some of it again and again until the
// ring has gone round: what a file system does when a block is written for the first time makes a
// flush of 4 KiB take 1.1 to 1.6 times as long as one without copies (ext4). Nobody waits for it but
// who comes meanwhile.
//
// INVARIANT: nothing at or behind the durable head is a part of the ring, as long as positions are
// below its size. What is queued is written after the zeros.
func (k *keeper) layAhead(c *copyRing) error {
	thin, ok := c.place.Area.(Thin)
	size := c.ringSize()
	step := min(laidAtOnce, max(size/8, ringBlock)/ringBlock*ringBlock)
	if !ok || !thin.Thin() || c.laid >= size || c.synced+step/8 < c.laid {
		return nil
	}
	from := max(c.laid, c.synced)
	if from >= size {
		c.laid = size
		return nil
	}
	n := min(step, size-from)
	if err := writeRing(c.place.Area, size, from, alignedBytes(int(n))); err != nil {
		return err
	}
	c.laid = from + n
	k.mu.Lock()
	k.written += int64(n)
	k.ahead += int64(n)
	k.mu.Unlock()
	return c.place.Area.Sync()
}

// laidAtOnce is how much is written ahead at most.
const laidAtOnce = 1 << 20

// announce makes durable which life a ring that is gone on with is in, before anything of that life
// is written: whoever reads the ring must know all lives that led there.
func (c *copyRing) announce() error {
	if !c.resumed {
		return nil
	}
	if err := c.writeHeader(); err != nil {
		return err
	}
	return c.place.Area.Sync()
}

func (c *copyRing) writeHeader() error {
	c.header.writes++
	_, err := c.place.Area.WriteAt(c.header.pack(), int64(c.header.writes%2)*ringBlock)
	return err
}

// replaceHeaders makes both headers lead to a ring that is being made, durably, before its first frame
// takes the place of one that was there: a header that still led to the head of that one would show a
// ring as whole whose tail is overwritten.
func (c *copyRing) replaceHeaders() error {
	for range 2 {
		if err := c.writeHeader(); err != nil {
			return err
		}
		if err := c.place.Area.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) lastHeader(c *copyRing) {
	err := c.moveHeader(true)
	if err == nil {
		err = c.place.Area.Sync()
	}
	if err != nil {
		k.log.Warn("header of a copy of the journal", "device", c.place.Name, "error", err)
	}
}

var errGivenUp = errors.New("given up")

// make writes a new copy: all records as they are in txn, then the groups that came meanwhile.
func (k *keeper) make(c *copyRing, txn *badger.Txn, state State) error {
	old, _ := readRingHeaders(c.place.Area)
	c.header = ringHeader{ringID: c.ring.id, size: c.ring.size, lives: k.lives}
	if len(old) > 0 {
		c.header.writes = old[0].writes
	}
	if err := c.replaceHeaders(); err != nil {
		return err
	}
	if err := k.lay(c, unitBegin, state, nil); err != nil {
		return err
	}
	var payload []byte
	err := k.s.iterate(txn, nil, nil, nil, func(key Key, value []byte) error {
		if key.Space() == SpaceReserve {
			return nil
		}
		payload = appendOps(payload, []Op{{key, value}})
		if len(payload) < dumpUnit {
			return nil
		}
		err := k.lay(c, unitDump, state, payload)
		payload = payload[:0]
		return err
	})
	if err == nil && len(payload) > 0 {
		err = k.lay(c, unitDump, state, payload)
	}
	if err == nil {
		err = k.lay(c, unitWhole, state, nil)
	}
	if err != nil {
		return err
	}
	return k.catchUp(c, state.Seq)
}

// catchUp writes the groups that came while a copy was being made, until none is left: then the
// copy is good.
func (k *keeper) catchUp(c *copyRing, seq Seq) error {
	for {
		if err := c.place.Area.Sync(); err != nil {
			return err
		}
		k.mu.Lock()
		if c.state != CopyMaking {
			k.mu.Unlock()
			return errGivenUp
		}
		backlog := c.backlog
		c.backlog, c.bytes = nil, 0
		c.seq, c.synced = seq, c.ring.head
		if len(backlog) == 0 {
			c.state = CopyGood
			c.used = c.ring.used()
			c.good = time.Now()
			k.noteLocked()
			k.startLocked(c)
			k.mu.Unlock()
			return nil
		}
		k.mu.Unlock()
		for _, g := range backlog {
			if err := k.lay(c, unitGroup, g.state, g.payload); err != nil {
				return err
			}
			seq = g.state.Seq
		}
	}
}

// lay writes one unit of a copy that is being made.
func (k *keeper) lay(c *copyRing, kind unitKind, state State, payload []byte) error {
	// A copy that is nearly full from the beginning has no room to carry what is alive.
	if !c.ring.fits(len(payload)) || c.ring.used() > c.ring.size-c.ring.size/16 {
		return errors.New("the journal does not fit there")
	}
	w := c.ring.add(kind, state, c.ring.tail, c.synced, payload)
	c.lastAt = w.unit
	k.mu.Lock()
	k.written += int64(len(w.buf))
	c.used = c.ring.used()
	k.mu.Unlock()
	if err := writeRing(c.place.Area, c.ring.size, w.pos, w.buf); err != nil {
		return err
	}
	return k.stillMaking(c) // before the store is read on, which may have been closed
}

func (k *keeper) stillMaking(c *copyRing) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state != CopyMaking {
		return errGivenUp
	}
	return nil
}

// CopySize is how large an area must be for CopyTo.
func (s *Store) CopySize() (int64, error) {
	size := int64(0)
	err := s.scanAll(func(key Key, value []byte) error {
		size += int64(len(key) + 4 + len(value))
		return nil
	})
	// A frame holds at least 15/16 of its bytes when units are as large as dumps make them.
	return ringStart + (size+size/8+1<<20)/ringBlock*ringBlock, err
}

// scanAll calls fn for all records that count.
func (s *Store) scanAll(fn func(key Key, value []byte) error) error {
	view, err := s.enter()
	if err != nil {
		return err
	}
	defer s.leave(view)
	return s.iterate(view.txn, nil, nil, nil, func(key Key, value []byte) error {
		if key.Space() == SpaceReserve {
			return nil
		}
		return fn(key, value)
	})
}

// CopyTo writes a copy that nobody keeps up to date, as a backup. No commit may be under way.
func (s *Store) CopyTo(p Place) error {
	k := &keeper{s: s, log: s.log, lives: s.lives, writers: map[[16]byte]int{}, changed: make(chan struct{}), closed: true}
	c := k.newCopy(p, newRing(s.uuid, &p, s.lives.last()))
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	if err := k.make(c, txn, s.State()); err != nil {
		return err
	}
	<-c.ended
	return nil
}
