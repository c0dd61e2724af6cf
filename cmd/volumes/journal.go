package volumes

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"ballast/cmd/control"
	"ballast/devices"
	"ballast/journal"

	"golang.org/x/sys/unix"
)

// JournalWork is work on the journal of a volume that nobody serves meanwhile.
type JournalWork struct {
	child  []string // command line of the journal's child; nil: in this process
	dirs   Dirs
	config *Config
	lock   *os.File // nil: it was never served
	opened []Opened
}

// JournalReport is what verifying a journal found.
type JournalReport struct {
	Schema string              `json:"schema"`
	Volume string              `json:"volume"`
	Sound  bool                `json:"sound"`
	Store  JournalPart         `json:"store"`
	Copies []JournalCopyReport `json:"copies"`
}

// JournalPart is the store or a copy as it was found.
type JournalPart struct {
	Seq     uint64 `json:"sequence"`
	Records uint64 `json:"records"`
	Digest  string `json:"digest,omitempty"`
	Fault   string `json:"fault,omitempty"`
}

// JournalCopyReport is a copy on a device.
type JournalCopyReport struct {
	Device string `json:"device"`
	JournalPart
	Life  uint64 `json:"life"`
	Bytes int64  `json:"bytes"`
	None  bool   `json:"none"` // no copy was ever there, which is no fault
	Old   bool   `json:"old"`  // it is whole and not the newest: a device that copies are no longer on
}

// NotServed takes the lock of a volume, or refuses because a daemon has it. The lock is nil for a
// volume that was never served.
func NotServed(d Dirs, name string) (*os.File, error) {
	lock, err := os.Open(filepath.Join(d.Volume(name), "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, control.Refuse("E_NOT_PERMITTED", "%v", err).WithTry("the same as root")
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, control.Refuse("E_BUSY", "volume %s is being served", name).WithTry("ballast stop %s", name)
	}
	return lock, nil
}

// OpenJournalWork takes a volume for work on its journal.
func OpenJournalWork(d Dirs, name string, look, child []string) (w *JournalWork, err error) {
	w = &JournalWork{dirs: d, child: child}
	if w.config, err = ReadConfig(d, name); err != nil {
		return nil, err
	}
	if w.lock, err = NotServed(d, name); err != nil {
		return nil, err
	}
	if w.opened, err = OpenDevices(w.config, look); err != nil {
		w.lock.Close()
		return nil, err
	}
	return w, nil
}

// Close gives the volume back.
func (w *JournalWork) Close() {
	CloseDevices(w.opened)
	w.lock.Close() // of nil too
}

// Verify reads the store, in a child process if there is a command for it, and all copies.
func (w *JournalWork) Verify(ctx context.Context) *JournalReport {
	r := &JournalReport{Schema: "ballast.journal/1", Volume: w.config.Name, Copies: []JournalCopyReport{}}
	state, err := w.verifyStore(ctx)
	r.Store = partOf(state, err)
	r.Sound = err == nil
	surveys := journal.SurveyAll(JournalPlaces(w.opened), w.config.UUID)
	newest := journal.Life{}
	for _, v := range surveys {
		if v.Err == nil && v.Life.Number > newest.Number {
			newest = v.Life
		}
	}
	for _, v := range surveys {
		c := JournalCopyReport{Device: v.Place.Name, Life: v.Life.Number, Bytes: v.Bytes, None: errors.Is(v.Err, journal.ErrNotFound)}
		found, err := v.Content()
		if c.None {
			err = nil
		}
		c.JournalPart = partOf(found, err)
		c.Old = err == nil && !c.None && v.Life != newest
		r.Sound = r.Sound && err == nil
		r.Copies = append(r.Copies, c)
	}
	return r
}

// verifyStore reads the store in a copy, as opening it may change its files.
func (w *JournalWork) verifyStore(ctx context.Context) (journal.State, error) {
	dir, err := os.MkdirTemp("", "ballast-journal-")
	if err != nil {
		return journal.State{}, err
	}
	defer os.RemoveAll(dir)
	target := filepath.Join(dir, "journal")
	if err := os.CopyFS(target, os.DirFS(w.dirs.Journal(w.config.Name))); err != nil {
		return journal.State{}, err
	}
	var state journal.State
	if len(w.child) > 0 {
		state, err = journal.RunPreflight(ctx, w.child, target)
	} else {
		state, err = journal.Preflight(target, w.config.UUID)
	}
	if err == nil {
		err = state.Check(Anchors(w.opened))
	}
	return state, err
}

func partOf(s journal.State, err error) JournalPart {
	if err != nil {
		return JournalPart{Fault: err.Error()}
	}
	p := JournalPart{Seq: uint64(s.Seq), Records: s.Count}
	if s != (journal.State{}) {
		p.Digest = s.Digest.String()
	}
	return p
}

// Rebuild makes the journal anew from the newest copy, or from a backup.
func (w *JournalWork) Rebuild(ctx context.Context, backup string, log *slog.Logger) (journal.Recovery, error) {
	places := JournalPlaces(w.opened)
	if backup != "" {
		disk, err := Peek(backup)
		if err != nil {
			return journal.Recovery{}, PathRefusal(backup, err)
		}
		defer disk.Close()
		places = []journal.Place{backupPlace(w.config.UUID, backup, disk)}
	}
	options := journal.Options{UUID: w.config.UUID, Places: places, Anchors: Anchors(w.opened), Logger: log}
	options.InChild(ctx, w.child)
	r, err := journal.Rebuild(w.dirs.Journal(w.config.Name), options)
	if err != nil {
		return r, JournalRefusal(w.config.Name, err)
	}
	return r, nil
}

// backupPlace is a backup as a place: a copy of the journal that fills a file.
func backupPlace(volume UUID, path string, disk devices.Disk) journal.Place {
	return journal.Place{Device: volume, Name: path, Area: &journalArea{disk, 0, disk.Size()}}
}

// Backup writes a copy of the journal to a new file.
func (w *JournalWork) Backup(ctx context.Context, path string) (journal.State, error) {
	if _, err := os.Lstat(path); err == nil {
		return journal.State{}, control.Refuse("E_DEVICE_FILE", "%s is there already", path).WithTry("another name")
	}
	options := journal.Options{UUID: w.config.UUID, Places: JournalPlaces(w.opened), Anchors: Anchors(w.opened)}
	options.InChild(ctx, w.child)
	j, err := journal.Open(w.dirs.Journal(w.config.Name), options)
	if err != nil {
		return journal.State{}, JournalRefusal(w.config.Name, err)
	}
	defer j.Close()
	size, err := j.CopySize()
	if err == nil {
		err = devices.CreateFile(path, size)
	}
	if err != nil {
		return journal.State{}, control.Refuse("E_FAILED", "%s: %v", path, err)
	}
	f, err := devices.Open(path, devices.FileOptions{})
	if err == nil {
		err = errors.Join(j.CopyTo(backupPlace(w.config.UUID, path, f)), f.Close())
	}
	if err != nil {
		os.Remove(path)
		return journal.State{}, control.Refuse("E_FAILED", "%s: %v", path, err)
	}
	return j.State(), nil
}
