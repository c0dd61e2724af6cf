package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"
	"ballast/striping"
)

// placeCopies has the journal keep its copies on the devices that there are now, but for one that is
// about to leave.
func (c *core) placeCopies(leaving devices.ID) {
	var places []journal.Place
	for i := range c.opened {
		o := &c.opened[i]
		if c.devices[i] != nil && c.devices[i].Failed() == nil && devices.ID(o.Config.ID) != leaving {
			places = append(places, volumes.JournalPlace(queuedDisk{c.devices[i]}, &o.Label, o.Config.Domain))
		}
	}
	c.journal.SetPlaces(places)
}

// find returns the index of the device of that ID ("d2") or path.
func (c *core) find(name string) (int, error) {
	for i, o := range c.opened {
		if devices.ID(o.Config.ID).String() == name || o.Config.Path == name {
			return i, nil
		}
		if same, _ := devices.SameDisk(o.Config.Path, name); same && name != "" {
			return i, nil
		}
	}
	return -1, control.Refuse("E_NO_DEVICE", "volume %s has no device %s", c.config.Name, name).WithTry("ballast device ls %s", c.config.Name)
}

// id is find for what the volume does itself.
func (c *core) id(name string) (devices.ID, error) {
	i, err := c.find(name)
	if err != nil {
		return 0, err
	}
	return devices.ID(c.opened[i].Config.ID), nil
}

// addDevice takes a disk into the volume. The order is: its label, volume.json, the journal; a device
// that is in the journal counts, and one that a crash left half way is taken again without --force.
func (c *core) addDevice(ctx context.Context, s volumes.Spec, domain string, force bool) (devices.ID, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	d, err := volumes.TakeDevice(c.config, s, force)
	if err != nil {
		return 0, err
	}
	id, epoch := c.volume.NewDeviceID()
	d.Config.ID, d.Config.Domain = uint16(id), domain
	config := *c.config
	config.Devices = append(slices.Clone(c.config.Devices), d.Config)
	label := devices.Label{Volume: devices.UUID(config.UUID), Name: config.Name, Device: devices.UUID(d.Config.UUID), ID: id, Size: d.Config.Size,
		Layout: d.Layout, ChunkSize: uint32(config.ChunkSize), Copies: uint8(config.Copies), Members: labelMembers(&config, epoch),
		Epoch: epoch, Anchor: volumes.Anchor(c.journal.State())}
	if err := errors.Join(d.WriteLabel(&label)); err != nil {
		d.Undo()
		return 0, err
	}
	if err := config.Write(c.dirs); err != nil {
		d.Undo()
		return 0, err
	}
	o := volumes.Opened{Config: d.Config, File: d.File, Label: label}
	record := journal.Device{ID: uint16(id), UUID: d.Config.UUID, Path: d.Config.Path, Size: d.Config.Size,
		DataOff: d.Layout.DataOff, DataSize: d.Layout.DataSize, Domain: domain, State: journal.Online, Epoch: epoch}
	dev := c.device(&o, &record)
	if err := c.volume.AddDevice(ctx, c.member(&o, record, dev)); err != nil {
		err = errors.Join(err, c.config.Write(c.dirs), dev.Close())
		d.File = nil
		return 0, err
	}
	c.mu.Lock()
	c.config = &config
	c.opened = append(c.opened, o)
	c.devices = append(c.devices, dev)
	c.mu.Unlock()
	c.watchDisk(dev, o.File)
	c.relabel()
	c.placeCopies(0)
	return id, nil
}

// member is a device as the volume takes it.
func (c *core) member(o *volumes.Opened, r journal.Device, dev *devices.Device) striping.Member {
	id := devices.ID(r.ID)
	w := &labelWriter{file: o.File, label: o.Label, busy: make(chan struct{}, 1)}
	c.mu.Lock()
	c.labels[id] = w
	c.mu.Unlock()
	return striping.Member{Record: r, Device: dev, DataOff: o.Label.DataOff, DataSize: o.Label.DataSize, WriteLabel: w.write,
		Foreign: func() float64 { return c.foreign(id) }}
}

// removeDevice takes an empty device out of the volume: the journal, volume.json, its label.
func (c *core) removeDevice(ctx context.Context, name string) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	i, err := c.find(name)
	if err != nil {
		return err
	}
	id := devices.ID(c.opened[i].Config.ID)
	if err := c.volume.RemoveDevice(ctx, id); err != nil {
		return err
	}
	c.placeCopies(id)
	file := c.opened[i].File
	dev := c.devices[i]
	config := *c.config
	config.Devices = slices.DeleteFunc(slices.Clone(c.config.Devices), func(d volumes.ConfigDevice) bool { return d.ID == uint16(id) })
	err = config.Write(c.dirs)
	c.unwatchDisk(id)
	c.mu.Lock()
	c.config = &config
	c.opened = slices.Delete(slices.Clone(c.opened), i, i+1)
	c.devices = slices.Delete(slices.Clone(c.devices), i, i+1)
	delete(c.labels, id)
	c.mu.Unlock()
	c.relabel()
	if dev != nil && dev.Failed() == nil {
		err = errors.Join(err, devices.EraseLabel(file))
	}
	if dev != nil {
		go dev.Close() // a disk that hangs is waited for by nobody
	}
	return err
}

// offline stops using a device and lets go of its disk.
func (c *core) offline(ctx context.Context, name string, force bool) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	i, err := c.find(name)
	if err != nil {
		return err
	}
	id := devices.ID(c.opened[i].Config.ID)
	c.placeCopies(id)
	if err := c.volume.Offline(ctx, id, force); err != nil {
		c.placeCopies(0)
		return err
	}
	c.letGo(i)
	return nil
}

// letGo closes the disk of device i.
func (c *core) letGo(i int) {
	dev := c.devices[i]
	c.unwatchDisk(devices.ID(c.opened[i].Config.ID))
	c.mu.Lock()
	c.opened, c.devices = slices.Clone(c.opened), slices.Clone(c.devices)
	c.opened[i].File, c.devices[i] = nil, nil
	c.mu.Unlock()
	if dev != nil {
		dev.Close()
	}
}

// online puts a device to use again: one whose disk is back, or that was found to be slow.
func (c *core) online(ctx context.Context, name string, look []string, resync bool) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	i, err := c.find(name)
	if err != nil {
		return err
	}
	id := devices.ID(c.opened[i].Config.ID)
	// A disk that failed is opened anew: what answers at its path now may be another handle on it, and
	// what the old one had not synced counts as missed.
	if dev := c.devices[i]; dev != nil && dev.Failed() == nil && !c.isOut(id) {
		if resync {
			return control.Refuse("E_USAGE", "device %s is in use", id).WithTry("ballast scrub start %s, to have everything compared", c.config.Name)
		}
		return c.volume.SetOnline(ctx, id, true)
	}
	if c.devices[i] != nil {
		c.letGo(i)
	}
	only := *c.config
	only.Devices = []volumes.ConfigDevice{c.opened[i].Config}
	found, err := volumes.OpenDevices(&only, look)
	if err != nil {
		return err
	}
	o := found[0]
	if o.File == nil {
		return control.Refuse("E_DEVICE_MISSING", "device %s was not found: %v", id, o.Fault).
			WithTry("attach it; it was last found at %s", o.Config.Path).WithTry("ballast device online %s %s --path PATH, if it is elsewhere now", c.config.Name, name)
	}
	record := journal.Device{ID: o.Config.ID, UUID: o.Config.UUID}
	if value, err := c.journal.Get(journal.DeviceKey(o.Config.ID)); err == nil {
		if r, err := journal.ParseDevice(journal.DeviceKey(o.Config.ID), value); err == nil {
			record = r
		}
	}
	put := c.volume.ReturnDevice
	if resync {
		put = c.volume.ReturnStale
		if o.Label.Size != record.Size {
			o.File.Close()
			return control.Refuse("E_DEVICE_LABEL", "%s: its label says that it has %d bytes, device %s has %d", o.Config.Path, o.Label.Size, id, record.Size).
				WithTry("ballast device remove %s %s, then: ballast device add %s %s --force", c.config.Name, id, c.config.Name, o.Config.Path)
		}
	} else if stale := volumes.JudgeStale(c.config.Name, found, []journal.Device{record}); len(stale) > 0 {
		return stale[0]
	}
	record.Path = o.Config.Path
	dev := c.device(&o, &record)
	if err := put(ctx, c.member(&o, record, dev)); err != nil {
		return errors.Join(err, dev.Close())
	}
	c.mu.Lock()
	c.opened, c.devices = slices.Clone(c.opened), slices.Clone(c.devices)
	c.opened[i], c.devices[i] = o, dev
	c.mu.Unlock()
	c.rememberPaths(c.dirs)
	c.watchDisk(dev, o.File)
	c.relabel()
	c.placeCopies(0)
	return nil
}

// isOut reports whether the volume has given a device up.
func (c *core) isOut(id devices.ID) bool {
	return slices.ContainsFunc(c.volume.Status().Devices, func(d striping.DeviceStatus) bool {
		return d.ID == id && (d.State == "failed" || d.State == "missing")
	})
}

// replace adds a disk and begins to move to it what another device holds.
func (c *core) replace(ctx context.Context, name string, s volumes.Spec, force bool, o striping.JobOptions) (job, how string, err error) {
	old, err := c.id(name)
	if err != nil {
		return "", "", err
	}
	var state string
	var used, usedSize int64
	for _, d := range c.volume.Status().Devices {
		if d.ID == old {
			state, used, usedSize = d.State, d.UsedBytes, d.SizeBytes
		}
	}
	if state == "draining" {
		return "", "", control.Refuse("E_JOB_CONFLICT", "device %s is being drained already", old).WithTry("ballast job ls %s", c.config.Name)
	}
	size := s.Size
	if size == 0 {
		if in, err := devices.Inspect(s.Path); err == nil {
			size = in.Size
		}
	}
	if l, err := devices.NewLayout(size, c.config.ChunkSize); err == nil && l.DataSize < used {
		return "", "", control.Refuse("E_NO_SPACE", "%s has room for %d bytes, device %s (of %d bytes) holds %d", s.Given, l.DataSize, old, usedSize, used).
			WithTry("a larger disk, or: ballast device add %s %s, then: ballast device drain %s %s", c.config.Name, s.Given, c.config.Name, old)
	}
	domain := ""
	for _, d := range c.config.Devices {
		if d.ID == uint16(old) {
			domain = d.Domain
		}
	}
	id, err := c.addDevice(ctx, s, domain, force)
	if err != nil {
		return "", "", err
	}
	if state != "failed" && state != "missing" {
		job, err = c.volume.Replace(ctx, old, id, o)
		return job, fmt.Sprintf("%s moves what is on %s to %s, which is %s", job, old, s.Given, id), err
	}
	job, err = c.volume.Rebuild(ctx, striping.JobOptions{Reason: fmt.Sprintf("%s is replaced by %s", old, id)})
	switch {
	case errors.Is(err, striping.ErrConflict):
		return "", fmt.Sprintf("%s is %s, and is used by the rebuild that there is already", s.Given, id), nil
	case errors.Is(err, striping.ErrNoJob):
		return "", fmt.Sprintf("%s is %s; nothing of %s has to be copied", s.Given, id, old), nil
	}
	return job, fmt.Sprintf("%s makes copies of what was on %s", job, old), err
}
