package posix

import "golang.org/x/sys/unix"

// may tries what a user can do with a file and returns it as letters.
func (e *env) may(name string) string {
	got := ""
	for _, try := range []struct {
		letter string
		flags  int
		mask   uint32
	}{{"r", unix.O_RDONLY, unix.R_OK}, {"w", unix.O_WRONLY, unix.W_OK}} {
		fd, err := unix.Open(e.p(name), try.flags, 0)
		if err == nil {
			unix.Close(fd)
			got += try.letter
		} else {
			e.is(unix.EACCES, err)
		}
	}
	if unix.Faccessat(unix.AT_FDCWD, e.p(name), unix.X_OK, unix.AT_EACCESS) == nil {
		got += "x"
	}
	return got
}

var permissionCases = []Case{
	{"modeBits", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chown(e.p("f"), alice, staff))
		letters := func(bits uint32) string {
			s := ""
			for i, l := range "rwx" {
				if bits&(4>>i) != 0 {
					s += string(l)
				}
			}
			return s
		}
		for bits := uint32(0); bits < 8; bits++ {
			e.ok(unix.Chmod(e.p("f"), bits<<6))
			e.as(alice, func() { e.equal(letters(bits), e.may("f")) })
			e.as(bob, func() { e.equal("", e.may("f")) })
			e.ok(unix.Chmod(e.p("f"), bits<<3))
			e.as(bob, func() { e.equal(letters(bits), e.may("f")) }, staff)
			e.as(alice, func() { e.equal("", e.may("f"), "the owner is not in the group") }, staff)
			e.ok(unix.Chmod(e.p("f"), bits))
			e.as(bob, func() { e.equal(letters(bits), e.may("f")) })
		}
		e.ok(unix.Chmod(e.p("f"), 0))
		e.equal("rw", e.may("f"), "root")
	}},
	{"directoryBits", func(e *env) {
		e.mkdir("d")
		e.create("d/f", "")
		e.ok(unix.Chmod(e.p("d/f"), 0o666))
		e.ok(unix.Chmod(e.p("d"), 0o744))
		e.as(bob, func() {
			e.equal([]string{"f"}, e.names("d"))
			_, err := unix.Open(e.p("d/f"), unix.O_RDONLY, 0)
			e.is(unix.EACCES, err)
		})
		e.ok(unix.Chmod(e.p("d"), 0o711))
		e.as(bob, func() {
			_, err := unix.Open(e.p("d"), unix.O_RDONLY, 0)
			e.is(unix.EACCES, err)
			e.equal("rw", e.may("d/f"))
			_, err = unix.Open(e.p("d/g"), unix.O_CREAT|unix.O_RDWR, 0o644)
			e.is(unix.EACCES, err)
			e.is(unix.EACCES, unix.Unlink(e.p("d/f")))
			e.is(unix.EACCES, unix.Mkdir(e.p("d/sub"), 0o755))
			e.is(unix.EACCES, unix.Symlink("x", e.p("d/l")))
			e.is(unix.EACCES, unix.Link(e.p("d/f"), e.p("d/h")))
			e.is(unix.EACCES, e.rename("d/f", "d/g"))
		})
		e.ok(unix.Chmod(e.p("d"), 0o777))
		e.as(bob, func() {
			e.ok(e.rename("d/f", "d/g"))
			e.ok(unix.Unlink(e.p("d/g")))
		})
	}},
	{"stickyDirectory", func(e *env) {
		e.mkdir("d", "d/sub")
		e.ok(unix.Chmod(e.p("d"), 0o1777))
		e.create("d/f", "")
		e.ok(unix.Chown(e.p("d/f"), alice, alice))
		e.ok(unix.Chown(e.p("d/sub"), alice, alice))
		e.as(bob, func() {
			e.create("d/own", "")
			e.is(unix.EPERM, unix.Unlink(e.p("d/f")))
			e.is(unix.EPERM, unix.Rmdir(e.p("d/sub")))
			e.is(unix.EPERM, e.rename("d/f", "d/g"))
			e.is(unix.EPERM, e.rename("d/own", "d/f"))
			e.is(unix.EPERM, e.rename2("d/own", "d/f", unix.RENAME_EXCHANGE))
			e.ok(e.rename("d/own", "d/own2"))
			e.ok(unix.Unlink(e.p("d/own2")))
		})
		e.as(alice, func() {
			e.ok(e.rename("d/f", "d/g"))
			e.ok(unix.Unlink(e.p("d/g")))
			e.ok(unix.Rmdir(e.p("d/sub")))
		})
	}},
	{"movingADirectoryNeedsItsWriteBit", func(e *env) {
		e.mkdir("a", "b", "a/d")
		e.ok(unix.Chmod(e.p("a"), 0o777))
		e.ok(unix.Chmod(e.p("b"), 0o777))
		e.as(bob, func() {
			e.is(unix.EACCES, e.rename("a/d", "b/d"), "its .. would change")
			e.ok(e.rename("a/d", "a/e"))
		})
		e.ok(unix.Chown(e.p("a/e"), bob, bob))
		e.as(bob, func() { e.ok(e.rename("a/e", "b/e")) })
	}},
	{"openFilesKeepTheirRights", func(e *env) {
		e.create("f", "")
		e.ok(unix.Chmod(e.p("f"), 0o666))
		e.as(bob, func() {
			fd := e.open("f", unix.O_RDWR, 0)
			e.thread(func() {})
			e.ok(unix.Fchownat(unix.AT_FDCWD, e.p("f"), -1, -1, 0))
			e.pwrite(fd, "still", 0)
			e.equal("still", e.pread(fd, 5, 0))
		})
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Chmod(e.p("f"), 0))
		e.pwrite(fd, "mode", 0)
	}},
}
