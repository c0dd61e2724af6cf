package files

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// exerciser does random operations on one file, in every way there is to read and change one, and
// on a slice of bytes, as fsx does: what is read must be what the slice has.
type exerciser struct {
	*rig
	rnd    *rand.Rand
	path   string
	fd     int // buffered
	direct int // O_DIRECT
	want   []byte
	log    []string
}

const (
	exercised = 3 << 20 // the largest size
	page      = 4096
)

func newExerciser(r *rig, seed uint64) *exerciser {
	x := &exerciser{rig: r, rnd: rand.New(rand.NewPCG(seed, 3)), path: filepath.Join(r.dir, fmt.Sprintf("exercised%d", seed)), fd: -1, direct: -1}
	x.open(unix.O_CREAT)
	return x
}

func (x *exerciser) open(flags int) {
	var err error
	x.fd, err = unix.Open(x.path, unix.O_RDWR|flags, 0o644)
	require.NoError(x, err)
	x.direct, err = unix.Open(x.path, unix.O_RDWR|unix.O_DIRECT, 0)
	require.NoError(x, err)
}

func (x *exerciser) close() {
	require.NoError(x, unix.Close(x.fd))
	require.NoError(x, unix.Close(x.direct))
}

// note remembers an operation for the report of a failure.
func (x *exerciser) note(format string, args ...any) {
	x.log = append(x.log, fmt.Sprintf(format, args...)+fmt.Sprintf(" (size %d)", len(x.want)))
}

func (x *exerciser) ok(err error) {
	x.Helper()
	if err != nil {
		require.NoError(x, err, "%v", x.log[max(len(x.log)-20, 0):])
	}
}

// same compares what was read at off.
func (x *exerciser) same(got []byte, off int) {
	x.Helper()
	want := x.want[min(off, len(x.want)):min(off+len(got), len(x.want))]
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	require.Fail(x, "another content", "%d bytes at %d, %d wanted, the first difference at %d\n%v", len(got), off, len(want), off+i, x.log[max(len(x.log)-30, 0):])
}

// span is a random range, within size.
func (x *exerciser) span(size int) (off, n int) {
	off = x.rnd.IntN(size)
	n = 1 + x.rnd.IntN(min(size-off, 1<<(4+x.rnd.IntN(17))))
	if x.rnd.IntN(4) == 0 { // whole pages
		off, n = off&^(page-1), max(n&^(page-1), page)
	}
	return off, min(n, size-off)
}

func (x *exerciser) bytes(n int) []byte {
	p := make([]byte, n)
	word := x.rnd.Uint64() | 1
	for i := range p {
		p[i] = byte(word >> (i % 8 * 8))
		if i%8 == 7 {
			word *= 0x9E3779B97F4A7C15
		}
	}
	return p
}

// put is what a write of p at off does to the model.
func (x *exerciser) put(p []byte, off int) {
	if end := off + len(p); end > len(x.want) {
		x.want = append(x.want, make([]byte, end-len(x.want))...)
	}
	copy(x.want[off:], p)
}

// alignedBytes returns a buffer for direct I/O.
func alignedBytes(n int) []byte {
	b := make([]byte, n+page)
	skip := page - int(uintptr(unsafe.Pointer(&b[0]))%page)
	return b[skip : skip+n : skip+n]
}

func (x *exerciser) write() {
	off, n := x.span(exercised)
	x.pwrite("write", x.fd, x.bytes(n), off)
}

func (x *exerciser) writeDirect() {
	off, n := x.span(exercised)
	p := alignedBytes((n + page - 1) &^ (page - 1))
	copy(p, x.bytes(n))
	x.pwrite("direct write", x.direct, p, off&^(page-1))
}

func (x *exerciser) pwrite(what string, fd int, p []byte, off int) {
	x.note("%s %d at %d", what, len(p), off)
	got, err := unix.Pwrite(fd, p, int64(off))
	x.ok(err)
	require.Equal(x, len(p), got)
	x.put(p, off)
}

func (x *exerciser) read() {
	off, n := x.span(exercised)
	x.note("read %d at %d", n, off)
	p := make([]byte, n)
	got, err := unix.Pread(x.fd, p, int64(off))
	x.ok(err)
	x.same(p[:got], off)
	require.Equal(x, max(min(n, len(x.want)-off), 0), got)
}

func (x *exerciser) readDirect() {
	off, n := x.span(exercised)
	off, n = off&^(page-1), (n+page-1)&^(page-1)
	x.note("direct read %d at %d", n, off)
	p := alignedBytes(n)
	got, err := unix.Pread(x.direct, p, int64(off))
	x.ok(err)
	x.same(p[:got], off)
	require.Equal(x, max(min(n, len(x.want)-off), 0), got)
}

// mapped reads or writes through a mapping.
func (x *exerciser) mapped(writes bool) {
	if len(x.want) == 0 {
		return
	}
	off, n := x.span(len(x.want))
	x.note("mapping, writes %v: %d at %d", writes, n, off)
	from := off &^ (page - 1)
	m, err := unix.Mmap(x.fd, int64(from), off+n-from, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	x.ok(err)
	if writes {
		p := x.bytes(n)
		copy(m[off-from:], p)
		x.put(p, off)
		if x.rnd.IntN(3) == 0 {
			x.ok(unix.Msync(m, unix.MS_SYNC))
		}
	} else {
		x.same(bytes.Clone(m[off-from:]), off)
	}
	x.ok(unix.Munmap(m))
}

func (x *exerciser) truncate() {
	size := x.rnd.IntN(exercised)
	if x.rnd.IntN(3) > 0 { // near the end
		size = min(max(len(x.want)+x.rnd.IntN(20000)-10000, 0), exercised)
	}
	x.note("truncate to %d", size)
	x.ok(unix.Ftruncate(x.fd, int64(size)))
	if size <= len(x.want) {
		x.want = x.want[:size:size]
	} else {
		x.put(make([]byte, 0), size)
	}
}

func (x *exerciser) allocate() {
	off, n := x.span(exercised)
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE,
		unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[x.rnd.IntN(5)]
	x.note("fallocate %#x: %d at %d", mode, n, off)
	x.ok(unix.Fallocate(x.fd, mode, int64(off), int64(n)))
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && off < len(x.want) {
		clear(x.want[off:min(off+n, len(x.want))])
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+n > len(x.want) {
		x.put(nil, off+n)
	}
}

// copyRange copies within the file, between ranges that do not overlap.
func (x *exerciser) copyRange() {
	if len(x.want) < 2 {
		return
	}
	from, n := x.span(len(x.want))
	to := x.rnd.IntN(exercised)
	if n = min(n, exercised-to); from < to+n && to < from+n {
		return
	}
	x.note("copy %d from %d to %d", n, from, to)
	p := bytes.Clone(x.want[from : from+n])
	for done := 0; done < n; {
		a, b := int64(from+done), int64(to+done)
		got, err := unix.CopyFileRange(x.fd, &a, x.fd, &b, n-done, 0)
		x.ok(err)
		require.Positive(x, got)
		done += got
	}
	x.put(p, to)
}

// seek checks that what SEEK_DATA skips reads as zeros.
func (x *exerciser) seek() {
	if len(x.want) == 0 {
		return
	}
	off := x.rnd.IntN(len(x.want))
	x.note("seek from %d", off)
	at, err := unix.Seek(x.fd, int64(off), unix.SEEK_DATA)
	if err == unix.ENXIO {
		at, err = int64(len(x.want)), nil
	}
	x.ok(err)
	x.same(make([]byte, int(at)-off), off)
}

// all checks the whole file, from the server and not from the page cache if fresh is set.
func (x *exerciser) all(fresh bool) {
	x.note("whole file, fresh %v", fresh)
	if fresh {
		x.ok(unix.Fsync(x.fd))
		x.ok(unix.Fadvise(x.fd, 0, 0, unix.FADV_DONTNEED))
	}
	var st unix.Stat_t
	x.ok(unix.Fstat(x.fd, &st))
	require.EqualValues(x, len(x.want), st.Size, "%v", x.log[max(len(x.log)-20, 0):])
	p := make([]byte, len(x.want)+1)
	n, err := unix.Pread(x.fd, p, 0)
	x.ok(err)
	x.same(p[:n], 0)
	require.Equal(x, len(x.want), n)
}

func (x *exerciser) step() {
	switch k := x.rnd.IntN(100); {
	case k < 18:
		x.write()
	case k < 26:
		x.writeDirect()
	case k < 38:
		x.read()
	case k < 46:
		x.readDirect()
	case k < 56:
		x.mapped(true)
	case k < 64:
		x.mapped(false)
	case k < 72:
		x.truncate()
	case k < 82:
		x.allocate()
	case k < 88:
		x.copyRange()
	case k < 92:
		x.seek()
	case k < 94:
		x.note("close and open")
		x.close()
		x.open(0)
	default:
		x.all(x.rnd.IntN(2) == 0)
	}
}

// exercise does that many operations on each of files, side by side, and looks whether a restart of
// the daemon by kill -9 after an fsync leaves all as it was.
func exercise(t *testing.T, copies, files, steps int) {
	s := *seed
	if s == 0 {
		s = rand.Uint64N(1 << 32)
	}
	t.Logf("again: go test ./tests/files -run '^%s$' -seed %d", t.Name(), s)
	r := mount(t, copies)
	var all []*exerciser
	for i := range files {
		all = append(all, newExerciser(r, s+uint64(i)))
	}
	for range steps {
		for _, x := range all {
			x.step()
		}
	}
	for _, x := range all {
		x.all(true)
		x.close()
	}
	r.crash()
	for _, x := range all {
		x.open(0)
		x.all(false)
		x.close()
	}
}

// TestExerciseFiles is what fsx is elsewhere.
func TestExerciseFiles(t *testing.T) { exercise(t, 2, 2, 400) }
