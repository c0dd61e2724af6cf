// Package torture kills, stops, starves and damages the built daemon and its disks while clients
// work on it, and compares every block with what it may hold.
//
// The model (model_test.go) keeps, for every 4 KiB block of an export, what it may read as: the
// newest content that a flush or FUA covered and everything written since. A write counts from the
// moment it is sent, and replaces what was answered before it was sent, so that overlapping writes
// may end in either order. What an answer did not come for may have happened or not.
//
// The tests are short; with $BALLAST_TORTURE, which make torture sets, the kill loops are as long
// as a release wants them.
package torture
