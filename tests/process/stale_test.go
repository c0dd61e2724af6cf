package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"
)

// An older image of a device is put back, as from a backup of the disk: at the next start and at an
// import it is named and not believed. With copies elsewhere the volume is served without it, and the
// disk is taken in again as an empty one; without, it is not served. Nobody reads what was true once.
func TestOlderImageOfADisk(t *testing.T) {
	harness.Need(t, "nbdcopy")
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			env := harness.New(t)
			disks := volume(t, env, copies)
			older, data := overwritten(t, env, disks[1], 32<<20)
			newest, out := disks[1]+".newest", filepath.Join(t.TempDir(), "out")
			copySparse(t, disks[1], newest)
			copySparse(t, older, disks[1])
			image := contents(t, disks[1])

			// It may be in nobody's way when the volume is imported by its other disks.
			require.NoError(t, os.Rename(env.State, env.State+".kept"))
			r := env.Command("import", disks[0], disks[1], disks[2])
			refused(t, r, 1, "E_DEVICE_STALE")
			require.Contains(t, r.Stderr, disks[1]+" is an older image of device d2")
			require.Contains(t, r.Stderr, "try: ")
			entries, err := os.ReadDir(env.State)
			require.NoError(t, err)
			require.Empty(t, entries, "a refused import leaves nothing behind")
			require.NoError(t, os.Remove(env.State))
			require.NoError(t, os.Rename(env.State+".kept", env.State))

			if copies == 1 {
				_, err := env.TryServe("v")
				require.ErrorContains(t, err, "E_DEVICE_STALE")
				require.ErrorContains(t, err, "try: ")
				d := env.Serve("v", "--degraded")
				_, err = harness.Try(t, "nbdcopy", d.URI("e"), out)
				require.Error(t, err, "what was on it alone cannot be read")
				require.Zero(t, d.Stop())
				require.Equal(t, image, contents(t, disks[1]), "nothing is written to it")
				copySparse(t, newest, disks[1])
				d = env.Serve("v")
				harness.Tool(t, "nbdcopy", d.URI("e"), out)
				requireSame(t, data, out)
				require.Zero(t, d.Stop())

				copySparse(t, older, disks[1]) // and nothing else is left of it
				d = env.Serve("v", "--accept-stale")
				has, lost := readsOf(t, d.NBD, data)
				require.Positive(t, has)
				require.Positive(t, lost)
				require.Zero(t, d.Stop())
				d = env.Serve("v") // the disk has the label of now
				require.Zero(t, d.Stop())
				return
			}
			d := env.Serve("v")
			harness.Tool(t, "nbdcopy", d.URI("e"), out)
			requireSame(t, data, out)
			require.Contains(t, env.Must("status", "v"), "older image")
			require.Contains(t, env.Must("status", "v"), "ballast device online v d2 --resync")
			refused(t, env.Command("device", "online", "v", "d2"), 1, "E_DEVICE_STALE")
			require.Equal(t, image, contents(t, disks[1]), "nothing is written to it")
			env.Must("rebuild", "start", "v")
			await(t, "its copies are written anew", func() bool {
				var s struct {
					Degraded int64 `json:"degraded_chunks"`
				}
				decode(t, env.Must("status", "v", "--json"), &s)
				return s.Degraded == 0
			})
			harness.Tool(t, "nbdcopy", d.URI("e"), out)
			requireSame(t, data, out)
			env.Must("device", "remove", "v", "d2")
			env.Must("device", "add", "v", disks[1], "--force") // all of it counts as empty now
			require.Zero(t, d.Stop())
			d = env.Serve("v")
			require.Regexp(t, `d4 .*online`, env.Must("device", "ls", "v"))
			harness.Tool(t, "nbdcopy", d.URI("e"), out)
			requireSame(t, data, out)
			require.Zero(t, d.Stop())
		})
	}
}

// An older image of a device is taken back in place: all of it is compared, and what is not true any more
// is written anew. check names it before, and reads every block of every copy after; a kill on the way
// changes nothing. Meanwhile clients read what is true.
func TestOlderImageIsTakenBack(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disks := volume(t, env, 2)
	older, data := overwritten(t, env, disks[1], 48<<20)
	out := filepath.Join(t.TempDir(), "out")
	copySparse(t, older, disks[1])

	r := env.Command("check", "v")
	require.Equal(t, 3, r.Code, r.Stdout+r.Stderr)
	require.Contains(t, r.Stdout, "E_DEVICE_STALE: "+disks[1]+" is an older image of device d2")

	var d *harness.Daemon
	same := func() {
		t.Helper()
		_ = os.Remove(out)
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		got, err := os.ReadFile(out)
		require.NoError(t, err)
		want, err := os.ReadFile(data)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got[:len(want)]))
		var st struct {
			Healed int64 `json:"healed_blocks"`
		}
		decode(t, env.Must("status", "v", "--json"), &st)
		require.Zero(t, st.Healed, "what was true once was read, and found to be wrong by its sum alone")
	}
	d = env.Serve("v")
	refused(t, env.Command("device", "online", "v", "d1", "--resync"), 2, "E_USAGE")
	refused(t, env.Command("device", "online", "v", "d2"), 1, "E_DEVICE_STALE")
	env.Must("device", "online", "v", "d2", "--resync")
	same()
	d.Kill()
	d = env.Serve("v")
	same()
	if strings.Contains(env.Must("status", "v"), "older image") { // it was killed before the disk had the label of now
		env.Must("device", "online", "v", "d2", "--resync")
	}
	await(t, "its copies are true", func() bool {
		var s struct {
			Degraded int64 `json:"degraded_chunks"`
		}
		decode(t, env.Must("status", "v", "--json"), &s)
		return s.Degraded == 0 && strings.Contains(env.Must("device", "ls", "v"), "online") && !strings.Contains(env.Must("device", "ls", "v"), "rebuilding")
	})
	same()
	require.Zero(t, d.Stop())
	require.Contains(t, env.Must("check", "v"), "SOUND")
	d = env.Serve("v")
	require.NotContains(t, env.Must("status", "v"), "older image")
	same()
	require.Zero(t, d.Stop())
}

// overwritten fills the first size bytes of export e, keeps what the disk is then as older, and overwrites
// the first 32 MiB with data.
func overwritten(t *testing.T, env *harness.Env, disk string, size int64) (older, data string) {
	t.Helper()
	older, data = disk+".older", random(t, 32<<20, 2)
	for _, file := range []string{random(t, size, 1), data} {
		d := env.Serve("v")
		harness.Tool(t, "nbdcopy", "--flush", file, d.URI("e"))
		require.Zero(t, d.Stop())
		if file != data {
			copySparse(t, disk, older)
		}
	}
	return older, data
}

// readsOf counts the blocks of export e that are read as they are in the file data, and those that are
// not read at all. There must be no others.
func readsOf(t *testing.T, socket, data string) (has, lost int) {
	t.Helper()
	want, err := os.ReadFile(data)
	require.NoError(t, err)
	c, err := nbdclient.Dial("unix", socket, "e")
	require.NoError(t, err)
	defer c.Close()
	p := make([]byte, 64<<10)
	for off := 0; off < len(want); off += len(p) {
		if err := c.Read(p, int64(off)); err != nil {
			require.Equal(t, wire.EIO, nbdclient.ErrnoOf(err))
			lost++
			continue
		}
		require.True(t, bytes.Equal(want[off:off+len(p)], p), "at %d", off)
		has++
	}
	return has, lost
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	harness.Tool(t, "cp", "--sparse=always", from, to)
}

// contents returns a file's checksum.
func contents(t *testing.T, path string) string {
	t.Helper()
	sum, _, _ := strings.Cut(harness.Tool(t, "sha256sum", path), " ")
	return sum
}

// TestJournalSync: with one copy of data too, what a flush covered is in two copies of the journal.
func TestJournalSync(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 1)
	d := env.Serve("v", "--journal-sync")
	block := make([]byte, 64<<10)
	for i := range 5 {
		c, err := nbdclient.Dial("unix", d.NBD, "e")
		require.NoError(t, err)
		require.NoError(t, c.Write(block, int64(i)<<20, 0))
		require.NoError(t, c.Flush())
		var s struct {
			Journal struct{ Seq uint64 }
		}
		decode(t, env.Must("status", "v", "--json"), &s)
		require.NotZero(t, s.Journal.Seq)
		d.Kill()
		have := 0
		for _, disk := range disks {
			var x struct {
				Copy struct{ Sequence uint64 } `json:"journal_copy"`
			}
			decode(t, env.Must("inspect", disk, "--json"), &x)
			if x.Copy.Sequence >= s.Journal.Seq {
				have++
			}
		}
		require.GreaterOrEqual(t, have, 2, "flush %d", i)
		d = d.Again()
	}
	require.Zero(t, d.Stop())
}
