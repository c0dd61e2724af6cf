// Package simjournal is a journal in memory, with the promises of the one on disk and with
// crashes, for models and simulations.
//
// A [Journal] commits batches in the order in which they were handed in. With [Options.Latency]
// a commit takes that (fake) time, and those that arrive meanwhile share the next one, as
// flushes of a disk are shared; without it no timer is ever made.
//
// # Guarantees
//
//  1. A batch is durable, wholly, when its Commit returned nil.
//  2. [Journal.Crash] makes a new journal of all batches acknowledged so far and of any prefix, in
//     order, of those in flight, each wholly or not at all. The old one is dead from then on.
//  3. State is what the journal on disk computes for the same records, one sequence number per
//     batch (on disk: per group).
//  4. The first injected failure is final: all batches in flight and all later ones get ErrDead;
//     whether those in flight are found after a crash is open.
//
// # Concurrency
//
// Journal is safe for concurrent use, starts no goroutine, and holds no lock while it waits, so
// it runs under testing/synctest.
//
// # Failures
//
// [Journal.FailAt], [Journal.SetFull] and [Journal.Hang] inject what disks do to journals.
//
// # On disk
//
// Nothing.
package simjournal
