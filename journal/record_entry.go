package journal

import (
	"fmt"
	"strings"
)

// Entry is one name in a directory.
type Entry struct {
	// Slot tells names with the same hash apart; it stays while the name is there.
	Slot  uint8
	Type  uint32 // bits of the inode's mode
	Inode uint64
	Name  string
}

// Entries is a record of SpaceEntry: all names in a directory that have the same hash, by
// ascending slot. There is at least one, and hardly ever a second.
type Entries []Entry

// MaxEntryHash is what the hash of a name is below.
const MaxEntryHash = 1 << 58

// EntryKey is the key of the names in directory dir that have that hash.
func EntryKey(dir, hash uint64) Key { return MakeKey(SpaceEntry, dir, hash) }

// CheckEntryName reports whether a name may stand in a directory: 1 to MaxEntryName bytes, neither
// slash nor zero among them, not "." or "..".
func CheckEntryName(name string) bool {
	return name != "" && len(name) <= MaxEntryName && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// Entries record, part of the format; the directory stands in the key, and the hash:
//
//	0   version of the format (1)
//	1   number of names
//	2   per name: slot (1), type: bits 12-15 of the mode (1), inode (6), length of the name (1), name
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if a name, a slot, a type or an inode number
// breaks a limit.
func (e Entries) Pack(key Key) []byte { return e.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (e Entries) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceEntry)
	if !e.valid() {
		panic(fmt.Sprintf("journal: directory entries %v for key %v", []Entry(e), key))
	}
	start := len(dst)
	dst = append(dst, recordVersion, byte(len(e)))
	for i := range e {
		dst = append(dst, e[i].Slot, byte(e[i].Type>>12))
		dst = append(dst, le.AppendUint64(nil, e[i].Inode)[:6]...)
		dst = appendText8(dst, "name of an entry", e[i].Name, MaxEntryName)
	}
	return appendCRC(dst, start, &key)
}

func (e Entries) valid() bool {
	for i := range e {
		if e[i].Slot >= MaxSharing || i > 0 && e[i].Slot <= e[i-1].Slot || !knownType(e[i].Type) ||
			e[i].Inode == 0 || e[i].Inode >= 1<<48 || !CheckEntryName(e[i].Name) {
			return false
		}
		for j := range i {
			if e[j].Name == e[i].Name {
				return false
			}
		}
	}
	return len(e) > 0
}

func knownType(t uint32) bool {
	switch t {
	case TypeSocket, TypeSymlink, TypeRegular, TypeBlock, TypeDirectory, TypeCharacter, TypeFIFO:
		return true
	}
	return false
}

// ParseEntries is the reverse of Pack.
func ParseEntries(key Key, b []byte) (Entries, error) {
	f, err := openRecord(&key, SpaceEntry, b)
	if err != nil {
		return nil, err
	}
	r := reader{b: f}
	n := int(r.u8())
	if n > MaxSharing {
		return nil, corrupt(key, "%d names of the same hash", n)
	}
	e := make(Entries, n)
	for i := range e {
		e[i].Slot, e[i].Type = r.u8(), uint32(r.u8())<<12
		e[i].Inode = r.u48()
		e[i].Name = r.text8(MaxEntryName)
	}
	if _, _, hash := key.Parts(); !r.done() || !e.valid() || hash >= MaxEntryHash {
		return nil, corrupt(key, "fields of directory entries, %d bytes", len(b))
	}
	return e, nil
}

// u48 reads 6 bytes.
func (r *reader) u48() uint64 {
	lo, hi := r.u32(), r.u16()
	return uint64(lo) | uint64(hi)<<32
}
