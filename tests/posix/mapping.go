package posix

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func (e *env) mmap(fd int, off int64, n, prot, flags int) []byte {
	e.Helper()
	m, err := unix.Mmap(fd, off, n, prot, flags)
	e.ok(err)
	e.Cleanup(func() { unix.Munmap(m) })
	return m
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

var mappingCases = []Case{
	{"mmap", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("x", 10000), 0)
		m := e.mmap(fd, 0, 12288, readWrite, unix.MAP_SHARED)
		e.equal("xx", string(m[:2]))
		e.equal("x\x00", string(m[9999:10001]), "the rest of the last page is zeros")
		copy(m[5000:], "through the mapping")
		e.equal("through the mapping", e.pread(fd, 19, 5000))
		e.pwrite(fd, "through the file", 6000)
		e.equal("through the file", string(m[6000:6016]))
		e.ok(unix.Msync(m, unix.MS_SYNC))
		other := e.open("f", unix.O_RDONLY, 0)
		e.equal("through the mapping", e.pread(other, 19, 5000))
		m[11000] = 'y' // beyond the end: not part of the file
		e.ok(unix.Fsync(fd))
		e.equal(int64(10000), e.fstat(fd).Size)
		e.equal("x", e.pread(fd, 10, 9999))
		private := e.mmap(fd, 4096, 4096, readWrite, unix.MAP_PRIVATE)
		copy(private, "private")
		e.equal("x", e.pread(fd, 1, 4096))
	}},
	{"mmapIsWrittenBack", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.ok(unix.Ftruncate(fd, 1<<20))
		m, err := unix.Mmap(fd, 0, 1<<20, readWrite, unix.MAP_SHARED)
		e.ok(err)
		want := noise(9, 1<<20)
		copy(m, want)
		e.ok(unix.Munmap(m))
		e.ok(unix.Fsync(fd))
		d := e.open("f", unix.O_RDONLY|unix.O_DIRECT, 0)
		got := aligned(1 << 20)
		n, err := unix.Pread(d, got, 0)
		e.ok(err)
		e.equal(1<<20, n)
		e.true(string(want) == string(got))
	}},
	{"mmapAndDirectIO", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		d := e.open("f", unix.O_RDWR|unix.O_DIRECT, 0)
		e.pwrite(fd, strings.Repeat("x", 65536), 0)
		m := e.mmap(fd, 0, 65536, readWrite, unix.MAP_SHARED)
		b := aligned(8192)
		for i := range 50 {
			letter := byte('a' + i%26)
			off := int64(i % 8 * 8192)
			if i%2 == 0 {
				for j := range 8192 {
					m[off+int64(j)] = letter
				}
				n, err := unix.Pread(d, b, off)
				e.ok(err)
				e.equal(8192, n)
				e.equal(strings.Repeat(string(rune(letter)), 8192), string(b), i)
			} else {
				for j := range b {
					b[j] = letter
				}
				n, err := unix.Pwrite(d, b, off)
				e.ok(err)
				e.equal(8192, n)
				e.equal(strings.Repeat(string(rune(letter)), 8192), string(m[off:off+8192]), i)
				e.equal(string(rune(letter)), e.pread(fd, 1, off+8191))
			}
		}
	}},
	{"mmapAfterClose", func(e *env) {
		e.create("f", strings.Repeat("x", 8192))
		f, err := os.OpenFile(e.p("f"), os.O_RDWR, 0)
		e.ok(err)
		m := e.mmap(int(f.Fd()), 0, 8192, readWrite, unix.MAP_SHARED)
		e.ok(f.Close())
		copy(m[100:], "after close")
		e.equal("after close", e.content("f")[100:111])
		e.ok(unix.Unlink(e.p("f")))
		copy(m[200:], "after unlink")
		e.ok(unix.Msync(m, unix.MS_SYNC))
		e.equal("after unlink", string(m[200:212]))
	}},
	{"mmapAndTruncate", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("x", 3*4096), 0)
		m := e.mmap(fd, 0, 3*4096, readWrite, unix.MAP_SHARED)
		copy(m[8192:], "gone soon")
		e.ok(unix.Ftruncate(fd, 5000))
		e.equal("x\x00", string(m[4999:5001]))
		e.ok(unix.Ftruncate(fd, 3*4096))
		e.equal(strings.Repeat("\x00", 3*4096-5000), string(m[5000:]))
		e.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
		e.equal(strings.Repeat("\x00", 4096), string(m[:4096]))
	}},
}
