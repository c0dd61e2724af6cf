package daemon

import (
	"context"
	"sync"
)

// gate lets changes through until it closes, and then waits for those under way. Its zero value is
// open.
type gate struct {
	mu     sync.Mutex
	closed bool

	wg sync.WaitGroup
}

// enter reports whether a change may begin; leave ends it.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

func (g *gate) leave() { g.wg.Done() }

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}

// either returns a context that ends with any of two.
func either(a, b context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(a)
	stop := context.AfterFunc(b, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
