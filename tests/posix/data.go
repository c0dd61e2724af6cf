package posix

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noise is n bytes that depend on the seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		*(*uint64)(unsafe.Pointer(&b[i])) = r.Uint64()
	}
	return b
}

// aligned is memory that O_DIRECT accepts.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))&4095)
	return b[skip : skip+n : skip+n]
}

var dataCases = []Case{
	{"readWrite", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		want := make([]byte, 5<<20)
		for i := range 200 {
			off, size := rand.IntN(len(want)), 1+rand.IntN(1<<uint(rand.IntN(19)))
			size = min(size, len(want)-off)
			b := noise(uint64(i), (size+7)&^7)[:size]
			copy(want[off:], b)
			e.pwrite(fd, string(b), int64(off))
		}
		e.ok(unix.Ftruncate(fd, int64(len(want))))
		got := make([]byte, len(want))
		for range 100 {
			off := rand.IntN(len(want))
			size := 1 + rand.IntN(len(want)-off)
			n, err := unix.Pread(fd, got[:size], int64(off))
			e.ok(err)
			e.equal(size, n)
			e.true(bytes.Equal(want[off:off+size], got[:size]), "at %d, %d bytes", off, size)
		}
		again, err := os.ReadFile(e.p("f"))
		e.ok(err)
		e.true(bytes.Equal(want, again))
		e.equal("", e.pread(fd, 10, int64(len(want))))
		e.equal("", e.pread(fd, 10, 1<<40))
	}},
	{"sparse", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		const far = 1 << 40
		e.pwrite(fd, "end", far)
		e.equal(int64(far+3), e.fstat(fd).Size)
		e.equal(strings.Repeat("\x00", 1000), e.pread(fd, 1000, 1<<39))
		e.equal("\x00end", e.pread(fd, 100, far-1))
		e.ok(unix.Fsync(fd))
		e.true(e.fstat(fd).Blocks <= 4096, "blocks: %d", e.fstat(fd).Blocks)
	}},
	{"append", func(e *env) {
		e.create("f", "start\n")
		var wg sync.WaitGroup
		for i := range 4 {
			fd := e.open("f", unix.O_WRONLY|unix.O_APPEND, 0)
			wg.Go(func() {
				for j := range 250 {
					line := fmt.Sprintf("%d %d\n", i, j)
					if n, err := unix.Write(fd, []byte(line)); n != len(line) || err != nil {
						e.Errorf("append: %d %v", n, err)
					}
				}
			})
		}
		wg.Wait()
		lines := strings.Split(strings.TrimSpace(e.content("f")), "\n")
		e.equal(1001, len(lines))
		next := [4]int{}
		for _, l := range lines[1:] {
			var i, j int
			_, err := fmt.Sscanf(l, "%d %d", &i, &j)
			e.ok(err)
			e.equal(next[i], j)
			next[i]++
		}
	}},
	{"truncate", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, strings.Repeat("x", 10000), 0)
		e.ok(unix.Ftruncate(fd, 5000))
		e.equal(int64(5000), e.fstat(fd).Size)
		e.ok(unix.Ftruncate(fd, 9000))
		e.equal(strings.Repeat("x", 5000)+strings.Repeat("\x00", 4000), e.pread(fd, 20000, 0))
		e.ok(unix.Ftruncate(fd, 0))
		e.equal("", e.pread(fd, 100, 0))
		e.pwrite(fd, "y", 4095)
		e.equal(strings.Repeat("\x00", 4095)+"y", e.pread(fd, 5000, 0))
		e.ok(unix.Truncate(e.p("f"), 3<<20))
		e.ok(unix.Ftruncate(fd, 1<<20+1))
		e.ok(unix.Fsync(fd))
		e.equal(int64(1<<20+1), e.stat("f").Size)
		ro := e.open("f", unix.O_RDONLY, 0)
		e.is(unix.EINVAL, unix.Ftruncate(ro, 0))
		_, err := unix.Write(ro, []byte("x"))
		e.is(unix.EBADF, err)
		wo := e.open("f", unix.O_WRONLY, 0)
		_, err = unix.Read(wo, make([]byte, 1))
		e.is(unix.EBADF, err)
		e.is(unix.ENOENT, unix.Truncate(e.p("no"), 0))
	}},
	{"truncateAtOpen", func(e *env) {
		e.create("f", "old content")
		r := e.open("f", unix.O_RDONLY, 0)
		e.equal("old content", e.pread(r, 100, 0))
		w := e.open("f", unix.O_WRONLY|unix.O_TRUNC, 0)
		e.equal(int64(0), e.fstat(r).Size)
		e.equal("", e.pread(r, 100, 0))
		e.pwrite(w, "new", 0)
		e.equal("new", e.pread(r, 100, 0))
	}},
	{"directIO", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
		plain := e.open("f", unix.O_RDWR, 0)
		b := aligned(1 << 20)
		copy(b, noise(1, len(b)))
		n, err := unix.Pwrite(fd, b, 0)
		e.ok(err)
		e.equal(len(b), n)
		e.true(string(b) == e.pread(plain, 2<<20, 0))
		e.pwrite(plain, "through the cache", 8192)
		got := aligned(4096)
		n, err = unix.Pread(fd, got, 8192)
		e.ok(err)
		e.equal(4096, n)
		e.equal("through the cache", string(got[:17]))
		copy(got, "past the cache")
		n, err = unix.Pwrite(fd, got, 8192)
		e.ok(err)
		e.equal(4096, n)
		e.equal("past the cache", e.pread(plain, 14, 8192))
		n, err = unix.Pread(fd, got, 1<<20)
		e.ok(err)
		e.equal(0, n)
		e.pwrite(plain, "tail", 1<<20)
		n, err = unix.Pread(fd, got, 1<<20)
		e.ok(err)
		e.equal("tail", string(got[:n]))
	}},
	{"sync", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(fd, "data", 0)
		e.ok(unix.Fsync(fd))
		e.ok(unix.Fdatasync(fd))
		e.ok(unix.SyncFileRange(fd, 0, 4, unix.SYNC_FILE_RANGE_WRITE))
		e.ok(unix.Syncfs(fd))
		d := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		e.ok(unix.Fsync(d))
		e.ok(unix.Fdatasync(d))
		s := e.open("s", unix.O_CREAT|unix.O_RDWR|unix.O_SYNC, 0o644)
		e.pwrite(s, "synchronous", 0)
		ds := e.open("s", unix.O_RDWR|unix.O_DSYNC, 0)
		e.pwrite(ds, "SYNC", 0)
		e.equal("SYNChronous", e.content("s"))
	}},
	{"copyFileRange", func(e *env) {
		want := noise(3, 3<<20)
		e.ok(os.WriteFile(e.p("a"), want, 0o644))
		in := e.open("a", unix.O_RDWR, 0)
		out := e.open("b", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.pwrite(in, "not written back yet", 1000)
		copy(want[1000:], "not written back yet")
		roff, woff := int64(100), int64(5000)
		left := len(want) - 100
		for left > 0 {
			n, err := unix.CopyFileRange(in, &roff, out, &woff, left, 0)
			e.ok(err)
			e.true(n > 0)
			left -= n
		}
		e.equal(int64(5000+len(want)-100), e.fstat(out).Size)
		e.true(string(want[100:]) == e.pread(out, len(want), 5000))
		e.equal(strings.Repeat("\x00", 5000), e.pread(out, 5000, 0))
		n, err := unix.CopyFileRange(in, &roff, out, &woff, 100, 0)
		e.ok(err)
		e.equal(0, n)
		roff, woff = 0, 10
		_, err = unix.CopyFileRange(in, &roff, in, &woff, 100, 0)
		e.is(unix.EINVAL, err, "overlap")
		roff, woff = 0, 1<<20
		n, err = unix.CopyFileRange(in, &roff, in, &woff, 4096, 0)
		e.ok(err)
		e.equal(4096, n)
		e.true(string(want[:4096]) == e.pread(in, 4096, 1<<20))
	}},
	{"sendfileAndSplice", func(e *env) {
		want := noise(4, 1<<20)
		e.ok(os.WriteFile(e.p("a"), want, 0o644))
		in := e.open("a", unix.O_RDONLY, 0)
		out := e.open("b", unix.O_CREAT|unix.O_RDWR, 0o644)
		for left := len(want); left > 0; {
			n, err := unix.Sendfile(out, in, nil, left)
			e.ok(err)
			e.true(n > 0)
			left -= n
		}
		e.true(string(want) == e.content("b"))
		var pipe [2]int
		e.ok(unix.Pipe2(pipe[:], 0))
		defer unix.Close(pipe[0])
		defer unix.Close(pipe[1])
		off := int64(4096)
		n, err := unix.Splice(in, &off, pipe[1], nil, 8192, 0)
		e.ok(err)
		woff := int64(0)
		m, err := unix.Splice(pipe[0], nil, out, &woff, int(n), 0)
		e.ok(err)
		e.equal(n, m)
		e.true(string(want[4096:4096+n]) == e.pread(out, int(n), 0))
	}},
	{"vectors", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		var out [][]byte
		var want []byte
		for i := range 1000 {
			b := []byte(strings.Repeat(string(rune('a'+i%26)), i%50+1))
			out, want = append(out, b), append(want, b...)
		}
		n, err := unix.Pwritev(fd, out, 3)
		e.ok(err)
		e.equal(len(want), n)
		e.equal("\x00\x00\x00"+string(want), e.content("f"))
		a, b := make([]byte, 5), make([]byte, 7)
		n, err = unix.Preadv(fd, [][]byte{a, b}, 3)
		e.ok(err)
		e.equal(12, n)
		e.equal(string(want[:12]), string(a)+string(b))
	}},
	{"manyOpenFiles", func(e *env) {
		var fds []int
		for i := range 500 {
			fd := e.open(fmt.Sprintf("f%d", i), unix.O_CREAT|unix.O_RDWR, 0o644)
			e.pwrite(fd, fmt.Sprint(i), 0)
			fds = append(fds, fd)
		}
		for i, fd := range fds {
			e.equal(fmt.Sprint(i), e.pread(fd, 10, 0))
		}
	}},
	{"ioctlJunk", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		_, err := unix.IoctlGetInt(fd, 0x5413) // TIOCGWINSZ
		e.is(unix.ENOTTY, err)
		_, err = unix.IoctlGetInt(fd, 0x12345678)
		e.is(unix.ENOTTY, err)
	}},
}
