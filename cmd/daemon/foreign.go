package daemon

import (
	"errors"
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
	devs    []*devices.Device
	sampler *devices.Sampler
}

// watchDisks begins to look at the disks below the open devices. Those of which the kernel keeps
// no statistics are left out.
func (c *core) watchDisks() {
	c.disks = map[devices.ID]*diskWatch{}
	byName := map[string]*diskWatch{}
	for i, d := range c.devices {
		if d == nil {
			continue
		}
		name := c.opened[i].File.DiskName()
		if name == "" {
			continue
		}
		w := byName[name]
		if w == nil {
			w = &diskWatch{disk: name}
			byName[name] = w
		}
		w.devs = append(w.devs, d)
		c.disks[d.ID()] = w
	}
	for name, w := range byName {
		s, err := devices.NewSampler(name, foreignInterval, w.own)
		if err != nil {
			c.log.Info("no statistics of a disk", "disk", name, "why", err)
			for _, d := range w.devs {
				delete(c.disks, d.ID())
			}
			continue
		}
		w.sampler = s
	}
}

// own is what the volume's devices have done to the disk.
func (w *diskWatch) own() (o devices.OwnLoad) {
	for _, d := range w.devs {
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
	for _, w := range c.disks {
		errs = append(errs, w.sampler.Close()) // again for a disk of several devices
	}
	c.disks = nil
	return errors.Join(errs...)
}
