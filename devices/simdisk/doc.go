// Package simdisk simulates a disk: how long it takes, what it loses in a power cut, and how it
// goes wrong. The same code runs in real time and, millions of times faster, in a bubble of
// testing/synctest.
//
// A [Disk] is a devices.Disk over sparse memory. Its [Timing] makes it as slow as a real one; a
// disk without timing answers at once and uses no clock. Its volatile cache holds what was
// written since the last sync; [Disk.Crash] cuts the power and returns what a [Policy] leaves of
// it. Its fault table (the embedded [faultdisk.Faults]) makes operations fail, hang, lie and
// stray.
//
// # Guarantees
//
//  1. What a Sync covered that returned nil survives every Crash, unless a Lose fault struck it.
//  2. A pending write survives a crash wholly, not at all, or by sectors of 512 bytes; any
//     subset may survive, in whatever order they were written. Those that survive are applied in
//     order of arrival.
//  3. Two disks crash independently: each Crash draws for its own disk alone.
//  4. Equal seeds, options and operations from one goroutine give equal results. Operations
//     that run concurrently draw their chances in the order in which they arrive.
//  5. Only blocks that were written take memory, 4 KiB each and an entry of a map.
//  6. The damage that faults do to content can be listed (Damaged) and undone (Heal).
//
// # The model of time
//
// One server, first come first served. An operation occupies it for
//
//	(PerOp + seek + size/rate) x Slow x phases x fault factor x log-normal noise
//
// leaving out the time in which the disk stalls, and is answered Latency later. Concurrent
// operations therefore add up to the rate and no more, while latencies overlap. Timing may be
// changed at any time and counts for every operation that has not reached the server yet. There
// is no reordering inside the disk, no interference of reads with writes, no garbage collection.
//
// # Concurrency
//
// Disk is safe for concurrent use. A write is pending from its arrival, so a crash may find it
// half done; Sync covers those that returned before it was called. No mutex is held while
// waiting, as testing/synctest asks. A disk is used wholly inside one bubble or wholly outside.
//
// # Failures
//
// Those of devices.CheckIO, devices.ErrClosed, and what the fault table says.
//
// # On disk
//
// Nothing.
package simdisk
