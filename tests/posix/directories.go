package posix

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is one that getdents64 returned.
type entry struct {
	name string
	ino  uint64
	off  int64 // where the next one begins
	kind uint8
}

// getdents reads entries through a buffer of this size, some of them, from where fd stands.
func (e *env) getdents(fd, size int) []entry {
	e.Helper()
	b := make([]byte, size)
	n, err := unix.Getdents(fd, b)
	e.ok(err)
	var list []entry
	for b = b[:n]; len(b) > 0; {
		length := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:length]), "\x00")
		list = append(list, entry{name: name, ino: binary.NativeEndian.Uint64(b), off: int64(binary.NativeEndian.Uint64(b[8:])), kind: b[18]})
		b = b[length:]
	}
	return list
}

// list reads the rest of a directory.
func (e *env) list(fd, size int) []entry {
	e.Helper()
	var all []entry
	for {
		some := e.getdents(fd, size)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

func (e *env) fill(dir string, n int) {
	e.Helper()
	for i := range n {
		e.create(fmt.Sprintf("%s/file%05d", dir, i), "")
	}
}

// counts is how often each name was seen.
func counts(list ...[]entry) map[string]int {
	seen := map[string]int{}
	for _, l := range list {
		for _, x := range l {
			seen[x.name]++
		}
	}
	return seen
}

var directoryCases = []Case{
	{"readdir", func(e *env) {
		e.mkdir("d", "d/dir")
		e.create("d/file", "")
		e.ok(unix.Symlink("file", e.p("d/link")))
		e.ok(unix.Mknod(e.p("d/fifo"), unix.S_IFIFO|0o600, 0))
		e.ok(unix.Mknod(e.p("d/socket"), unix.S_IFSOCK|0o600, 0))
		e.ok(unix.Mknod(e.p("d/char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		kinds := map[string]uint8{".": unix.DT_DIR, "..": unix.DT_DIR, "dir": unix.DT_DIR, "file": unix.DT_REG, "link": unix.DT_LNK,
			"fifo": unix.DT_FIFO, "socket": unix.DT_SOCK, "char": unix.DT_CHR}
		list := e.list(e.open("d", unix.O_RDONLY, 0), 4096)
		e.equal(len(kinds), len(list))
		for _, x := range list {
			e.equal(kinds[x.name], x.kind, x.name)
			e.equal(e.stat("d/"+x.name).Ino, x.ino, x.name)
		}
		fd := e.open("d/file", unix.O_RDONLY, 0)
		_, err := unix.Getdents(fd, make([]byte, 4096))
		e.is(unix.ENOTDIR, err)
		d := e.open("d", unix.O_RDONLY, 0)
		_, err = unix.Read(d, make([]byte, 10))
		e.is(unix.EISDIR, err)
		e.is(unix.EINVAL, unix.Ftruncate(d, 0))
		e.is(unix.EISDIR, unix.Truncate(e.p("d"), 0))
	}},
	{"largeDirectory", func(e *env) {
		const n = 3000
		e.mkdir("d")
		e.fill("d", n)
		for _, size := range []int{300, 4096, 1 << 16} {
			seen := counts(e.list(e.open("d", unix.O_RDONLY, 0), size))
			e.equal(n+2, len(seen))
			for name, times := range seen {
				e.equal(1, times, name)
			}
		}
		e.ok(os.RemoveAll(e.p("d")))
		e.absent("d")
	}},
	{"readdirWhileDeleting", func(e *env) {
		const n = 1000
		e.mkdir("d")
		e.fill("d", n)
		fd := e.open("d", unix.O_RDONLY, 0)
		first := e.getdents(fd, 4096)
		for i := 0; i < n; i += 2 {
			e.ok(unix.Unlink(e.p(fmt.Sprintf("d/file%05d", i))))
		}
		seen := counts(first, e.list(fd, 4096))
		for i := 1; i < n; i += 2 {
			e.equal(1, seen[fmt.Sprintf("file%05d", i)], i)
		}
		for name, times := range seen {
			e.equal(1, times, name)
		}
		e.equal(n/2, len(e.names("d")))
	}},
	{"readdirWhileCreating", func(e *env) {
		const n = 500
		e.mkdir("d")
		e.fill("d", n)
		fd := e.open("d", unix.O_RDONLY, 0)
		first := e.getdents(fd, 2048)
		for i := range n {
			e.create(fmt.Sprintf("d/new%05d", i), "")
			if i%3 == 0 {
				e.ok(e.rename(fmt.Sprintf("d/new%05d", i), fmt.Sprintf("d/newer%05d", i)))
			}
		}
		seen := counts(first, e.list(fd, 2048))
		for i := range n {
			e.equal(1, seen[fmt.Sprintf("file%05d", i)], i)
		}
		for name, times := range seen {
			e.equal(1, times, name)
		}
		_, err := unix.Seek(fd, 0, unix.SEEK_SET)
		e.ok(err)
		e.equal(2*n+2, len(e.list(fd, 2048)))
	}},
	{"seekdir", func(e *env) {
		e.mkdir("d")
		e.fill("d", 200)
		fd := e.open("d", unix.O_RDONLY, 0)
		all := e.list(fd, 4096)
		for i := len(all) - 2; i >= 0; i -= 17 {
			_, err := unix.Seek(fd, all[i].off, unix.SEEK_SET)
			e.ok(err)
			e.equal(all[i+1].name, e.getdents(fd, 4096)[0].name)
		}
		_, err := unix.Seek(fd, all[len(all)-1].off, unix.SEEK_SET)
		e.ok(err)
		e.equal(0, len(e.getdents(fd, 4096)))
		// The position of what was deleted is where its successor begins; what was deleted may
		// be listed still.
		_, err = unix.Seek(fd, all[99].off, unix.SEEK_SET)
		e.ok(err)
		deleted := map[string]bool{}
		for _, x := range all[90:110] {
			if strings.HasPrefix(x.name, "file") {
				e.ok(unix.Unlink(e.p("d/" + x.name)))
				deleted[x.name] = true
			}
		}
		left := func(list []entry) (names []string) { // where the next one begins may have changed
			for _, x := range list {
				if !deleted[x.name] {
					names = append(names, x.name)
				}
			}
			return names
		}
		e.equal(left(all[100:]), left(e.list(fd, 4096)))
	}},
	{"twoReadersOfADirectory", func(e *env) {
		e.mkdir("d")
		e.fill("d", 300)
		a, b := e.open("d", unix.O_RDONLY, 0), e.open("d", unix.O_RDONLY, 0)
		var one, two []entry
		for {
			x, y := e.getdents(a, 1024), e.getdents(b, 512)
			one, two = append(one, x...), append(two, y...)
			if len(x)+len(y) == 0 {
				break
			}
		}
		e.equal(302, len(one))
		e.equal(one, two)
	}},
	{"inodeNumbers", func(e *env) {
		e.mkdir("d")
		seen := map[uint64]string{}
		for _, x := range []string{"a", "b", "d/c", "d/e"} {
			e.create(x, x)
			ino := e.stat(x).Ino
			e.equal("", seen[ino])
			seen[ino] = x
		}
		ino := e.stat("a").Ino
		e.create("a", "other content")
		e.ok(e.rename("a", "d/a"))
		e.equal(ino, e.stat("d/a").Ino)
	}},
}
