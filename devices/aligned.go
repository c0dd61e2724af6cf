package devices

import "unsafe"

// AlignedBytes returns size zero bytes at an address that is a multiple of BlockSize, as disks
// want them. The garbage collector frees them like all others.
func AlignedBytes(size int) []byte {
	b := make([]byte, size)
	if size == 0 || addressOf(b)%BlockSize == 0 {
		return b // large ones come from whole pages
	}
	b = make([]byte, size+BlockSize)
	pad := int(-addressOf(b) & (BlockSize - 1))
	return b[pad : pad+size : pad+size]
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
