package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func (e *env) rename(from, to string) error { return unix.Rename(e.p(from), e.p(to)) }

func (e *env) rename2(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, e.p(from), unix.AT_FDCWD, e.p(to), flags)
}

func (e *env) nlinks(names ...string) []uint64 {
	e.Helper()
	var list []uint64
	for _, n := range names {
		list = append(list, uint64(e.stat(n).Nlink))
	}
	return list
}

var renameCases = []Case{
	{"rename", func(e *env) {
		e.create("f", "content")
		e.mkdir("a", "b")
		ino := e.stat("f").Ino
		e.equal(map[string]string{".": "mc"}, e.changed(func() { e.ok(e.rename("f", "g")) }, "."))
		e.absent("f")
		e.equal(ino, e.stat("g").Ino)
		e.ok(e.rename("g", "a/g"))
		e.equal(map[string]string{"a": "mc", "b": "mc"}, e.changed(func() { e.ok(e.rename("a/g", "b/h")) }, "a", "b"))
		e.equal("content", e.content("b/h"))
		e.equal(ino, e.stat("b/h").Ino)
		was := e.stat("b/h")
		tick()
		e.ok(e.rename("b/h", "b/i"))
		e.true(ns(e.stat("b/i").Ctim) > ns(was.Ctim), "ctime of what is renamed")
		e.equal(ns(was.Mtim), ns(e.stat("b/i").Mtim))
		e.is(unix.ENOENT, e.rename("no", "x"))
		e.is(unix.ENOENT, e.rename("b/i", "no/x"))
		e.is(unix.ENOTDIR, e.rename("a", "b/i/x"))
		e.ok(e.rename("b/i", "b/i"))
		e.is(unix.EBUSY, unix.Rename(e.dir+"/a/.", e.p("c")))
	}},
	{"renameOver", func(e *env) {
		e.create("old", "old content, longer")
		e.create("new", "new")
		fd := e.open("old", unix.O_RDWR, 0)
		e.ok(unix.Link(e.p("old"), e.p("other")))
		e.ok(e.rename("new", "old"))
		e.equal("new", e.content("old"))
		e.equal("old content, longer", e.pread(fd, 100, 0))
		e.equal(uint64(1), uint64(e.fstat(fd).Nlink))
		e.ok(unix.Unlink(e.p("other")))
		e.equal(uint64(0), uint64(e.fstat(fd).Nlink))
		e.absent("new")
		e.create("f", "same")
		e.ok(unix.Link(e.p("f"), e.p("g")))
		e.ok(e.rename("f", "g"))
		e.equal([]uint64{2, 2}, e.nlinks("f", "g"))
		e.mkdir("d", "e", "full")
		e.create("full/x", "")
		e.is(unix.EISDIR, e.rename("f", "d"))
		e.is(unix.ENOTDIR, e.rename("d", "f"))
		e.is(unix.ENOTEMPTY, e.rename("d", "full"))
		ino := e.stat("d").Ino
		e.ok(e.rename("d", "e"))
		e.equal(ino, e.stat("e").Ino)
		e.ok(e.rename("full", "e"))
		e.equal([]string{"x"}, e.names("e"))
		e.ok(unix.Symlink("f", e.p("s")))
		e.create("h", "over a link")
		e.ok(e.rename("h", "s"))
		e.equal(uint32(unix.S_IFREG), e.stat("s").Mode&unix.S_IFMT)
		e.equal("same", e.content("f"))
	}},
	{"renameDirectories", func(e *env) {
		e.mkdir("a", "a/sub", "a/sub/deep", "b")
		e.equal([]uint64{3, 2}, e.nlinks("a", "b"))
		e.is(unix.EINVAL, e.rename("a", "a/x"))
		e.is(unix.EINVAL, e.rename("a", "a/sub/deep/x"))
		e.is(unix.ENOTEMPTY, e.rename("a/sub/deep", "a"))
		e.create("a/sub/deep/f", "x")
		e.ok(e.rename("a/sub", "b/moved"))
		e.equal([]uint64{2, 3}, e.nlinks("a", "b"))
		e.equal("x", e.content("b/moved/deep/f"))
		e.equal(e.stat("b").Ino, e.stat("b/moved/..").Ino)
		fd := e.open("b/moved", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.ok(e.rename("b/moved", "a/back"))
		var st unix.Stat_t
		e.ok(unix.Fstatat(fd, "..", &st, 0))
		e.equal(e.stat("a").Ino, st.Ino)
		e.mkdir("b/empty")
		e.equal([]uint64{3, 3}, e.nlinks("a", "b"))
		e.ok(e.rename("a/back", "b/empty"))
		e.equal([]uint64{2, 3}, e.nlinks("a", "b"))
	}},
	{"renameNoReplace", func(e *env) {
		e.create("f", "f")
		e.create("g", "g")
		e.mkdir("d")
		e.is(unix.EEXIST, e.rename2("f", "g", unix.RENAME_NOREPLACE))
		e.is(unix.EEXIST, e.rename2("f", "f", unix.RENAME_NOREPLACE))
		e.is(unix.EEXIST, e.rename2("f", "d", unix.RENAME_NOREPLACE))
		e.equal("g", e.content("g"))
		e.ok(e.rename2("f", "h", unix.RENAME_NOREPLACE))
		e.equal("f", e.content("h"))
		e.is(unix.EINVAL, e.rename2("g", "h", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE))
	}},
	{"renameExchange", func(e *env) {
		e.mkdir("a", "b", "a/d")
		e.create("a/f", "f")
		e.create("b/g", "g")
		e.create("a/d/in", "in")
		e.ok(e.rename2("a/f", "b/g", unix.RENAME_EXCHANGE))
		e.equal("g", e.content("a/f"))
		e.equal("f", e.content("b/g"))
		e.equal([]uint64{3, 2}, e.nlinks("a", "b"))
		e.ok(e.rename2("a/d", "b/g", unix.RENAME_EXCHANGE))
		e.equal("f", e.content("a/d"))
		e.equal("in", e.content("b/g/in"))
		e.equal([]uint64{2, 3}, e.nlinks("a", "b"))
		e.equal(e.stat("b").Ino, e.stat("b/g/..").Ino)
		e.is(unix.ENOENT, e.rename2("a/f", "no", unix.RENAME_EXCHANGE))
		e.is(unix.EINVAL, e.rename2("b", "b/g", unix.RENAME_EXCHANGE))
		e.is(unix.EINVAL, e.rename2("b/g", "b", unix.RENAME_EXCHANGE))
		was := e.stat("a/f")
		tick()
		e.ok(e.rename2("a/f", "a/d", unix.RENAME_EXCHANGE))
		e.true(ns(e.stat("a/d").Ctim) > ns(was.Ctim))
	}},
	{"renameOpenFiles", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, "one", 0)
		e.ok(e.rename("f", "g"))
		e.pwrite(fd, "two", 3)
		e.equal("onetwo", e.content("g"))
		e.create("f", "three")
		e.ok(e.rename("f", "g"))
		e.equal("three", e.content("g"))
		e.equal("onetwo", e.pread(fd, 10, 0))
		e.equal(uint64(0), uint64(e.fstat(fd).Nlink))
	}},
}
