package journal

import (
	"context"
	"encoding/binary"
	"errors"
)

// Seq numbers the committed groups of a journal; it grows by one with each.
type Seq uint64

// Space is the first byte of a key and says what the record is.
type Space byte

// The key spaces. Part of the format.
const (
	SpaceVolume  Space = 'V' // one record: name, UUID, geometry, next numbers
	SpaceDevice  Space = 'D' // a: device ID
	SpaceObject  Space = 'O' // a: object number
	SpaceChunk   Space = 'C' // a: object number, b: chunk index
	SpaceIntent  Space = 'I' // a: object number, b: chunk index
	SpaceEvent   Space = 'E' // b: event number
	SpaceJob     Space = 'J' // b: job number
	SpaceTree    Space = 'T' // one record: a name space of files is there
	SpaceInode   Space = 'N' // a: inode number
	SpaceEntry   Space = 'F' // a: inode number of a directory, b: hash of the name
	SpaceXattr   Space = 'X' // a: inode number, b: hash of the name
	SpaceReserve Space = '!' // the journal's own meta record
)

// Key is where a record stands: space (1 byte), zero (1), a (6, big endian), b (8, big endian).
type Key [16]byte

// MakeKey returns the key of record (a, b) in space; a must be below 2^48.
func MakeKey(space Space, a, b uint64) Key {
	var k Key
	binary.BigEndian.PutUint64(k[:8], a)
	k[0] = byte(space)
	binary.BigEndian.PutUint64(k[8:], b)
	return k
}

// Parts is the reverse of MakeKey.
func (k Key) Parts() (space Space, a, b uint64) {
	return Space(k[0]), binary.BigEndian.Uint64(k[:8]) & (1<<48 - 1), binary.BigEndian.Uint64(k[8:])
}

// Op is one change: Value nil deletes the record.
type Op struct {
	Key   Key
	Value []byte
}

// Batch is a set of changes that are committed together or not at all. A later change to the
// same key replaces the earlier one.
type Batch struct {
	Ops []Op
}

// Put sets the record at key. The journal keeps value; it must not be changed afterwards.
func (b *Batch) Put(key Key, value []byte) { b.Ops = append(b.Ops, Op{key, value}) }

// Delete removes the record at key, if there is one.
func (b *Batch) Delete(key Key) { b.Ops = append(b.Ops, Op{key, nil}) }

// Journal is a durable, ordered set of records. It may be used concurrently.
type Journal interface {
	// Commit makes b durable, wholly or not at all, and returns nil only then. Batches of
	// concurrent callers share a group and so a device flush; batches handed in by one goroutine
	// are applied in that order. The first error is final: from then on every Commit returns
	// ErrDead, while Get and Scan go on.
	Commit(ctx context.Context, b *Batch) error
	// Get returns the committed value at key, or ErrNotFound. The caller owns it.
	Get(key Key) ([]byte, error)
	// Scan calls fn for all committed records of a space in key order, as they were at one
	// moment. The value is valid only during the call. An error of fn ends the scan and is returned.
	Scan(space Space, fn func(key Key, value []byte) error) error
	// ScanFrom is Scan for the records of from's space with keys of at least from.
	ScanFrom(from Key, fn func(key Key, value []byte) error) error
	// State returns the last committed sequence number, and the count and digest of all records.
	State() State
	// Close ends the journal; what was committed stays.
	Close() error
}

// Digest is a 128-bit sum over all records (key and value), in which order does not matter.
type Digest [16]byte

// State identifies the content of a journal.
type State struct {
	Seq    Seq
	Count  uint64
	Digest Digest
}

var (
	// ErrNotFound is returned by Get for a key without a record.
	ErrNotFound = errors.New("no such record")
	// ErrDead is returned by Commit after an earlier one failed.
	ErrDead = errors.New("journal has failed")
	// ErrCorrupt is returned when stored bytes do not pass their checks.
	ErrCorrupt = errors.New("journal is corrupt")
	// ErrFull is returned by Commit of a batch that adds records while the journal's file
	// system is below its floor of free space. It is not final.
	ErrFull = errors.New("journal has no space")
)
