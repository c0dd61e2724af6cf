package names

import (
	"log/slog"
	"time"

	"ballast/journal"
	"ballast/striping"
)

// Ino is the number of an inode; it is never used for another one.
type Ino uint64

// Root is the inode of the root directory.
const Root Ino = 1

// Limits, in bytes but for MaxLinks.
const (
	MaxName   = journal.MaxEntryName
	MaxTarget = journal.MaxTarget
	MaxXattr  = journal.MaxXattr // value of an attribute
	MaxSize   = striping.MaxFileSize
	MaxLinks  = 65000 // names of one file
)

// Options of a Tree. Volume and Journal are needed; of the rest zero values do.
type Options struct {
	Volume  *striping.Volume
	Journal journal.Journal // that of the volume
	Logger  *slog.Logger

	// FlushInterval is how long an operation may stay volatile without a sync; default 5 s.
	FlushInterval time.Duration
	// DeltaLimit bounds the operations that are not committed yet, in bytes; default 32 MiB.
	DeltaLimit int64
	// CacheLimit bounds the records kept in memory that the journal has, in bytes; default 32 MiB.
	CacheLimit int64
}

// Attr is what stat tells of an inode.
type Attr struct {
	Ino        Ino
	Generation uint64
	Mode       uint32 // type and permissions, as in st_mode
	UID, GID   uint32
	Links      uint32
	Rdev       uint32 // of a device node
	Flags      uint32 // FlagImmutable, FlagAppend, ...
	Size       int64
	Blocks     int64 // of 512 bytes
	Atime      time.Time
	Mtime      time.Time
	Ctime      time.Time
	Btime      time.Time
}

// Inode flags, as chattr has them (FS_IOC_SETFLAGS). Those that are not here are refused.
const (
	FlagImmutable uint32 = 0x10
	FlagAppend    uint32 = 0x20
	FlagNoDump    uint32 = 0x40
	FlagNoAtime   uint32 = 0x80
)

// New describes an inode to be made.
type New struct {
	Mode     uint32 // type and permissions
	UID, GID uint32
	Rdev     uint32
	Target   string  // of a symlink
	Xattrs   []Xattr // that it has from the start, such as inherited ACLs
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Which fields of a Change count.
const (
	SetMode uint32 = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	Cached   // not a change of its own but what a write did that was let through: no flag refuses it
	KillPriv // clear setuid, and setgid of what a group may execute; directories keep both
)

// Change is what SetAttr changes. The time of the change goes to Ctime unless that is set.
type Change struct {
	Set      uint32
	Mode     uint32 // permissions only
	UID, GID uint32
	Size     int64
	Atime    time.Time
	Mtime    time.Time
	Ctime    time.Time
}

// Entry is one name in a directory.
type Entry struct {
	Name   string
	Ino    Ino
	Type   uint32 // bits of the mode that tell the type
	Cookie uint64 // where a listing goes on behind it
}

// Rename flags, with the values of renameat2.
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)

// Flags of SetXattr, with the values of setxattr.
const (
	XattrCreate  = 1
	XattrReplace = 2
)

// Modes of File.Allocate, with the values of fallocate.
const (
	KeepSize  uint32 = 0x01
	PunchHole uint32 = 0x02
	ZeroRange uint32 = 0x10
)

// Stat is what statfs tells.
type Stat struct {
	Size, Free int64 // bytes, at the volume's copies
	Inodes     int64 // in use
}
