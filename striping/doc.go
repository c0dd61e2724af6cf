// Package striping presents several devices as one volume.
//
// A [Volume] holds objects; an [Export] is an object that a block device client reads and writes.
// A [File] is one that the name space gives names to; the volume knows it only while it is open or
// not settled, and learns at open from the inode records in the journal whose the chunks are: those
// of no inode, or behind a file's end, are forgotten then. Slots of files are as long as their data,
// and double when they grow.
// An object is cut into chunks (1 MiB by default), and each chunk, when it is first written, gets
// a slot on as many devices as the volume keeps copies: on those that are expected to be done
// first (package balance). Where a chunk stands and what its blocks must look like is journaled
// (package journal), so nothing has to be found by arithmetic and every chunk may lie anywhere.
//
// # Guarantees
//
// The letters are those by which tests name them.
//
//   - D1: What was written before a [Export.Sync] that returned nil is read back with exactly
//     those bytes after kill -9, a panic of the kernel, or a power cut that strikes each device
//     independently; with k copies also after the loss of k-1 devices.
//   - D2: A write with fua promises that for its own bytes.
//   - D3: A Sync covers writes that returned on any handle of the export.
//   - D4: Of what no Sync covered, each 4 KiB block reads as one of the versions written since
//     the durable one, or as that one; where the medium tore a block, as an error. Never as a
//     mixture, never as another block.
//   - D5: After a crash, two reads with no write between return the same bytes, whatever device
//     answers.
//   - D6: Zeros and trims are writes of zeros in all of this.
//   - D8: After a failed sync or commit nothing that depended on it is reported as done.
//   - C1: Reads and writes of one block are linearizable.
//   - C2: Overlapping writes leave each block equal to one of them, on all copies.
//   - C3: A change of placement is there wholly or not at all after a crash.
//   - T1: Every block read from a device is compared with 32 bits of a hash (XXH3) kept in the
//     journal, over (volume, object, chunk, generation, block number, data): 2^-32 of damage passes, whatever
//     its kind. T2: so a lost or misdirected write and a device from the past are noticed, not
//     only rot.
//   - R1: A bad copy is answered from a good one and rewritten. R2: without a good one exactly the
//     bad blocks end in an error, and Status lists them.
//   - R5: A full volume refuses writes that need new space and nothing else.
//
// # How a write becomes durable
//
// A write goes into the chunk's dirty overlay in RAM and returns (at most DirtyLimit bytes are so
// buffered; a block that is there already is overwritten there). Whole chunks go on at once (the last
// one of a file, which may become longer, when nobody has the file open for writing any more), others
// when all of them fill half of what may be buffered, and from an age of 2 s on, few at a time, so that
// those who read and write beside them do not feel it. Twice in FlushInterval what is on devices is
// committed, and what is older than half of it is written out first. The write-back seals the overlay
// and takes one of three ways:
//
//	new placement   the chunk has no slot, or all its blocks are replaced: the data goes to new
//	                slots, the old ones are given back after the next commit. Needs no intent.
//	in place        the data goes to the chunk's slots. Blocks that hold durable data need an
//	                intent first: the sums of what is about to be written, committed to the
//	                journal. Until the next commit of the chunk, a block may have any of these
//	                sums; a torn block has none and is never taken for data.
//	relocation      the chunk's slots are too short or cannot be written: its content is read,
//	                merged, and placed anew.
//
// A flush writes out what it covers, syncs the devices that hold it (side by side, and no
// others), commits the placements it depends on, and returns. Data that only overwrote durable
// blocks in place is found through the intents and needs no commit; the background commit, every
// 5 s, settles those. Flushes of one object that come together share this work; those of different
// objects run side by side, and wait for no device that holds nothing of theirs. What a name space has to
// commit with its files' data goes into the same journal batch ([Volume.SyncFilesWith]).
//
// So a write is acknowledged from RAM, and never by fewer devices than it has copies: a disk that stalls
// costs room in the buffer, and a flush that covers what it holds waits until it answers or, after 5 s, its
// copies are journaled as stale. That is all the redundancy that can be owed; it is repaid by a rebuild
// before other jobs. When the buffer is full, writers wait (TestRivalsStallIsNotFelt).
//
// Intents carry sums, and not only regions as in other mirrors' write-intent logs, because the
// journal keeps the sums apart from the data: an overwrite in place changes both, and a crash
// between would look like rot. Knowing the new sum beforehand, recovery can tell old, new and
// torn apart, per block and per copy, with one commit per batch of overwrites. A block that is torn on every
// copy cannot be read until it is written again; a file's last one is made what it was (tail.go).
//
// # How data moves
//
// Jobs (drain, replace, rebuild, rebalance) move copies of chunks while clients read and write
// them; move.go says how, job.go what a job is. A rebalance begins by itself when clients are quiet
// and a device is 5 % of its space off its share (evening.go). D7: at every moment of it the copies that the journal
// names are good ones: a new copy is synced before the chunk names it, the chunk names it before the
// journal does, and the old slot is given back after that. What is left to do is found in the
// placements, so a crash costs what was under way.
//
// What clients feel of a job is one piece at most, of 64 to 256 KiB as the disk is fast (1 MiB on a
// spinning one): a disk gets the next piece when nothing of the clients' is in it, and beside them no
// more than its floor (2 % of its time or Options.BackgroundFloor, more for data with one copy left). So there is no guard that
// watches the clients' latency: with pieces of 1.6 ms the p99 of reads stays within three times of what
// it is without the job, and the job gets 80 to 90 % of the time that clients leave. For data that has more
// than one copy, pieces are a fifth of that (16 KiB at least) on disks that clients read from: their p99 stays
// within 1.5 times. Clients that keep the disks busy keep 90 % of their throughput, those that are few, and
// wait for one answer before they ask for another, three quarters to four fifths (TestRivalsRebuildMakesWay).
//
// # Concurrency
//
// Volume and Export are safe for concurrent use. Lock order: object.resize, chunk.mu, then one of
// the leaves (Volume.mu, object.mu, stream.mu, allocator, budget, writeback.mu), then the
// journal's and the devices' own. None but object.resize is held over I/O or waiting: a chunk
// that is being written, committed or healed says so in its fields (out, inCommit, holder), and
// who must wait queues a waiter there. At most one of the three is under way for a chunk.
//
// Readers take no lock over I/O: they copy the chunk's placement (slices that are replaced, never
// changed), read, and check the sums. A check that fails because the chunk changed meanwhile is
// noticed by its change counter, and the read starts over.
//
// # Failures
//
// A device has a state, journaled with its reason: online, slow, draining, drained, failed,
// missing, rebuilding (states.go says who sets them, effectsOf what they do). One that fails a sync,
// disappears or keeps failing writes has failed; one that is slow by its own history, and not for a
// cause that others share (policy.Health), or that does not answer for 5 s (30 s when there is one
// copy), sits out: it gets no new chunks, and copies there that miss a write are journaled as stale
// before the write counts as durable. No more than copies-1 failure domains sit out for being slow.
// What clients of k >= 2 copies see of any of it is a delay.
//
// Copies that are stale, or on devices that are gone, are made anew by a rebuild, which starts by
// itself; a device that is missing is waited for first (missingGrace).
//
// A write-out that no device takes keeps its data in RAM, is tried again, and makes flushes fail
// meanwhile; when such data fills half of DirtyLimit, writes fail too.
//
// A chunk that must move while one of its blocks has no good copy takes along that it has none: the
// block stays an error until it is written again, and its neighbours become durable. While a copy
// may yet be had, on a disk that is missing or does not answer, the chunk stays where it is, and
// flushes that cover new data of it fail. Ranges that could not be read for want of an answer leave
// the list of bad ones when the disk answers again.
//
// When the journal cannot be written, nothing new becomes durable: flushes fail, reads go on. While
// its disk is full (JOURNAL_FULL) the same holds for what needs a new record; overwrites go on.
//
// What devices are measured to do is journaled once a minute, if it has changed by a fifth, and at
// Close; the Volume is the one writer of device records. A device that has grown says so in its label
// first, then in its record, and only then takes copies there ([Volume.GrowDevice]); Open makes the
// record follow a label that a crash left ahead of it.
//
// Every 10 s in which the journal got on, at Open and at Close, labels are written, and then the
// records note what they have (LabelSeq). A label is never older than its note but on an older image
// of the disk, which whoever opens the devices gives up as missing: what a device missed is known, what
// an image lacks is not. [Volume.ReturnStale] takes it back: all copies there that have others are
// journaled as stale before one is read, and a rebuild compares them. (Unless they are told to take it all the same: a disk that says it wrote a label
// and loses it may be the only one to have the rest.) An image taken since the last note passes for the
// device; block sums find what it lacks.
//
// # On disk
//
// Slots hold the chunks' bytes and nothing else; the records in the journal say what they are. A
// slot lies within one region of a device: region r is the chunk-sized area at data offset
// r*chunk. A block that was unreadable when its chunk moved holds zeros, and its sum in the record is
// the complement of what zeros would have there. The version of a chunk's record tells the second in
// which the chunk changed last, by the machine's clock. Which slots are in use is not stored but derived at open from all chunk records.
//
// # Memory
//
// A cached chunk of 1 MiB takes about 1.5 KiB, sums included; CacheBytes (64 MiB) bounds them, give or
// take 64 bytes for each, and what is not cached costs one journal read. The allocators take 2 bytes
// and 1/4 bit per region. Buffered writes are bounded by DirtyLimit (by default what the devices write
// in a second, from 64 MiB to 2.5 % of the RAM), chunks that wait for their commit by FlushInterval
// and flushSoonAfter, data read ahead by ReadAhead for each of at most 8 readers of an export. So a
// daemon whose caches are full takes a few bytes more for each chunk that is placed: 170 MiB of its own
// with 100,000 chunks that are read at random, 171 with a million. Buffers of the daemon are no part of
// the collector's heap (MapBuffers): of what they took, half of what nobody needed for 10 s goes back to
// the kernel every 10 s. With a million chunks just written it has 517 MiB, most of it buffers.
package striping
