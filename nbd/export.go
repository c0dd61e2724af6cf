package nbd

import "context"

// Export is what a server serves under one name. All methods may be called concurrently; a
// concurrent read sees each 4 KiB block before or after a write, never between. off and the
// length always lie inside Size at the time of the check; an export that shrank since returns
// an error. Errors are mapped by one table (errno.go).
type Export interface {
	// Size is the export's size in bytes now.
	Size() int64
	// ReadAt fills p. The buffer is the caller's again when it returns.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes p; the data is durable when it returns nil and fua is set, or after the
	// next Sync. The buffer is the caller's again when it returns.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	// Sync makes every write durable that returned before Sync was called, on any connection.
	Sync(ctx context.Context) error
}

// Inliner is an Export that can serve some requests at once, without waiting for a disk. done
// is false when it cannot; nothing has happened then and ReadAt or WriteAt is to be called.
// The server calls it from the goroutine that reads the connection.
type Inliner interface {
	TryReadAt(p []byte, off int64) (done bool, err error)
	TryWriteAt(p []byte, off int64) (done bool, err error)
}

// Zeroer is an Export that can zero ranges without being sent zeros.
type Zeroer interface {
	// WriteZeroes makes the range read as zeros. With noHole its space stays allocated. With
	// fast it fails with ErrNotSupported at once unless it is faster than writing zeros.
	WriteZeroes(ctx context.Context, off, size int64, noHole, fua, fast bool) error
}

// Trimmer is an Export that can give ranges back. Any alignment; it may do less than asked.
type Trimmer interface {
	Trim(ctx context.Context, off, size int64, fua bool) error
}

// Extent is a run of bytes in one allocation state.
type Extent struct {
	Size int64
	Hole bool // nothing is allocated
	Zero bool // reads as zeros
}

// Mapper is an Export that knows its allocation.
type Mapper interface {
	// Extents appends the extents from off on to ext, merged where equal neighbours meet, until
	// size bytes or limit extents are covered (the last one may go beyond), and returns it.
	Extents(ctx context.Context, ext []Extent, off, size int64, limit int) ([]Extent, error)
}

// Prefetcher is an Export that can read ahead (NBD_CMD_CACHE).
type Prefetcher interface {
	Prefetch(ctx context.Context, off, size int64) error
}

// Info describes an export to clients.
type Info struct {
	Name        string
	Description string
	ReadOnly    bool
	Rotational  bool
}

// Exports is the set that a server offers; it may change at any time.
type Exports interface {
	// List returns what LIST tells, in order of names.
	List() []Info
	// Open returns the export of that name, or ErrNoExport. The name "" is the default export.
	// Close is called exactly once when the connection that opened it has ended and none of its
	// requests is under way. While the export is open it may still be removed: its methods then
	// return ErrRemoved.
	Open(name string) (Export, Info, func(), error)
}
