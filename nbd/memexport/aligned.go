package memexport

import "unsafe"

const alignment = 4096

// alignedBytes returns size bytes that start on a page.
func alignedBytes(size int) []byte {
	b := make([]byte, size+alignment)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (alignment - 1)
	return b[skip : skip+size : skip+size]
}
