// Package bench measures the daemon beside the disks it stands on and beside other servers, with
// fio through NBD, and prints each figure as a ratio of two measurements of the same run: absolute
// rates say more about the machine than about Ballast. It is built with the tag bench:
//
//	make bench
//
// # Unequal disks
//
// Three loop devices limited to 50, 100 and 200 MiB/s. Each is first measured alone, at the
// request size and a saturating depth; from that the bounds: with one copy the sum S of all, with
// two copies min(S/2, S minus the fastest) for writes and S for reads.
//
// # Equal disks in memory
//
// One disk in memory, served by Ballast, qemu-nbd and nbdkit in turn, several rounds, medians.
//
// # Files
//
// One disk in memory, mounted: the volume, ext4 on such a disk, mergerfs over a directory in memory, and
// a bare go-fuse file system in RAM, which is the ceiling for any that has to see the bytes: as bare as can be,
// and with permissions and extended attributes, of which the kernel asks more. For a file that tar unpacks, the
// one gets 8.6 requests, the other and the volume 11.6; for one of 8 KiB that is made, 5 and 7.
//
// One cp of a large file and one cat on the three unequal disks; restic there and on ext4 on one disk of
// 200 MiB/s. A directory of a million files: how fast it is made and listed, and the daemon's memory.
package bench
