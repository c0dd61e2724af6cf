package striping

// ioLock is a mutex that may be held over I/O and waiting: it is a channel, so that those who wait
// for it count as waiting for what its holder waits for.
type ioLock chan struct{}

func newIOLock() ioLock { return make(ioLock, 1) }

func (l ioLock) Lock()   { l <- struct{}{} }
func (l ioLock) Unlock() { <-l }
