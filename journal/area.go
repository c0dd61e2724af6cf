package journal

import "cmp"

// Area is the part of a device where a copy of the journal may live. Offsets, lengths and
// addresses of buffers are multiples of 4 KiB. Calls may be concurrent; overlapping ones are not
// made. A buffer belongs to the call until it returns; after an error nobody touches it again, so
// a device that answers a hung call in time may keep it. Sync returns nil only when every WriteAt
// that returned before is on stable media, and a failed one is final.
type Area interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
	Size() int64
}

// Thin is an Area that may have blocks that take far longer to be written the first time, as those of
// a sparse file do, whose file system has to find room for them and to commit that.
type Thin interface {
	Thin() bool
}

// Place is an Area and what it is a part of.
type Place struct {
	Device [16]byte // UUID
	Name   string   // for people: "d1"
	Domain string   // failure domain; "" is the device itself
	Area   Area
}

// usable tells whether a ring fits.
func (p *Place) usable() bool { return p.Area != nil && p.Area.Size() >= ringLeast }

// domain is the failure domain.
func (p *Place) domain() string { return cmp.Or(p.Domain, string(p.Device[:])) }

// ringSize is the size of a ring in an area of that size.
func ringSize(area int64) uint64 { return uint64(area)/ringBlock*ringBlock - ringStart }
