package volumes

import (
	"math/bits"
	"path/filepath"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/size"
)

// Bounds of a volume.
const (
	MinChunk   = 64 << 10
	MaxChunk   = 16 << 20
	MaxCopies  = 3
	MaxDevices = 64
)

// Spec is one DEVICE argument.
type Spec struct {
	Given string // as typed
	Path  string // absolute, not resolved
	Size  int64  // of the sparse file to make; 0: the path is there already
}

// ParseDevice reads PATH or PATH:SIZE. A colon counts only when a size follows, or what would be
// one: by-path names of disks have colons too, and those paths exist.
func ParseDevice(arg string, exists func(path string) bool) (Spec, error) {
	if arg == "" {
		return Spec{}, control.Refuse("E_DEVICE_NOT_FOUND", "an empty path is no device")
	}
	if strings.ContainsRune(arg, 0) {
		return Spec{}, control.Refuse("E_DEVICE_NOT_FOUND", "%q cannot be a path", arg)
	}
	path, bytes := arg, int64(0)
	if i := strings.LastIndexByte(arg, ':'); i >= 0 && !exists(arg) && !strings.ContainsRune(arg[i:], '/') {
		n, err := size.Parse(arg[i+1:])
		if err != nil {
			return Spec{}, control.Refuse("E_SIZE", "%s: %v", arg, err).WithTry("%s:10GiB", arg[:i])
		}
		path, bytes = arg[:i], n&^4095
		if path == "" {
			return Spec{}, control.Refuse("E_DEVICE_NOT_FOUND", "%q has a size and no path", arg)
		}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Spec{}, control.Refuse("E_FAILED", "%s: %v", path, err)
	}
	return Spec{Given: arg, Path: abs, Size: bytes}, nil
}

// ParseChunk reads a chunk size.
func ParseChunk(s string) (int64, error) {
	n, err := size.Parse(s)
	if err != nil {
		return 0, control.Refuse("E_CHUNK", "chunk %v", err).WithTry("--chunk 1MiB")
	}
	return n, checkChunk(n)
}

func checkChunk(n int64) error {
	if n < MinChunk || n > MaxChunk || bits.OnesCount64(uint64(n)) != 1 {
		return control.Refuse("E_CHUNK", "a chunk of %d bytes: it has to be a power of two from 64 KiB to 16 MiB", n).WithTry("--chunk 1MiB")
	}
	return nil
}

// checkGeometry refuses what no volume can have, all faults at once.
func checkGeometry(copies int, chunk int64, devices int) error {
	var faults control.Refusals
	if copies < 1 || copies > MaxCopies {
		faults = append(faults, control.Refuse("E_COPIES", "%d copies: it has to be 1, 2 or 3", copies))
	} else if devices > 0 && copies > devices {
		faults = append(faults, control.Refuse("E_COPIES", "%d copies need %d devices, there %s only %d", copies, copies, map[bool]string{true: "is", false: "are"}[devices == 1], devices).
			WithTry("--copies %d, or more devices", devices))
	}
	if devices < 1 || devices > MaxDevices {
		faults = append(faults, control.Refuse("E_USAGE", "%d devices: a volume has 1 to %d", devices, MaxDevices))
	}
	if err := checkChunk(chunk); err != nil {
		faults = append(faults, control.AsRefusals(err)...)
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}
