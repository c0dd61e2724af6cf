// Package mutants checks the checkers: it plants single bugs into package striping and requires
// that the tests of that package find each one.
package mutants
