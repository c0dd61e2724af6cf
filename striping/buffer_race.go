//go:build race

package striping

// The race detector does not follow memory that Go's runtime does not know.
func init() { mayMap = false }
