package journal

import (
	"errors"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// resume goes on with the rings that hold what the store holds, or can be led there.
func (k *keeper) resume(surveys []*Survey) {
	state := k.s.State()
	k.mu.Lock()
	for _, v := range surveys {
		if v.Err != nil || len(k.copies) == copiesMost || !slices.ContainsFunc(k.places, func(p Place) bool { return p.Device == v.Place.Device }) {
			continue
		}
		var lead []Op
		if v.State != state {
			ops, ok := k.s.opsSince(v.State, state)
			if !ok {
				ops, ok = opsOfOther(surveys, v.State, state)
			}
			if b := (Batch{Ops: ops}); !ok || b.Bytes() > 2*MaxBatchBytes || len(ops) > 4*MaxBatchOps {
				continue
			}
			lead = ops
		}
		r := continueRing(v, k.lives.last())
		payload := appendOps(nil, lead)
		if r.used()+unitSize(r.head, r.size, len(payload))+2*ringBlock > r.size {
			continue
		}
		c := k.newCopy(v.Place, r)
		c.header, c.synced, c.lastAt, c.state = v.header, v.head.end, v.head.start, CopyGood
		c.header.lives, c.header.at, c.resumed = k.lives, c.lastAt, true
		c.seq = v.State.Seq
		k.copies = append(k.copies, c)
		if v.State != state {
			k.pushLocked(c, r.add(unitGroup, state, r.tail, c.synced, payload))
		}
		k.pushLocked(c, r.add(unitWhole, state, r.tail, c.synced, nil))
		k.startLocked(c)
	}
	copies := slices.Clone(k.copies)
	k.mu.Unlock()
	for _, c := range copies {
		k.waitFor(c, state.Seq)
	}
}

// opsSince returns what changed from one state to another, if the store's traces reach so far.
func (s *Store) opsSince(from, to State) (ops []Op, ok bool) {
	if from.Seq >= to.Seq || to.Seq-from.Seq > tracesKept {
		return nil, false
	}
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	changed := map[Key]bool{}
	for seq := from.Seq + 1; seq <= to.Seq; seq++ {
		b, err := ownRecord(txn, traceKey(seq))
		if err != nil || b == nil {
			return nil, false
		}
		t, err := parseTrace(traceKey(seq), b)
		if err != nil || t.seq != seq || seq == from.Seq+1 && t.before != from {
			return nil, false
		}
		for _, key := range t.keys {
			changed[key] = true
		}
	}
	for key := range changed {
		op := Op{Key: key}
		item, err := txn.Get(key[:])
		if err == nil {
			op.Value, err = item.ValueCopy(nil)
			if op.Value == nil {
				op.Value = []byte{}
			}
		}
		if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return nil, false
		}
		ops = append(ops, op)
	}
	return ops, true
}

// opsOfOther is opsSince out of a copy that has both states.
func opsOfOther(surveys []*Survey, from, to State) (ops []Op, ok bool) {
	for _, v := range surveys {
		if v.Err != nil || v.State != to {
			continue
		}
		units, ok, err := v.since(from)
		if !ok || err != nil {
			continue
		}
		var ops []Op
		for _, u := range units {
			more, err := parseOps(u.payload)
			if err != nil {
				return nil, false
			}
			ops = append(ops, more...)
		}
		return ops, true
	}
	return nil, false
}
