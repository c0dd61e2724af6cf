package daemon

import (
	"errors"
	"slices"
	"sync"
	"time"

	"ballast/devices"
	"ballast/striping"
)

// foreignInterval is how long the kernel's figures are gathered.
const foreignInterval = time.Second

// diskWatch tells what the kernel sees of one whole disk, on which several devices may lie. It is
// for people, who look for the cause of a slow disk; placement needs none of it, as the service
// times that devices measure contain what others do.
type diskWatch struct {
	disk    string
	sampler *devices.Sampler

	mu   sync.Mutex
	devs []*devices.Device // replaced, never changed
}

// watchDisks begins to look at the disks below the open devices.
func (c *core) watchDisks() {
	for i, d := range c.devices {
		if d != nil {
			c.watchDisk(d, c.opened[i].File)
		}
	}
}

// watchDisk begins to look at the disk below a device. One of which the kernel keeps no statistics
// is left out.
func (c *core) watchDisk(d *devices.Device, f *devices.File) {
	name := f.DiskName()
	if name == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.disks {
		if w.disk == name {
			w.add(d)
			c.disks[d.ID()] = w
			return
		}
	}
	w := &diskWatch{disk: name, devs: []*devices.Device{d}}
	s, err := devices.NewSampler(name, foreignInterval, w.own)
	if err != nil {
		c.log.Info("no statistics of a disk", "disk", name, "why", err)
		return
	}
	w.sampler = s
	c.disks[d.ID()] = w
}

// unwatchDisk ends it for one device.
func (c *core) unwatchDisk(id devices.ID) {
	c.mu.Lock()
	w := c.disks[id]
	delete(c.disks, id)
	last := w != nil
	for _, o := range c.disks {
		last = last && o != w
	}
	c.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	w.devs = slices.DeleteFunc(slices.Clone(w.devs), func(d *devices.Device) bool { return d.ID() == id })
	w.mu.Unlock()
	if last {
		if err := w.sampler.Close(); err != nil {
			c.log.Warn("statistics of a disk", "disk", w.disk, "err", err)
		}
	}
}

// foreign is the share of the time for which others keep the disk of a device busy.
func (c *core) foreign(id devices.ID) float64 {
	c.mu.Lock()
	w := c.disks[id]
	c.mu.Unlock()
	if w == nil {
		return 0
	}
	if s := w.status(); s != nil {
		return s.ForeignShare
	}
	return 0
}

func (w *diskWatch) add(d *devices.Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devs = append(slices.Clone(w.devs), d)
}

// own is what the volume's devices have done to the disk.
func (w *diskWatch) own() (o devices.OwnLoad) {
	w.mu.Lock()
	devs := w.devs
	w.mu.Unlock()
	for _, d := range devs {
		s := d.Stats()
		o.IOs += int64(s.Read.Ops + s.Write.Ops + s.Sync.Ops + s.Discard.Ops + s.Probes)
		o.Bytes += int64(s.Read.Bytes + s.Write.Bytes + s.ProbeBytes)
		o.InFlight += s.InFlight
	}
	return o
}

// status is the newest of it, nil before there is any.
func (w *diskWatch) status() *striping.KernelStatus {
	k, err := w.sampler.Last()
	if err != nil || k.Interval <= 0 {
		return nil
	}
	f := w.sampler.Foreign()
	return &striping.KernelStatus{Disk: w.disk, InFlight: k.InFlight, ForeignShare: f.Share, ForeignRate: float64(f.Bytes) / k.Interval.Seconds()}
}

// unwatchDisks ends what watchDisks began.
func (c *core) unwatchDisks() error {
	var errs []error
	c.mu.Lock()
	disks := c.disks
	c.disks = nil
	c.mu.Unlock()
	for _, w := range disks {
		errs = append(errs, w.sampler.Close()) // again for a disk of several devices
	}
	return errors.Join(errs...)
}
