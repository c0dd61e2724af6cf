package devices

import (
	"math/rand/v2"
	"time"
)

// Probes are how a device that gets no work is found to be well again, and how a slow one is
// kept measured, without a client's request paying for it: one small operation, and only while
// the device is idle. They cost at most 1 MiB/s.
//
// A device that looks slow is probed in the direction that looks slower. One that looks well is
// probed by reads alone: to write once a second for years would wear out flash for nothing. A
// spinning disk that looks well and has had no work for a minute is left alone, so that it may
// go to sleep; the first request after that finds out how it is. One that looks slow is probed
// on, and kept awake, until it is well.
const (
	probeSize  = 256 << 10
	probeTick  = 250 * time.Millisecond
	probeIdle  = 200 * time.Millisecond // idle at least that long, if the device looks slow
	probeStale = time.Second            // idle that long: probed however it looks
	probeSigma = 1.35
	probeRest  = time.Minute // a well spinning disk is left alone after so long without work
)

// StartProbes begins to probe the device whenever it is idle; Close ends it. Reads go anywhere,
// writes only into the scratch range of Options.
func (d *Device) StartProbes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.probing {
		return
	}
	d.probing = true
	d.routines.Add(1)
	go d.probeLoop()
}

func (d *Device) probeLoop() {
	defer d.routines.Done()
	buf := AlignedBytes(probeSize)
	rng := rand.New(rand.NewPCG(uint64(d.opts.ID), 0x70726f6265))
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	returned := make(chan struct{}, 1)
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		r := d.probe(rng, buf)
		if r == nil {
			continue
		}
		r.Returned = func(*Request) { returned <- struct{}{} }
		d.Submit(r)
		// The buffer belongs to the disk until then, be it for hours.
		select {
		case <-returned:
		case <-d.stop:
			return
		}
		if r.Kind == Read && !d.canProbeWrites() {
			d.mu.Lock()
			d.model.follow(writeSeq.direction())
			d.mu.Unlock()
		}
	}
}

func (d *Device) canProbeWrites() bool { return d.opts.ScratchSize >= probeSize }

// probe returns the operation to try now, or nil.
func (d *Device) probe(rng *rand.Rand, buf []byte) *Request {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	write, read := d.model.sigma[0], d.model.sigma[1]
	idle := now - d.model.last
	if d.failed != nil || d.closed || d.inDisk > 0 || d.outstanding > 0 {
		return nil
	}
	slow := max(write, read) > probeSigma
	if idle <= probeStale && (idle <= probeIdle || !slow) {
		return nil
	}
	if !slow && d.opts.Rotational && now-d.workedAt > probeRest {
		return nil
	}
	r := &Request{Kind: Read, Bufs: [][]byte{buf}, probe: true}
	span, base := d.disk.Size(), int64(0)
	if slow && d.canProbeWrites() && write >= read {
		r.Kind = Write
		span, base = d.opts.ScratchSize, d.opts.ScratchOff
	}
	if span < probeSize {
		return nil
	}
	r.Off = base + rng.Int64N((span-probeSize)/BlockSize+1)*BlockSize
	return r
}
