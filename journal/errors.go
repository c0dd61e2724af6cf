package journal

import (
	"errors"
	"fmt"
)

var (
	// ErrVersion is returned for a record or store whose checksum is right and whose format
	// version this program does not know.
	ErrVersion = errors.New("format version is not known")
	// ErrTooBig is returned by Commit of a batch beyond MaxBatchOps or MaxBatchBytes. Nothing
	// was committed; it is not final.
	ErrTooBig = errors.New("batch is too big")
	// ErrUnsettled is returned by Commit, beside the context's error, when the context ended
	// while the batch was being committed: it may or may not be durable. It is not final.
	ErrUnsettled = errors.New("commit is unsettled")
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
