// Package posix checks what a file system owes the programs on it, case by case, through system
// calls on a directory.
//
// [Run] takes the directory; the same cases with the same expectations run on ext4 and on a mounted
// volume, so that a difference between the two is a fault of one of them. What a case does as
// another user it does on a thread of its own that has that user's rights; what takes a second
// process starts the test binary again, see [Helper].
package posix
