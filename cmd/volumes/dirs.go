package volumes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"ballast/cmd/control"
)

// Dirs are the directories of a machine.
type Dirs struct {
	State string // below it one directory for each volume
	Run   string // sockets
}

// FindDirs returns the directories: what the flags name, else what the environment names, else
// /var/lib/ballast and /run/ballast for root and XDG paths for others.
func FindDirs(stateFlag, runFlag string) (Dirs, error) {
	d := Dirs{State: first(stateFlag, os.Getenv("BALLAST_STATE_DIR")), Run: first(runFlag, os.Getenv("BALLAST_RUN_DIR"))}
	if d.State != "" && d.Run != "" {
		return d, nil
	}
	if os.Geteuid() == 0 {
		d.State, d.Run = first(d.State, "/var/lib/ballast"), first(d.Run, "/run/ballast")
		return d, nil
	}
	if d.State == "" {
		data := os.Getenv("XDG_STATE_HOME")
		if data == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return d, control.Refuse("E_STATE", "no home directory to keep volumes in: %v", err).WithTry("--state-dir DIR")
			}
			data = filepath.Join(home, ".local", "state")
		}
		d.State = filepath.Join(data, "ballast")
	}
	if d.Run == "" {
		run := os.Getenv("XDG_RUNTIME_DIR")
		if run == "" {
			return d, control.Refuse("E_STATE", "no XDG_RUNTIME_DIR to keep sockets in").WithTry("--run-dir DIR")
		}
		d.Run = filepath.Join(run, "ballast")
	}
	return d, nil
}

func first(s ...string) string {
	for _, x := range s {
		if x != "" {
			return x
		}
	}
	return ""
}

// Volume is the directory of a volume.
func (d Dirs) Volume(name string) string { return filepath.Join(d.State, name) }

// Journal is the directory of a volume's journal.
func (d Dirs) Journal(name string) string { return filepath.Join(d.State, name, "journal") }

// Control is the path of a volume's control socket.
func (d Dirs) Control(name string) string { return filepath.Join(d.Run, name+".sock") }

// NBD is the path of a volume's default NBD socket.
func (d Dirs) NBD(name string) string { return filepath.Join(d.Run, name+"-nbd.sock") }

// Names returns the names of the volumes in the state directory, sorted.
func (d Dirs) Names() ([]string, error) {
	entries, err := os.ReadDir(d.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, accessRefusal(err, d.State)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func accessRefusal(err error, path string) error {
	if errors.Is(err, fs.ErrPermission) {
		return control.Refuse("E_NOT_PERMITTED", "%s: permission denied", path).WithTry("the same as root, or --state-dir DIR")
	}
	return control.Refuse("E_STATE", "%v", err)
}

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// CheckName refuses what is no name of a volume.
func CheckName(name string) error {
	if volumeName.MatchString(name) && !strings.HasSuffix(name, "-nbd") {
		return nil
	}
	return control.Refuse("E_NAME", "%q cannot be the name of a volume", name).
		WithTry("1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit, not ending in -nbd")
}

// CheckExportName refuses what is no name of an export.
func CheckExportName(name string) error {
	bad := name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsRune(name, '/') ||
		strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 || strings.TrimSpace(name) != name
	if !bad {
		return nil
	}
	return control.Refuse("E_NAME", "%q cannot be the name of an export", name).
		WithTry("1 to 255 bytes of printable characters, no '/', no space at either end")
}

// SplitExport splits VOLUME/NAME.
func SplitExport(arg string) (volume, export string, err error) {
	volume, export, found := strings.Cut(arg, "/")
	if !found {
		return "", "", control.Refuse("E_USAGE", "%q is not VOLUME/NAME", arg).WithTry("%s/NAME", arg)
	}
	if err := CheckName(volume); err != nil {
		return "", "", err
	}
	return volume, export, CheckExportName(export)
}
