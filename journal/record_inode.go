package journal

import (
	"fmt"
	"time"
)

// Types of an inode: bits of its mode, as in st_mode. Part of the format.
const (
	TypeMask      uint32 = 0o170000
	TypeSocket    uint32 = 0o140000
	TypeSymlink   uint32 = 0o120000
	TypeRegular   uint32 = 0o100000
	TypeBlock     uint32 = 0o060000
	TypeDirectory uint32 = 0o040000
	TypeCharacter uint32 = 0o020000
	TypeFIFO      uint32 = 0o010000
	PermMask      uint32 = 0o007777
)

// Inode is a record of SpaceInode.
type Inode struct {
	Number     uint64
	Mode       uint32 // type and permissions
	UID, GID   uint32
	Links      uint32 // names; 0: to be given back when nobody has it open
	Rdev       uint32 // of a device node
	Flags      uint32 // as chattr has them
	Xattrs     uint32 // how many there are
	Generation uint32
	Size       int64  // of a regular file: what its durable data covers
	Blocks     int64  // of a regular file: length of its slots, one copy counted, in BlockSize
	Object     uint64 // of a regular file: the object that has its data
	Parent     uint64 // of a directory
	Atime      time.Time
	Mtime      time.Time
	Ctime      time.Time
	Btime      time.Time
	Target     string // of a symbolic link
}

// InodeKey is the key of inode number.
func InodeKey(number uint64) Key { return MakeKey(SpaceInode, number, 0) }

// Type returns the bits of the mode that tell the type.
func (n *Inode) Type() uint32 { return n.Mode & TypeMask }

// Inode record, part of the format; the number stands in the key:
//
//	0    version of the format (1)
//	1    mode, UID, GID, links, rdev, flags, number of xattrs, generation (4 bytes each)
//	33   size, blocks, object, parent (8 each)
//	65   atime, mtime, ctime, btime (12 each)
//	113  length of the target (2), target
//	..   CRC32C (4)

// Pack returns the record's bytes at key. It panics if the number is not that of the key, or the
// fields do not fit the type.
func (n *Inode) Pack(key Key) []byte { return n.AppendPack(make([]byte, 0, 119+len(n.Target)), key) }

// AppendPack is Pack into the memory behind dst.
func (n *Inode) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceInode)
	if _, number, _ := key.Parts(); number != n.Number || !n.valid() {
		panic(fmt.Sprintf("journal: inode %d for key %v: mode %o, size %d, object %d, parent %d, target %q",
			n.Number, key, n.Mode, n.Size, n.Object, n.Parent, n.Target))
	}
	start := len(dst)
	dst = append(dst, recordVersion)
	for _, v := range [...]uint32{n.Mode, n.UID, n.GID, n.Links, n.Rdev, n.Flags, n.Xattrs, n.Generation} {
		dst = le.AppendUint32(dst, v)
	}
	for _, v := range [...]uint64{uint64(n.Size), uint64(n.Blocks), n.Object, n.Parent} {
		dst = le.AppendUint64(dst, v)
	}
	for _, v := range [...]time.Time{n.Atime, n.Mtime, n.Ctime, n.Btime} {
		dst = appendTime(dst, v)
	}
	dst = appendText16(dst, "target of a symbolic link", n.Target, MaxTarget)
	return appendCRC(dst, start, &key)
}

func (n *Inode) valid() bool {
	regular, dir := false, false
	switch n.Type() {
	case TypeRegular:
		regular = true
	case TypeDirectory:
		dir = true
	case TypeSocket, TypeSymlink, TypeBlock, TypeCharacter, TypeFIFO:
	default:
		return false
	}
	return n.Mode&^(TypeMask|PermMask) == 0 && n.Size >= 0 && n.Blocks >= 0 && n.Object < 1<<48 && n.Parent < 1<<48 &&
		(n.Object != 0) == regular && (n.Parent != 0) == dir && (n.Target != "") == (n.Type() == TypeSymlink) &&
		(regular || n.Size == 0 && n.Blocks == 0)
}

// ParseInode is the reverse of Pack. Times come back in UTC.
func ParseInode(key Key, b []byte) (Inode, error) {
	f, err := openRecord(&key, SpaceInode, b)
	if err != nil {
		return Inode{}, err
	}
	_, number, rest := key.Parts()
	r := reader{b: f}
	n := Inode{Number: number}
	for _, p := range [...]*uint32{&n.Mode, &n.UID, &n.GID, &n.Links, &n.Rdev, &n.Flags, &n.Xattrs, &n.Generation} {
		*p = r.u32()
	}
	n.Size, n.Blocks = int64(r.u64()), int64(r.u64())
	n.Object, n.Parent = r.u64(), r.u64()
	for _, p := range [...]*time.Time{&n.Atime, &n.Mtime, &n.Ctime, &n.Btime} {
		*p = r.time()
	}
	n.Target = r.text16(MaxTarget)
	if !r.done() || !n.valid() || rest != 0 {
		return Inode{}, corrupt(key, "fields of an inode, %d bytes", len(b))
	}
	return n, nil
}
