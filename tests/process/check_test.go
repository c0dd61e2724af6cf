package process

import (
	"os"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

type checked struct {
	Schema, Verdict string
	Chunks, Bytes   int64
	FaultCount      int64    `json:"fault_count"`
	Missing         []string `json:"missing_devices"`
	Faults          []struct{ Device, Object, What string }
}

func TestCheck(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disks := volume(t, env, 2)
	d := env.Serve("v")
	harness.Tool(t, "nbdcopy", "--flush", random(t, 32<<20, 11), d.URI("e"))
	refused(t, env.Command("check", "v"), 11, "E_BUSY")
	d.Kill() // check has to do with what a crash leaves
	var c checked
	before, err := os.ReadFile(disks[0])
	require.NoError(t, err)
	decode(t, env.Must("check", "v", "--json"), &c)
	require.Equal(t, "ballast.check/1", c.Schema)
	require.Equal(t, "sound", c.Verdict)
	require.EqualValues(t, 32, c.Chunks)
	require.EqualValues(t, 2*32<<20, c.Bytes)
	require.Contains(t, env.Must("check", "v"), "SOUND")
	after, err := os.ReadFile(disks[0])
	require.NoError(t, err)
	require.Equal(t, before, after)

	// One bit in the middle of the data, and the file's journal area, which nothing uses, beside it.
	f, err := os.OpenFile(disks[0], os.O_RDWR, 0)
	require.NoError(t, err)
	off := int64(-1)
	for o := int64(8 << 20); o < int64(len(after)) && off < 0; o += 4096 {
		if after[o] != 0 {
			off = o + 77
		}
	}
	require.Positive(t, off)
	_, err = f.WriteAt([]byte{after[off] ^ 1}, off)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r := env.Command("check", "v", "--json")
	require.Equal(t, 3, r.Code)
	c = checked{}
	decode(t, r.Stdout, &c)
	require.Equal(t, "damaged", c.Verdict)
	require.EqualValues(t, 1, c.FaultCount)
	require.Equal(t, "d1", c.Faults[0].Device)
	require.Equal(t, "e", c.Faults[0].Object)
	require.Contains(t, env.Command("check", "v").Stdout, "journal says")

	// A missing disk is degradation; the other copies are sound.
	require.NoError(t, os.Remove(disks[0]))
	c = checked{}
	decode(t, env.Must("check", "v", "--json"), &c)
	require.Equal(t, "degraded", c.Verdict)
	require.Equal(t, []string{"d1"}, c.Missing)
}
