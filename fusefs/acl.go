package fusefs

import (
	"encoding/binary"
)

// The names that POSIX ACLs are kept under, in the form the kernel has them: version 2, then
// entries of tag, permissions and id, all little endian. The kernel has looked at what it sends; it
// reads the access ACL back to judge who may do what, and leaves it to us to keep the mode and the
// ACL one, and to inherit.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// Tags of entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

const (
	aclVersion = 2
	aclNoID    = ^uint32(0)
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl is one list; the kernel sends it sorted.
type acl []aclEntry

// parseACL reads a list; ok is false for what is none.
func parseACL(b []byte) (list acl, ok bool) {
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, false
	}
	for b = b[4:]; len(b) > 0; b = b[8:] {
		list = append(list, aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])})
	}
	var seen [3]int
	for _, e := range list {
		switch e.tag {
		case aclUserObj:
			seen[0]++
		case aclGroupObj:
			seen[1]++
		case aclOther:
			seen[2]++
		case aclUser, aclGroup, aclMask:
		default:
			return nil, false
		}
	}
	return list, seen == [3]int{1, 1, 1}
}

func (a acl) pack() []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range a {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// slots are the three entries that the mode's bits stand for: the mask stands in for the group
// where there is one.
func (a acl) slots() (owner, group, other *aclEntry) {
	for i := range a {
		switch e := &a[i]; e.tag {
		case aclUserObj:
			owner = e
		case aclGroupObj:
			if group == nil {
				group = e
			}
		case aclMask:
			group = e
		case aclOther:
			other = e
		}
	}
	return owner, group, other
}

// mode returns the permission bits, and whether they say all that the list says.
func (a acl) mode() (bits uint32, all bool) {
	owner, group, other := a.slots()
	return uint32(owner.perm&7)<<6 | uint32(group.perm&7)<<3 | uint32(other.perm&7), len(a) == 3
}

// chmod makes the list say what the mode's bits say.
func (a acl) chmod(mode uint32) {
	owner, group, other := a.slots()
	owner.perm, group.perm, other.perm = uint16(mode>>6&7), uint16(mode>>3&7), uint16(mode&7)
}

// inherit returns what a new file gets from the default ACL of its directory, and its mode, when it
// is made with mode, no umask taken off. A list that the mode says all of is nil.
func (a acl) inherit(mode uint32) (acl, uint32) {
	list := append(acl(nil), a...)
	owner, group, other := list.slots()
	owner.perm &= uint16(mode >> 6 & 7)
	group.perm &= uint16(mode >> 3 & 7)
	other.perm &= uint16(mode & 7)
	bits, all := list.mode()
	mode = mode&^0o777 | bits
	if all {
		return nil, mode
	}
	return list, mode
}
