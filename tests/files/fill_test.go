package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// filling is a mounted volume that is filled chunk by chunk from both its doors.
type filling struct {
	t      *testing.T
	e      *harness.Env
	dir    string
	client *nbdclient.Client
	file   *os.File
	noise  []byte
	chunks [2]int64 // written to the export and to the file
}

const fillChunk = 1 << 20

// chunk is what is written as chunk n through door.
func (f *filling) chunk(door int, n int64) []byte {
	p := alignedBytes(fillChunk)
	copy(p, f.noise)
	copy(p, fmt.Sprintf("door %d chunk %d", door, n))
	return p
}

// write writes the next chunk through a door, and reports whether there was space.
func (f *filling) write(door int) bool {
	f.t.Helper()
	n := f.chunks[door]
	var err error
	if door == 0 {
		err = f.client.Write(f.chunk(door, n), n*fillChunk, 0)
		require.True(f.t, err == nil || nbdclient.ErrnoOf(err) == wire.ENOSPC, "%v", err)
	} else {
		_, err = f.file.WriteAt(f.chunk(door, n), n*fillChunk)
		require.True(f.t, err == nil || errors.Is(err, unix.ENOSPC), "%v", err)
	}
	if err == nil {
		f.chunks[door]++
	}
	return err == nil
}

// space is what statfs says, in bytes.
func (f *filling) space() (size, free int64) {
	f.t.Helper()
	var st unix.Statfs_t
	require.NoError(f.t, unix.Statfs(f.dir, &st))
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// same reads everything back.
func (f *filling) same() {
	f.t.Helper()
	p := alignedBytes(fillChunk)
	for n := range f.chunks[0] {
		require.NoError(f.t, f.client.Read(p, n*fillChunk))
		require.True(f.t, bytes.Equal(f.chunk(0, n), p), "chunk %d of the export", n)
	}
	for n := range f.chunks[1] {
		_, err := f.file.ReadAt(p, n*fillChunk)
		require.NoError(f.t, err)
		require.True(f.t, bytes.Equal(f.chunk(1, n), p), "chunk %d of the file", n)
	}
}

// TestUnequalDisksFillUp fills volumes over loop devices of 16, 8, 4, 4 and 2 units through NBD and
// FUSE in turn. Nothing that the copies can use is stranded, and statfs tells the truth before, on
// the way, and when there is no space.
func TestUnequalDisksFillUp(t *testing.T) {
	harness.NeedRoot(t)
	for copies := 1; copies <= 2; copies++ {
		t.Run(fmt.Sprint(copies), func(t *testing.T) {
			f := &filling{t: t, e: harness.New(t), dir: harness.MountPoint(t), noise: noise(3, fillChunk)}
			create := []string{"create", "v", "--copies", fmt.Sprint(copies)}
			for _, units := range []int64{16, 8, 4, 4, 2} {
				create = append(create, harness.NewLoop(t, harness.SparseRAM(t, units*8<<20)).Path)
			}
			f.e.Must(create...)
			f.e.Must("export", "create", "v/e", "1GiB")
			d := f.e.Serve("v", "--mount", f.dir)
			var err error
			f.client, err = nbdclient.Dial("unix", d.NBD, "e")
			require.NoError(t, err)
			f.file, err = os.OpenFile(filepath.Join(f.dir, "file"), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
			require.NoError(t, err)

			var s struct {
				Raw int64 `json:"raw_bytes"`
			}
			require.NoError(t, json.Unmarshal([]byte(f.e.Must("status", "v", "--json")), &s))
			size, free := f.space()
			require.Equal(t, free, size)
			require.InDelta(t, s.Raw/int64(copies), size, fillChunk, "no disk is larger than all the others")

			full := [2]bool{}
			for !full[0] || !full[1] {
				door := int(f.chunks[0]+f.chunks[1]) / 8 % 2
				if full[door] {
					door = 1 - door
				}
				full[door] = !f.write(door)
				if written := f.chunks[0] + f.chunks[1]; written%64 == 0 && !full[door] {
					_, free = f.space()
					require.LessOrEqual(t, free, size-written*fillChunk+fillChunk)
				}
			}
			require.NoError(t, f.client.Flush())
			require.NoError(t, f.file.Sync())
			written := (f.chunks[0] + f.chunks[1]) * fillChunk
			_, free = f.space()
			t.Logf("%d of %d bytes written, %.2f %%; statfs says that %d are free", written, size, 100*float64(written)/float64(size), free)
			require.GreaterOrEqual(t, written*100, size*99)
			require.LessOrEqual(t, free, size-written, "what cannot be written is not free")
			require.LessOrEqual(t, free, int64(5*fillChunk))
			require.NoError(t, f.client.Write(f.chunk(0, 0), 0, 0), "what is there can be overwritten")
			f.same()
			require.NoError(t, f.file.Close())
			f.client.Close()
			require.Zero(t, d.Stop())
			require.Contains(t, f.e.Must("check", "v"), "SOUND")
		})
	}
}
