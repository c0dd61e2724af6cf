package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ballast/cmd/control"
	"ballast/cmd/size"
	"ballast/devices"
)

// grow has all of a disk used that has become larger, and says how much more that is. The order is:
// the device's label, the journal, volume.json and the other labels. What the label says counts, and
// the next open makes the journal follow it; nothing is placed in what is new before the journal has
// it. So a crash at any point leaves the device as it was, or grown.
func (c *core) grow(ctx context.Context, name string) (string, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	i, err := c.find(name)
	if err != nil {
		return "", err
	}
	o := c.opened[i]
	id := devices.ID(o.Config.ID)
	if o.File == nil || c.devices[i].Failed() != nil {
		return "", control.Refuse("E_DEVICE_MISSING", "the disk of device %s is not there", id).WithTry("ballast device online %s %s", c.config.Name, id)
	}
	if err := o.File.LookAgain(); errors.Is(err, devices.ErrShrunk) {
		return "", control.Refuse("E_DEVICE_SIZE", "%s (device %s): %v", o.Config.Path, id, err).WithTry("give it its size back: what was there is missing")
	} else if err != nil {
		return "", err
	}
	now := o.File.Size()
	w := c.labels[id]
	grown := o.Label.Layout.Grown(now)
	if grown.DataSize-o.Label.DataSize >= c.config.ChunkSize {
		if err := w.grow(now); err != nil {
			return "", fmt.Errorf("device %s: %w", id, err)
		}
	}
	if err := c.volume.GrowDevice(ctx, id, now, grown.DataSize); err != nil {
		return "", err
	}
	config := *c.config
	config.Devices = slices.Clone(config.Devices)
	for j := range config.Devices {
		if config.Devices[j].ID == o.Config.ID {
			config.Devices[j].Size = now
		}
	}
	before := o.Label.Size
	o.Config.Size, o.Label.Size, o.Label.Layout = now, now, grown
	c.mu.Lock()
	c.config = &config
	c.opened = slices.Clone(c.opened)
	c.opened[i] = o
	c.mu.Unlock()
	err = config.Write(c.dirs)
	c.relabelSizes()
	return fmt.Sprintf("device %s has %s now, %s more", id, size.Format(now), size.Format(now-before)), err
}
