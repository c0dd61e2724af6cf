package devices

import (
	"sync/atomic"
	"time"
)

// deviceStats is what a device counts. Probes are not counted: they are nobody's work.
type deviceStats struct {
	ops, bytes, errors [4]atomic.Uint64 // by Kind
	timeouts, probes   atomic.Uint64
	latency            [3]Hist // Read, Write, Sync
}

func (s *deviceStats) count(r *Request, latency time.Duration, err error) {
	if r.probe {
		s.probes.Add(1)
		return
	}
	s.ops[r.Kind].Add(1)
	if err != nil {
		s.errors[r.Kind].Add(1)
	} else {
		s.bytes[r.Kind].Add(uint64(r.size))
	}
	if r.Kind < Discard {
		s.latency[r.Kind].Add(latency)
	}
}

func (s *deviceStats) countSync(latency time.Duration, err error) {
	s.ops[Sync].Add(1)
	if err != nil {
		s.errors[Sync].Add(1)
	}
	s.latency[Sync].Add(latency)
}

// KindStats counts the operations of one kind that the disk has returned.
type KindStats struct {
	Ops, Errors uint64
	Bytes       uint64 // of those without error
}

// Stats is a device at one moment. Counters count from NewDevice.
type Stats struct {
	Read, Write, Sync, Discard KindStats
	ReadLatency, WriteLatency  HistSnapshot // in the disk, without the time in the daemon's queue
	SyncLatency                HistSnapshot
	Timeouts                   uint64 // operations answered with ErrTimeout
	Probes, ProbeBytes         uint64

	InFlight   int           // operations in the disk, hung ones included
	Waiting    int           // requests in the daemon's queue
	Limit      int           // operations of the present size that the disk may get at once
	Backlog    time.Duration // expected time until the device is free
	Overdue    bool
	WriteSigma float64 // now over baseline, as measured
	ReadSigma  float64
	Slowdown   float64 // the larger of both, 1 where the difference is too small to matter
	WriteRate  float64 // bytes per second the device can do at large operations
	ReadRate   float64
}

// Stats returns the device's counters and state. It never waits for the disk.
func (d *Device) Stats() Stats {
	var s Stats
	for k, to := range map[Kind]*KindStats{Read: &s.Read, Write: &s.Write, Sync: &s.Sync, Discard: &s.Discard} {
		to.Ops = d.stats.ops[k].Load()
		to.Errors = d.stats.errors[k].Load()
		to.Bytes = d.stats.bytes[k].Load()
	}
	s.ReadLatency = d.stats.latency[Read].Snapshot()
	s.WriteLatency = d.stats.latency[Write].Snapshot()
	s.SyncLatency = d.stats.latency[Sync].Snapshot()
	s.Timeouts = d.stats.timeouts.Load()
	s.Probes = d.stats.probes.Load()
	s.ProbeBytes = s.Probes * probeSize

	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	s.InFlight = d.inDisk
	s.Waiting = d.reads.n + d.writes.n + d.background.n + d.syncs.next.n
	s.Limit = d.limitLocked()
	s.Backlog = seconds(d.backlogLocked(now))
	s.Overdue = d.overdueLocked(now)
	s.WriteSigma, s.ReadSigma = d.model.sigma[0], d.model.sigma[1]
	s.Slowdown = max(d.slowdownLocked(Write), d.slowdownLocked(Read))
	s.WriteRate, s.ReadRate = d.model.rate(Write), d.model.rate(Read)
	return s
}

// limitLocked says how many operations of the size last seen the depth limit lets through.
func (d *Device) limitLocked() int {
	limit := d.opts.MaxWorkers
	if d.opts.Rotational {
		limit = min(limit, maxRotational)
	}
	if d.flight.n > 0 {
		if w := d.model.work(&d.flightOps, &d.flightBytes) / float64(d.flight.n); w > 0 {
			limit = min(limit, max(2, int(d.opts.TargetLatency.Seconds()/w)+1))
		}
	}
	return limit
}

// slowdownLocked is sigma, unless what it adds to a large operation is below what anybody could
// notice.
func (d *Device) slowdownLocked(kind Kind) float64 {
	const size = 1 << 20
	p, floor := writeSeq, 1e-3
	if kind == Read {
		p = readSeq
	}
	if d.opts.Rotational {
		floor = 20e-3
	}
	sigma := d.model.sigma[p.direction()]
	if d.model.fits[p].predict(size)*(sigma-1) < floor {
		return 1
	}
	return sigma
}
