package posix

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (e *env) utimes(name string, atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, e.p(name), []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

var (
	now  = unix.Timespec{Nsec: unix.UTIME_NOW}
	omit = unix.Timespec{Nsec: unix.UTIME_OMIT}
)

var attributeCases = []Case{
	{"chmod", func(e *env) {
		e.create("f", "")
		e.mkdir("d")
		e.equal(map[string]string{"f": "c", "d": "c"}, e.changed(func() {
			e.ok(unix.Chmod(e.p("f"), 0o7751))
			e.ok(unix.Chmod(e.p("d"), 0o3770))
		}, "f", "d"))
		e.equal("7751", perm(e.stat("f")))
		e.equal("3770", perm(e.stat("d")))
		e.ok(unix.Chown(e.p("f"), alice, staff))
		e.as(bob, func() { e.is(unix.EPERM, unix.Chmod(e.p("f"), 0o777)) })
		e.ok(unix.Chmod(e.p("f"), 0))
		e.as(alice, func() {
			e.ok(unix.Chmod(e.p("f"), 0o2755))
			e.equal("0755", perm(e.stat("f")), "setgid of a group that the owner is not in")
		})
		e.as(alice, func() {
			e.ok(unix.Chmod(e.p("f"), 0o2755))
			e.equal("2755", perm(e.stat("f")))
		}, staff)
	}},
	{"chown", func(e *env) {
		e.create("f", "")
		e.equal(map[string]string{"f": "c"}, e.changed(func() { e.ok(unix.Chown(e.p("f"), alice, bob)) }, "f"))
		st := e.stat("f")
		e.equal([]uint32{alice, bob}, []uint32{st.Uid, st.Gid})
		e.ok(unix.Chown(e.p("f"), -1, staff))
		e.ok(unix.Chown(e.p("f"), bob, -1))
		st = e.stat("f")
		e.equal([]uint32{bob, staff}, []uint32{st.Uid, st.Gid})
		e.as(alice, func() { e.is(unix.EPERM, unix.Chown(e.p("f"), alice, -1)) })
		e.as(bob, func() {
			e.is(unix.EPERM, unix.Chown(e.p("f"), alice, -1))
			e.is(unix.EPERM, unix.Chown(e.p("f"), -1, alice))
			e.ok(unix.Chown(e.p("f"), -1, bob))
		})
		e.ok(unix.Chown(e.p("f"), 4294967294, 4294967294))
		e.equal(uint32(4294967294), e.stat("f").Uid)
	}},
	{"setuidIsCleared", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		reset := func(mode uint32) {
			e.ok(unix.Fchown(fd, alice, alice))
			e.ok(unix.Fchmod(fd, mode))
			e.equal(mode, e.fstat(fd).Mode&0o7777)
		}
		reset(0o6755)
		e.ok(unix.Fchown(fd, bob, -1))
		e.equal("0755", perm(e.fstat(fd)), "chown")
		reset(0o6745)
		e.ok(unix.Fchown(fd, bob, -1))
		e.equal("2745", perm(e.fstat(fd)), "chown, no execution by the group")
		reset(0o6777)
		e.pwrite(fd, "x", 0)
		e.equal("6777", perm(e.fstat(fd)), "write by root")
		e.as(bob, func() {
			w := e.open("f", unix.O_RDWR, 0)
			e.pwrite(w, "y", 1)
			e.equal("0777", perm(e.fstat(w)), "write")
		})
		reset(0o6777)
		e.as(bob, func() {
			e.ok(unix.Truncate(e.p("f"), 1))
			e.equal("0777", perm(e.stat("f")), "truncate")
		})
		reset(0o6777)
		e.as(bob, func() {
			w := e.open("f", unix.O_RDWR|unix.O_TRUNC, 0)
			e.equal("0777", perm(e.fstat(w)), "open with O_TRUNC")
		})
		reset(0o6777)
		e.as(bob, func() {
			w := e.open("f", unix.O_RDWR, 0)
			e.ok(unix.Fallocate(w, 0, 0, 4096))
			e.equal("0777", perm(e.fstat(w)), "fallocate")
		})
		e.mkdir("d")
		e.ok(unix.Chmod(e.p("d"), 0o6755))
		e.ok(unix.Chown(e.p("d"), alice, alice))
		e.equal("6755", perm(e.stat("d")), "directories keep theirs")
	}},
	{"utimensat", func(e *env) {
		e.create("f", "x")
		a, m := unix.Timespec{Sec: 1234567890, Nsec: 123456789}, unix.Timespec{Sec: 987654321, Nsec: 987654321}
		was := e.stat("f")
		tick()
		e.ok(e.utimes("f", a, m))
		st := e.stat("f")
		e.equal([]unix.Timespec{a, m}, []unix.Timespec{st.Atim, st.Mtim})
		e.true(ns(st.Ctim) > ns(was.Ctim))
		e.ok(e.utimes("f", omit, unix.Timespec{Sec: 5}))
		st = e.stat("f")
		e.equal([]unix.Timespec{a, {Sec: 5}}, []unix.Timespec{st.Atim, st.Mtim})
		e.ok(e.utimes("f", unix.Timespec{Sec: 6}, omit))
		st = e.stat("f")
		e.equal([]unix.Timespec{{Sec: 6}, {Sec: 5}}, []unix.Timespec{st.Atim, st.Mtim})
		e.ok(e.utimes("f", now, now))
		st = e.stat("f")
		e.true(time.Since(time.Unix(0, ns(st.Mtim))).Abs() < time.Hour)
		e.true(time.Since(time.Unix(0, ns(st.Atim))).Abs() < time.Hour)
		for _, sec := range []int64{-1, -2147483647, 0, 4102444800, 10000000000} {
			e.ok(e.utimes("f", unix.Timespec{Sec: sec, Nsec: 999999999}, unix.Timespec{Sec: sec, Nsec: 1}))
			st = e.stat("f")
			e.equal([]unix.Timespec{{Sec: sec, Nsec: 999999999}, {Sec: sec, Nsec: 1}}, []unix.Timespec{st.Atim, st.Mtim})
		}
		e.ok(unix.Chmod(e.p("f"), 0o666))
		e.as(bob, func() {
			e.is(unix.EPERM, e.utimes("f", a, m))
			e.ok(e.utimes("f", now, now))
		})
		e.ok(unix.Chmod(e.p("f"), 0o644))
		e.as(bob, func() { e.is(unix.EACCES, e.utimes("f", now, now)) })
		e.mkdir("d")
		e.ok(e.utimes("d", a, m))
		st = e.stat("d")
		e.equal([]unix.Timespec{a, m}, []unix.Timespec{st.Atim, st.Mtim})
	}},
	{"utimensatOfAnOpenFile", func(e *env) {
		// What was written before must not move mtime afterwards, not even when it is written back.
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, "data", 0)
		a, m := unix.Timespec{Sec: 1000, Nsec: 1}, unix.Timespec{Sec: 2000, Nsec: 2}
		e.ok(e.utimes("f", a, m))
		e.ok(unix.Fsync(fd))
		st := e.stat("f")
		e.equal([]unix.Timespec{a, m}, []unix.Timespec{st.Atim, st.Mtim})
		e.equal("data", e.pread(fd, 10, 0))
	}},
	{"timesOfWriting", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		past := unix.Timespec{Sec: 1000}
		for what, f := range map[string]func(){
			"write":    func() { e.pwrite(fd, "x", 0) },
			"truncate": func() { e.ok(unix.Ftruncate(fd, 100)) },
			"O_TRUNC":  func() { e.open("f", unix.O_RDWR|unix.O_TRUNC, 0) },
			"punch":    func() { e.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)) },
		} {
			e.ok(e.utimes("f", past, past))
			e.equal(map[string]string{"f": "mc"}, e.changed(f, "f"), what)
		}
		e.ok(e.utimes("f", past, past))
		e.equal(map[string]string{}, e.changed(func() { e.pread(fd, 10, 0) }, "f"))
	}},
	{"atime", func(e *env) {
		e.create("f", "content")
		old := unix.Timespec{Sec: 1000}
		e.ok(e.utimes("f", old, old))
		d := e.open("f", unix.O_RDONLY|unix.O_DIRECT, 0) // so that the page cache cannot answer
		n, err := unix.Pread(d, aligned(4096), 0)
		e.ok(err)
		e.equal(7, n)
		e.true(e.stat("f").Atim.Sec > 1000, "relatime moves an atime that is not after mtime")
		ahead := unix.Timespec{Sec: time.Now().Unix() - 3600, Nsec: 7}
		e.ok(e.utimes("f", ahead, old))
		e.ok(unix.Chmod(e.p("f"), 0o644))
		fd := e.open("f", unix.O_RDONLY|unix.O_NOATIME, 0)
		e.pread(fd, 10, 0)
		e.equal(ahead, e.stat("f").Atim)
	}},
	{"setgidDirectory", func(e *env) {
		e.mkdir("d")
		e.ok(unix.Chown(e.p("d"), alice, staff))
		e.ok(unix.Chmod(e.p("d"), 0o2777))
		e.as(bob, func() {
			e.create("d/f", "")
			e.mkdir("d/sub")
			e.ok(unix.Symlink("x", e.p("d/l")))
			e.ok(unix.Mknod(e.p("d/fifo"), unix.S_IFIFO|0o600, 0))
		})
		for _, n := range []string{"d/f", "d/sub", "d/l", "d/fifo"} {
			e.equal(uint32(staff), e.stat(n).Gid, n)
			e.equal(uint32(bob), e.stat(n).Uid, n)
		}
		e.equal("2755", perm(e.stat("d/sub")))
		e.as(bob, func() {
			fd := e.open("d/g", unix.O_CREAT|unix.O_RDWR, 0o2755)
			e.equal("0755", perm(e.fstat(fd)), "setgid of a group that the creator is not in")
		})
	}},
	{"statx", func(e *env) {
		e.create("f", "content")
		var st unix.Statx_t
		e.ok(unix.Statx(unix.AT_FDCWD, e.p("f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
		e.equal(uint32(unix.STATX_BASIC_STATS|unix.STATX_BTIME), st.Mask&(unix.STATX_BASIC_STATS|unix.STATX_BTIME))
		e.equal(uint64(7), st.Size)
		e.equal(uint16(unix.S_IFREG|0o644), st.Mode)
		born := st.Btime
		e.true(time.Since(time.Unix(born.Sec, int64(born.Nsec))).Abs() < time.Hour)
		tick()
		e.create("f", "other")
		e.ok(unix.Statx(unix.AT_FDCWD, e.p("f"), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
		e.equal(born, st.Btime)
		e.equal(uint64(5), st.Size)
	}},
	{"statfs", func(e *env) {
		var st unix.Statfs_t
		e.ok(unix.Statfs(e.dir, &st))
		e.true(st.Blocks > 0 && st.Bfree <= st.Blocks && st.Bavail <= st.Bfree)
		e.true(st.Bsize > 0)
		e.equal(int64(255), st.Namelen)
		e.true(st.Files > 0 && st.Ffree <= st.Files && st.Ffree > 0)
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.ok(unix.Fallocate(fd, 0, 0, 64<<20))
		e.ok(unix.Fsync(fd))
		var less unix.Statfs_t
		e.ok(unix.Statfs(e.dir, &less))
		e.equal(st.Blocks, less.Blocks)
		e.true((int64(st.Bfree)-int64(less.Bfree))*st.Bsize >= 48<<20, "free before %d and after %d", st.Bfree, less.Bfree)
	}},
	{"fileSizeLimit", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		_, err := unix.Pwrite(fd, []byte("x"), 1<<62)
		if err == nil { // it may be found only when the page cache is written
			err = unix.Fsync(fd)
			e.ok(unix.Ftruncate(fd, 0))
			unix.Syncfs(fd) // tells of it too, once
		}
		e.is(unix.EFBIG, err)
		e.is(unix.EFBIG, unix.Ftruncate(fd, 1<<62))
		_, err = unix.Pwrite(fd, []byte("x"), -1)
		e.is(unix.EINVAL, err)
		e.is(unix.EINVAL, unix.Ftruncate(fd, -1))
		e.equal(int64(0), e.fstat(fd).Size)
		var limit syscall.Rlimit
		e.ok(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
		e.equal(^uint64(0), limit.Cur)
	}},
}
