package fusefs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACLInheritance(t *testing.T) {
	plain := acl{{aclUserObj, 7, aclNoID}, {aclGroupObj, 5, aclNoID}, {aclOther, 4, aclNoID}}
	named := acl{{aclUserObj, 7, aclNoID}, {aclUser, 7, 1001}, {aclGroupObj, 5, aclNoID}, {aclMask, 7, aclNoID}, {aclOther, 0, aclNoID}}
	for _, c := range []struct {
		from     acl
		mode     uint32
		want     acl
		wantMode uint32
	}{
		{plain, 0o666, nil, 0o644},
		{plain, 0o2777, nil, 0o2754},
		{named, 0o666, acl{{aclUserObj, 6, aclNoID}, {aclUser, 7, 1001}, {aclGroupObj, 5, aclNoID}, {aclMask, 6, aclNoID}, {aclOther, 0, aclNoID}}, 0o660},
		{named, 0o700, acl{{aclUserObj, 7, aclNoID}, {aclUser, 7, 1001}, {aclGroupObj, 5, aclNoID}, {aclMask, 0, aclNoID}, {aclOther, 0, aclNoID}}, 0o700},
	} {
		before := c.from.pack()
		got, mode := c.from.inherit(c.mode)
		require.Equal(t, c.want, got)
		require.Equal(t, c.wantMode, mode)
		require.Equal(t, before, c.from.pack(), "the directory's own list stays")
	}
}

func TestACLAndMode(t *testing.T) {
	a := acl{{aclUserObj, 7, aclNoID}, {aclUser, 6, 1001}, {aclGroupObj, 5, aclNoID}, {aclMask, 6, aclNoID}, {aclOther, 1, aclNoID}}
	bits, all := a.mode()
	require.Equal(t, uint32(0o761), bits)
	require.False(t, all)
	a.chmod(0o4640)
	require.Equal(t, acl{{aclUserObj, 6, aclNoID}, {aclUser, 6, 1001}, {aclGroupObj, 5, aclNoID}, {aclMask, 4, aclNoID}, {aclOther, 0, aclNoID}}, a)
	again, ok := parseACL(a.pack())
	require.True(t, ok)
	require.Equal(t, a, again)
}

func TestACLsThatAreNone(t *testing.T) {
	good := acl{{aclUserObj, 7, aclNoID}, {aclGroupObj, 5, aclNoID}, {aclOther, 4, aclNoID}}.pack()
	for n := range good {
		_, ok := parseACL(good[:n])
		require.False(t, ok, n)
	}
	for _, bad := range []acl{{}, {{aclUserObj, 7, aclNoID}}, {{aclUserObj, 7, aclNoID}, {aclGroupObj, 5, aclNoID}, {3, 4, aclNoID}},
		{{aclUserObj, 7, aclNoID}, {aclUserObj, 7, aclNoID}, {aclGroupObj, 5, aclNoID}, {aclOther, 4, aclNoID}}} {
		_, ok := parseACL(bad.pack())
		require.False(t, ok)
	}
	_, ok := parseACL(append([]byte{1}, good[1:]...))
	require.False(t, ok)
}
