// Package daemon is a running volume: it opens the devices, the journal and the volume, serves
// exports over NBD and answers the commands, and ends all that in the right order.
//
// # Guarantees
//
//  1. One daemon serves a volume at a time; a second one is refused and has touched nothing.
//  2. A daemon that says it is ready answers on its control socket and on every NBD address.
//  3. After SIGTERM or stop, requests under way are answered, everything acknowledged is on the
//     devices and in the journal, and the exit code is 0. A second signal ends it at once, which
//     loses no more than a crash does.
//  4. /metrics, /healthz and /readyz answer from memory; no disk, however slow, delays them.
//
// # Concurrency
//
// Everything started here is waited for before Run returns.
//
// # Failures
//
// What keeps a volume from being served is a [ballast/cmd/control.Refusal] before any socket is
// made. Later faults are the volume's to report in its status.
//
// # On disk
//
// STATE_DIR/VOLUME/lock, an empty file that the daemon holds locked.
package daemon
