// Package faultdisk makes disks go wrong on purpose.
//
// [Faults] is a table of rules ([Fault]): which operations are struck, and how. [Disk] wraps any
// devices.Disk and applies a table to it; devices/simdisk has one built in. [Truth] remembers
// what a damaged block should hold.
//
// To fail each call in turn, run the scenario once for each n, until nothing is struck:
//
//	for n := int64(1); ; n++ {
//		fault := disk.FailNth(faultdisk.OnWrite, n, syscall.EIO, false)
//		scenario(disk)
//		if fault.Seen() == 0 {
//			break
//		}
//	}
//
// # Guarantees
//
//  1. A fault strikes the operations it names and no others, and each strike is seen: by
//     Active.Seen and by the function set with OnFault, before the operation suffers it.
//  2. Chances follow from the seed and the order in which operations begin.
//  3. An operation that hangs holds its buffer until the fault is lifted, its delay is over or
//     the table is cleared.
//  4. Without faults, an operation costs three atomic operations.
//
// # Concurrency
//
// Everything but Truth is safe for concurrent use. No mutex is held while waiting.
//
// # Failures
//
// The ones asked for.
//
// # On disk
//
// Nothing.
package faultdisk
