// Package fusefs serves the name space of a volume (package names) to the kernel as a mounted file
// system.
//
// [Mount] mounts a [names.Tree]; a [Server] is a mounted one. [Prepare] finds out whether a
// directory can be mounted on, and clears away what a daemon of the same volume left there.
//
// # Guarantees
//
//  1. What names guarantees holds for programs on the mount: fsync, fsyncdir, O_SYNC and O_DSYNC
//     return when it is durable. The kernel tells servers like this one nothing of sync(2) and
//     syncfs(2); what it writes out for them is durable at the next background commit.
//  2. What one program did is seen by every other at once, also between cached, mapped and
//     O_DIRECT access, and SEEK_DATA and SEEK_HOLE count what is only in the page cache yet.
//  3. A panic in a handler ends the process; it never becomes EIO.
//  4. [Server.Unmount] leaves nothing in the kernel that was written before it.
//
// # Kernel caches
//
// The kernel is the only way into the name space, so it may cache all it likes: entries, also those
// that are not there, and attributes for an hour, pages until it needs the memory, directories as
// listed. It writes back by itself (WRITEBACK_CACHE): size, mtime and ctime of regular files are
// its own, and it tells us. What it cannot know makes for three exceptions:
//
//   - Attributes of a file that is open for writing are cached for a second, for st_blocks, or until an
//     fsync that finds the kernel told of other blocks.
//   - The time of the last access moves, where relatime would move it, with what is read from us;
//     the kernel does not tell of reads from its cache.
//   - Before SEEK_DATA and SEEK_HOLE of such a file the kernel is made to write it back.
//
// Permissions are checked by the kernel (default_permissions, POSIX ACLs included), and so are
// file locks: it is the one client, so its own lock tables are as good as a table here, with a
// round trip less, deadlock detection and release at exit included. What is left to us of ACLs is that mode and ACL say the same
// and that default ACLs are inherited, with the umask (DONT_MASK).
//
// Requests that are in vain are answered once with ENOSYS and not sent again: FLUSH (the kernel
// has written back when it comes), OPENDIR (listings need no state here).
//
// Two things are the kernel's and cannot be made better from here. What a program writes through
// a mapping behind the end of a file, in the last page, is in the file if it is made longer while
// the page is cached. And a write beyond the largest size is refused when the cache is written,
// not before.
//
// # Concurrency
//
// Each request runs on a goroutine of its own. The tables of handles and of files that are
// open for writing are leaves: no lock of this package is held during a call into names or the
// kernel. No request is broken off by a signal, as with disks; one that waits for a device that hangs
// waits with it.
//
// # Failures
//
// errno.go makes errnos of errors. Data that the kernel had cached and that cannot be written
// (ENOSPC, EIO) is reported by the next fsync or close of the file, as the kernel does for every
// file system with a write-back cache.
//
// # Memory
//
// 2 MiB for each request under way that carries data, of which the kernel sends at most
// maxBackground by itself and one for each thread that waits; 100 bytes for an open file; names
// counts the inodes that the kernel knows, in a byte or two each.
//
// # On disk
//
// Nothing.
package fusefs
