package volumes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/size"
	"ballast/devices"

	"golang.org/x/sys/unix"
)

// inspect refuses what cannot become a device of a new volume, every fault with its own code.
func inspect(s Spec, chunk int64, force bool) (*devices.Inspection, control.Refusals) {
	in, err := devices.Inspect(s.Path)
	if err != nil {
		return nil, control.Refusals{PathRefusal(s.Given, err)}
	}
	return in, judge(s.Given, in, chunk, force)
}

// PathRefusal is for a path that leads to no disk.
func PathRefusal(given string, err error) *control.Refusal {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return control.Refuse("E_DEVICE_NOT_FOUND", "%s: there is nothing at this path", given).
			WithTry("%s:10GiB, to make a sparse file there", given)
	case errors.Is(err, devices.ErrNotDisk):
		hint := "a path below /dev/disk/by-id, or FILE:10GiB to make a sparse file"
		if st, err := os.Stat(given); err == nil && st.IsDir() {
			hint = filepath.Join(given, "ballast.img") + ":10GiB, to make a sparse file in it"
		}
		return control.Refuse("E_DEVICE_KIND", "%s: %v", given, cause(err)).WithTry("%s", hint)
	case errors.Is(err, fs.ErrPermission):
		return control.Refuse("E_NOT_PERMITTED", "%s: permission denied", given).WithTry("the same as root")
	case errors.Is(err, devices.ErrBusy):
		return control.Refuse("E_DEVICE_BUSY", "%s: %v", given, cause(err)).WithTry("fuser -v %s", given)
	}
	return control.Refuse("E_DEVICE_NOT_FOUND", "%s: %v", given, cause(err))
}

// cause drops the outermost layer, which names the path once more.
func cause(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func judge(given string, in *devices.Inspection, chunk int64, force bool) (faults control.Refusals) {
	for _, u := range in.Uses {
		faults = append(faults, control.Refuse("E_DEVICE_BUSY", "%s is %s", given, u).WithTry("another device, or end that use first"))
	}
	if in.ReadOnly {
		faults = append(faults, control.Refuse("E_NOT_PERMITTED", "%s is read-only", given).WithTry("another device"))
	}
	if in.SectorSize > devices.BlockSize {
		faults = append(faults, control.Refuse("E_DEVICE_KIND", "%s has sectors of %s, more than 4 KiB", given, size.Format(int64(in.SectorSize))))
	}
	if r := largeEnough(given, in.Size, chunk); r != nil {
		faults = append(faults, r)
	}
	if !force {
		faults = append(faults, holds(given, in)...)
	}
	return faults
}

func largeEnough(given string, bytes, chunk int64) *control.Refusal {
	if checkChunk(chunk) != nil {
		return nil // told by checkGeometry
	}
	if _, err := devices.NewLayout(bytes, chunk); errors.Is(err, devices.ErrTooSmall) {
		return control.Refuse("E_DEVICE_SMALL", "%s has %s, too little for a label and a chunk of %s", given, size.Format(bytes), size.Format(chunk)).
			WithTry("%s or more", size.Format(devices.MinDeviceSize(chunk)))
	}
	return nil
}

// holds names what is on a device.
func holds(given string, in *devices.Inspection) (faults control.Refusals) {
	switch {
	case in.Label != nil:
		return control.Refusals{control.Refuse("E_DEVICE_MEMBER", "%s is device %s of volume %s (%s)", given, in.Label.ID, in.Label.Name, in.Label.Volume).
			WithTry("another device").WithTry("--force, which destroys its part of that volume")}
	case !errors.Is(in.LabelErr, devices.ErrNoLabel):
		return control.Refusals{control.Refuse("E_DEVICE_MEMBER", "%s has a label of ballast that cannot be used: %v", given, in.LabelErr).
			WithTry("ballast inspect %s", given).WithTry("--force, which destroys what it belongs to")}
	case len(in.Signatures) > 0:
		names := []string{}
		for _, s := range in.Signatures {
			names = append(names, s.String())
		}
		return control.Refusals{control.Refuse("E_DEVICE_SIGNATURE", "%s holds %s", given, strings.Join(names, ", ")).
			WithTry("another device").WithTry("--force, which destroys it")}
	case !in.Blank:
		return control.Refusals{control.Refuse("E_DEVICE_SIGNATURE", "%s is not empty, though nothing in it is known here", given).
			WithTry("another device").WithTry("--force, which destroys what it holds")}
	}
	return nil
}

// eraseSignatures overwrites the marks of what was on a device, so that nobody takes it for that.
func eraseSignatures(f *devices.File, in *devices.Inspection) error {
	zeros := devices.AlignedBytes(devices.BlockSize)
	for _, s := range in.Signatures {
		off := s.Off / devices.BlockSize * devices.BlockSize
		if off < 0 || off+devices.BlockSize > f.Size() {
			continue
		}
		if _, err := f.WriteAt(zeros, off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// twice refuses pairs that are one disk, by whatever names.
func twice(specs []Spec) (faults control.Refusals) {
	for i, a := range specs {
		for _, b := range specs[:i] {
			same := false
			switch {
			case a.Size > 0 && b.Size > 0:
				same = realDir(a.Path) == realDir(b.Path)
			case a.Size == 0 && b.Size == 0:
				same, _ = devices.SameDisk(a.Path, b.Path)
			}
			if same {
				faults = append(faults, control.Refuse("E_DEVICE_TWICE", "%s and %s are the same disk, or one is a part of the other", b.Given, a.Given).
					WithTry("each disk once"))
			}
		}
	}
	return faults
}

// realDir is the path with its directory resolved.
func realDir(path string) string {
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// makeable refuses a sparse file that cannot be made.
func makeable(s Spec, chunk int64) *control.Refusal {
	if _, err := os.Lstat(s.Path); err == nil {
		return control.Refuse("E_DEVICE_FILE", "%s is there already", s.Path).
			WithTry("%s without a size, to use it as it is", s.Path).WithTry("another name")
	}
	dir := filepath.Dir(s.Path)
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = unix.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK)
	}
	if err != nil {
		return control.Refuse("E_DEVICE_FILE", "%s cannot be made: %v", s.Path, err).WithTry("mkdir -p %s", dir)
	}
	return largeEnough(s.Given, s.Size, chunk)
}
