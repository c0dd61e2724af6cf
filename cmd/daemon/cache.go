package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"ballast/striping"
)

// statusCache keeps the volume's status for whoever must not wait for it.
type statusCache struct {
	held atomic.Pointer[heldStatus]
}

type heldStatus struct {
	status striping.Status
	at     time.Time
}

// cacheInterval is how old a scrape's figures may be.
const cacheInterval = time.Second

func newStatusCache(first striping.Status) *statusCache {
	c := &statusCache{}
	c.put(first)
	return c
}

func (c *statusCache) put(s striping.Status) { c.held.Store(&heldStatus{s, time.Now()}) }

func (c *statusCache) get() (striping.Status, time.Duration) {
	h := c.held.Load()
	return h.status, time.Since(h.at)
}

// run renews the status until ctx ends. Should taking it ever hang, only this goroutine does.
func (c *statusCache) run(ctx context.Context, take func() striping.Status) {
	tick := time.NewTicker(cacheInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.put(take())
		}
	}
}
