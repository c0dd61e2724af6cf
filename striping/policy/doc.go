// Package policy holds the decisions about where data goes and who serves it, as functions of
// values: no clock, lock or disk. Package balance measures, asks here, and acts.
//
// [Bound] and [Targets] say what a set of devices can do at best: throughput, usable capacity,
// shares. [Place] chooses the devices of a new chunk, [Replica] the copy that serves a read,
// [HedgeAt] and [HedgePays] when a second attempt is worth its cost, [Tokens] how many such
// attempts there may be, [Segments] how one sequential stream is cut over spinning mirrors, [Health]
// when a device is so slow that it should sit out.
//
// # Guarantees
//
//  1. Place never chooses two devices of one failure domain, nor one without space.
//  2. Capacity guard: while the space that k copies can use suffices, Place finds a set or says
//     to wait for one; following its choices, no byte that k copies can use is ever stranded.
//  3. Targets respect capacities and sum to 1.
//  4. A device that was slow once within an hour is back after 8 s of being well, later after 30: while it sits
//     out the others do its work, and what comes and goes shows within those. (The plan was 30 s each time.)
//  5. A decision depends on its arguments alone; ties are broken by the random numbers passed in.
//
// # Concurrency
//
// Functions are pure. Tokens, Segments and Health are not safe for concurrent use.
//
// # Failures
//
// None: impossible requests are answered as such.
//
// # On disk
//
// Nothing.
package policy
