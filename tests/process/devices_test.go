package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// jobs are those of a volume, as job ls --json has them.
func jobs(t *testing.T, env *harness.Env) (list []struct {
	ID, Kind, State, Reason string
	BytesTotal              int64   `json:"bytes_total"`
	BytesDone               int64   `json:"bytes_done"`
	Blocked                 *string `json:"blocked_reason"`
}) {
	t.Helper()
	var doc struct {
		Schema string
		Jobs   []struct {
			ID, Kind, State, Reason string
			BytesTotal              int64   `json:"bytes_total"`
			BytesDone               int64   `json:"bytes_done"`
			Blocked                 *string `json:"blocked_reason"`
		}
	}
	decode(t, env.Must("job", "ls", "v", "--json"), &doc)
	require.Equal(t, "ballast.jobs/1", doc.Schema)
	for _, j := range doc.Jobs {
		list = append(list, j)
	}
	return list
}

// states are the states of the devices by ID.
func states(t *testing.T, env *harness.Env) map[string]string {
	t.Helper()
	var s struct{ Devices []struct{ ID, State string } }
	decode(t, env.Must("status", "v", "--json"), &s)
	m := map[string]string{}
	for _, d := range s.Devices {
		m[d.ID] = d.State
	}
	return m
}

// await waits for something that a daemon does by itself.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, harness.Patience, 50*time.Millisecond, what)
}

// TestDevicesComeAndGo adds, drains, removes, replaces, takes away and returns disks of a served
// volume, with a kill -9 in a drain, and compares every byte.
func TestDevicesComeAndGo(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disks := volume(t, env, 2)
	d := env.Serve("v")
	data := random(t, 96<<20, 5)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	same := func() {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		requireSame(t, data, out)
		require.NoError(t, os.Remove(out))
	}

	added := filepath.Join(t.TempDir(), "added")
	require.Contains(t, env.Must("device", "add", "v", added+":400MiB"), "device d4")
	turnedDown(t, env, 2, "E_DEVICE_TWICE", "device", "add", "v", added)
	turnedDown(t, env, 1, "E_DEVICE_NOT_EMPTY", "device", "remove", "v", "d1")
	require.Contains(t, env.Must("device", "drain", "v", "d1", "d3", "--dry-run"), "nothing has been begun")
	turnedDown(t, env, 1, "E_DEVICE_NEEDED", "device", "drain", "v", "d1", "d2", "d3")
	turnedDown(t, env, 1, "E_NO_DEVICE", "device", "drain", "v", "d9")

	env.Must("device", "drain", "v", "d1", disks[2])
	d.Kill() // with the drain under way, or just over
	d = d.Again()
	same()
	await(t, "the drain is over", func() bool { s := states(t, env); return s["d1"] == "drained" && s["d3"] == "drained" })
	env.Must("device", "online", "v", "d3")
	require.Equal(t, "online", states(t, env)["d3"])
	env.Must("device", "drain", "v", "d3")
	await(t, "drained again", func() bool { return states(t, env)["d3"] == "drained" })
	env.Must("device", "remove", "v", "d1")
	env.Must("device", "remove", "v", "d3")
	require.Len(t, states(t, env), 2)
	same()
	turnedDown(t, env, 1, "E_DEVICE_NEEDED", "device", "remove", "v", "d2")

	env.Must("device", "offline", "v", "d4")
	require.Equal(t, "missing", states(t, env)["d4"])
	require.Equal(t, 1, env.Command("status", "v", "--check").Code)
	moved := added + ".moved"
	require.NoError(t, os.Rename(added, moved))
	turnedDown(t, env, 1, "E_DEVICE_MISSING", "device", "online", "v", "d4")
	env.Must("device", "online", "v", "d4", "--path", moved)
	await(t, "all is well", func() bool { return env.Command("status", "v", "--check").Code == 0 })

	small, large := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "large")
	turnedDown(t, env, 13, "E_NO_SPACE", "device", "replace", "v", "d2", small+":20MiB")
	require.NoFileExists(t, small)
	env.Must("device", "replace", "v", "d2", large+":300MiB")
	await(t, "replaced", func() bool { return states(t, env)["d2"] == "drained" })
	env.Must("device", "remove", "v", "d2")
	env.Must("scrub", "start", "v")
	await(t, "scrubbed", func() bool { j := jobs(t, env)[0]; return j.Kind == "scrub" && j.State == "done" })
	require.Equal(t, int64(2*96<<20), jobs(t, env)[0].BytesDone)
	turnedDown(t, env, 2, "E_USAGE", "scrub", "start", "v", "--since", "soon")
	turnedDown(t, env, 2, "E_USAGE", "scrub", "start", "v", "--since", "2999-01-01")
	require.Contains(t, env.Must("scrub", "start", "v", "--since", "1d", "--dry-run"), "192")
	env.Must("scrub", "start", "v", "--since", "1d")
	await(t, "scrubbed what was written today", func() bool { j := jobs(t, env)[0]; return j.Kind == "scrub" && j.State == "done" })
	require.Contains(t, jobs(t, env)[0].Reason, "written or moved since")
	require.Equal(t, int64(2*96<<20), jobs(t, env)[0].BytesDone)
	same()
	require.Zero(t, d.Stop())
	turnedDown(t, env, 14, "E_NOT_RUNNING", "device", "drain", "v", "d4")
	require.Contains(t, env.Must("check", "v"), "SOUND")
	d = env.Serve("v")
	same()
	require.Zero(t, d.Stop())
}

// TestWhatIfLost: what the forecast of a loss names is what is lost when the disk is gone.
func TestWhatIfLost(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disks := volume(t, env, 1)
	d := env.Serve("v")
	harness.Tool(t, "nbdcopy", "--flush", random(t, 48<<20, 6), d.URI("e"))
	var m struct {
		Chunks  int64 `json:"lost_chunks"`
		Bytes   int64 `json:"lost_bytes"`
		Objects []struct{ Name string }
	}
	decode(t, env.Must("map", "v", "--if-lost", "d2", "--json"), &m)
	require.NotZero(t, m.Chunks)
	require.Equal(t, "e", m.Objects[0].Name)
	require.Contains(t, env.Must("why", "v/e", "--offset", "0"), "chunk 0 at 0")
	turnedDown(t, env, 1, "E_DEVICE_NEEDED", "device", "offline", "v", "d2")
	require.Zero(t, d.Stop())
	require.NoError(t, os.Remove(disks[1]))
	d = env.Serve("v", "--degraded")
	var s struct {
		Lost int64 `json:"lost_chunks"`
	}
	decode(t, env.Must("status", "v", "--json"), &s)
	require.Equal(t, m.Chunks, s.Lost)
	require.Zero(t, d.Stop())
}

// turnedDown runs a command that must be refused with that exit code and that code, and a way out.
func turnedDown(t *testing.T, env *harness.Env, exit int, code string, args ...string) {
	t.Helper()
	r := env.Command(args...)
	require.Equal(t, exit, r.Code, "%s%s", r.Stdout, r.Stderr)
	require.Contains(t, r.Stderr, "code: "+code, fmt.Sprint(args))
	require.True(t, strings.Contains(r.Stderr, "try:"), r.Stderr)
}

// TestDrainIsTakenBack cancels a drain half way and has what was moved go back to the disk.
func TestDrainIsTakenBack(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	volume(t, env, 2)
	d := env.Serve("v")
	data := random(t, 128<<20, 15)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	turnedDown(t, env, 2, "E_USAGE", "device", "drain", "v", "d1", "--reverse")
	turnedDown(t, env, 1, "E_NO_JOB", "device", "drain", "v", "d1", "--cancel", "--reverse")
	env.Must("device", "drain", "v", "d1", "--pace", "1MiB") // which it is not through with soon
	await(t, "some of it has moved", func() bool { return jobs(t, env)[0].BytesDone > 1<<20 })
	require.Contains(t, env.Must("device", "drain", "v", "d1", "--cancel", "--reverse"), "moves back")
	require.Equal(t, "online", states(t, env)["d1"])
	done := func() bool {
		for _, j := range jobs(t, env) {
			if j.State == "running" {
				return false
			}
		}
		return true
	}
	d.Kill()
	d = d.Again()
	await(t, "it is back", done)
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)
	require.Zero(t, d.Stop())
	require.Contains(t, env.Must("check", "v"), "SOUND")
}

// A disk that is gone is replaced when it held nothing, and when a rebuild waits for space already.
func TestReplaceAMissingDisk(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	goes, small := filepath.Join(t.TempDir(), "goes"), filepath.Join(t.TempDir(), "small")
	env.Must("create", "v", "--copies", "2", filepath.Join(t.TempDir(), "stays")+":200MiB", goes+":200MiB", small+":32MiB")
	env.Must("export", "create", "v/e", "64MiB")
	require.NoError(t, os.Remove(goes))
	d := env.Serve("v")
	require.Contains(t, env.Must("device", "replace", "v", "d2", goes+":300MiB"), "is d4; nothing of d2 has to be copied")
	env.Must("device", "remove", "v", "d2")
	harness.Tool(t, "nbdcopy", "--flush", random(t, 64<<20, 3), d.URI("e"))
	require.Zero(t, d.Stop())

	require.NoError(t, os.Remove(goes))
	d = env.Serve("v")
	env.Must("rebuild", "start", "v")
	require.Contains(t, env.Must("device", "replace", "v", "d4", goes+":300MiB"), "is d5, and is used by the rebuild that there is already")
	require.Eventually(t, func() bool { return strings.Contains(env.Must("status", "v"), "ballast device remove v d4") }, harness.Patience, 50*time.Millisecond)
	env.Must("device", "remove", "v", "d4")
	require.NotContains(t, env.Must("status", "v"), "warning")
	require.Zero(t, d.Stop())
}
