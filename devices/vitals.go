package devices

import "time"

// Vitals is what tells whether a device is well: how its service times compare with the baseline,
// and how long it has made no progress. Counters count from NewDevice.
type Vitals struct {
	Ops [2]uint64 // completed writes and reads, probes included
	// Ratio is the slowdown of writes and of reads; 1 where it is too small to matter.
	Ratio [2]float64
	// Stalled is the time, in all, for which operations were in the device and none was completed
	// for much longer than its usual pauses, and than 150 ms; what is still going on included.
	Stalled time.Duration
	// Hung is how long the oldest operation is in the device, if that is past its patience.
	Hung time.Duration
}

// stallLeast is how much longer than expected a pause must be to count as a stall. Throttles and some
// caches let a disk that is well work in slices of 100 ms.
const stallLeast = 150e-3 // seconds

// Vitals returns the device's vitals. It never waits for the disk.
func (d *Device) Vitals() Vitals {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	v := Vitals{Ops: d.model.seen, Ratio: [2]float64{d.slowdownLocked(Write), d.slowdownLocked(Read)}}
	stalled := d.model.stalledFor
	if o, ok := d.oldestLocked(); ok {
		if e, _ := d.model.stalled(now, o); e > d.model.stallAfter(o) {
			stalled += e
			v.Hung = seconds(e)
		}
	}
	v.Stalled = seconds(stalled)
	return v
}
