package posix

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func (e *env) getxattr(name, attr string) string {
	e.Helper()
	b := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(e.p(name), attr, b)
	e.ok(err, attr)
	return string(b[:n])
}

func (e *env) setxattr(name, attr, value string) {
	e.Helper()
	e.ok(unix.Lsetxattr(e.p(name), attr, []byte(value), 0), attr)
}

func (e *env) listxattr(name string) []string {
	e.Helper()
	b := make([]byte, 1<<16)
	n, err := unix.Llistxattr(e.p(name), b)
	e.ok(err)
	list := strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || s == "security.selinux" })
	slices.Sort(list)
	return list
}

var xattrCases = []Case{
	{"xattrs", func(e *env) {
		e.create("f", "")
		e.mkdir("d")
		for _, name := range []string{"f", "d"} {
			e.equal(map[string]string{name: "c"}, e.changed(func() { e.setxattr(name, "user.one", "1") }, name))
			e.setxattr(name, "user.empty", "")
			e.setxattr(name, "trusted.two", "\x00binary\xff")
			e.setxattr(name, "security.three", "3")
			e.equal("1", e.getxattr(name, "user.one"))
			e.equal("", e.getxattr(name, "user.empty"))
			e.equal("\x00binary\xff", e.getxattr(name, "trusted.two"))
			e.equal([]string{"security.three", "trusted.two", "user.empty", "user.one"}, e.listxattr(name))
			e.is(unix.EEXIST, unix.Setxattr(e.p(name), "user.one", []byte("x"), unix.XATTR_CREATE))
			e.is(unix.ENODATA, unix.Setxattr(e.p(name), "user.no", []byte("x"), unix.XATTR_REPLACE))
			e.ok(unix.Setxattr(e.p(name), "user.one", []byte("new"), unix.XATTR_REPLACE))
			e.ok(unix.Setxattr(e.p(name), "user.four", []byte("4"), unix.XATTR_CREATE))
			e.equal("new", e.getxattr(name, "user.one"))
			_, err := unix.Getxattr(e.p(name), "user.no", nil)
			e.is(unix.ENODATA, err)
			_, err = unix.Getxattr(e.p(name), "user.one", make([]byte, 2))
			e.is(unix.ERANGE, err)
			_, err = unix.Listxattr(e.p(name), make([]byte, 10))
			e.is(unix.ERANGE, err)
			n, err := unix.Getxattr(e.p(name), "user.one", nil)
			e.ok(err)
			e.equal(3, n)
			e.is(unix.ENODATA, unix.Removexattr(e.p(name), "user.no"))
			e.equal(map[string]string{name: "c"}, e.changed(func() { e.ok(unix.Removexattr(e.p(name), "user.one")) }, name))
			_, err = unix.Getxattr(e.p(name), "user.one", nil)
			e.is(unix.ENODATA, err)
			e.is(unix.EOPNOTSUPP, unix.Setxattr(e.p(name), "unknown.space", []byte("x"), 0))
			e.is(unix.ERANGE, unix.Setxattr(e.p(name), "user."+strings.Repeat("n", 251), []byte("x"), 0))
			e.ok(unix.Setxattr(e.p(name), "user."+strings.Repeat("n", 250), []byte("x"), 0))
		}
	}},
	{"xattrsOfManySizes", func(e *env) {
		e.create("f", "")
		for _, size := range []int{1, 15, 16, 100, 1000, 2000, 3000} {
			value := string(noise(uint64(size), (size+7)&^7)[:size])
			e.setxattr("f", "user.size", value)
			e.equal(value, e.getxattr("f", "user.size"))
		}
		e.is(unix.E2BIG, unix.Setxattr(e.p("f"), "user.size", make([]byte, 1<<16+1), 0))
		e.create("g", "")
		var want []string
		for i := range 60 {
			name := fmt.Sprintf("user.%02d", i)
			e.setxattr("g", name, name)
			want = append(want, name)
		}
		e.equal(want, e.listxattr("g"))
		for i, name := range want {
			if i%2 == 0 {
				e.ok(unix.Removexattr(e.p("g"), name))
			} else {
				e.equal(name, e.getxattr("g", name))
			}
		}
		e.equal(30, len(e.listxattr("g")))
	}},
	{"xattrsAndLinks", func(e *env) {
		e.create("f", "")
		e.setxattr("f", "user.a", "1")
		e.ok(unix.Link(e.p("f"), e.p("g")))
		e.equal("1", e.getxattr("g", "user.a"))
		e.setxattr("g", "user.a", "2")
		e.ok(e.rename("g", "h"))
		e.ok(unix.Unlink(e.p("f")))
		e.equal("2", e.getxattr("h", "user.a"))
		e.create("f", "")
		e.equal([]string{}, e.listxattr("f"))
		e.ok(unix.Symlink("h", e.p("s")))
		e.is(unix.EPERM, unix.Lsetxattr(e.p("s"), "user.a", []byte("x"), 0))
		e.ok(unix.Lsetxattr(e.p("s"), "trusted.a", []byte("on the link"), 0))
		e.equal("on the link", e.getxattr("s", "trusted.a"))
		e.equal([]string{"user.a"}, e.listxattr("h"))
	}},
	{"xattrsAndUsers", func(e *env) {
		e.create("f", "")
		e.setxattr("f", "user.a", "1")
		e.setxattr("f", "trusted.a", "1")
		e.as(bob, func() {
			e.equal("1", e.getxattr("f", "user.a"))
			e.is(unix.EACCES, unix.Setxattr(e.p("f"), "user.a", []byte("2"), 0))
			e.is(unix.EPERM, unix.Setxattr(e.p("f"), "trusted.a", []byte("2"), 0))
			_, err := unix.Getxattr(e.p("f"), "trusted.a", make([]byte, 10))
			e.is(unix.ENODATA, err)
		})
		e.ok(unix.Chmod(e.p("f"), 0o606))
		e.as(bob, func() { e.setxattr("f", "user.a", "2") })
		e.equal("2", e.getxattr("f", "user.a"))
	}},
	{"fileCapabilities", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chmod(e.p("f"), 0o777))
		value := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		e.setxattr("f", "security.capability", value)
		e.equal(value, e.getxattr("f", "security.capability"))
		e.as(bob, func() {
			fd := e.open("f", unix.O_RDWR, 0)
			e.pwrite(fd, "x", 0)
		})
		_, err := unix.Getxattr(e.p("f"), "security.capability", nil)
		e.is(unix.ENODATA, err, "writing takes capabilities away")
	}},
}
