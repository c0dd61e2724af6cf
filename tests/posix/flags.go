package posix

import (
	"golang.org/x/sys/unix"
)

const (
	immutable  = 0x10
	appendOnly = 0x20
)

// attr sets the flags of chattr.
func (e *env) attr(name string, flags int) {
	e.Helper()
	fd, err := unix.Open(e.p(name), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	e.ok(err)
	defer unix.Close(fd)
	had, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	e.ok(err)
	e.ok(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, had&^(immutable|appendOnly)|flags))
	has, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	e.ok(err)
	e.equal(flags, has&(immutable|appendOnly))
}

var flagCases = []Case{
	{"immutable", func(e *env) {
		e.create("f", "content")
		e.mkdir("d")
		e.create("d/in", "")
		opened := e.open("f", unix.O_RDWR, 0)
		e.attr("f", immutable)
		e.attr("d", immutable)
		defer e.attr("f", 0)
		defer e.attr("d", 0)
		_, err := unix.Open(e.p("f"), unix.O_WRONLY, 0)
		e.is(unix.EPERM, err)
		_, err = unix.Open(e.p("f"), unix.O_RDWR|unix.O_APPEND, 0)
		e.is(unix.EPERM, err)
		_, err = unix.Open(e.p("f"), unix.O_RDONLY|unix.O_TRUNC, 0)
		e.is(unix.EPERM, err)
		e.is(unix.EPERM, unix.Truncate(e.p("f"), 0))
		e.is(unix.EPERM, unix.Unlink(e.p("f")))
		e.is(unix.EPERM, e.rename("f", "g"))
		e.create("h", "")
		e.is(unix.EPERM, e.rename("h", "f"))
		e.is(unix.EPERM, unix.Link(e.p("f"), e.p("g")))
		e.is(unix.EPERM, unix.Chmod(e.p("f"), 0o600))
		e.is(unix.EPERM, unix.Chown(e.p("f"), 1, 1))
		e.is(unix.EPERM, e.utimes("f", unix.Timespec{}, unix.Timespec{}))
		e.is(unix.EPERM, unix.Setxattr(e.p("f"), "user.a", []byte("x"), 0))
		e.is(unix.EPERM, unix.Fallocate(opened, 0, 0, 100))
		e.equal("content", e.content("f"))
		_, err = unix.Open(e.p("d/new"), unix.O_CREAT|unix.O_RDWR, 0o644)
		e.is(unix.EPERM, err)
		e.is(unix.EPERM, unix.Mkdir(e.p("d/sub"), 0o755))
		e.is(unix.EPERM, unix.Unlink(e.p("d/in")))
		e.is(unix.EPERM, e.rename("d/in", "in"))
		e.is(unix.EPERM, e.rename("h", "d/h"))
		e.is(unix.EPERM, unix.Symlink("x", e.p("d/l")))
		e.is(unix.EPERM, unix.Rmdir(e.p("d")))
		e.is(unix.EPERM, e.rename("d", "e"))
		e.ok(unix.Chmod(e.p("d/in"), 0o600))
		e.attr("f", 0)
		e.create("f", "changed")
		e.ok(unix.Unlink(e.p("f")))
		e.create("f", "")
	}},
	{"appendOnly", func(e *env) {
		e.create("f", "first")
		e.mkdir("d")
		e.create("d/old", "")
		e.attr("f", appendOnly)
		e.attr("d", appendOnly)
		defer e.attr("f", 0)
		defer e.attr("d", 0)
		_, err := unix.Open(e.p("f"), unix.O_WRONLY, 0)
		e.is(unix.EPERM, err)
		_, err = unix.Open(e.p("f"), unix.O_WRONLY|unix.O_APPEND|unix.O_TRUNC, 0)
		e.is(unix.EPERM, err)
		fd := e.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
		_, err = unix.Write(fd, []byte(" second"))
		e.ok(err)
		e.equal("first second", e.content("f"))
		e.is(unix.EPERM, unix.Truncate(e.p("f"), 0))
		e.is(unix.EPERM, unix.Ftruncate(fd, 0))
		e.is(unix.EPERM, unix.Unlink(e.p("f")))
		e.is(unix.EPERM, e.rename("f", "g"))
		e.is(unix.EPERM, unix.Link(e.p("f"), e.p("g")))
		e.is(unix.EPERM, unix.Chmod(e.p("f"), 0o600))
		e.create("d/new", "")
		e.mkdir("d/sub")
		e.is(unix.EPERM, unix.Unlink(e.p("d/old")))
		e.is(unix.EPERM, unix.Rmdir(e.p("d/sub")))
		e.is(unix.EPERM, e.rename("d/old", "d/older"))
		e.is(unix.EPERM, e.rename("d/old", "older"))
		e.create("in", "")
		e.ok(e.rename("in", "d/in"))
	}},
	{"flagsLetThroughWhatIsWritten", func(e *env) {
		for _, flag := range []int{immutable, appendOnly} {
			e.create("f", "")
			fd := e.open("f", unix.O_RDWR, 0)
			_, err := unix.Write(fd, []byte("written before"))
			e.ok(err)
			before := e.stat("f")
			e.attr("f", flag)
			e.ok(unix.Fsync(fd))
			e.ok(unix.Syncfs(fd))
			e.attr("f", 0)
			e.equal("written before", e.content("f"))
			e.equal(before.Mtim, e.stat("f").Mtim)
		}
	}},
	{"flagsNeedRoot", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chown(e.p("f"), alice, alice))
		e.as(alice, func() {
			fd := e.open("f", unix.O_RDONLY, 0)
			had, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
			e.ok(err)
			e.is(unix.EPERM, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, had|immutable))
		})
		e.as(bob, func() {
			fd := e.open("f", unix.O_RDONLY, 0)
			had, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
			e.ok(err)
			e.is(unix.EACCES, ignore(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, had)))
		})
	}},
}

// ignore makes one of the two answers that file systems give to a stranger.
func ignore(err error) error {
	if err == unix.EPERM {
		return unix.EACCES
	}
	return err
}
