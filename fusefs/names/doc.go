// Package names keeps the name space of a volume: inodes, directory entries, extended attributes,
// and which data is whose.
//
// A [Tree] is the name space of an open volume, as POSIX has it, without the permission checks
// that the kernel makes (default_permissions). A [File] is an open regular file. Records stand in
// the journal, data in the volume's objects.
//
// # Guarantees
//
// What is found after a crash of the process or the machine:
//
//  1. The name space is as it was after some operation, all before it included: never a half
//     rename, never an entry without inode.
//  2. Everything that was done before a [Tree.Sync], [Tree.SyncDir] or [File.Sync] was called is
//     there if it returned nil; of a file's data and size, that of the file it was called for, or
//     of all for Tree.Sync. The rest follows within FlushInterval.
//  3. The size and modification time of a file are those that its durable data had: no file is
//     longer than what was made durable, or newer than it.
//  4. A rename over an existing name leaves the old file or the new one with all that was written
//     before the rename. A file that was cut to nothing and written anew is, from its last close
//     on, found with the old content or the new.
//  5. What was deleted, or was written but not named by a durable inode, is given back at the
//     next open.
//
// # Concurrency
//
// Tree and File are safe for concurrent use.
//
// # Failures
//
// What the caller did wrong is a syscall.Errno, as the system call would return it. Others are
// those of packages striping (ErrNoSpace, ErrUnreadable, ErrLost) and journal (ErrFull, ErrDead).
//
// # On disk
//
// Records of package journal.
package names
