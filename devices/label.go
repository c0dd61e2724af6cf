package devices

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	// ErrNoLabel is returned when a disk has no label, not even a damaged one.
	ErrNoLabel = errors.New("no Ballast label")
	// ErrCorrupt is returned when stored bytes do not pass their checks; see CorruptError.
	ErrCorrupt = errors.New("corrupt")
	// ErrFuture is returned for labels of a newer format, or with features that this version
	// does not know and must not ignore.
	ErrFuture = errors.New("written by a newer version of Ballast")
	// ErrConflict is returned when a disk has sound labels that contradict each other.
	ErrConflict = errors.New("labels contradict each other")
	// ErrShrunk is returned, together with the label, for a disk smaller than its label says.
	ErrShrunk = errors.New("disk is smaller than its label says")
	// ErrOtherLabel is returned by WriteLabel for a disk that is labelled as another device.
	ErrOtherLabel = errors.New("disk is labelled as another device")
)

// CorruptError says what does not pass, and where. It is ErrCorrupt.
type CorruptError struct {
	Off        int64 // on the disk
	What       string
	Want, Have any
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("label at %#x: corrupt: %s: want %v, have %v", e.Off, e.What, e.Want, e.Have)
}

// Is makes it ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// UUID names a volume or a device.
type UUID [16]byte

// NewUUID returns a random UUID (version 4).
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String returns the usual form: 8-4-4-4-12 hexadecimal digits.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// ParseUUID is the reverse of String.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) || UUID(b).String() != strings.ToLower(s) {
		return u, fmt.Errorf("%q is not a UUID", s)
	}
	return UUID(b), nil
}

// LabelVersion is the format that Pack writes.
const LabelVersion = 1

// Features that this version knows. None so far.
const (
	knownCompat   = 0 // others may be ignored
	knownROCompat = 0 // others may be ignored by those who write nothing
	knownIncompat = 0 // others must not be ignored
)

// Label says what a disk is: which device of which volume, and where things stand on it.
type Label struct {
	Compat, ROCompat, Incompat uint64 // features

	Volume UUID
	Name   string // of the volume
	Device UUID
	ID     ID
	Size   int64 // of the device, bytes; the disk may be larger
	Layout
	ChunkSize uint32 // bytes
	Copies    uint8
	Members   []Member // by ID, this device among them
	Epoch     uint64   // of the list of members: it grows with each that joins or leaves
	Anchor    Anchor
	Writes    uint64 // grows by one with each writing; the newest wins
}

// Member is a device of the volume.
type Member struct {
	ID    ID
	UUID  UUID
	Size  int64
	Epoch uint64
}

// Anchor identifies a state of the journal that the volume has certainly reached.
type Anchor struct {
	Seq    uint64
	Digest [16]byte
	Count  uint64
}

// ReadOnly tells that the label has features because of which nothing may be written.
func (l *Label) ReadOnly() bool { return l.ROCompat&^knownROCompat != 0 }

// Offsets of the label's fields. Part of the format; magic, version and checksum stand in the
// same places in all versions. doc.go has the diagram.
const (
	labelMagic = "BALLAST\n"

	atVersion     = 8
	atID          = 10
	atChunkSize   = 12
	atCompat      = 16
	atROCompat    = 24
	atIncompat    = 32
	atVolume      = 40
	atDevice      = 56
	atSize        = 72
	atOwnOff      = 80
	atWrites      = 88
	atEpoch       = 96
	atJournalOff  = 104
	atJournalSize = 112
	atDataOff     = 120
	atDataSize    = 128
	atSeq         = 136
	atDigest      = 144
	atCount       = 160
	atCopies      = 168
	atNameLen     = 169
	atMemberCount = 170
	atZero1       = 172
	atName        = 176
	atZero2       = atName + MaxVolumeName
	atMembers     = 256
	memberSize    = 48
	atZero3       = atMembers + MaxMembers*memberSize
	atChecksum    = LabelSize - 4

	atMemberUUID  = 8
	atMemberSize  = 24
	atMemberEpoch = 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Pack returns the label as it stands at off of its device.
func (l *Label) Pack(off int64) ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("label: %w", err)
	}
	b := AlignedBytes(LabelSize)
	le := binary.LittleEndian
	copy(b, labelMagic)
	le.PutUint16(b[atVersion:], LabelVersion)
	le.PutUint16(b[atID:], uint16(l.ID))
	le.PutUint32(b[atChunkSize:], l.ChunkSize)
	le.PutUint64(b[atCompat:], l.Compat)
	le.PutUint64(b[atROCompat:], l.ROCompat)
	le.PutUint64(b[atIncompat:], l.Incompat)
	copy(b[atVolume:], l.Volume[:])
	copy(b[atDevice:], l.Device[:])
	le.PutUint64(b[atSize:], uint64(l.Size))
	le.PutUint64(b[atOwnOff:], uint64(off))
	le.PutUint64(b[atWrites:], l.Writes)
	le.PutUint64(b[atEpoch:], l.Epoch)
	le.PutUint64(b[atJournalOff:], uint64(l.JournalOff))
	le.PutUint64(b[atJournalSize:], uint64(l.JournalSize))
	le.PutUint64(b[atDataOff:], uint64(l.DataOff))
	le.PutUint64(b[atDataSize:], uint64(l.DataSize))
	le.PutUint64(b[atSeq:], l.Anchor.Seq)
	copy(b[atDigest:], l.Anchor.Digest[:])
	le.PutUint64(b[atCount:], l.Anchor.Count)
	b[atCopies] = l.Copies
	b[atNameLen] = uint8(len(l.Name))
	le.PutUint16(b[atMemberCount:], uint16(len(l.Members)))
	copy(b[atName:], l.Name)
	for i, m := range l.Members {
		e := b[atMembers+i*memberSize:]
		le.PutUint16(e, uint16(m.ID))
		copy(e[atMemberUUID:], m.UUID[:])
		le.PutUint64(e[atMemberSize:], uint64(m.Size))
		le.PutUint64(e[atMemberEpoch:], m.Epoch)
	}
	le.PutUint32(b[atChecksum:], crc32.Checksum(b[:atChecksum], castagnoli))
	return b, nil
}

// ParseLabel is the reverse of Pack, for the bytes found at off.
func ParseLabel(b []byte, off int64) (Label, error) {
	var l Label
	corrupt := func(what string, want, have any) (Label, error) {
		return Label{}, &CorruptError{Off: off, What: what, Want: want, Have: have}
	}
	if len(b) != LabelSize {
		return corrupt("length", LabelSize, len(b))
	}
	le := binary.LittleEndian
	if string(b[:atVersion]) != labelMagic {
		return l, ErrNoLabel
	}
	if want, have := crc32.Checksum(b[:atChecksum], castagnoli), le.Uint32(b[atChecksum:]); want != have {
		return corrupt("checksum", fmt.Sprintf("%#08x", want), fmt.Sprintf("%#08x", have))
	}
	switch version := le.Uint16(b[atVersion:]); {
	case version > LabelVersion:
		return l, fmt.Errorf("label at %#x has format %d: %w", off, version, ErrFuture)
	case version != LabelVersion:
		return corrupt("version", LabelVersion, version)
	}
	l.Compat, l.ROCompat, l.Incompat = le.Uint64(b[atCompat:]), le.Uint64(b[atROCompat:]), le.Uint64(b[atIncompat:])
	if unknown := l.Incompat &^ knownIncompat; unknown != 0 {
		return Label{}, fmt.Errorf("label at %#x has unknown features %#x: %w", off, unknown, ErrFuture)
	}
	if have := int64(le.Uint64(b[atOwnOff:])); have != off {
		return corrupt("its offset", off, have)
	}
	l.ID = ID(le.Uint16(b[atID:]))
	l.ChunkSize = le.Uint32(b[atChunkSize:])
	l.Volume, l.Device = UUID(b[atVolume:atDevice]), UUID(b[atDevice:atSize])
	l.Size = int64(le.Uint64(b[atSize:]))
	l.Writes, l.Epoch = le.Uint64(b[atWrites:]), le.Uint64(b[atEpoch:])
	l.JournalOff, l.JournalSize = int64(le.Uint64(b[atJournalOff:])), int64(le.Uint64(b[atJournalSize:]))
	l.DataOff, l.DataSize = int64(le.Uint64(b[atDataOff:])), int64(le.Uint64(b[atDataSize:]))
	l.Anchor = Anchor{Seq: le.Uint64(b[atSeq:]), Digest: [16]byte(b[atDigest:atCount]), Count: le.Uint64(b[atCount:])}
	l.Copies = b[atCopies]
	nameLen, members := int(b[atNameLen]), int(le.Uint16(b[atMemberCount:]))
	if nameLen > MaxVolumeName {
		return corrupt("length of the volume's name", MaxVolumeName, nameLen)
	}
	if members > MaxMembers {
		return corrupt("number of members", MaxMembers, members)
	}
	l.Name = string(b[atName : atName+nameLen])
	for i := range members {
		e := b[atMembers+i*memberSize:]
		l.Members = append(l.Members, Member{ID: ID(le.Uint16(e)), UUID: UUID(e[atMemberUUID:atMemberSize]),
			Size: int64(le.Uint64(e[atMemberSize:])), Epoch: le.Uint64(e[atMemberEpoch:])})
	}
	if err := l.check(); err != nil {
		return corrupt("content", "a label", err)
	}
	if l.Compat == 0 && l.ROCompat == 0 { // features may use what is zero in this version
		if same, err := l.Pack(off); err != nil || !bytes.Equal(same, b) {
			return corrupt("unused bytes", "zeros", "others")
		}
	}
	return l, nil
}

// check says what a label must not say.
func (l *Label) check() error {
	switch {
	case l.Volume == UUID{} || l.Device == UUID{}:
		return errors.New("no UUID")
	case l.ID == 0:
		return errors.New("no device ID")
	case !validChunk(int64(l.ChunkSize)):
		return fmt.Errorf("chunk size of %d bytes", l.ChunkSize)
	case l.Copies < 1 || l.Copies > MaxCopies:
		return fmt.Errorf("%d copies", l.Copies)
	case l.Size <= 0 || l.Size > maxDeviceSize || l.Size%BlockSize != 0:
		return fmt.Errorf("device of %d bytes", l.Size)
	case len(l.Members) < 1 || len(l.Members) > MaxMembers:
		return fmt.Errorf("%d members", len(l.Members))
	}
	if err := CheckVolumeName(l.Name); err != nil {
		return err
	}
	if err := l.Layout.check(l.Size); err != nil {
		return err
	}
	seen, self := map[UUID]bool{}, false
	for i, m := range l.Members {
		if m.ID == 0 || i > 0 && m.ID <= l.Members[i-1].ID {
			return fmt.Errorf("member %s out of order", m.ID)
		}
		if m.UUID == (UUID{}) || seen[m.UUID] {
			return fmt.Errorf("member %s has the UUID %s of another, or none", m.ID, m.UUID)
		}
		if m.Size <= 0 || m.Size > maxDeviceSize {
			return fmt.Errorf("member %s of %d bytes", m.ID, m.Size)
		}
		seen[m.UUID] = true
		self = self || m.ID == l.ID && m.UUID == l.Device && m.Size == l.Size
	}
	if !self {
		return fmt.Errorf("device %s with its UUID and size is not among the members", l.ID)
	}
	return nil
}

// CheckVolumeName tells whether a volume may have this name: 1 to 64 bytes of UTF-8 that can be
// shown and are neither a path nor an option.
func CheckVolumeName(name string) error {
	switch {
	case name == "" || len(name) > MaxVolumeName:
		return fmt.Errorf("volume name %q has %d bytes, not 1 to %d", name, len(name), MaxVolumeName)
	case !utf8.ValidString(name):
		return fmt.Errorf("volume name %q is not UTF-8", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }):
		return fmt.Errorf("volume name %q has characters that it must not have", name)
	case name[0] == '.' || name[0] == '-' || name[0] == ' ' || name[len(name)-1] == ' ':
		return fmt.Errorf("volume name %q must not begin so, or end with a blank", name)
	}
	return nil
}
