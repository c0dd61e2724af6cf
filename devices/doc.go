// Package devices deals with one disk at a time: what it is, what it says it is, reading and
// writing it, and what it is measured to do.
//
// A [Disk] is raw storage: a [File] (a block device, or a file standing in for one), a [Memory],
// or a simulation (devices/simdisk). A [Label] on it says which device of which volume it is, and
// its [Layout] where things stand. [Inspect] tells what is on a disk before it is taken. A
// [Device] is a Disk with a queue, deadlines and measurements; what it promises, and the model by
// which it predicts, stand in device.go and model.go. A [Sampler] gives the kernel's view of the
// same disk, and [ForeignLoad] what others do to it.
//
// # Guarantees
//
//  1. A disk transfers all of a buffer or returns an error. Unaligned offsets, lengths and
//     addresses, and what lies beyond the end, are refused by every kind of disk alike
//     ([CheckIO]), before anything is transferred.
//  2. After a Sync that returned nil, every write that had returned before is on stable media, as
//     far as the disk tells the truth.
//  3. A File is open to one process alone. Nothing but block devices and regular files is
//     opened, and never another thing than was looked at.
//  4. An operation of a File never meets a descriptor that was closed and given out anew,
//     however long it hangs.
//  5. WriteLabel never touches the newest sound copies of the label. After a crash ReadLabel
//     finds the label of before or the new one; once WriteLabel has returned, the new one. Only
//     the very first label may be found missing or damaged instead.
//  6. Every changed bit of a label is detected. Sound copies that contradict each other, and
//     labels of a newer version, are refused and never chosen among.
//  7. Losing either end of a disk costs no label. (A GPT has tables at both ends: written over a
//     device it costs all four copies, and the device is then one without a label.)
//  8. Inspect and SameDisk write nothing.
//  9. After a crash in GrowLabel, ReadLabel finds the label of before or the new one.
//
// # Concurrency
//
// Disks, Inspect, SameDisk and Sampler are safe for concurrent use. Writers of one disk's label
// must take turns. Memory holds a lock while it copies; File holds none. Nothing here calls
// upward. File operations are system calls and pin a thread each; the others run under
// testing/synctest.
//
// # Failures
//
//   - Disks return the system's errors as they are (syscall.EIO, ENXIO, ENOSPC and so on);
//     Device adds an [OpError]. A File that has become shorter gives io.ErrUnexpectedEOF.
//   - [ErrAlignment], [ErrRange], [ErrClosed]: the caller's mistakes.
//   - [ErrBusy], [ErrNotDisk]: from Open.
//   - [ErrNoLabel], [ErrCorrupt] (a [CorruptError]), [ErrFuture], [ErrConflict], [ErrShrunk],
//     [ErrOtherLabel]: from the label.
//   - [ErrTooSmall]: from the layout.
//
// A file system that refuses O_DIRECT is used through the page cache: File.Buffered tells. A
// device that cannot discard ignores Discard.
//
// # On disk
//
// All numbers are little endian; offsets and sizes are bytes. A device of the size S:
//
//	0          8 KiB        64 KiB                        n MiB                     S-8 KiB      S
//	+----------+------------+--------------------+--------+--------------------------+-----------+
//	| label A B|   unused   |    journal area    | unused |           data           | label A B |
//	+----------+------------+--------------------+--------+--------------------------+-----------+
//
// The journal area is S/128, at least 64 MiB; on devices below 4 GiB it is S/64 (at least
// 64 KiB). It is rounded up to 64 KiB. Data starts at the next multiple of 1 MiB. Everybody reads
// these places from the label, not from this rule.
//
// The last 256 KiB of a journal area of at least 1 MiB are scratch: nothing is kept there, what
// they hold is undefined, and probes write to them at any time (probe.go).
//
// The label has four copies: pair A at 0 and S-8192, pair B at 4096 and S-4096. Writing number n
// goes to pair A if n is odd and to pair B if it is even, so the pair of writing n-1 stays as it
// is, and either end has both. The highest number wins. A new device gets writings 1 and 2. One
// copy:
//
//	offset  size
//	     0     8  magic "BALLAST\n"                      (in all versions)
//	     8     2  format version, 1                      (in all versions)
//	    10     2  device ID
//	    12     4  chunk size
//	    16     8  compatible features: may be ignored
//	    24     8  read-only compatible features: may be ignored if nothing is written
//	    32     8  incompatible features: must be known
//	    40    16  volume UUID
//	    56    16  device UUID
//	    72     8  device size S; the disk may be larger
//	    80     8  offset of this copy
//	    88     8  number of this writing
//	    96     8  epoch: the last membership change that this device took part in
//	   104     8  journal area: offset
//	   112     8  journal area: size
//	   120     8  data: offset
//	   128     8  data: size
//	   136     8  journal anchor: sequence
//	   144    16  journal anchor: digest
//	   160     8  journal anchor: count of records
//	   168     1  copies of each chunk, 1 to 3
//	   169     1  length of the volume's name, 1 to 64
//	   170     2  number of members, 1 to 64
//	   172     4  zero
//	   176    64  name of the volume, UTF-8, then zeros
//	   240    16  zero
//	   256  3072  members, 48 bytes each, by ascending ID; unused ones are zero
//	                 0   2  device ID
//	                 2   6  zero
//	                 8  16  device UUID
//	                24   8  size
//	                32   8  epoch
//	                40   8  zero
//	  3328   764  zero
//	  4092     4  CRC32C of the 4092 bytes before     (in all versions)
//
// What is zero must be zero unless a compatible or read-only compatible feature is set that the
// reader does not know. testdata/label-v1.hex is a sample; it begins
//
//	42 41 4c 4c 41 53 54 0a  magic
//	01 00                    version 1
//	02 00                    device d2
//	00 00 10 00              chunks of 1 MiB
//
// A device that has grown gets a label of its new size by two writings, so that both pairs stand at
// its new end before anything else is put where the old ones were; those are not looked for then.
// The journal area stays as it is, what is new is data.
package devices
