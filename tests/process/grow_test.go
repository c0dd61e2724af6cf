package process

import (
	"os"
	"path/filepath"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// sizes are the volume's size and free space, and the size of device d1, as status has them.
func sizes(t *testing.T, env *harness.Env) (size, free, d1, unused int64) {
	t.Helper()
	var s struct {
		Size    int64 `json:"size_bytes"`
		Free    int64 `json:"free_bytes"`
		Devices []struct {
			Size   int64 `json:"size_bytes"`
			Unused int64 `json:"unused_bytes"`
		}
	}
	decode(t, env.Must("status", "v", "--json"), &s)
	return s.Size, s.Free, s.Devices[0].Size, s.Devices[0].Unused
}

// TestDeviceGrows has the file of a device grow while it is served, and again while it is not; what
// is new takes data, through kill -9, check and import. A smaller one is refused.
func TestDeviceGrows(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disk := filepath.Join(t.TempDir(), "disk")
	env.Must("create", "v", disk+":40MiB")
	env.Must("export", "create", "v/e", "128MiB")
	d := env.Serve("v")
	size, _, _, _ := sizes(t, env)
	turnedDown(t, env, 1, "E_DEVICE_SIZE", "device", "grow", "v", "d1")
	require.NoError(t, os.Truncate(disk, 80<<20))
	require.Contains(t, env.Must("device", "grow", "v", disk), "40.0 MiB more")
	grown, free, d1, unused := sizes(t, env)
	require.Equal(t, []int64{size + 40<<20, size + 40<<20, 80 << 20, 0}, []int64{grown, free, d1, unused})
	data := random(t, 76<<20, 7) // more than it would have held, over where its old end was
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	d.Kill()

	require.NoError(t, os.Truncate(disk, 120<<20))
	d = d.Again()
	grown, _, d1, unused = sizes(t, env)
	require.Equal(t, []int64{size + 40<<20, 80 << 20, 40 << 20}, []int64{grown, d1, unused})
	require.Contains(t, env.Must("status", "v"), "device grow")
	env.Must("device", "grow", "v", "d1")
	grown, _, d1, unused = sizes(t, env)
	require.Equal(t, []int64{size + 80<<20, 120 << 20, 0}, []int64{grown, d1, unused})
	all := random(t, 112<<20, 8)
	harness.Tool(t, "nbdcopy", "--flush", all, d.URI("e"))
	same := func() {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		requireSame(t, all, out)
	}
	same()
	require.Zero(t, d.Stop())
	require.Contains(t, env.Must("check", "v"), "SOUND")

	require.NoError(t, os.Truncate(disk, 119<<20))
	r := env.Command("serve", "v")
	refused(t, r, 1, "E_DEVICE_SMALL")
	require.Contains(t, r.Stderr, disk)
	require.NoError(t, os.Truncate(disk, 120<<20)) // what was cut off is gone: the label has another copy
	elsewhere := harness.New(t)
	elsewhere.Must("import", disk)
	d = elsewhere.Serve("v")
	_, _, d1, _ = sizes(t, elsewhere)
	require.EqualValues(t, 120<<20, d1)
	require.Zero(t, d.Stop())
}

// TestBlockDeviceGrows is the same with a block device whose size the kernel is told.
func TestBlockDeviceGrows(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	loop := harness.NewLoop(t, harness.Sparse(t, 40<<20))
	env.Must("create", "v", loop.Path)
	env.Must("export", "create", "v/e", "128MiB")
	d := env.Serve("v")
	require.NoError(t, os.Truncate(loop.File, 80<<20))
	turnedDown(t, env, 1, "E_DEVICE_SIZE", "device", "grow", "v", "d1") // the block device has not
	loop.Resize(t)
	env.Must("device", "grow", "v", "d1")
	data := random(t, 76<<20, 9)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	d.Kill()
	d = d.Again()
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)

	require.NoError(t, os.Truncate(loop.File, 60<<20))
	loop.Resize(t)
	turnedDown(t, env, 1, "E_DEVICE_SIZE", "device", "grow", "v", "d1")
	require.NoError(t, os.Truncate(loop.File, 80<<20))
	loop.Resize(t)
	d.Kill()
}
