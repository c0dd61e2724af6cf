// Package process tests the built daemon as a whole: its commands, its life and death, and real
// NBD clients against it.
package process
