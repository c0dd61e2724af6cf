package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ballast/cmd/control"
	"ballast/devices"
	"ballast/journal"
	"ballast/striping"

	"golang.org/x/sys/unix"
)

// CreateOptions say what Create makes.
type CreateOptions struct {
	Dirs    Dirs
	Name    string
	Devices []string // DEVICE arguments
	Domains []string // NAME=DEVICE[,DEVICE...]
	Copies  int
	Chunk   int64    // bytes
	Force   bool     // overwrite what the devices hold
	Child   []string // command line of the journal's child; nil: in this process
	Logger  *slog.Logger
}

// Create makes a volume. Unless everything passes its checks, nothing is touched; if making it
// fails half way, files it made are removed again and labels it wrote erased.
func Create(ctx context.Context, o CreateOptions) (*Config, error) {
	p := &plan{o: o}
	defer p.release()
	if err := p.check(); err != nil {
		return nil, err
	}
	config, err := p.make(ctx)
	if err != nil {
		p.undo()
		return nil, err
	}
	return config, nil
}

// plan is a volume in the making.
type plan struct {
	o       CreateOptions
	specs   []Spec
	domains []string              // by spec; "" is the device itself
	found   []*devices.Inspection // by spec; nil for files to be made
	files   []*devices.File       // by spec; nil until opened
	made    []string              // files made
	room    []int64               // by device: what its journal area must have
	wrote   []*devices.File       // labels written
	dir     string                // temporary state directory
}

func (p *plan) release() {
	for _, f := range p.files {
		if f != nil {
			f.Close()
		}
	}
}

// check finds every fault there is.
func (p *plan) check() error {
	var faults control.Refusals
	add := func(err error) {
		if err != nil {
			faults = append(faults, control.AsRefusals(err)...)
		}
	}
	add(CheckName(p.o.Name))
	add(checkGeometry(p.o.Copies, p.o.Chunk, len(p.o.Devices)))
	for _, arg := range p.o.Devices {
		s, err := ParseDevice(arg, func(path string) bool { _, err := os.Lstat(path); return err == nil })
		add(err)
		if err == nil {
			p.specs = append(p.specs, s)
		}
	}
	if len(faults) == 0 {
		add(p.checkState())
	}
	faults = append(faults, p.checkDevices()...)
	faults = append(faults, twice(p.specs)...)
	if len(p.specs) == len(p.o.Devices) {
		faults = append(faults, p.group()...)
	}
	if len(faults) > 0 {
		return faults
	}
	return p.open()
}

// group finds the failure domain of each device.
func (p *plan) group() (faults control.Refusals) {
	if p.domains, faults = parseDomains(p.o.Domains, p.specs); len(faults) > 0 {
		return faults
	}
	if r := checkDomains(p.o.Copies, p.domains); r != nil {
		return control.Refusals{r}
	}
	return nil
}

// checkState refuses a volume that exists, and a state directory that cannot be written.
func (p *plan) checkState() error {
	path := p.o.Dirs.Volume(p.o.Name)
	if _, err := os.Lstat(path); err == nil {
		return control.Refuse("E_VOLUME_EXISTS", "there is a volume %s already (%s)", p.o.Name, path).
			WithTry("another name").WithTry("ballast status %s", p.o.Name)
	} else if !errors.Is(err, os.ErrNotExist) {
		return accessRefusal(err, path)
	}
	return nil
}

// checkDevices looks at every device, claiming none.
func (p *plan) checkDevices() (faults control.Refusals) {
	p.found = make([]*devices.Inspection, len(p.specs))
	for i, s := range p.specs {
		if s.Size > 0 {
			if r := makeable(s, p.o.Chunk); r != nil {
				faults = append(faults, r)
			}
			continue
		}
		in, fs := inspect(s, p.o.Chunk, p.o.Force)
		p.found[i] = in
		faults = append(faults, fs...)
	}
	return faults
}

// open claims the devices that are there.
func (p *plan) open() error {
	p.files = make([]*devices.File, len(p.specs))
	for i, s := range p.specs {
		if s.Size > 0 {
			continue
		}
		f, err := devices.Open(s.Path, devices.FileOptions{})
		if err != nil {
			return PathRefusal(s.Given, err)
		}
		p.files[i] = f
	}
	return nil
}

// make makes the volume.
func (p *plan) make(ctx context.Context) (*Config, error) {
	config := &Config{Schema: SchemaConfig, Name: p.o.Name, UUID: UUID(devices.NewUUID()), ChunkSize: p.o.Chunk, Copies: p.o.Copies,
		Created: time.Now().UTC().Truncate(time.Second)}
	if err := p.makeFiles(); err != nil {
		return nil, err
	}
	records := []journal.Device{}
	var sizes []int64
	for _, f := range p.files {
		sizes = append(sizes, f.Size())
	}
	p.room = journalRoom(sizes, p.domains, config.ChunkSize, config.Copies)
	for i, f := range p.files {
		d := ConfigDevice{ID: uint16(i + 1), UUID: UUID(devices.NewUUID()), Path: p.specs[i].Path, Size: f.Size(), Domain: p.domains[i]}
		config.Devices = append(config.Devices, d)
		layout, err := devices.NewLayoutFor(d.Size, config.ChunkSize, p.room[i])
		if err != nil {
			return nil, control.Refuse("E_DEVICE_SMALL", "%s: %v", d.Path, err)
		}
		records = append(records, journal.Device{ID: d.ID, UUID: d.UUID, Path: d.Path, Size: d.Size, DataOff: layout.DataOff, DataSize: layout.DataSize,
			Domain: d.Domain, State: journal.Online, Since: config.Created, Epoch: 1})
	}
	anchor, err := p.makeJournal(ctx, config, records)
	if err != nil {
		return nil, err
	}
	if err := p.writeLabels(config, anchor); err != nil {
		return nil, err
	}
	if err := p.copyJournal(config); err != nil {
		return nil, err
	}
	return config, p.publish(config)
}

func (p *plan) makeFiles() error {
	for i, s := range p.specs {
		if s.Size == 0 {
			continue
		}
		err := devices.CreateFile(s.Path, s.Size)
		if err == nil {
			p.made = append(p.made, s.Path)
			p.files[i], err = devices.Open(s.Path, devices.FileOptions{})
		}
		if err != nil {
			return control.Refuse("E_DEVICE_FILE", "%v", err)
		}
	}
	return nil
}

// makeJournal makes the journal in a directory with a temporary name.
func (p *plan) makeJournal(ctx context.Context, c *Config, records []journal.Device) (journal.State, error) {
	if err := os.MkdirAll(p.o.Dirs.State, 0o700); err != nil {
		return journal.State{}, accessRefusal(err, p.o.Dirs.State)
	}
	dir, err := os.MkdirTemp(p.o.Dirs.State, "."+c.Name+".*") // 0700
	if err != nil {
		return journal.State{}, accessRefusal(err, p.o.Dirs.State)
	}
	p.dir = dir
	path := filepath.Join(dir, "journal")
	if len(p.o.Child) > 0 {
		options := journal.Options{UUID: c.UUID}
		options.InChild(ctx, p.o.Child)
		if err := options.Try(dir); errors.Is(err, journal.ErrNoStore) {
			return journal.State{}, control.Refuse("E_STATE", "a journal in %s: %v", p.o.Dirs.State, err).
				WithTry("look at the disk of the state directory").WithTry("BALLAST_STATE_DIR=DIR ballast create ..., with DIR on a sound disk")
		} else if err != nil {
			return journal.State{}, JournalRefusal(c.Name, err)
		}
	}
	if err := journal.Create(path, c.UUID); err != nil {
		return journal.State{}, JournalRefusal(c.Name, err)
	}
	j, err := journal.Open(path, journal.Options{UUID: c.UUID, Logger: p.o.Logger})
	if err != nil {
		return journal.State{}, JournalRefusal(c.Name, err)
	}
	v := journal.Volume{UUID: c.UUID, Name: c.Name, ChunkSize: uint32(c.ChunkSize), Copies: uint8(c.Copies), NextDevice: uint16(len(records) + 1), Created: c.Created}
	err = striping.Format(ctx, j, v, records)
	state := j.State()
	if err := errors.Join(err, j.Close()); err != nil {
		return state, JournalRefusal(c.Name, err)
	}
	return state, nil
}

func (p *plan) writeLabels(c *Config, anchor journal.State) error {
	var members []devices.Member
	for _, d := range c.Devices {
		members = append(members, devices.Member{ID: devices.ID(d.ID), UUID: devices.UUID(d.UUID), Size: d.Size, Epoch: 1})
	}
	for i, f := range p.files {
		d := c.Devices[i]
		layout, err := devices.NewLayoutFor(d.Size, c.ChunkSize, p.room[i])
		if err != nil {
			return control.Refuse("E_DEVICE_SMALL", "%s: %v", d.Path, err)
		}
		p.wrote = append(p.wrote, f)
		if err := p.clear(i); err != nil {
			return control.Refuse("E_FAILED", "%s: erasing what was there: %v", d.Path, err)
		}
		label := &devices.Label{Volume: devices.UUID(c.UUID), Name: c.Name, Device: devices.UUID(d.UUID), ID: devices.ID(d.ID), Size: d.Size, Layout: layout,
			ChunkSize: uint32(c.ChunkSize), Copies: uint8(c.Copies), Members: members, Epoch: 1, Anchor: Anchor(anchor)}
		if err := devices.WriteLabel(f, label); err != nil {
			return control.Refuse("E_FAILED", "%s: writing the label: %v", d.Path, err)
		}
	}
	return nil
}

// copyJournal makes the first copies of the journal on the devices.
func (p *plan) copyJournal(c *Config) error {
	var places []journal.Place
	for i, f := range p.files {
		label, err := devices.ReadLabel(f)
		if err != nil {
			return control.Refuse("E_FAILED", "%s: reading the label: %v", c.Devices[i].Path, err)
		}
		places = append(places, JournalPlace(f, &label, c.Devices[i].Domain))
	}
	j, err := journal.Open(filepath.Join(p.dir, "journal"), journal.Options{UUID: c.UUID, Logger: p.o.Logger})
	if err != nil {
		return JournalRefusal(c.Name, err)
	}
	err = j.StartCopies(journal.CopyOptions{Places: places})
	if err := errors.Join(err, j.Close()); err != nil {
		return JournalRefusal(c.Name, err)
	}
	return nil
}

// clear makes the device one that holds nothing.
func (p *plan) clear(i int) error {
	if !p.o.Force || p.found[i] == nil {
		return nil
	}
	return errors.Join(devices.EraseLabel(p.files[i]), eraseSignatures(p.files[i], p.found[i]))
}

// Anchor is a journal's state as labels hold it.
func Anchor(s journal.State) devices.Anchor {
	return devices.Anchor{Seq: uint64(s.Seq), Digest: s.Digest, Count: s.Count}
}

// publish gives the state directory its name: from then on the volume exists.
func (p *plan) publish(c *Config) error {
	if err := c.writeTo(p.dir); err != nil {
		return err
	}
	target := p.o.Dirs.Volume(c.Name)
	if err := os.Rename(p.dir, target); err != nil {
		return control.Refuse("E_VOLUME_EXISTS", "making %s: %v", target, err)
	}
	p.dir = ""
	if err := syncDir(p.o.Dirs.State); err != nil {
		return control.Refuse("E_STATE", "%v", err)
	}
	return nil
}

// undo takes back what make did.
func (p *plan) undo() {
	for _, f := range p.wrote {
		devices.EraseLabel(f)
	}
	for _, path := range p.made {
		os.Remove(path)
	}
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

// JournalRefusal makes a refusal of an error of the journal.
func JournalRefusal(volume string, err error) error {
	switch {
	case errors.Is(err, journal.ErrBusy):
		return control.Refuse("E_BUSY", "the journal of volume %s is in use by another process", volume)
	case errors.Is(err, journal.ErrFull):
		return control.Refuse("E_NO_SPACE", "the journal of volume %s: %v", volume, err).WithTry("free space where the state directory is")
	case errors.Is(err, journal.ErrForked):
		return control.Refuse("E_JOURNAL_FORKED", "the journal of volume %s: %v", volume, err).
			WithTry("take away the devices of the side that is to be given up, serve the other, and add them anew")
	case errors.Is(err, journal.ErrRolledBack):
		return control.Refuse("E_JOURNAL", "the journal of volume %s: %v", volume, err).
			WithTry("attach the missing devices, which may have a newer copy").
			WithTry("put the newest journal back; a copy of an older one would lose what was acknowledged since")
	case errors.Is(err, journal.ErrVersion):
		return control.Refuse("E_JOURNAL", "the journal of volume %s: %v", volume, err).WithTry("the version of ballast that wrote it, or a newer one")
	case errors.Is(err, os.ErrPermission):
		return control.Refuse("E_NOT_PERMITTED", "%v", err).WithTry("the same as root")
	case errors.Is(err, journal.ErrNoStore), errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		return control.Refuse("E_JOURNAL", "the journal of volume %s: %v", volume, err).
			WithTry("look at the disk of the state directory").
			WithTry("BALLAST_STATE_DIR=DIR ballast import DEVICE..., with DIR on a sound disk: the devices have copies of the journal")
	}
	// Without its journal nobody knows what is where on the disks; they still hold it.
	return control.Refuse("E_JOURNAL", "%v", fmt.Errorf("the journal of volume %s: %w", volume, err)).
		WithTry("attach the missing devices: a copy of the journal on one of them is enough").
		WithTry("put this volume's newest journal back; do not create the volume anew, which would end what its disks hold")
}
