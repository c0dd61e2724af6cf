package daemon

import (
	"context"
	"slices"
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
	rates  map[string]rates // by device
}

// rates are bytes per second, over the last interval.
type rates struct{ read, write float64 }

// cacheInterval is how old a scrape's figures may be.
const cacheInterval = time.Second

func newStatusCache(first striping.Status) *statusCache {
	c := &statusCache{}
	c.put(first)
	return c
}

// put keeps s. Only run and newStatusCache call it, so that rates are over whole intervals.
func (c *statusCache) put(s striping.Status) {
	now := &heldStatus{status: s, at: time.Now(), rates: map[string]rates{}}
	if before := c.held.Load(); before != nil {
		seconds := now.at.Sub(before.at).Seconds()
		for _, was := range before.status.Devices {
			for _, d := range s.Devices {
				if d.Name == was.Name && seconds > 0 {
					now.rates[d.Name] = rates{float64(max(0, d.ReadBytes-was.ReadBytes)) / seconds, float64(max(0, d.WriteBytes-was.WriteBytes)) / seconds}
				}
			}
		}
	}
	now.fill(&now.status)
	c.held.Store(now)
}

// fill puts the rates into a status.
func (h *heldStatus) fill(s *striping.Status) {
	s.Devices = slices.Clone(s.Devices)
	for i := range s.Devices {
		d := &s.Devices[i]
		d.ReadRate, d.WriteRate = h.rates[d.Name].read, h.rates[d.Name].write
	}
}

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
