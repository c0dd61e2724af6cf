package process

import (
	"bytes"
	"fmt"
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
	data := random(t, 32<<20, 11)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	refused(t, env.Command("check", "v"), 11, "E_BUSY")
	onD1 := -1 // a chunk that has a copy there
	for chunk := 0; chunk < 32 && onD1 < 0; chunk++ {
		var why struct {
			Chunk struct {
				Copies []struct {
					Device string
					Stale  bool
				}
			}
		}
		decode(t, env.Must("why", "v/e", "--offset", fmt.Sprint(chunk<<20), "--json"), &why)
		for _, c := range why.Chunk.Copies {
			if c.Device == "d1" && !c.Stale {
				onD1 = chunk
			}
		}
	}
	require.GreaterOrEqual(t, onD1, 0)
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

	// One bit of a block, wherever it stands: where the chunk was before it was placed anew nothing uses it.
	written, err := os.ReadFile(data)
	require.NoError(t, err)
	want := written[onD1<<20:][:block]
	f, err := os.OpenFile(disks[0], os.O_RDWR, 0)
	require.NoError(t, err)
	found := 0
	for off := 0; off+block <= len(after); off += block {
		if bytes.Equal(want, after[off:off+block]) {
			_, err = f.WriteAt([]byte{after[off+77] ^ 1}, int64(off+77))
			require.NoError(t, err)
			found++
		}
	}
	require.Positive(t, found)
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
