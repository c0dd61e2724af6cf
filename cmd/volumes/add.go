package volumes

import (
	"errors"
	"os"
	"slices"

	"ballast/cmd/control"
	"ballast/devices"
)

// NewDevice is a device about to join a volume: open, and holding nothing.
type NewDevice struct {
	Config ConfigDevice
	File   *devices.File
	Layout devices.Layout

	made  bool // the file was made for it
	wrote bool // its label was written
}

// TakeDevice opens what is to become a device of the volume, and clears it. It refuses what Create
// would, and what is a device of the volume already.
func TakeDevice(c *Config, s Spec, force bool) (d *NewDevice, err error) {
	d = &NewDevice{Config: ConfigDevice{UUID: UUID(devices.NewUUID()), Path: s.Path}}
	defer func() {
		if err != nil {
			d.Undo()
		}
	}()
	for _, o := range c.Devices {
		if same, _ := devices.SameDisk(o.Path, s.Path); same {
			return d, control.Refuse("E_DEVICE_TWICE", "%s is device %s of volume %s already", s.Given, devices.ID(o.ID), c.Name).WithTry("ballast device ls %s", c.Name)
		}
	}
	if len(c.Devices) >= MaxDevices {
		return d, control.Refuse("E_USAGE", "volume %s has %d devices, the most there can be", c.Name, MaxDevices)
	}
	var found *devices.Inspection
	if s.Size > 0 {
		if r := makeable(s, c.ChunkSize); r != nil {
			return d, r
		}
		if err := devices.CreateFile(s.Path, s.Size); err != nil {
			return d, control.Refuse("E_DEVICE_FILE", "%v", err)
		}
		d.made = true
	} else {
		in, err := devices.Inspect(s.Path)
		if err != nil {
			return d, PathRefusal(s.Given, err)
		}
		// What an earlier attempt left half done belongs to nobody.
		leftover := in.Label != nil && UUID(in.Label.Volume) == c.UUID &&
			!slices.ContainsFunc(c.Devices, func(o ConfigDevice) bool { return o.UUID == UUID(in.Label.Device) })
		force = force || leftover
		if faults := judge(s.Given, in, c.ChunkSize, force); len(faults) > 0 {
			return d, faults
		}
		found = in
	}
	if d.File, err = devices.Open(s.Path, devices.FileOptions{}); err != nil {
		return d, PathRefusal(s.Given, err)
	}
	d.Config.Size = d.File.Size()
	if d.Layout, err = devices.NewLayoutFor(d.Config.Size, c.ChunkSize, roomFor(append(sizesOf(c.Devices), d.Config.Size), c.ChunkSize, c.Copies)); err != nil {
		return d, control.Refuse("E_DEVICE_SMALL", "%s: %v", s.Given, err)
	}
	if force && found != nil {
		if err := errors.Join(devices.EraseLabel(d.File), eraseSignatures(d.File, found)); err != nil {
			return d, control.Refuse("E_FAILED", "%s: erasing what was there: %v", s.Given, err)
		}
	}
	return d, nil
}

// WriteLabel makes it a device of the volume, as far as the device is concerned.
func (d *NewDevice) WriteLabel(l *devices.Label) error {
	d.wrote = true
	if err := devices.WriteLabel(d.File, l); err != nil {
		return control.Refuse("E_FAILED", "%s: writing the label: %v", d.Config.Path, err)
	}
	return nil
}

// Undo takes back what was done to it.
func (d *NewDevice) Undo() {
	if d.File != nil {
		if d.wrote {
			devices.EraseLabel(d.File)
		}
		d.File.Close()
	}
	if d.made {
		os.Remove(d.Config.Path)
	}
}
