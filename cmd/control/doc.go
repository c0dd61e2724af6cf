// Package control is how the commands and a running daemon talk: HTTP and JSON over a unix socket.
//
// A [Client] asks, the types in api.go are the answers, a [Refusal] is an answer too: it carries
// what was refused, why, what to try and the exit code, over the wire as well as within a process.
// Only root and the user the daemon runs as are let in.
//
// Every document has a "schema" with a version; fields may be added to it, so readers ignore
// fields they do not know. Requests are the other way round: an unknown field is refused. Numbers
// are plain: bytes, seconds.
package control

// Version is the version of this build; the Makefile sets it.
var Version = "devel"
