package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// seek is lseek that must succeed.
func (e *env) seek(fd int, off int64, whence int) int64 {
	e.Helper()
	at, err := unix.Seek(fd, off, whence)
	e.ok(err)
	return at
}

var spaceCases = []Case{
	{"fallocate", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.ok(unix.Fallocate(fd, 0, 0, 100000))
		e.equal(int64(100000), e.fstat(fd).Size)
		e.true(e.fstat(fd).Blocks*512 >= 100000)
		e.equal(strings.Repeat("\x00", 100), e.pread(fd, 100, 50000))
		e.pwrite(fd, "data", 1000)
		e.ok(unix.Fallocate(fd, 0, 0, 200))
		e.equal(int64(100000), e.fstat(fd).Size)
		e.equal("data", e.pread(fd, 4, 1000))
		e.ok(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 100000, 1<<20))
		e.equal(int64(100000), e.fstat(fd).Size)
		e.true(e.fstat(fd).Blocks*512 >= 1<<20)
		e.is(unix.EINVAL, unix.Fallocate(fd, 0, 0, 0))
		e.is(unix.EINVAL, unix.Fallocate(fd, 0, -1, 10))
		e.is(unix.EFBIG, unix.Fallocate(fd, 0, 1<<62, 1<<62))
		ro := e.open("f", unix.O_RDONLY, 0)
		e.is(unix.EBADF, unix.Fallocate(ro, 0, 0, 10))
	}},
	{"punchHole", func(e *env) {
		const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("x", 4<<20), 0)
		e.ok(unix.Fsync(fd))
		before := e.fstat(fd).Blocks
		e.ok(unix.Fallocate(fd, punch, 1<<20, 2<<20))
		e.ok(unix.Fsync(fd))
		e.equal(int64(4<<20), e.fstat(fd).Size)
		e.true(before-e.fstat(fd).Blocks >= 2<<20/512, "blocks before %d, after %d", before, e.fstat(fd).Blocks)
		e.equal("x\x00", e.pread(fd, 2, 1<<20-1))
		e.equal("\x00x", e.pread(fd, 2, 3<<20-1))
		e.ok(unix.Fallocate(fd, punch, 100, 50))
		e.equal("x"+strings.Repeat("\x00", 50)+"x", e.pread(fd, 52, 99))
		e.ok(unix.Fallocate(fd, punch, 4<<20-10, 100))
		e.equal(int64(4<<20), e.fstat(fd).Size)
		e.equal("x"+strings.Repeat("\x00", 10), e.pread(fd, 100, 4<<20-11))
		e.ok(unix.Fallocate(fd, punch, 5<<20, 1<<20))
		e.equal(int64(4<<20), e.fstat(fd).Size)
		e.pwrite(fd, "again", 2<<20)
		e.equal("\x00again\x00", e.pread(fd, 7, 2<<20-1))
		e.is(unix.EOPNOTSUPP, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, 0, 100))
	}},
	{"blocksOfWhatIsSynced", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		for i := range int64(4) {
			e.pwrite(fd, strings.Repeat("x", 4096), i*4096)
			e.ok(unix.Fsync(fd))
			e.true(e.fstat(fd).Blocks*512 >= (i+1)*4096, "%d blocks of 4 KiB: %d", i+1, e.fstat(fd).Blocks)
		}
		e.pwrite(fd, strings.Repeat("x", 1<<20), 16384)
		e.ok(unix.Fsync(fd))
		before := e.fstat(fd).Blocks
		e.true(before*512 >= 1<<20+16384, "1 MiB more: %d", before)
		e.ok(unix.Ftruncate(fd, 4096))
		e.pwrite(fd, "y", 0)
		e.ok(unix.Fsync(fd))
		e.true(e.fstat(fd).Blocks < before, "after a cut: %d", e.fstat(fd).Blocks)
	}},
	{"zeroRange", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("x", 100000), 0)
		e.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 10, 50000))
		e.equal("x\x00", e.pread(fd, 2, 9))
		e.equal("\x00x", e.pread(fd, 2, 50009))
		e.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 90000, 20000))
		e.equal(int64(110000), e.fstat(fd).Size)
		e.equal("x"+strings.Repeat("\x00", 20000), e.pread(fd, 30000, 89999))
		e.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 100000, 50000))
		e.equal(int64(110000), e.fstat(fd).Size)
	}},
	{"seekDataAndHole", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		_, err := unix.Seek(fd, 0, unix.SEEK_DATA)
		e.is(unix.ENXIO, err)
		e.ok(unix.Ftruncate(fd, 8<<20))
		e.pwrite(fd, strings.Repeat("x", 65536), 0)
		e.pwrite(fd, strings.Repeat("y", 65536), 4<<20)
		check := func() {
			e.Helper()
			e.equal(int64(0), e.seek(fd, 0, unix.SEEK_DATA))
			e.equal(int64(100), e.seek(fd, 100, unix.SEEK_DATA))
			e.equal(int64(65536), e.seek(fd, 100, unix.SEEK_HOLE))
			e.equal(int64(4<<20), e.seek(fd, 65536, unix.SEEK_DATA))
			e.equal(int64(4<<20+65536), e.seek(fd, 4<<20, unix.SEEK_HOLE))
			e.equal(int64(5<<20), e.seek(fd, 5<<20, unix.SEEK_HOLE))
			_, err = unix.Seek(fd, 5<<20, unix.SEEK_DATA)
			e.is(unix.ENXIO, err)
		}
		check() // what is in the page cache counts
		e.ok(unix.Fsync(fd))
		check()
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			_, err = unix.Seek(fd, 8<<20, whence)
			e.is(unix.ENXIO, err)
			_, err = unix.Seek(fd, 9<<20, whence)
			e.is(unix.ENXIO, err)
		}
		e.pwrite(fd, "z", 8<<20-1)
		e.equal(int64(8<<20), e.seek(fd, 8<<20-1, unix.SEEK_HOLE))
		e.equal(int64(8<<20+5), e.seek(fd, 5, unix.SEEK_END))
		_, err = unix.Seek(fd, -1, unix.SEEK_SET)
		e.is(unix.EINVAL, err)
	}},
	{"blocksOfWhatIsCached", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("s", 5000), 0)
		e.true(e.stat("f").Blocks > 0, "GNU tar takes a file of no blocks for one of zeros")
		e.create("g", strings.Repeat("s", 5000))
		e.true(e.stat("g").Blocks > 0)
	}},
	{"blocksOfSmallFiles", func(e *env) {
		e.create("empty", "")
		e.create("small", strings.Repeat("s", 5000))
		fd := e.open("small", unix.O_RDWR, 0)
		e.ok(unix.Fsync(fd))
		e.equal(int64(0), e.stat("empty").Blocks)
		e.equal(int64(8192/512), e.stat("small").Blocks)
	}},
}
