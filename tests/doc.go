// Package tests holds what takes several packages: the rules of the house (imports, tidiness) and
// the tests that run the built daemon against real clients, real disks and kill -9.
//
// Sub-packages: harness starts and ends processes, disks and throttles; tally counts results.
package tests
