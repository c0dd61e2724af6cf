package posix

import (
	"encoding/binary"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// setfacl and getfacl are the programs.
func (e *env) setfacl(args ...string) {
	e.Helper()
	cmd := exec.Command("setfacl", args...)
	cmd.Dir = e.dir
	out, err := cmd.CombinedOutput()
	e.ok(err, string(out))
}

func (e *env) getfacl(name string) string {
	e.Helper()
	cmd := exec.Command("getfacl", "-cnpE", name)
	cmd.Dir = e.dir
	out, err := cmd.CombinedOutput()
	e.ok(err, string(out))
	return strings.Join(strings.Fields(string(out)), " ")
}

// acl packs entries as the kernel has them: tag, permissions, id.
func acl(entries ...[3]uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, x := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(x[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(x[1]))
		b = binary.LittleEndian.AppendUint32(b, x[2])
	}
	return string(b)
}

const noID = 0xffffffff

var aclCases = []Case{
	{"acl", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chmod(e.p("f"), 0o640))
		e.setfacl("-m", "u:1001:rw,g:1500:r", "f")
		e.equal("user::rw- user:1001:rw- group::r-- group:1500:r-- mask::rw- other::---", e.getfacl("f"))
		e.equal("0660", perm(e.stat("f")), "the group bits are the mask")
		e.as(alice, func() { e.equal("rw", e.may("f")) })
		e.as(bob, func() { e.equal("", e.may("f")) })
		e.as(bob, func() { e.equal("r", e.may("f")) }, staff)
		e.ok(unix.Chmod(e.p("f"), 0o644))
		e.equal("user::rw- user:1001:rw- group::r-- group:1500:r-- mask::r-- other::r--", e.getfacl("f"))
		e.as(alice, func() { e.equal("r", e.may("f"), "masked") })
		e.setfacl("-m", "u:1002:---,m::rwx", "f")
		e.as(bob, func() { e.equal("", e.may("f"), "though everybody else may") })
		e.setfacl("-b", "f")
		e.equal("user::rw- group::r-- other::r--", e.getfacl("f"))
		_, err := unix.Getxattr(e.p("f"), "system.posix_acl_access", nil)
		e.is(unix.ENODATA, err)
		e.is(unix.EINVAL, unix.Setxattr(e.p("f"), "system.posix_acl_access", []byte(acl([3]uint32{1, 7, noID}, [3]uint32{7, 7, noID})), 0))
		e.as(bob, func() {
			e.is(unix.EPERM, unix.Setxattr(e.p("f"), "system.posix_acl_access", []byte(acl([3]uint32{1, 7, noID}, [3]uint32{4, 7, noID}, [3]uint32{0x20, 7, noID})), 0))
		})
	}},
	{"aclThatIsOnlyAMode", func(e *env) {
		e.create("f", "")
		e.setxattr("f", "system.posix_acl_access", acl([3]uint32{1, 7, noID}, [3]uint32{4, 5, noID}, [3]uint32{0x20, 1, noID}))
		e.equal("0751", perm(e.stat("f")))
		_, err := unix.Getxattr(e.p("f"), "system.posix_acl_access", nil)
		e.is(unix.ENODATA, err)
		e.is(unix.EACCES, unix.Setxattr(e.p("f"), "system.posix_acl_default", []byte(acl([3]uint32{1, 7, noID}, [3]uint32{4, 5, noID}, [3]uint32{0x20, 1, noID})), 0))
	}},
	{"aclByDefault", func(e *env) {
		e.mkdir("d")
		e.setfacl("-d", "-m", "u::rwx,g::rx,o::-,u:1001:rwx", "d")
		e.equal("user::rwx group::r-x other::r-x default:user::rwx default:user:1001:rwx default:group::r-x default:mask::rwx default:other::---", e.getfacl("d"))
		e.umask(0o077, func() {
			e.open("d/f", unix.O_CREAT|unix.O_RDWR, 0o666)
			e.ok(unix.Mkdir(e.p("d/sub"), 0o777))
			e.ok(unix.Mknod(e.p("d/fifo"), unix.S_IFIFO|0o644, 0))
			e.ok(unix.Symlink("x", e.p("d/l")))
			e.open("d", unix.O_TMPFILE|unix.O_RDWR, 0o666)
		})
		e.equal("user::rw- user:1001:rwx group::r-x mask::rw- other::---", e.getfacl("d/f"), "the umask does not count")
		e.equal("0660", perm(e.stat("d/f")))
		e.equal("0770", perm(e.stat("d/sub")))
		e.equal("user::rwx user:1001:rwx group::r-x mask::rwx other::--- default:user::rwx default:user:1001:rwx default:group::r-x default:mask::rwx default:other::---", e.getfacl("d/sub"))
		e.equal("0640", perm(e.stat("d/fifo")))
		e.as(alice, func() { e.equal("rw", e.may("d/f")) })
		e.as(bob, func() { e.equal("", e.may("d/f")) })
		// One that fits into a mode leaves no ACL behind.
		e.mkdir("plain")
		e.setfacl("-d", "-m", "u::rwx,g::rx,o::r", "plain")
		e.umask(0o077, func() { e.open("plain/f", unix.O_CREAT|unix.O_RDWR, 0o666) })
		e.equal("0644", perm(e.stat("plain/f")))
		e.equal([]string{}, e.listxattr("plain/f"))
		e.setfacl("-k", "d")
		e.umask(0o077, func() { e.open("d/g", unix.O_CREAT|unix.O_RDWR, 0o666) })
		e.equal("0600", perm(e.stat("d/g")))
	}},
	{"aclAndSetgid", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chown(e.p("f"), alice, staff))
		e.ok(unix.Chmod(e.p("f"), 0o2755))
		e.as(alice, func() {
			e.setxattr("f", "system.posix_acl_access", acl([3]uint32{1, 7, noID}, [3]uint32{4, 5, noID}, [3]uint32{0x20, 4, noID}))
			e.equal("0754", perm(e.stat("f")), "setgid of a group that the owner is not in")
		})
	}},
}
