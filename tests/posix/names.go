package posix

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var nameCases = []Case{
	{"create", func(e *env) {
		e.equal(map[string]string{".": "mc"}, e.changed(func() { e.create("f", "") }, "."))
		st := e.stat("f")
		e.equal(uint32(unix.S_IFREG), st.Mode&unix.S_IFMT)
		e.equal(uint64(1), uint64(st.Nlink))
		e.equal(int64(0), st.Size)
		e.true(time.Since(time.Unix(0, ns(st.Mtim))).Abs() < time.Hour)
		_, err := unix.Open(e.p("f"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
		e.is(unix.EEXIST, err)
		_, err = unix.Open(e.p("f/g"), unix.O_CREAT|unix.O_RDWR, 0o644)
		e.is(unix.ENOTDIR, err)
		_, err = unix.Open(e.p("no/g"), unix.O_CREAT|unix.O_RDWR, 0o644)
		e.is(unix.ENOENT, err)
		_, err = unix.Open(e.p("f"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.is(unix.ENOTDIR, err)
		_, err = unix.Open(e.dir, unix.O_RDWR, 0)
		e.is(unix.EISDIR, err)
		e.umask(0o027, func() {
			fd := e.open("masked", unix.O_CREAT|unix.O_RDWR, 0o666)
			e.equal("0640", perm(e.fstat(fd)))
			e.ok(unix.Mkdir(e.p("maskedDir"), 0o777))
			e.equal("0750", perm(e.stat("maskedDir")))
			e.ok(unix.Mknod(e.p("maskedFifo"), unix.S_IFIFO|0o666, 0))
			e.equal("0640", perm(e.stat("maskedFifo")))
		})
		e.umask(0, func() {
			fd := e.open("readonly", unix.O_CREAT|unix.O_RDWR, 0o444)
			e.pwrite(fd, "written although the mode forbids it", 0)
		})
	}},
	{"longNames", func(e *env) {
		longest, longer := strings.Repeat("n", 255), strings.Repeat("n", 256)
		e.create(longest, "x")
		e.equal([]string{longest}, e.names("."))
		e.ok(unix.Rename(e.p(longest), e.p("d")))
		e.ok(unix.Rename(e.p("d"), e.p(longest)))
		var st unix.Stat_t
		e.is(unix.ENAMETOOLONG, unix.Lstat(e.p(longer), &st))
		_, err := unix.Open(e.p(longer), unix.O_CREAT|unix.O_RDWR, 0o644)
		e.is(unix.ENAMETOOLONG, err)
		e.is(unix.ENAMETOOLONG, unix.Mkdir(e.p(longer), 0o755))
		e.is(unix.ENAMETOOLONG, unix.Mknod(e.p(longer), unix.S_IFIFO, 0))
		e.is(unix.ENAMETOOLONG, unix.Symlink("x", e.p(longer)))
		e.is(unix.ENAMETOOLONG, unix.Link(e.p(longest), e.p(longer)))
		e.is(unix.ENAMETOOLONG, unix.Rename(e.p(longest), e.p(longer)))
		e.is(unix.ENAMETOOLONG, unix.Unlink(e.p(longer)))
		e.is(unix.ENAMETOOLONG, unix.Rmdir(e.p(longer)))
	}},
	{"namesOfEveryByte", func(e *env) {
		for b := 1; b < 256; b++ {
			if b != '/' && b != '.' {
				e.create(string([]byte{byte(b)}), string([]byte{byte(b)}))
			}
		}
		list := e.names(".")
		e.equal(253, len(list))
		for _, name := range list {
			e.equal(name, e.content(name))
			e.ok(unix.Unlink(e.p(name)))
		}
		e.equal([]string{}, e.names("."))
	}},
	{"mkdir", func(e *env) {
		e.equal(uint64(2), uint64(e.stat(".").Nlink))
		e.equal(map[string]string{".": "mc"}, e.changed(func() { e.mkdir("d") }, "."))
		e.equal(uint64(3), uint64(e.stat(".").Nlink))
		e.equal(uint64(2), uint64(e.stat("d").Nlink))
		e.is(unix.EEXIST, unix.Mkdir(e.p("d"), 0o755))
		e.is(unix.EEXIST, unix.Mkdir(e.dir+"/.", 0o755))
		e.create("f", "")
		e.is(unix.EEXIST, unix.Mkdir(e.p("f"), 0o755))
		e.is(unix.ENOTDIR, unix.Mkdir(e.p("f/d"), 0o755))
		e.is(unix.EISDIR, unix.Unlink(e.p("d")))
		e.is(unix.ENOTDIR, unix.Rmdir(e.p("f")))
		e.is(unix.EINVAL, unix.Rmdir(e.dir+"/d/."))
		e.is(unix.ENOTEMPTY, unix.Rmdir(e.dir+"/d/.."))
		e.create("d/f", "")
		e.is(unix.ENOTEMPTY, unix.Rmdir(e.p("d")))
		e.ok(unix.Unlink(e.p("d/f")))
		e.equal(map[string]string{".": "mc"}, e.changed(func() { e.ok(unix.Rmdir(e.p("d"))) }, "."))
		e.equal(uint64(2), uint64(e.stat(".").Nlink))
		e.is(unix.ENOENT, unix.Rmdir(e.p("d")))
	}},
	{"removedDirectoryStillOpen", func(e *env) {
		e.mkdir("d")
		fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.ok(unix.Rmdir(e.p("d")))
		e.equal(uint64(0), uint64(e.fstat(fd).Nlink))
		_, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.is(unix.ENOENT, err)
		e.is(unix.ENOENT, unix.Mkdirat(fd, "sub", 0o755))
		e.ok(unix.Fchmod(fd, 0o700))
	}},
	{"symlink", func(e *env) {
		e.create("f", "content")
		e.equal(map[string]string{".": "mc"}, e.changed(func() { e.ok(unix.Symlink("f", e.p("l"))) }, "."))
		st := e.stat("l")
		e.equal(uint32(unix.S_IFLNK|0o777), st.Mode)
		e.equal(int64(1), st.Size)
		e.equal("content", e.content("l"))
		long := strings.Repeat("x/", 2047) + "x"
		e.ok(unix.Symlink(long, e.p("long")))
		b := make([]byte, 8192)
		n, err := unix.Readlink(e.p("long"), b)
		e.ok(err)
		e.equal(long, string(b[:n]))
		e.equal(int64(4095), e.stat("long").Size)
		e.is(unix.ENOENT, unix.Symlink("", e.p("empty")))
		e.is(unix.EEXIST, unix.Symlink("g", e.p("l")))
		_, err = unix.Open(e.p("l"), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		e.is(unix.ELOOP, err)
		e.ok(unix.Symlink("loop", e.p("loop")))
		_, err = unix.Open(e.p("loop"), unix.O_RDONLY, 0)
		e.is(unix.ELOOP, err)
		_, err = unix.Readlink(e.p("f"), b)
		e.is(unix.EINVAL, err)
		e.ok(unix.Lchown(e.p("l"), alice, bob))
		e.equal(uint32(alice), e.stat("l").Uid)
		e.equal(uint32(0), e.stat("f").Uid)
		ts := []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 4}}
		e.ok(unix.UtimesNanoAt(unix.AT_FDCWD, e.p("l"), ts, unix.AT_SYMLINK_NOFOLLOW))
		e.equal(int64(3000000004), ns(e.stat("l").Mtim))
		e.ok(unix.Unlink(e.p("l")))
		e.equal("content", e.content("f"))
	}},
	{"link", func(e *env) {
		e.create("f", "one")
		e.mkdir("d")
		e.equal(map[string]string{"f": "c", "d": "mc"}, e.changed(func() { e.ok(unix.Link(e.p("f"), e.p("d/g"))) }, "f", "d"))
		e.equal(e.stat("f").Ino, e.stat("d/g").Ino)
		e.equal(uint64(2), uint64(e.stat("f").Nlink))
		e.create("f", "two")
		e.equal("two", e.content("d/g"))
		e.is(unix.EEXIST, unix.Link(e.p("f"), e.p("d/g")))
		e.is(unix.EPERM, unix.Link(e.p("d"), e.p("e")))
		e.is(unix.ENOENT, unix.Link(e.p("no"), e.p("e")))
		e.equal(map[string]string{"d/g": "c"}, e.changed(func() { e.ok(unix.Unlink(e.p("f"))) }, "d/g"))
		e.equal(uint64(1), uint64(e.stat("d/g").Nlink))
		e.ok(unix.Symlink("d/g", e.p("s")))
		e.ok(unix.Link(e.p("s"), e.p("s2")))
		e.equal(e.stat("s").Ino, e.stat("s2").Ino)
		e.equal(uint64(2), uint64(e.stat("s").Nlink))
		e.ok(unix.Linkat(unix.AT_FDCWD, e.p("s"), unix.AT_FDCWD, e.p("h"), unix.AT_SYMLINK_FOLLOW))
		e.equal(e.stat("d/g").Ino, e.stat("h").Ino)
	}},
	{"manyLinks", func(e *env) {
		e.create("f", "x")
		for i := range 300 {
			e.ok(unix.Link(e.p("f"), e.p("l"+string(rune('a'+i%26))+strings.Repeat("z", i/26))))
		}
		e.equal(uint64(301), uint64(e.stat("f").Nlink))
	}},
	{"openUnlinked", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, "before", 0)
		e.ok(unix.Unlink(e.p("f")))
		e.absent("f")
		e.equal(uint64(0), uint64(e.fstat(fd).Nlink))
		e.pwrite(fd, " and after", 6)
		e.equal("before and after", e.pread(fd, 100, 0))
		e.ok(unix.Ftruncate(fd, 6))
		e.ok(unix.Fchmod(fd, 0o600))
		e.ok(unix.Fchown(fd, alice, alice))
		e.ok(unix.Fsync(fd))
		e.equal("before", e.pread(fd, 100, 0))
		e.equal("0600", perm(e.fstat(fd)))
		e.is(unix.ENOENT, unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, e.p("again"), unix.AT_SYMLINK_FOLLOW))
		e.create("f", "another file")
		e.equal("before", e.pread(fd, 100, 0))
		e.equal("another file", e.content("f"))
	}},
	{"tmpfile", func(e *env) {
		fd := e.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		e.equal(uint64(0), uint64(e.fstat(fd).Nlink))
		e.pwrite(fd, "out of nowhere", 0)
		e.equal([]string{}, e.names("."))
		e.ok(unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, e.p("f"), unix.AT_SYMLINK_FOLLOW))
		e.equal("out of nowhere", e.content("f"))
		e.equal(uint64(1), uint64(e.fstat(fd).Nlink))
		e.equal("0640", perm(e.stat("f")))
		alone := e.open(".", unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
		e.is(unix.ENOENT, unix.Linkat(unix.AT_FDCWD, procPath(alone), unix.AT_FDCWD, e.p("g"), unix.AT_SYMLINK_FOLLOW))
		e.equal([]string{"f"}, e.names("."))
	}},
	{"specialFiles", func(e *env) {
		e.ok(unix.Mknod(e.p("fifo"), unix.S_IFIFO|0o600, 0))
		e.ok(unix.Mknod(e.p("socket"), unix.S_IFSOCK|0o600, 0))
		e.ok(unix.Mknod(e.p("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		e.ok(unix.Mknod(e.p("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
		e.ok(unix.Mknod(e.p("plain"), unix.S_IFREG|0o600, 0))
		e.equal(uint32(unix.S_IFIFO|0o600), e.stat("fifo").Mode)
		e.equal(uint32(unix.S_IFSOCK|0o600), e.stat("socket").Mode)
		e.equal(uint32(unix.S_IFCHR|0o600), e.stat("char").Mode)
		e.equal(unix.Mkdev(1, 3), e.stat("char").Rdev)
		e.equal(uint32(unix.S_IFBLK|0o600), e.stat("block").Mode)
		e.equal(unix.Mkdev(259, 70000), e.stat("block").Rdev)
		e.equal(uint32(unix.S_IFREG|0o600), e.stat("plain").Mode)
		e.is(unix.EEXIST, unix.Mknod(e.p("fifo"), unix.S_IFIFO|0o600, 0))
		r := e.open("fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0)
		w := e.open("fifo", unix.O_WRONLY, 0)
		n, err := unix.Write(w, []byte("through"))
		e.ok(err)
		e.equal(7, n)
		b := make([]byte, 100)
		n, err = unix.Read(r, b)
		e.ok(err)
		e.equal("through", string(b[:n]))
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		e.ok(err)
		defer unix.Close(s)
		at := e.open(".", unix.O_PATH|unix.O_DIRECTORY, 0)
		e.ok(unix.Bind(s, &unix.SockaddrUnix{Name: procPath(at) + "/bound"}))
		e.equal(uint32(unix.S_IFSOCK), e.stat("bound").Mode&unix.S_IFMT)
		_, err = unix.Open(e.p("socket"), unix.O_RDWR, 0)
		e.is(unix.ENXIO, err)
	}},
}
