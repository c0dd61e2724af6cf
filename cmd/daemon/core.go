package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/fusefs/names"
	"ballast/journal"
	"ballast/striping"
)

// core is an open volume with what stands under it.
type core struct {
	log     *slog.Logger
	dirs    volumes.Dirs
	journal *journal.Store
	volume  *striping.Volume
	tree    *names.Tree // the volume's files

	changing sync.Mutex // over one change of the devices at a time

	// mu guards what follows. Whoever holds changing may read it without.
	mu      sync.Mutex
	config  *volumes.Config
	opened  []volumes.Opened
	devices []*devices.Device // by opened; nil where missing
	labels  map[devices.ID]*labelWriter
	rotates bool // a device spins
	disks   map[devices.ID]*diskWatch
}

// openCore opens the devices, then the journal, then the volume.
func openCore(ctx context.Context, o *Options) (c *core, err error) {
	c = &core{log: o.Logger, dirs: o.Dirs, labels: map[devices.ID]*labelWriter{}, disks: map[devices.ID]*diskWatch{}}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	if c.config, err = volumes.ReadConfig(o.Dirs, o.Volume); err != nil {
		return c, err
	}
	if c.opened, err = volumes.OpenDevices(c.config, o.Look); err != nil {
		return c, err
	}
	if err = c.judgeMissing(o.Degraded); err != nil {
		return c, err
	}
	if err = c.openJournal(ctx, o); err != nil {
		return c, err
	}
	info, records, err := c.readRecords()
	if err != nil {
		return c, volumes.JournalRefusal(o.Volume, err)
	}
	if !o.AcceptStale && len(volumes.JudgeStale(o.Volume, c.opened, records)) > 0 {
		if err = c.judgeMissing(o.Degraded); err != nil {
			return c, err
		}
	}
	members, err := c.members(records)
	if err != nil {
		return c, err
	}
	if err = c.startCopies(records, o.JournalSync); err != nil {
		return c, volumes.JournalRefusal(o.Volume, err)
	}
	v, err := striping.Open(ctx, striping.Options{Journal: c.journal, Members: members, Volume: info, Logger: o.Logger,
		DirtyLimit: o.DirtyLimit, FlushInterval: o.FlushInterval, CacheBytes: o.CacheBytes, Degraded: o.Degraded, Rebalance: !o.NoRebalance, BackgroundFloor: o.BackgroundFloor})
	if err != nil {
		return c, control.Refuse("E_STATE", "volume %s cannot be opened: %v", o.Volume, err).WithTry("ballast check %s", o.Volume)
	}
	c.mu.Lock()
	c.volume = v
	c.mu.Unlock()
	c.relabel()
	c.tree, err = names.Open(ctx, names.Options{Volume: c.volume, Journal: c.journal, Logger: o.Logger, FlushInterval: o.FlushInterval})
	if err != nil {
		err = errors.Join(control.Refuse("E_STATE", "the files of volume %s cannot be opened: %v", o.Volume, err).WithTry("ballast check %s", o.Volume),
			c.volume.Close(context.WithoutCancel(ctx)))
		return c, err
	}
	c.watchDisks()
	c.rememberPaths(o.Dirs)
	return c, nil
}

// judgeMissing refuses to serve without devices that hold the only copy of something.
func (c *core) judgeMissing(degraded bool) error {
	missing := 0
	var faults control.Refusals
	for _, d := range c.opened {
		if d.File != nil {
			continue
		}
		missing++
		c.log.Warn("device is missing", "device", devices.ID(d.Config.ID).String(), "path", d.Config.Path, "why", d.Fault)
		if r := (*control.Refusal)(nil); errors.As(d.Fault, &r) {
			faults = append(faults, r)
			continue
		}
		faults = append(faults, control.Refuse("E_DEVICE_MISSING", "device %s of volume %s was not found: %v", devices.ID(d.Config.ID), c.config.Name, d.Fault).
			WithTry("attach it; it was last found at %s", d.Config.Path).WithTry("--device PATH, if it is a file that was moved").
			WithTry("--degraded, to serve the rest: reads of what was on it fail"))
	}
	if missing == len(c.opened) || missing > 0 && c.config.Copies == 1 && !degraded {
		return faults
	}
	return nil
}

func (c *core) openJournal(ctx context.Context, o *Options) (err error) {
	options := journal.Options{UUID: c.config.UUID, Logger: o.Logger, Anchors: volumes.Anchors(c.opened), Places: volumes.JournalPlaces(c.opened)}
	options.InChild(ctx, o.Preflight)
	if c.journal, err = journal.Open(o.Dirs.Journal(o.Volume), options); err != nil {
		c.journal = nil
		return volumes.JournalRefusal(o.Volume, err)
	}
	c.tellRecovery()
	return nil
}

// readRecords reads what the journal says of the volume and its devices.
func (c *core) readRecords() (info journal.Volume, records []journal.Device, err error) {
	key := journal.MakeKey(journal.SpaceVolume, 0, 0)
	value, err := c.journal.Get(key)
	if err != nil {
		return info, nil, err
	}
	if info, err = journal.ParseVolume(key, value); err != nil {
		return info, nil, err
	}
	err = c.journal.Scan(journal.SpaceDevice, func(key journal.Key, value []byte) error {
		d, err := journal.ParseDevice(key, value)
		records = append(records, d)
		return err
	})
	return info, records, err
}

// members puts devices and their records together.
func (c *core) members(records []journal.Device) ([]striping.Member, error) {
	c.devices = make([]*devices.Device, len(c.opened))
	var members []striping.Member
	for _, r := range records {
		m := striping.Member{Record: r}
		i, known := c.byUUID(r.UUID)
		if !known {
			return nil, control.Refuse("E_STATE", "volume.json of %s does not list device %s, the journal does", c.config.Name, devices.ID(r.ID))
		}
		if m.DataOff, m.DataSize = r.DataOff, r.DataSize; r.DataSize == 0 {
			layout, err := devices.NewLayout(r.Size, c.config.ChunkSize)
			if err != nil {
				return nil, control.Refuse("E_STATE", "device %s: %v", devices.ID(r.ID), err)
			}
			m.DataOff, m.DataSize = layout.DataOff, layout.DataSize
		}
		o := &c.opened[i]
		if stale := (*control.Refusal)(nil); errors.As(o.Fault, &stale) {
			m.Why, m.Stale = stale.Message, true
		}
		if o.File != nil {
			if o.Label.Size < r.Size {
				return nil, control.Refuse("E_DEVICE_LABEL", "%s: its label says that it has %d bytes, the journal that it has %d: it is from before it grew",
					o.Config.Path, o.Label.Size, r.Size).WithTry("ballast inspect %s", o.Config.Path)
			}
			m.Record.Path, m.Record.Size = o.Config.Path, o.Label.Size // a crash may have come after the label grew
			c.devices[i] = c.device(o, &r)
			m = c.member(o, m.Record, c.devices[i])
		}
		members = append(members, m)
	}
	c.dropUnknown(records)
	return members, nil
}

// dropUnknown forgets devices that the journal does not know: a crash cut short their joining or
// leaving, and the journal's word counts.
func (c *core) dropUnknown(records []journal.Device) {
	for i := len(c.opened) - 1; i >= 0; i-- {
		o := c.opened[i]
		if slices.ContainsFunc(records, func(r journal.Device) bool { return r.UUID == o.Config.UUID }) {
			continue
		}
		c.log.Warn("no device of the volume any more, or not yet", "device", devices.ID(o.Config.ID).String(), "path", o.Config.Path)
		if o.File != nil {
			o.File.Close()
		}
		c.opened = slices.Delete(c.opened, i, i+1)
		c.devices = slices.Delete(c.devices, i, i+1)
		c.config.Devices = slices.Delete(c.config.Devices, i, i+1)
	}
}

func (c *core) byUUID(uuid [16]byte) (int, bool) {
	for i, o := range c.opened {
		if o.Config.UUID == uuid {
			return i, true
		}
	}
	return 0, false
}

func (c *core) device(o *volumes.Opened, r *journal.Device) *devices.Device {
	rotates := o.File.Rotational()
	c.rotates = c.rotates || rotates
	options := devices.Options{ID: devices.ID(r.ID), Rotational: rotates, Learned: striping.LearnedSpeeds(r)}
	options.ScratchOff, options.ScratchSize = o.Label.Scratch()
	d := devices.NewDevice(o.File, options)
	d.StartProbes()
	return d
}

// rememberPaths keeps where devices were found, and how large they are, should that have changed.
func (c *core) rememberPaths(dirs volumes.Dirs) {
	changed := false
	for i, o := range c.opened {
		if o.File != nil && c.config.Devices[i].Size != o.Label.Size {
			c.config.Devices[i].Size, changed = o.Label.Size, true
		}
		if o.File != nil && c.config.Devices[i].Path != o.Config.Path {
			c.log.Info("device has moved", "device", devices.ID(o.Config.ID).String(), "from", c.config.Devices[i].Path, "to", o.Config.Path)
			c.config.Devices[i].Path, changed = o.Config.Path, true
		}
	}
	if changed {
		if err := c.config.Write(dirs); err != nil {
			c.log.Warn("remembering where devices are", "error", err)
		}
	}
}

// close flushes and closes everything. An error tells that something acknowledged may not be
// durable.
func (c *core) close(ctx context.Context) error {
	err := errors.Join(c.tree.Close(ctx), c.volume.Close(ctx))
	if err != nil {
		err = fmt.Errorf("closing volume %s: %w", c.config.Name, err)
	}
	c.volume = nil
	return errors.Join(err, c.release())
}

// release closes what is open, from the top down.
func (c *core) release() error {
	errs := []error{c.unwatchDisks()}
	if c.journal != nil {
		errs = append(errs, c.journal.Close())
	}
	for i, o := range c.opened {
		switch {
		case i < len(c.devices) && c.devices[i] != nil:
			errs = append(errs, c.devices[i].Close())
		case o.File != nil:
			errs = append(errs, o.File.Close())
		}
	}
	c.mu.Lock()
	c.opened, c.devices, c.journal = nil, nil, nil
	c.mu.Unlock()
	return errors.Join(errs...)
}

// volumeEngine is a volume as the control API wants it.
type volumeEngine struct {
	*striping.Volume
	*core
	journal *journal.Store
}

// engine returns the volume as the control API wants it.
func (c *core) engine() volumeEngine { return volumeEngine{c.volume, c, c.journal} }

// Status implements engine: that of the volume, how its devices were opened, and
// what the kernel sees of their disks.
func (v volumeEngine) Status() striping.Status {
	s := v.Volume.Status()
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range s.Devices {
		d := &s.Devices[i]
		for _, o := range v.opened {
			if devices.ID(o.Config.ID) == d.ID && o.File != nil {
				d.Buffered = o.File.Buffered()
				if more := o.File.Size() - o.Label.Size; more >= s.ChunkSize {
					d.Unused = more
				}
			}
		}
		if w := v.disks[d.ID]; w != nil {
			d.Kernel = w.status()
		}
	}
	addCopies(&s, v.journal)
	return s
}

var severities = [...]string{"info", "warning", "critical"}

// Events implements engine. The volume numbers events from 0, the API from 1.
func (v volumeEngine) Events(since uint64) []control.Event {
	var list []control.Event
	for _, e := range v.Volume.Events(since) {
		c := control.Event{Number: e.Number + 1, Time: e.Time, Severity: severities[min(int(e.Severity), 2)], Code: e.Code, Message: e.Message}
		if e.Device != 0 {
			c.Device = devices.ID(e.Device).String()
		}
		list = append(list, c)
	}
	return list
}
