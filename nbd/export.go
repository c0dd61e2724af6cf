package nbd

import "context"

// Export is what a server serves under one name. All methods may be called concurrently; a
// concurrent read sees each 4 KiB block before or after a write, never between. off and the
// length always lie inside Size at the time of the check; an export that shrank since returns
// an error. Errors are mapped by one table (errno.go).
type Export interface {
	// Size is the export's size in bytes now.
	Size() int64
	// Read appends the bytes of [off, off+size) to data, in order and without gaps. On an error
	// data may hold some of them; the caller releases it in any case.
	Read(ctx context.Context, off, size int64, data *Data) error
	// WriteAt writes p; the data is durable when it returns nil and fua is set, or after the
	// next Sync. The buffer is the caller's again when it returns.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	// Sync makes every write durable that returned before Sync was called, on any connection.
	Sync(ctx context.Context) error
}

// Data is what a read returned: pieces of memory that others may look at too, so nobody writes
// to them, and holes. Release gives the memory back; afterwards the Data may be used again.
type Data struct {
	Pieces []Piece
	owners []Releaser
}

// Piece is a run of bytes, or a hole that reads as zeros.
type Piece struct {
	Bytes []byte // nil for a hole
	Size  int64  // len(Bytes), or the length of the hole
}

// Releaser is memory that is counted.
type Releaser interface{ Release() }

// Append adds b. owner, if not nil, is released by Release.
func (d *Data) Append(b []byte, owner Releaser) {
	d.Pieces = append(d.Pieces, Piece{Bytes: b, Size: int64(len(b))})
	if owner != nil {
		d.owners = append(d.owners, owner)
	}
}

// AppendHole adds size zero bytes.
func (d *Data) AppendHole(size int64) {
	if n := len(d.Pieces); n > 0 && d.Pieces[n-1].Bytes == nil {
		d.Pieces[n-1].Size += size
		return
	}
	d.Pieces = append(d.Pieces, Piece{Size: size})
}

// Release gives all memory back and empties d.
func (d *Data) Release() {
	for i, o := range d.owners {
		o.Release()
		d.owners[i] = nil
	}
	clear(d.Pieces)
	d.Pieces, d.owners = d.Pieces[:0], d.owners[:0]
}

// Inliner is an Export that can serve some requests at once, without waiting for a disk. done
// is false when it cannot; nothing has happened then and Read or WriteAt is to be called.
// The server calls it from the goroutine that reads the connection.
type Inliner interface {
	TryRead(off, size int64, data *Data) (done bool, err error)
	TryWriteAt(p []byte, off int64) (done bool, err error)
}

// Receiver is an Export that takes over the memory of large writes instead of copying it.
type Receiver interface {
	// Buffer returns memory for a payload, page-aligned, len(Bytes()) == size.
	Buffer(size int) Payload
	// WriteBuffer is WriteAt for memory that Buffer returned. It takes b over, whatever it
	// returns: the caller touches b no more and does not release it.
	WriteBuffer(ctx context.Context, b Payload, off int64, fua bool) error
}

// Payload is memory of a Receiver.
type Payload interface {
	Bytes() []byte
	Releaser
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
