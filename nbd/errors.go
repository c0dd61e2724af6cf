package nbd

import "errors"

var (
	// ErrNoExport is returned by Exports.Open for a name that does not exist.
	ErrNoExport = errors.New("no such export")
	// ErrRemoved is returned by the methods of an export that was removed while open.
	ErrRemoved = errors.New("export was removed")
	// ErrNotSupported is returned by WriteZeroes with fast set when it would not be fast.
	ErrNotSupported = errors.New("not supported")
)
