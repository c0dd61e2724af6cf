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
// Not promised: what a cut took off a file may read as it was, or as zeros, until the new size is
// durable; space that was reserved behind a file's end is kept only while the tree is open.
//
// # How an operation becomes durable
//
// An operation on names changes an ordered delta in RAM: layers of records, of which each goes into
// one journal batch. Look-ups ask the delta first, then a bounded cache of records (and of there being
// none), then the journal, whose way to a record is much longer; it is not asked for what cannot be there, as names in
// a directory that was made since the tree was opened. Of a directory that is being listed more names are read than
// are asked for. A round of the committer closes the
// open layer, makes the data durable of the files that somebody syncs or a rename waits for, brings
// their records up to it, and commits the layers in order: with the placements of that data in one
// journal batch, where nothing has failed and all of it fits into one. Requests that arrive meanwhile share the
// next round. There is one every FlushInterval, and when half of DeltaLimit is used; operations wait
// when all of it is.
//
// A file's number is that of the object with its data, until it is cut to nothing: then it gets a new
// object, and the old one stays until the inode record with the new one is committed. That is how
// the fourth guarantee holds, and why cutting a large file takes no time.
//
// # Concurrency
//
// Tree and File are safe for concurrent use. Lock order: node.io (held over reads and writes of
// data; cutting has it alone), Tree.renames (a name moves to another directory), the locks of
// inodes (hashed; all that an operation needs are taken at once, sorted), Tree.mu, node.mu,
// delta.mu. Nobody waits for the committer with a lock of an inode held, for the committer takes
// them: operations wait for room before they lock.
//
// # Failures
//
// What the caller did wrong is a syscall.Errno, as the system call would return it. Others are
// those of packages striping (ErrNoSpace, ErrUnreadable, ErrLost) and journal (ErrFull, ErrDead).
// When a write finds no space and deleted files are waiting to be given back, it waits for that and
// tries again. While the journal is full, operations that need new records fail with ErrFull; once
// it is dead all changes fail with ErrDead, and reads go on. A rename over a name whose new data
// cannot be made durable holds back what follows it, for ten rounds, or until the data is lost for
// good; then it is committed with the data that the file last had.
//
// # Memory
//
// DeltaLimit for what is not committed, CacheLimit for records, up to 3 MiB for the names in directories
// that are new, some 1.5 MB for those that are being listed, a byte or two for each inode to which references are out, some hundred bytes for a file
// that is open or ahead of its record. With a million
// inodes known to the kernel 60 MB of the daemon's heap are in use, one of them for these.
//
// # On disk
//
// Records of package journal: one Tree, and Inode, Entries, Xattrs. A name is found by the first 58
// bits of the SHA-256 of the tree's seed and the name; a cookie of a listing is that and 4 bits that
// tell names with the same bits apart, so it stays good whatever is made or deleted meanwhile.
package names
