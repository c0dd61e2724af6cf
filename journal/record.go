package journal

import "time"

// The records of the key spaces. Each has Pack and Parse; the bytes are little endian: a version
// byte, the fields, and a CRC32C of key and all before it. Parse never panics and never
// allocates by an unchecked length.

// Volume is the one record of SpaceVolume.
type Volume struct {
	UUID       [16]byte
	Name       string
	ChunkSize  uint32 // bytes, a power of two from 64 KiB to 16 MiB
	Copies     uint8
	NextObject uint64 // object numbers are never used twice
	NextDevice uint16
	NextEvent  uint64
	Generation uint64 // every generation given out so far is below it
	Created    time.Time
}

// DeviceState is the journaled state of a device.
type DeviceState uint8

// The device states. Part of the format.
const (
	Online DeviceState = iota + 1
	Slow
	Draining
	Drained
	Failed
	Missing
	Rebuilding
)

// Device is a record of SpaceDevice.
type Device struct {
	ID   uint16
	UUID [16]byte
	Path string // where it was last found
	Size int64  // bytes of the whole device
	// DataOff and DataSize are its area for copies, in bytes; DataSize 0: what a new device of that
	// size has.
	DataOff, DataSize int64
	Domain            string // failure domain; "" is the device itself
	State             DeviceState
	Reason            string // why it is in that state
	Since             time.Time
	// Epoch is the number of the membership change the device last took part in; it also stands
	// in its label, so that a device that was away is known.
	Epoch uint64
	// LabelSeq is the journal's sequence in a label that the device has certainly had. A disk whose
	// label says less is an older image of it. 0: not noted yet.
	LabelSeq Seq
	// Learned speed, in bytes per second and seconds per operation, so that a restart does not
	// forget it: indexes are write-sequential, write-random, read-sequential, read-random.
	SecondsPerOp   [4]float64
	SecondsPerByte [4]float64
}

// ObjectKind tells exports from files.
type ObjectKind uint8

// The object kinds. Part of the format.
const (
	Export ObjectKind = iota + 1
	File
)

// Object is a record of SpaceObject.
type Object struct {
	Number  uint64
	Kind    ObjectKind
	Name    string // of an export
	Size    int64  // bytes
	Flags   uint32 // FlagReadOnly, FlagDeleted
	Created time.Time
}

// Object flags. Part of the format.
const (
	FlagReadOnly uint32 = 1 << iota
	FlagDeleted         // the name is gone, chunks are being given back
)

// Copy is where one copy of a chunk stands.
type Copy struct {
	Device uint16
	Stale  bool  // misses writes; never read
	Off    int64 // byte offset on the device, a multiple of 4 KiB
}

// Chunk is a record of SpaceChunk: the placement of a chunk and the sums of its written blocks.
// Slot 0 means that nothing is placed; such records stay, so that a record which returns from
// the dead is known by its lower version.
type Chunk struct {
	Generation uint64   // of the placement; part of what sums cover
	Version    uint64   // grows with every commit of this record
	Slot       uint32   // length of the slot in blocks
	Copies     []Copy   // at most 3
	Written    []uint64 // bit i: block i has been written; others read as zeros
	Sums       []uint32 // one for each written block, in block order
}

// Candidate is a sum that a block may have besides the one in its chunk's record.
type Candidate struct {
	Block uint32
	Sum   uint32
	// Settled says that the block had this sum on stable media, on every copy that is not stale,
	// when the intent was written: the chunk's record and older candidates are no longer versions
	// of it.
	Settled bool
}

// Intent is a record of SpaceIntent: blocks of a chunk that may be overwritten in place, with
// the sums of what is written. It counts only while Base is the version of the chunk's record.
type Intent struct {
	Base       uint64
	Candidates []Candidate // oldest first
}

// Event is a record of SpaceEvent.
type Event struct {
	Time     time.Time
	Severity uint8 // 0 info, 1 warning, 2 critical
	Code     string
	Device   uint16 // 0: none
	Message  string
}
