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

// packLives: version (1), then number (8) and ID (8) of each, the newest last, CRC32C (4).
func packLives(lives []Life) []byte {
	b := []byte{recordVersion}
	for _, l := range lives {
		b = le.AppendUint64(b, l.Number)
		b = le.AppendUint64(b, l.ID)
	}
	return appendCRC(b, 0, &livesKey)
}

func parseLives(b []byte) (lives []Life, err error) {
	f, err := openRecord(&livesKey, SpaceReserve, b)
	if err != nil {
		return nil, err
	}
	for r := (reader{b: f}); len(r.b) > 0; {
		lives = append(lives, Life{r.u64(), r.u64()})
		if r.bad {
			return nil, corrupt(livesKey, "%d bytes", len(b))
		}
	}
	return lives, nil
}

func newLife(lives []Life) Life {
	var id [8]byte
	rand.Read(id[:]) // never fails
	l := Life{Number: 1, ID: binary.LittleEndian.Uint64(id[:])}
	if n := len(lives); n > 0 {
		l.Number = lives[n-1].Number + 1
	}
	return l
}

// addLife returns lives with l as the newest; the oldest fall off.
func addLife(lives []Life, l Life) []Life {
	lives = append(slices.Clone(lives), l)
	return lives[max(0, len(lives)-ringLives):]
}

func lastLife(lives []Life) Life {
	if len(lives) == 0 {
		return Life{}
	}
	return lives[len(lives)-1]
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
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.readLives()
}

func (s *Store) readLives() ([]Life, error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	b, err := ownRecord(txn, livesKey)
	if b == nil || err != nil {
		return nil, err
	}
	return parseLives(b)
}

// beginLife durably notes a new opening.
func (s *Store) beginLife(lives []Life) ([]Life, error) {
	lives = addLife(lives, newLife(lives))
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	key := livesKey
	if err := txn.Set(key[:], packLives(lives)); err != nil {
		return nil, err
	}
	return lives, txn.Commit()
}
