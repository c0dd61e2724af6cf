// Package nbd serves block devices over the network block device protocol.
//
// A [Server] offers a set of exports ([Exports]) to clients on any number of listeners ([Listen],
// [Inherited]) or on one connection ([Stdio], Server.ServeConn). An [Export] is what is behind a
// name; what only some exports can do stands in further interfaces ([Inliner], [Receiver],
// [Zeroer], [Trimmer], [Mapper], [Prefetcher]), and a client is told of exactly those.
//
// Spoken is fixed newstyle with NO_ZEROES: EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY,
// LIST_META_CONTEXT and SET_META_CONTEXT (base:allocation); READ, WRITE, DISC, FLUSH, TRIM, CACHE,
// WRITE_ZEROES and BLOCK_STATUS with all their flags. STARTTLS and EXTENDED_HEADERS are refused
// with ERR_UNSUP. Any alignment is served, up to 64 MiB in one request (32 MiB are promised).
//
// # Guarantees
//
//  1. A request is answered once, after the export has done it. A flush is answered after
//     Export.Sync, which covers every write that was answered before on any connection of the
//     export; so CAN_MULTI_CONN is always set. A write with FUA is answered when it is durable.
//  2. A write is done with its whole payload or not at all: one that is cut off is dropped.
//  3. A write of a connection that is lost does not land after a newer one that was
//     acknowledged. GO and EXPORT_NAME wait until everything is over that was under way for
//     clients of the export that are gone, also those whose end the server has not come across
//     yet (their socket tells); if that takes longer than Options.DrainTimeout the client gets
//     ERR_POLICY and may ask again. Modifications on connections that stand wait likewise, from
//     when the loss is noticed. A client whose host vanishes without a word is gone only when
//     TCP says so; that is for the range locks of the volume.
//  4. Bad input costs the client an error while the stream is in step (the payload is read and
//     dropped), else its connection. Fields are checked before anything is allocated by them or
//     asked of an export.
//  5. Memory is bounded: 64 MiB of requests and one more per connection, 256 MiB for all (a
//     connection with nothing under way may exceed that by one request); beyond it no more is
//     read. Handshakes, options, connections per export and times are bounded; see [Options].
//  6. A client that does not read its replies, or sends slowly, harms only itself: the reader of
//     its connection never waits for a writer, and it is thrown out after a minute.
//  7. Server.Shutdown answers what was read and closes, and never sends ESHUTDOWN, which a
//     kernel client would hand to its file system as an I/O error.
//  8. A panic in an export ends the connection it served, no other.
//
// # Concurrency
//
// Server is safe for concurrent use. Each connection has one goroutine that reads; it serves
// inline what the export can do at once, and leaves the rest to at most Options.Workers
// goroutines of the connection, started when needed. Whoever completes a request while nobody
// writes becomes the writer; see reply.go. Requests are done and answered in any order.
//
// Lock order: Server.mu, conn.mu. Neither is held over I/O, calls of exports, or waiting.
// workers.mu and budget.mu are taken alone. Exports are called without locks.
//
// # Failures
//
// Errors of exports become numbers by one table (errno.go); unknown ones are EIO. With structured
// replies their text goes along. An export that was removed while open answers EIO, one that has
// shrunk EINVAL or ENOSPC. When a client is gone its reads are cancelled (their context ends),
// its modifications run to their end; Server.Close cancels all.
//
// # On disk
//
// Nothing. The layouts on the wire are in package wire.
package nbd
