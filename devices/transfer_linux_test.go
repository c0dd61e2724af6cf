package devices

import (
	"io"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTransferAll: a kernel that does a part, is interrupted, or fails halfway.
func TestTransferAll(t *testing.T) {
	const b = BlockSize
	type answer struct {
		n   int
		err error
	}
	tests := map[string]struct {
		sizes   []int
		answers []answer
		wantN   int
		wantErr error
		calls   []int64 // offsets in blocks
	}{
		"at once":                 {[]int{1, 2}, []answer{{3 * b, nil}}, 3 * b, nil, []int64{10}},
		"interrupted":             {[]int{1}, []answer{{-1, unix.EINTR}, {-1, unix.EINTR}, {b, nil}}, b, nil, []int64{10, 10, 10}},
		"in parts":                {[]int{2, 2, 2}, []answer{{b, nil}, {2 * b, nil}, {3 * b, nil}}, 6 * b, nil, []int64{10, 11, 13}},
		"a part of a block":       {[]int{3}, []answer{{b + 512, nil}, {512, nil}, {2 * b, nil}}, 3 * b, nil, []int64{10, 11, 11}},
		"stuck in a block":        {[]int{1}, []answer{{512, nil}, {512, nil}, {512, nil}, {512, nil}}, 0, io.ErrUnexpectedEOF, []int64{10, 10, 10, 10}},
		"end of file":             {[]int{2}, []answer{{b, nil}, {0, nil}}, b, io.ErrUnexpectedEOF, []int64{10, 11}},
		"an error":                {[]int{2}, []answer{{-1, unix.EIO}}, 0, unix.EIO, []int64{10}},
		"an error in the middle":  {[]int{2, 1}, []answer{{b, nil}, {-1, unix.EIO}}, b, unix.EIO, []int64{10, 11}},
		"empty buffers":           {[]int{0, 1, 0, 0, 1, 0}, []answer{{b, nil}, {b, nil}}, 2 * b, nil, []int64{10, 11}},
		"nothing":                 {nil, nil, 0, nil, nil},
		"nothing in two":          {[]int{0, 0}, nil, 0, nil, nil},
		"part ends with a buffer": {[]int{1, 1}, []answer{{b, nil}, {b, nil}}, 2 * b, nil, []int64{10, 11}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var bufs [][]byte
			var total int64
			for _, n := range tt.sizes {
				bufs = append(bufs, make([]byte, n*b))
				total += int64(n * b)
			}
			kept := append([][]byte(nil), bufs...)
			var calls []int64
			n, err := transferAll(bufs, 10*b, total, io.ErrUnexpectedEOF, func(left [][]byte, off int64) (int, error) {
				size := 0
				for _, l := range left {
					size += len(l)
				}
				require.Equal(t, total-(off-10*b), int64(size), "all that is left is asked for")
				calls = append(calls, off/b)
				a := tt.answers[len(calls)-1]
				return a.n, a.err
			})
			require.Equal(t, tt.wantErr, err)
			require.Equal(t, tt.wantN, n)
			require.Equal(t, tt.calls, calls)
			require.Equal(t, kept, bufs, "the caller's list stays as it is")
		})
	}
}

func TestTransferAllKeepsToTheLimitOfBuffers(t *testing.T) {
	bufs := make([][]byte, 3000)
	for i := range bufs {
		bufs[i] = make([]byte, BlockSize)
	}
	var counts []int
	_, err := transferAll(bufs, 0, 3000*BlockSize, io.EOF, func(left [][]byte, _ int64) (int, error) {
		counts = append(counts, len(left))
		return len(left) * BlockSize, nil
	})
	require.NoError(t, err)
	require.Equal(t, []int{1024, 1024, 952}, counts)
}

func TestParseMounts(t *testing.T) {
	got := parseMounts("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n" +
		"bad line\n37 35 0:25 / /with\\040blank\\134 rw - tmpfs tm\\011pfs rw\n38 35 x:y / /z rw - a b c\n")
	require.Equal(t, []mount{
		{unix.Mkdev(98, 0), "/mnt2", "ext3", "/dev/root"},
		{unix.Mkdev(0, 25), "/with blank\\", "tmpfs", "tm\tpfs"},
	}, got)
}

func TestLockHolder(t *testing.T) {
	const text = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 22 fe:00:77 0 EOF\n" +
		"3: FLOCK  ADVISORY  WRITE 33 fe:01:77 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 44 fe:02:77 0 EOF\nbad\n"
	for minor, want := range []int{22, 33, 0, 0} {
		require.Equal(t, want, lockHolder(text, &unix.Stat_t{Dev: unix.Mkdev(0xfe, uint32(minor)), Ino: 77}))
	}
	require.Zero(t, lockHolder("", &unix.Stat_t{}))
}

func TestWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		require.NoError(t, whileBusy(unix.EBUSY, func() error {
			if calls++; calls < 5 {
				return unix.EBUSY
			}
			return nil
		}))
		require.Equal(t, 5, calls)
		calls = 0
		require.Equal(t, unix.EIO, whileBusy(unix.EBUSY, func() error { calls++; return unix.EIO }))
		require.Equal(t, 1, calls)
		require.Equal(t, unix.EBUSY, whileBusy(unix.EBUSY, func() error { calls++; return unix.EBUSY }))
		require.Equal(t, 31, calls)
	})
}

func BenchmarkFileRead4K(b *testing.B) {
	path := filepath.Join(b.TempDir(), "disk")
	require.NoError(b, CreateFile(path, 1<<20))
	f, err := Open(path, FileOptions{Buffered: true})
	require.NoError(b, err)
	defer f.Close()
	p := AlignedBytes(BlockSize)
	b.SetBytes(BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.ReadAt(p, 0); err != nil {
			b.Fatal(err)
		}
	}
}
