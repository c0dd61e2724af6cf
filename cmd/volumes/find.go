package volumes

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ballast/cmd/control"
	"ballast/devices"
)

// Opened is a device of a volume, open and known by its label.
type Opened struct {
	Config ConfigDevice
	File   *devices.File // nil when it is missing
	Label  devices.Label
	Fault  error // why it is missing
}

// OpenDevices opens the devices of a volume: each at the path where it was last found if its
// label is there, else wherever among the block devices of this machine and the paths of look.
// Devices that were not found come back without a File; anything that would be a guess is refused.
func OpenDevices(c *Config, look []string) (opened []Opened, err error) {
	defer func() {
		if err != nil {
			CloseDevices(opened)
		}
	}()
	var missing []int
	for _, d := range c.Devices {
		o := Opened{Config: d}
		o.File, o.Label, o.Fault = openLabelled(d.Path, c.UUID, d.UUID)
		if r := (*control.Refusal)(nil); errors.As(o.Fault, &r) {
			return opened, r
		}
		if o.File == nil {
			missing = append(missing, len(opened))
		}
		opened = append(opened, o)
	}
	if len(missing) == 0 {
		return opened, nil
	}
	elsewhere, err := scan(c, look)
	if err != nil {
		return opened, err
	}
	for _, i := range missing {
		o := &opened[i]
		path, found := elsewhere[o.Config.UUID]
		if !found {
			continue
		}
		if o.File, o.Label, o.Fault = openLabelled(path, c.UUID, o.Config.UUID); o.Fault != nil {
			return opened, deviceRefusal(path, o.Fault)
		}
		o.Config.Path = path
	}
	return opened, nil
}

// CloseDevices closes what OpenDevices opened.
func CloseDevices(opened []Opened) {
	for _, o := range opened {
		if o.File != nil {
			o.File.Close()
		}
	}
}

// errOther is the fault of a path where another device, or none, is found now.
var errOther = errors.New("another device is there")

// openLabelled opens the device at path if it is the one. What keeps it from being used although
// it is the one is a Refusal.
func openLabelled(path string, volume, device UUID) (*devices.File, devices.Label, error) {
	f, err := devices.Open(path, devices.FileOptions{})
	if errors.Is(err, devices.ErrBusy) {
		return nil, devices.Label{}, control.Refuse("E_DEVICE_BUSY", "%v", err).WithTry("fuser -v %s", path)
	}
	if err != nil {
		return nil, devices.Label{}, err
	}
	l, err := devices.ReadLabel(f)
	switch {
	case errors.Is(err, devices.ErrShrunk) && UUID(l.Device) == device:
		err = deviceRefusal(path, err)
	case errors.Is(err, devices.ErrFuture), errors.Is(err, devices.ErrConflict):
		err = deviceRefusal(path, err)
	case err == nil && (UUID(l.Volume) != volume || UUID(l.Device) != device):
		err = fmt.Errorf("%s: %w: %s of volume %s", path, errOther, l.ID, l.Name)
	}
	if err != nil {
		f.Close()
		return nil, devices.Label{}, err
	}
	return f, l, nil
}

func deviceRefusal(path string, err error) error {
	switch {
	case errors.Is(err, devices.ErrShrunk):
		return control.Refuse("E_DEVICE_SMALL", "%s: %v", path, err).WithTry("give it its size back")
	case errors.Is(err, devices.ErrFuture), errors.Is(err, devices.ErrConflict):
		return control.Refuse("E_DEVICE_LABEL", "%s: %v", path, err).WithTry("ballast inspect %s", path)
	}
	return control.Refuse("E_DEVICE_LABEL", "%v", err)
}

// scan returns where devices of the volume are found, by device UUID. Two disks that claim to be
// one device are refused: one is a copy, and nobody can tell which.
func scan(c *Config, look []string) (map[UUID]string, error) {
	names, err := filepath.Glob("/sys/class/block/*")
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range look {
		if abs, err := filepath.Abs(p); err == nil {
			paths = append(paths, abs)
		}
	}
	for _, n := range names {
		paths = append(paths, "/dev/"+filepath.Base(n))
	}
	found := map[UUID]string{}
	for _, p := range paths {
		l, err := PeekLabel(p)
		if err != nil || UUID(l.Volume) != c.UUID || !slices.ContainsFunc(c.Devices, func(d ConfigDevice) bool { return d.UUID == UUID(l.Device) }) {
			continue
		}
		other, twice := found[UUID(l.Device)]
		if twice && !samePath(other, p) {
			return nil, control.Refuse("E_DEVICE_TWICE", "%s and %s both say to be device %s of volume %s; one is a copy", other, p, l.ID, c.Name).
				WithTry("take away the copy")
		}
		if !twice {
			found[UUID(l.Device)] = p
		}
	}
	return found, nil
}

func samePath(a, b string) bool {
	same, err := devices.SameDisk(a, b)
	return err == nil && same
}

// PeekLabel reads the label at path without claiming the device, whoever uses it.
func PeekLabel(path string) (devices.Label, error) {
	p, err := Peek(path)
	if err != nil {
		return devices.Label{}, err
	}
	defer p.Close()
	return devices.ReadLabel(p)
}

// Peeked is a disk that is only looked at.
type Peeked struct {
	file *os.File
	size int64
}

var _ devices.Disk = (*Peeked)(nil)

// Peek opens a block device or file for reading whole blocks, and for nothing else.
func Peek(path string) (*Peeked, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if kind := st.Mode().Type(); kind != 0 && kind != os.ModeDevice {
		return nil, devices.ErrNotDisk // opening it might block
	}
	flags := os.O_RDONLY
	if st.Mode().Type() == os.ModeDevice {
		flags |= unix.O_DIRECT // the page cache would still show a disk that is gone
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Peeked{f, size / devices.BlockSize * devices.BlockSize}, nil
}

// ReadAt implements devices.Disk.
func (p *Peeked) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, off) }

// WriteAt implements devices.Disk by refusing.
func (p *Peeked) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

// Sync implements devices.Disk.
func (p *Peeked) Sync() error { return nil }

// Size implements devices.Disk.
func (p *Peeked) Size() int64 { return p.size }

// Close implements devices.Disk.
func (p *Peeked) Close() error { return p.file.Close() }
