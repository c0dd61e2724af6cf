package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrVersion is returned for a record or store whose checksum is right and whose format
	// version this program does not know.
	ErrVersion = errors.New("format version is not known")
	// ErrNoStore is returned by Open when the store is to be made anew from a copy, and its directory
	// does not take one: the disk under it has errors, or cannot be written to.
	ErrNoStore = errors.New("no store can be made there")
	// ErrTooBig is returned by Commit of a batch beyond MaxBatchOps, MaxBatchBytes or MaxValueBytes. Nothing
	// was committed; it is not final.
	ErrTooBig = errors.New("batch is too big")
	// ErrUnsettled is returned by Commit, beside the context's error, when the context ended
	// while the batch was being committed: it may or may not be durable. It is not final.
	ErrUnsettled = errors.New("commit is unsettled")
	// ErrBusy is returned by Open and Create when another process or Store has the directory.
	ErrBusy = errors.New("journal is in use")
	// ErrForeign is returned by Open for the journal of another volume.
	ErrForeign = errors.New("journal belongs to another volume")
	// ErrRolledBack is returned by Open when the journal is older than an anchor, or as old and
	// different: it is a copy from earlier, lost its end, or is not the one the anchor names.
	ErrRolledBack = errors.New("journal is not the newest")
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("journal is closed")
)

// RecordError tells which record does not parse and why. It is ErrCorrupt, or ErrVersion if the
// record is sound and only too new.
type RecordError struct {
	Key  Key
	What string
	Err  error // ErrCorrupt or ErrVersion
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("record %v: %v: %s", e.Key, e.Err, e.What)
}

func (e *RecordError) Unwrap() error { return e.Err }

func corrupt(key Key, format string, args ...any) error {
	return &RecordError{key, fmt.Sprintf(format, args...), ErrCorrupt}
}

// RolledBackError names both sides of an ErrRolledBack.
type RolledBackError struct {
	Have, Anchor State
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("%v: it has %v, an anchor on a device says %v", ErrRolledBack, e.Have, e.Anchor)
}

func (e *RolledBackError) Unwrap() error { return ErrRolledBack }
