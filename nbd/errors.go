package nbd

import "errors"

var (
	// ErrNoExport is returned by Exports.Open for a name that does not exist.
	ErrNoExport = errors.New("no such export")
	// ErrRemoved is returned by the methods of an export that was removed while open.
	ErrRemoved = errors.New("export was removed")
	// ErrNotSupported is returned by WriteZeroes with fast set when it would not be fast.
	ErrNotSupported = errors.New("not supported")

	// ErrServerClosed is returned by Serve and ServeConn after Shutdown or Close.
	ErrServerClosed = errors.New("nbd: server closed")
	// ErrInsecure is returned by Listen for an address that others could reach unprotected.
	ErrInsecure = errors.New("not a loopback address, and NBD over TCP is not encrypted yet")
	// ErrInUse is returned by Listen for a socket that somebody answers on.
	ErrInUse = errors.New("somebody answers on this socket")
)

// Why a connection ended, besides what the network says. They go to the log.
var (
	errProtocol   = errors.New("protocol violation")
	errTooSlow    = errors.New("peer was too slow")
	errDisplaced  = errors.New("handshake took long while others waited")
	errPanic      = errors.New("panic")
	errHandshake  = errors.New("handshake not finished in time")
	errNoCapacity = errors.New("export has its maximum of connections")
	errDraining   = errors.New("requests of a lost connection are still under way")
)
