// Package journal keeps what a volume must remember: its configuration, the placement of every
// chunk with the sums of its blocks, intents, events.
//
// A [Journal] is a set of records, changed by a [Batch] at a time. [Store] is the one on disk, in
// Badger; package simjournal has one in memory that crashes at will. A record is made of its
// struct ([Volume], [Device], [Object], [Chunk], [Intent], [Event]) by Pack and read by its Parse
// function. A [State] (sequence number, count, digest) says in 32 bytes what a journal holds; the
// labels of the devices keep one as an anchor. Copies of the journal live in the journal areas of up
// to three devices (an [Area] at a [Place]), so that losing its directory loses nothing:
// [Store.StartCopies] keeps them, Open uses them, [SurveyAll] looks at them.
//
// # Guarantees
//
//  1. A batch whose Commit returned nil is found after any crash of the process or machine.
//  2. A batch is found wholly or not at all. Batches handed in by one goroutine are found in that
//     order: none without those before it.
//  3. After the first failed commit, or a line in Badger's log that tells of one, every Commit
//     returns ErrDead. What was acknowledged stays readable.
//  4. Open returns a journal only after it read all of it and found every record's checksum, the
//     number of records, their digest and the volume's UUID right, and every block of Badger's tables,
//     also those with nothing but old versions. A damaged, foreign, mixed or emptied directory is
//     refused and never taken for an empty or older journal.
//  5. Given an anchor, Open refuses a journal that is older than it, or as old and different.
//     Without one, the loss of the newest commits (a damaged or deleted log: Badger cuts it at the
//     first bad byte and says nothing) cannot be told from a crash before them.
//  6. A batch that adds records is refused with ErrFull while the file system has less than 112 MiB
//     and twice the store free, any batch below 64 MiB, and opening below 32 MiB. Nothing crashes,
//     nothing is lost, and commits go on when space returns.
//  7. With copies, a batch whose Commit returned nil is also in as many of them as Need says (or as
//     there are, if fewer are good: Copies tells), and these are in as many failure domains if good ones
//     are. The others have it within Delay. The loss or damage of the store, and of all copies but one of
//     those that Commit waited for, costs nothing acknowledged.
//  8. Given places, Open returns the newest state that the store, a copy, or an anchor tells of, or
//     an error; never an older one, and never one that not every record of was read and summed up.
//     Two that went on apart from each other are refused with ErrForked.
//  9. A device that hangs or fails stops no commit for longer than Timeout, and for no more than some 10 ms
//     while Need other copies, of as many failure domains, are good and it is less than 8 MiB behind.
//     Another place takes its part. Time in which this process or its machine stood still does not count.
//  10. A record does not parse under another key than its own, nor with any bit changed.
//
// The digest is a sum, modulo 2^128, of the XXH3-128 (https://github.com/Cyan4973/xxHash) of each record's key
// and value. Each commit updates it with the difference it makes. It finds records that are lost,
// doubled, stale, returned or of another journal; it is no protection against an attacker, who can
// compute it as well.
//
// # Opening
//
// A store is opened in three steps. A child has Badger open it and close it again ([RunSettle]), without
// compacting anything: what a damage kills is the child, and what stood in a log stands in a table then. Next
// all tables are read past Badger (table.go), once: by large reads, for which a disk's error is an error and
// no SIGBUS, each block's checksum when its records are looked at, no record copied. Then Badger opens what was
// verified, without reading it again. The pass also notes where the chunks are ([Store.TakePlacements]), so
// that a volume need not read them either: up to 256 MiB, 10 to 20 bytes for each; a volume with more reads
// their records. Without children Badger reads all itself, in twice the processor time.
//
// To put the pass off until after a clean stop was considered, and is no gain: the danger is a record that is
// missing, as what it told of reads as zeros, and nobody can say that none is before all were counted. Reading
// through a memory map instead was measured: 4 % less, for SIGBUS in the daemon.
//
// # Copies
//
// A copy is a ring: a log of all committed groups in one device's journal area, each a unit of one
// or more frames, chained by checksums. What the tail still holds alive is packed behind a later
// group, and the tail moves on with it; so the units from tail to head always make the whole
// journal, there is no snapshot beside the log that would need twice the space, and no moment at
// which commits wait for one. That every unit names the journal's count and digest makes a replay
// prove itself.
//
// A group goes to Badger and to the rings at once, and Commit returns when both have it. One after
// the other would let Open know which of them is ahead, but cost every flush one more flush of a
// disk. It need not know: either may be one group ahead, which nobody was told of, and is led on by
// the other. A ring has the group itself; the store keeps the keys of its last 64 groups for it. A
// copy that lags further is written anew.
//
// Each Open begins a life: a number one higher than that of what was opened, and a random ID. Store
// and rings name their last 64 lives. Newest is what has the highest life, then the highest
// sequence; so a device that was away with a group that nobody else has does not win over those
// that went on without it, and what was served apart is recognised, because neither knows the
// other's life, or because the one with the older life has more than the newer one began with: then
// that began from an older image.
//
// Of three copies a commit waits for the Need fastest. The others are lazy: they write what has gathered in
// Delay, or 32 groups, at once, as a flush that nobody waits for delays others, and costs a disk that turns two
// seeks. When one that is waited for is overdue, or given up, the lazy ones take its part at once.
//
// What a ring writes takes no place that the tail of its newest durable unit still needs: groups that
// gather behind a slow sync wait for it when the ring has gone round. The fuller a ring is with what is
// alive, the more of it is carried for each group; up to three quarters that keeps pace ([CopyRoom]), and
// CopyOptions.Tell is called at half. Larger areas are given to a volume when it is made, not extents of
// the data: that a copy is found by the label alone, without any copy, is worth more.
//
// A ring that is made anew takes the place of the one before. Both headers lead to it, durably, before
// its first frame is written: one that still led to the head of the old ring would show that as whole
// when its tail was overwritten already and the power failed.
//
// Which devices have copies is not written down: those whose rings say so. Places in failure domains
// without a copy come first, then those with the largest area. A device that lags for Timeout, or
// fails, is left, and tried again after Retry, but never while it may still hold a write.
//
// Open with places: a sound store that is the newest is taken as it is. One that lacks the last
// groups is led on. One that is damaged, emptied or gone is made anew from the newest copy, verified,
// and put into its place; the old files are kept in badger.damaged. Where the newest that is whole is
// older than anything that is told of (an anchor, a frame behind a damaged one), Open refuses.
//
// A store is made anew by ascending key, without transactions: what a ring begins with stands there
// by key, the groups behind it are sorted, 64 MiB at a time in memory, and merged with it. Of a ring
// that has gone round all has to be sorted, for which there must be room for the store twice.
//
// In an area that is Thin, as in a sparse file, a ring writes zeros ahead of its head until it has gone
// round, so that no flush waits for the file system to find room: it writes twice as much until then.
//
// What slots hold says nothing of what they are, so without any copy a volume is lost. A header
// in each slot was considered: 4 KiB of each 1 MiB (0.4 %), a second write for each overwrite in
// place to keep block sums true there, and still no order between two slots that claim one chunk.
// A further copy of the journal costs a third of that.
//
// # Concurrency
//
// Store is safe for concurrent use. One goroutine commits; while it waits for the disk, callers
// queue, and all that queued share the next transaction and so its one flush. Readers see what the last
// commit has left, and wait for none. Store's lock is
// never held during I/O. Commit takes from a fraction of a millisecond to, in the worst case, the
// time of a compaction (hundreds of milliseconds): hold no lock across it that a reader needs. The
// queue is bounded by the number of callers, each of which waits for its batch. Close commits what
// is queued and waits for readers.
//
// # Memory
//
// Badger maps its tables, and what was read of them once stays the process's until the kernel is short of memory.
// A store gives their blocks back when 64 MiB have gathered (shed.go), looking after every 256 records that were
// read or changed; a scan does so itself after each 4,096 of its own, and nobody else waits for it. The pages stay in
// the kernel's cache: to read a record of a store of 220 MiB takes 9.8 us of the processor then, instead of 8.4. The indexes of the tables stay, 1 to 2 %
// of the store. Beside that there are two or three memtables of 16 MiB, and while tables are compacted up to 26 in
// the making, each in twice its size (4 MiB in a store of a few GiB), and those that are made until all of a
// compaction are. A store of 100 GiB has some 7,000 tables, each a mapping and a file descriptor.
//
// # Failures
//
// Not final: [ErrFull], [ErrTooBig] and the context's error (nothing was committed), and
// [ErrUnsettled] (the context ended during the flush; the batch may or may not be durable). Final:
// [ErrDead]; close the store and open it again, in a new process best. At Open: [ErrCorrupt],
// [ErrVersion], [ErrForeign], [ErrRolledBack], [ErrBusy], [ErrFull]; none of them is repaired by
// guessing. Badger kills the process over some damages, and a bad disk whoever writes a store there, so
// these are left to children ([Options.InChild]): Open then returns [ErrCorrupt] or [ErrNoStore].
// A read error of the disk while running still is a SIGBUS. Space that
// runs out in spite of the floor, because others write faster than a commit group, is one as well:
// give the journal a file system of its own, or restart the process. [Store.Recheck] finds damage of
// a store in use; after that it answers nothing.
//
// # On disk
//
// A directory on ext4 or XFS:
//
//	store         whose journal it is: "ballastJ", version (1), UUID (16), created (12), CRC32C (4)
//	lock          locked (flock) while it is open
//	ballast       up to 256 MiB, less than 1/40 of the free space below 10 GiB, given back when
//	              the file system is about to be full
//	MANIFEST.bak  a second name of badger/MANIFEST, as of the last open
//	badger/       Badger's files; SyncWrites, no compression, values inline, external magic 0xba11
//	badger.damaged/  the files that were replaced when the store was made anew from a copy
//	badger.new/   a store in the making
//
// A key is 16 bytes: space (1), zero (1), a (6, big endian), b (8, big endian); see [Space].
// A value is little endian: version of the format (1), fields, CRC32C (Castagnoli) of the key and
// all bytes before. A time is seconds since 1970 (8) and nanoseconds (4). The fields stand beside
// each Pack. The chunk of object 6 at index 81, for example, testdata/v1/chunk.hex:
//
//	key   43 00 000000000006 0000000000000051          'C', 6, 81
//	0     01                                            version of the format
//	1     22                                            2 copies; bit 5: the second is stale
//	2     0c00                                          slot of 12 blocks
//	4     5100000000000000                              generation 81
//	12    0500000000000000                              version 5
//	20    0300 000004000000                             device 3, block 0x40000: 1 GiB
//	28    0100 020000000000                             device 1, block 2: 8 KiB
//	36    010a                                          blocks 0, 9 and 11 are written
//	38    efbeadde 01000000 ffffffff                    their sums
//	50    14a7a15e                                      CRC32C
//
// The journal's own record, key '!' 0/0, is written in every transaction: version (1), UUID of the
// volume (16), sequence number (8), number of records (8), digest (16), CRC32C (4). The lives stand
// at '!' 0/1, and at '!' 1/0 to 1/63 the keys that the last 64 groups changed (lives.go). None of
// these counts or goes into the digest.
//
// A journal area with a ring; numbers are little endian, positions count from the ring's begin and
// never start over, and stand at 8 KiB + position modulo size of the ring:
//
//	0          8 KiB                                                      end of the area
//	+----+-----+------------------+--------------------------+------------------+
//	| header   | later groups     | old ones, no longer used | tail ... groups  |
//	|  A    B  |           head ->|                          |                  |
//	+----+-----+------------------+--------------------------+------------------+
//
// Headers (written by turns) and frames are drawn at their Pack functions in ring_format.go; samples
// are testdata/v1/ring.hex and frame.hex. A frame is a multiple of 4 KiB, at most 256 KiB, and does
// not run over the ring's end. A unit's payload, which its frames divide anywhere, is a list of key
// (16), length of the value (4; 2^32-1: deleted), value. Kinds of units: begin, dump (the records
// at the begin), whole (from here on the ring counts; also at the begin of a life), group.
//
// A chunk of 256 written blocks takes 1,056 bytes with one copy, 8 more for each further one, and some 1,112 in
// the store: 0.11 % of the data. Opening takes 0.44 s per million of these, with the start of the child, and a
// volume another 0.06 s to load them; making the store anew from a copy, with what was made read again, takes
// 4.0 s (2 cores, AMD EPYC, in memory). On the same machine, with a virtual disk that flushes in 0.2 to 0.5 ms,
// one caller commits 2,100 batches/s of 1 small record, 960 of 32, 206 of 1,000; 64 callers with 1 record each
// 61,000/s, or 41,000/s whole chunks again and again. A changed record whose hash is not among the last 65,536
// changed ones costs a read of 5 to 10 us, as Get does.
package journal
