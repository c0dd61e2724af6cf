// Package fusefs will serve a volume as a file system by FUSE; package names has its name space.
//
// # Guarantees
//
// See package names.
//
// # Concurrency
//
// See package names.
//
// # Failures
//
// See package names.
//
// # On disk
//
// Nothing.
package fusefs
