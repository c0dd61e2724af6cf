// Package balance gives new chunks to devices and reads to copies, by what the devices are
// measured to do.
//
// A [Balancer] stands over the devices of a volume. A [Write] is placed on as many devices as it
// has copies, when these have room: until then it waits in the daemon, where the choice is still
// open. A [Read] goes to the copy that is expected to be read first. What takes much longer than
// expected is done a second time elsewhere, within a budget. Package policy makes the choices,
// package devices the measurements; this package acts on them. [Space] is where slots come from.
//
// # Guarantees
//
//  1. Done and Returned of a Write are called exactly once, in this order. Returned of a Read is
//     called exactly once for each set of buffers that the read was given. Closing and failing
//     devices change nothing about that.
//  2. The copies in Done of a Write lie in distinct failure domains, and all of their data has
//     been written (not synced).
//  3. A slot that Done did not name is given back to Space, once, and not before no disk can
//     write to it any more. A slot that Done names is never given back.
//  4. A write is refused with ErrNoSpace only if the space that its number of copies can use is
//     used up; it gets fewer copies than asked for only if there are not enough failure domains
//     left that take data.
//  5. A read fails only if each copy, on whatever device has not been given up, has failed.
//  6. Second attempts are at most 5 % of the operations, plus a reserve of 50 and one a second.
//
// # Concurrency
//
// Balancer is safe for concurrent use. Callbacks, of callers and of Space, run on goroutines of
// devices and of the balancer with no lock held, and must not wait for other I/O. Placement
// decisions are made one after another, each seeing the load that the last has caused.
// Lock order: Balancer.mu, then a read's lock, then devices. One goroutine, ended by Close,
// looks after what is overdue.
//
// # Failures
//
// A device's error is reported to Options.OnError. A failed or timed-out copy of a write is
// written to another device; a read is tried on the other copies. What no device can take or
// give is an error of the request.
//
// # On disk
//
// Nothing.
package balance
