package journal

import "fmt"

// Xattr is one extended attribute of an inode.
type Xattr struct {
	Name  string
	Value []byte
}

// Xattrs is a record of SpaceXattr: all attributes of an inode whose names have the same hash. There
// is at least one, and hardly ever a second.
type Xattrs []Xattr

// XattrKey is the key of the attributes of inode number whose names have that hash.
func XattrKey(number, hash uint64) Key { return MakeKey(SpaceXattr, number, hash) }

// Xattrs record, part of the format; the inode stands in the key, and the hash:
//
//	0   version of the format (1)
//	1   number of attributes
//	2   per attribute: length of the name (1), name, length of the value (4), value
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if a name or value breaks a limit.
func (x Xattrs) Pack(key Key) []byte { return x.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (x Xattrs) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceXattr)
	if !x.valid() {
		panic(fmt.Sprintf("journal: %d extended attributes for key %v break a limit", len(x), key))
	}
	start := len(dst)
	dst = append(dst, recordVersion, byte(len(x)))
	for i := range x {
		dst = appendText8(dst, "name of an attribute", x[i].Name, MaxXattrName)
		dst = le.AppendUint32(dst, uint32(len(x[i].Value)))
		dst = append(dst, x[i].Value...)
	}
	return appendCRC(dst, start, &key)
}

func (x Xattrs) valid() bool {
	for i := range x {
		if x[i].Name == "" || len(x[i].Name) > MaxXattrName || len(x[i].Value) > MaxXattr {
			return false
		}
		for j := range i {
			if x[j].Name == x[i].Name {
				return false
			}
		}
	}
	return len(x) > 0 && len(x) <= MaxSharing
}

// ParseXattrs is the reverse of Pack. The values point into b.
func ParseXattrs(key Key, b []byte) (Xattrs, error) {
	f, err := openRecord(&key, SpaceXattr, b)
	if err != nil {
		return nil, err
	}
	r := reader{b: f}
	n := int(r.u8())
	if n > MaxSharing {
		return nil, corrupt(key, "%d attributes of the same hash", n)
	}
	x := make(Xattrs, n)
	for i := range x {
		x[i].Name = r.text8(MaxXattrName)
		x[i].Value = r.take(int(r.u32()))
	}
	if _, _, hash := key.Parts(); !r.done() || !x.valid() || hash >= MaxEntryHash {
		return nil, corrupt(key, "fields of extended attributes, %d bytes", len(b))
	}
	return x, nil
}
