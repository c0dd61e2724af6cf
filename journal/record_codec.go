package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
	"unicode/utf8"
)

// Limits of the records. Part of the format: a record beyond them does not parse, and packing
// one is a fault of the caller and panics, but for Reason and Message, which are cut.
const (
	BlockSize     = 4096 // bytes
	MaxCopies     = 3
	MaxSlot       = 4096    // blocks: 16 MiB
	MaxOff        = 1 << 60 // bytes; offsets of copies are below it
	MinChunkSize  = 64 << 10
	MaxChunkSize  = 16 << 20
	MaxCandidates = 32768
	MaxName       = 255 // bytes, of a volume or an object
	MaxDomain     = 255
	MaxCode       = 64
	MaxPath       = 4095
	MaxReason     = 1024
	MaxMessage    = 4096
	MaxEntryName  = 255   // bytes, of a directory entry
	MaxTarget     = 4095  // of a symbolic link
	MaxXattrName  = 255   // of an extended attribute
	MaxXattr      = 65536 // its value
	MaxSharing    = 16    // entries, or attributes, whose names have the same hash
)

// recordVersion is the first byte of all records of format 1.
const recordVersion = 1

const crcSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// le is the byte order of all records.
var le = binary.LittleEndian

// appendCRC ends the record that began at dst[start].
func appendCRC(dst []byte, start int, key *Key) []byte {
	return le.AppendUint32(dst, recordCRC(key, dst[start:]))
}

// recordCRC returns the CRC32C of key and body. The key goes in byte by byte: given to package
// crc32 it would be moved to the heap, once for each record.
func recordCRC(key *Key, body []byte) uint32 {
	crc := ^uint32(0)
	for _, v := range key {
		crc = castagnoli[byte(crc)^v] ^ crc>>8
	}
	return crc32.Update(^crc, castagnoli, body)
}

// checkSpace panics if a record is packed for a key of another space: that is a fault of ours.
func checkSpace(key Key, want Space) {
	if key.Space() != want || key[1] != 0 {
		panic(fmt.Sprintf("journal: record of space %c packed for key %v", want, key))
	}
}

// openRecord checks what all records have in common and returns the fields between the version
// byte and the checksum.
func openRecord(key *Key, space Space, b []byte) ([]byte, error) {
	if key.Space() != space || key[1] != 0 {
		return nil, corrupt(*key, "key is not of space %c", byte(space))
	}
	if len(b) < 1+crcSize {
		return nil, corrupt(*key, "%d bytes are too short", len(b))
	}
	body := b[:len(b)-crcSize]
	if want, have := le.Uint32(b[len(body):]), recordCRC(key, body); want != have {
		return nil, corrupt(*key, "checksum: want %08x, have %08x", want, have)
	}
	if body[0] != recordVersion {
		return nil, &RecordError{*key, fmt.Sprintf("version %d, this program knows %d", body[0], recordVersion), ErrVersion}
	}
	return body[1:], nil
}

// reader takes fields off the front of b; after the first short read all fields are zero and
// bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

// text8 and text16 read a text with its length before it, at most max bytes.
func (r *reader) text8(max int) string  { return r.text(int(r.u8()), max) }
func (r *reader) text16(max int) string { return r.text(int(r.u16()), max) }

func (r *reader) text(n, max int) string {
	if n > max {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

// Times are seconds since 1970 (8 bytes) and nanoseconds (4), from the year 1 to 9999.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

func (r *reader) time() time.Time {
	sec, nsec := int64(r.u64()), r.u32()
	if sec < minSeconds || sec > maxSeconds || nsec >= 1e9 {
		r.bad = true
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

func appendTime(dst []byte, t time.Time) []byte {
	if sec := t.Unix(); sec < minSeconds || sec > maxSeconds {
		panic(fmt.Sprintf("journal: time %v cannot be stored", t))
	}
	dst = le.AppendUint64(dst, uint64(t.Unix()))
	return le.AppendUint32(dst, uint32(t.Nanosecond()))
}

// done says whether all fields were there and nothing follows them.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

func appendText8(dst []byte, what, s string, max int) []byte {
	checkText(what, s, max)
	return append(append(dst, byte(len(s))), s...)
}

func appendText16(dst []byte, what, s string, max int) []byte {
	checkText(what, s, max)
	return append(le.AppendUint16(dst, uint16(len(s))), s...)
}

func checkText(what, s string, max int) {
	if len(s) > max {
		panic(fmt.Sprintf("journal: %s of %d bytes, limit %d", what, len(s), max))
	}
}

// cut shortens a text meant for people to max bytes, between characters.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}
