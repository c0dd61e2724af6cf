package striping

import (
	"ballast/devices"

	"golang.org/x/sys/unix"
)

// How much may be buffered decides how much of random writing comes together: of 4 KiB writes all
// over 1 GiB, 16 MiB hold four blocks of each chunk, 300 MiB the half of it. But a flush has to
// write all of that out, and memory is not only ours.
const (
	leastDirty = 64 << 20
	dirtyPiece = 64 << 10 // random writes that came together go out in pieces of about this size
	// The garbage collector lets the heap grow to twice of what is in use: this is 5 % of the RAM.
	dirtyShare = 40
)

// sizeBudget sets the limit of buffered writes to what the devices write in a second. Spinning
// disks do so little in small pieces that the least is enough for longer than that.
func (v *Volume) sizeBudget() {
	if v.opts.DirtyLimit > 0 {
		return
	}
	var speeds []devices.Speeds
	for _, m := range v.devs() {
		if m.usable() && !m.Device.Rotational() {
			speeds = append(speeds, m.Device.Speeds())
		}
	}
	v.dirty.setLimit(dirtyLimit(speeds, int(v.info.Copies), physicalMemory()))
}

// dirtyLimit is what devices of these speeds write in a second, within the bounds.
func dirtyLimit(speeds []devices.Speeds, copies int, memory int64) int64 {
	limit := 0.0
	for _, s := range speeds {
		if piece := s.SecondsPerOp[0] + dirtyPiece*s.SecondsPerByte[0]; piece > 0 { // it was measured
			limit += dirtyPiece / piece
		}
	}
	return max(leastDirty, int64(min(limit/float64(copies), float64(memory/dirtyShare))))
}

// physicalMemory is the size of the RAM in bytes.
func physicalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
