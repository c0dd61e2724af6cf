package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// The store keeps some records of its own beside the meta record: they say how it came to its
// state, and neither count nor go into the digest.
var livesKey = MakeKey(SpaceReserve, 0, 1)

// traceKey is where the trace of group seq stands, until that of a later group takes the place.
func traceKey(seq Seq) Key { return MakeKey(SpaceReserve, 1, uint64(seq)%tracesKept) }

const (
	tracesKept = 64   // groups
	traceMax   = 4096 // keys; a larger group has none
)

// trace tells which keys a group changed, and from which state: with it a ring that lacks the
// newest groups is led on from the store.
//
//	0   version of the format (1)
//	1   sequence number (8)
//	9   state before: number of records (8), digest (16)
//	33  keys, 16 each
//	..  CRC32C (4)
type trace struct {
	seq    Seq
	before State
	keys   []Key
}

func (t *trace) pack(key Key) []byte {
	b := make([]byte, 0, 33+16*len(t.keys)+crcSize)
	b = append(b, recordVersion)
	b = le.AppendUint64(b, uint64(t.seq))
	b = le.AppendUint64(b, t.before.Count)
	b = append(b, t.before.Digest[:]...)
	for i := range t.keys {
		b = append(b, t.keys[i][:]...)
	}
	return appendCRC(b, 0, &key)
}

func parseTrace(key Key, b []byte) (t trace, err error) {
	f, err := openRecord(&key, SpaceReserve, b)
	if err != nil {
		return t, err
	}
	r := reader{b: f}
	t.seq = Seq(r.u64())
	t.before = State{Seq: t.seq - 1, Count: r.u64()}
	copy(t.before.Digest[:], r.take(16))
	for len(r.b) >= len(Key{}) {
		t.keys = append(t.keys, Key(r.take(len(Key{}))))
	}
	if !r.done() {
		return t, corrupt(key, "trace of %d bytes", len(b))
	}
	return t, nil
}

// lives are the openings that led to a state, the newest last.
type lives []opening

// opening is a life and the sequence it began with; 0 if that is not known.
type opening struct {
	Life
	began Seq
}

// pack: version (1), then number (8) and ID (8) of each, the newest last; behind 16 zero bytes, which
// those written before lack, with what sequence each began (8); CRC32C (4).
func (ls lives) pack() []byte {
	b := []byte{recordVersion}
	for _, l := range ls {
		b = le.AppendUint64(b, l.Number)
		b = le.AppendUint64(b, l.ID)
	}
	b = append(b, make([]byte, 16)...)
	for _, l := range ls {
		b = le.AppendUint64(b, uint64(l.began))
	}
	return appendCRC(b, 0, &livesKey)
}

func parseLives(b []byte) (ls lives, err error) {
	f, err := openRecord(&livesKey, SpaceReserve, b)
	if err != nil {
		return nil, err
	}
	r := reader{b: f}
	for len(r.b) > 0 {
		l := Life{r.u64(), r.u64()}
		if l == (Life{}) {
			for i := range ls {
				ls[i].began = Seq(r.u64())
			}
			break
		}
		ls = append(ls, opening{Life: l})
	}
	if !r.done() {
		return nil, corrupt(livesKey, "%d bytes", len(b))
	}
	return ls, nil
}

// next is the life that follows these.
func (ls lives) next() Life {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return Life{Number: ls.last().Number + 1, ID: binary.LittleEndian.Uint64(id[:])}
}

// add returns ls with l as the newest; the oldest fall off.
func (ls lives) add(l opening) lives {
	ls = append(slices.Clone(ls), l)
	return ls[max(0, len(ls)-ringLives):]
}

func (ls lives) last() Life {
	if len(ls) == 0 {
		return Life{}
	}
	return ls[len(ls)-1].Life
}

func (ls lives) has(l Life) bool {
	return slices.ContainsFunc(ls, func(o opening) bool { return o.Life == l })
}

// left returns the sequence with which these went on from an older life: nothing that came later in
// that one is in them. 0 is not known.
func (ls lives) left(l Life) Seq {
	i := slices.IndexFunc(ls, func(o opening) bool { return o.Number > l.Number })
	if i < 0 {
		return 0
	}
	return ls[i].began
}

// ownRecord reads a record of the store's own; nil if there is none.
func ownRecord(txn *badger.Txn, key Key) ([]byte, error) {
	item, err := txn.Get(key[:])
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

// Lives returns the openings of this journal, the newest last, at most 64.
func (s *Store) Lives() ([]Life, error) {
	view, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer s.leave(view)
	ls, err := s.readLives()
	names := make([]Life, len(ls))
	for i, l := range ls {
		names[i] = l.Life
	}
	return names, err
}

func (s *Store) readLives() (lives, error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	b, err := ownRecord(txn, livesKey)
	if b == nil || err != nil {
		return nil, err
	}
	return parseLives(b)
}

// beginLife durably notes a new opening.
func (s *Store) beginLife(before lives) (lives, error) {
	ls := before.add(opening{before.next(), s.State().Seq})
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	key := livesKey
	if err := txn.Set(key[:], ls.pack()); err != nil {
		return nil, err
	}
	return ls, txn.Commit()
}
