package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ballast/cmd/control"
	"ballast/devices"
	"ballast/journal"
)

// ImportOptions say what Import takes in.
type ImportOptions struct {
	Dirs     Dirs
	Devices  []string // paths; further devices of the volume are looked for among the block devices
	Name     string   // of the volume here; "": the one that it had
	ReadOnly bool     // it is to be served to readers only
	Degraded bool     // although devices are missing that hold the only copy of something
	Child    []string // command line of the journal's child; nil: in this process
}

// Imported is what Import did.
type Imported struct {
	Schema  string          `json:"schema"`
	Volume  string          `json:"volume"`
	UUID    UUID            `json:"uuid"`
	Copies  int             `json:"copies"`
	Devices []ConfigDevice  `json:"devices"` // found
	Missing []MissingDevice `json:"missing"`
	From    string          `json:"journal_from"` // the device whose copy of the journal it is
	Seq     uint64          `json:"journal_sequence"`
	Records uint64          `json:"journal_records"`
	// ReadOnly tells that it is served to readers only.
	ReadOnly bool `json:"read_only"`
}

// MissingDevice is a member that was not found.
type MissingDevice struct {
	ID   uint16 `json:"id"`
	UUID UUID   `json:"uuid"`
	Size int64  `json:"size_bytes"`
}

// candidate is a device that is offered for import.
type candidate struct {
	given, path string
	label       devices.Label
}

// Import makes a volume of this machine out of devices that were one elsewhere, or here before its
// state was lost. Everything it knows is on them: the labels tell who belongs together, and the
// journal is made anew from its newest copy. Nothing is written to the devices.
func Import(ctx context.Context, o ImportOptions) (*Imported, error) {
	offered, err := offer(o)
	if err != nil {
		return nil, err
	}
	newest := newestLabelOf(offered)
	if err := checkMembers(offered, newest); err != nil {
		return nil, err
	}
	name := first(o.Name, newest.Name)
	if err := checkUnknown(o.Dirs, name, newest); err != nil {
		return nil, err
	}
	config := &Config{Schema: SchemaConfig, Name: name, UUID: UUID(newest.Volume), ChunkSize: int64(newest.ChunkSize), Copies: int(newest.Copies), ReadOnly: o.ReadOnly}
	for _, m := range newest.Members {
		d := ConfigDevice{ID: uint16(m.ID), UUID: UUID(m.UUID), Size: m.Size}
		for _, c := range offered {
			if c.label.Device == m.UUID {
				d.Path = c.path
			}
		}
		config.Devices = append(config.Devices, d)
	}
	opened, err := OpenDevices(config, o.Devices)
	if err != nil {
		return nil, err
	}
	defer CloseDevices(opened)
	done := &Imported{Schema: "ballast.import/1", Volume: name, UUID: config.UUID, Copies: config.Copies, Missing: []MissingDevice{}, ReadOnly: o.ReadOnly}
	return done, takeIn(ctx, o, config, opened, done)
}

// offer looks at the devices that were named, and refuses those that cannot be imported.
func offer(o ImportOptions) (offered []candidate, err error) {
	var faults control.Refusals
	for _, given := range o.Devices {
		path, err := filepath.Abs(given)
		if err != nil {
			return nil, control.Refuse("E_FAILED", "%s: %v", given, err)
		}
		in, err := devices.Inspect(path)
		if err != nil {
			faults = append(faults, PathRefusal(given, err))
			continue
		}
		switch r := importable(given, in); {
		case r != nil:
			faults = append(faults, r)
		default:
			offered = append(offered, candidate{given, path, *in.Label})
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return offered, nil
}

// importable refuses a device without a usable label, and one that somebody uses.
func importable(given string, in *devices.Inspection) *control.Refusal {
	switch {
	case in.Label == nil && in.LabelErr != nil && !errors.Is(in.LabelErr, devices.ErrNoLabel):
		return control.Refuse("E_DEVICE_LABEL", "%s has a label of ballast that cannot be used: %v", given, in.LabelErr).WithTry("ballast inspect %s", given)
	case in.Label == nil:
		what := "is empty"
		if r := holds(given, in); len(r) > 0 {
			what = strings.TrimPrefix(r[0].Message, given+" ")
		}
		return control.Refuse("E_DEVICE_LABEL", "%s is no device of a volume: it %s", given, what).
			WithTry("ballast create NAME %s, to make it one", given)
	case len(in.Uses) > 0:
		return control.Refuse("E_DEVICE_BUSY", "%s, device %s of volume %s, is %s", given, in.Label.ID, in.Label.Name, in.Uses[0]).
			WithTry("ballast stop %s, where it is served", in.Label.Name)
	case in.Label.ReadOnly():
		return control.Refuse("E_DEVICE_LABEL", "%s was written by a newer version of ballast", given).WithTry("that version, or a newer one")
	}
	f, err := devices.Open(in.Path, devices.FileOptions{})
	if errors.Is(err, devices.ErrBusy) {
		return control.Refuse("E_DEVICE_BUSY", "%s is device %s of volume %s, which is being served", given, in.Label.ID, in.Label.Name).
			WithTry("ballast status %s", in.Label.Name).WithTry("ballast stop %s, where it is served", in.Label.Name)
	}
	if err != nil {
		return PathRefusal(given, err)
	}
	f.Close()
	return nil
}

// newestLabelOf returns the label that knows of the newest membership and journal.
func newestLabelOf(offered []candidate) *devices.Label {
	best := &offered[0].label
	for i := range offered {
		l := &offered[i].label
		if l.Epoch > best.Epoch || l.Epoch == best.Epoch && l.Anchor.Seq > best.Anchor.Seq {
			best = l
		}
	}
	return best
}

// checkMembers refuses devices of several volumes, copies of one device, and members that the
// others have gone on without.
func checkMembers(offered []candidate, newest *devices.Label) error {
	var faults control.Refusals
	for i, c := range offered {
		if c.label.Volume != newest.Volume {
			faults = append(faults, control.Refuse("E_DEVICE_MEMBER", "%s is device %s of volume %s (%s), others are of volume %s (%s)",
				c.given, c.label.ID, c.label.Name, c.label.Volume, newest.Name, newest.Volume).WithTry("one volume at a time"))
			continue
		}
		for _, b := range offered[:i] {
			switch {
			case b.label.Device != c.label.Device:
			case samePath(b.path, c.path):
				faults = append(faults, control.Refuse("E_DEVICE_TWICE", "%s and %s are the same disk", b.given, c.given).WithTry("each disk once"))
			default:
				faults = append(faults, control.Refuse("E_DEVICE_TWICE", "%s and %s both say to be device %s of volume %s; one is a copy of the other", b.given, c.given, c.label.ID, c.label.Name).
					WithTry("take away the copy"))
			}
		}
		if !slices.ContainsFunc(newest.Members, func(m devices.Member) bool { return m.UUID == c.label.Device }) {
			faults = append(faults, control.Refuse("E_DEVICE_STALE", "%s was device %s of volume %s, which has gone on without it", c.given, c.label.ID, c.label.Name).
				WithTry("import the other devices without it, then: ballast device add %s %s --force", newest.Name, c.given))
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

// checkUnknown refuses a volume that this machine has, and a name that it has for another.
func checkUnknown(dirs Dirs, name string, l *devices.Label) error {
	if err := CheckName(name); err != nil {
		return err
	}
	names, err := dirs.Names()
	if err != nil {
		return err
	}
	for _, n := range names {
		c, err := ReadConfig(dirs, n)
		switch {
		case err == nil && c.UUID == UUID(l.Volume):
			return control.Refuse("E_VOLUME_EXISTS", "volume %s (%s) is known here as %s", l.Name, l.Volume, n).
				WithTry("ballast serve %s", n).WithTry("ballast journal rebuild %s, if its journal is lost", n)
		case n == name && err != nil:
			return control.Refuse("E_VOLUME_EXISTS", "there is something at %s that is no volume: %v", dirs.Volume(n), err).
				WithTry("--name NAME").WithTry("mv %s %s.old", dirs.Volume(n), dirs.Volume(n))
		case n == name:
			return control.Refuse("E_VOLUME_EXISTS", "there is another volume %s here (%s)", name, c.UUID).WithTry("--name NAME")
		}
	}
	if _, err := os.Lstat(dirs.Volume(name)); err == nil {
		return control.Refuse("E_VOLUME_EXISTS", "%s is there already", dirs.Volume(name)).WithTry("--name NAME")
	}
	return nil
}

func tooFew(c *Config, missing []MissingDevice) error {
	var list []string
	for _, d := range missing {
		list = append(list, fmt.Sprintf("%s (%s)", devices.ID(d.ID), d.UUID))
	}
	return control.Refuse("E_DEVICE_MISSING", "volume %s with %d %s needs more of its devices; missing: %s", c.Name, c.Copies,
		map[bool]string{true: "copy", false: "copies"}[c.Copies == 1], strings.Join(list, ", ")).
		WithTry("name them too, or attach them").WithTry("--degraded, to take in the rest: what was only on them cannot be read")
}

// takeIn makes the volume's state directory: the journal from the copies on the devices, and
// volume.json from what it says.
func takeIn(ctx context.Context, o ImportOptions, c *Config, opened []Opened, done *Imported) error {
	if err := os.MkdirAll(o.Dirs.State, 0o700); err != nil {
		return accessRefusal(err, o.Dirs.State)
	}
	dir, err := os.MkdirTemp(o.Dirs.State, "."+c.Name+".*") // 0700
	if err != nil {
		return accessRefusal(err, o.Dirs.State)
	}
	p := &plan{o: CreateOptions{Dirs: o.Dirs}, dir: dir}
	err = p.takeJournal(ctx, o, c, opened, done)
	if err == nil {
		err = p.publish(c)
	}
	if err != nil {
		p.undo()
	}
	return err
}

func (p *plan) takeJournal(ctx context.Context, o ImportOptions, c *Config, opened []Opened, done *Imported) error {
	options := journal.Options{UUID: c.UUID, Places: JournalPlaces(opened), Anchors: Anchors(opened)}
	options.InChild(ctx, o.Child)
	j, err := journal.Open(filepath.Join(p.dir, "journal"), options)
	if lacking := errors.Is(err, os.ErrNotExist) || errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrRolledBack); lacking && !o.Degraded {
		var listed []MissingDevice
		for _, d := range opened {
			if d.File == nil {
				listed = append(listed, MissingDevice{d.Config.ID, d.Config.UUID, d.Config.Size})
			}
		}
		if len(listed) >= c.Copies {
			return tooFew(c, listed)
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return control.Refuse("E_JOURNAL", "no device of volume %s has a whole copy of its journal: %v", c.Name, err).
			WithTry("name the missing devices too: a copy on one of them is enough").WithTry("ballast salvage %s, for what is left", strings.Join(o.Devices, " "))
	}
	if err != nil {
		return JournalRefusal(c.Name, err)
	}
	s := j.State()
	done.From, done.Seq, done.Records = j.Recovery().From, uint64(s.Seq), s.Count
	records, err := readRecords(j, c)
	if err := errors.Join(err, j.Close()); err != nil {
		return JournalRefusal(c.Name, err)
	}
	if stale := JudgeStale(c.Name, opened, records); len(stale) > 0 {
		return staleMembers(c.Name, stale)
	}
	c.Devices = nil
	for _, r := range records {
		d := ConfigDevice{ID: r.ID, UUID: r.UUID, Path: r.Path, Size: r.Size, Domain: r.Domain}
		i := slices.IndexFunc(opened, func(at Opened) bool { return at.File != nil && at.Config.UUID == d.UUID })
		if i < 0 {
			done.Missing = append(done.Missing, MissingDevice{d.ID, d.UUID, d.Size})
		} else {
			d.Path = opened[i].Config.Path
			done.Devices = append(done.Devices, d)
		}
		c.Devices = append(c.Devices, d)
	}
	if len(done.Missing) >= c.Copies && !o.Degraded {
		return tooFew(c, done.Missing)
	}
	return c.validate()
}

// staleMembers refuses to import older images of devices among the others.
func staleMembers(volume string, stale []*control.Refusal) error {
	faults := control.Refusals(stale)
	for _, r := range faults {
		r.Try = nil
		r.WithTry("import the other devices without it; then serve the volume, and: ballast device online %s DEVICE --path PATH --resync", volume)
	}
	return faults
}

// readRecords returns the devices as the journal has them, and sets what it says of the volume.
func readRecords(j *journal.Store, c *Config) (records []journal.Device, err error) {
	value, err := j.Get(journal.VolumeKey())
	if err != nil {
		return nil, err
	}
	v, err := journal.ParseVolume(journal.VolumeKey(), value)
	if err != nil {
		return nil, err
	}
	c.ChunkSize, c.Copies, c.Created = int64(v.ChunkSize), int(v.Copies), v.Created
	err = j.Scan(journal.SpaceDevice, func(key journal.Key, value []byte) error {
		d, err := journal.ParseDevice(key, value)
		records = append(records, d)
		return err
	})
	return records, err
}
