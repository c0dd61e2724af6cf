// Package verify checks a volume that nobody serves, and writes nothing to it.
//
// [Run] reads the labels, the journal (a copy of it, since opening one writes), its copies on the
// devices as a whole, and every block
// that the journal calls written, from every copy that it calls good. The sums are computed here
// anew from the description of the format, so that a fault of the engine's own code shows too.
//
// What is reported as a fault: a label copy or a copy of the journal that does not pass its checks, a
// disk that is an older image of its device (it counts as missing), a
// journal that is damaged, and was checked as one of its copies has it, a slot outside its
// device's data area or in two chunks, a block of a good copy whose sum is neither the journaled
// one nor, for a block that was being overwritten when a crash came, one announced for it. Copies
// known to be stale and devices that are missing are counted; they are degradation, not damage.
package verify
