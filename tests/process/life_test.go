package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ballast/nbd/wire"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// volume makes a volume v of three files with an export e of 256 MiB.
func volume(t *testing.T, env *harness.Env, copies int) (disks []string) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"create", "v", "--copies", fmt.Sprint(copies)}
	for i, size := range []string{"200MiB", "300MiB", "500MiB"} {
		disks = append(disks, filepath.Join(dir, fmt.Sprintf("disk%d", i)))
		args = append(args, disks[i]+":"+size)
	}
	env.Must(args...)
	env.Must("export", "create", "v/e", "256MiB")
	return disks
}

// random is a file of random bytes.
func random(t *testing.T, size int64, seed uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	var key [32]byte
	key[0] = byte(seed)
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.CopyN(f, rand.NewChaCha8(key), size)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return path
}

func requireSame(t *testing.T, want, got string) {
	t.Helper()
	a, err := os.ReadFile(want)
	require.NoError(t, err)
	b, err := os.ReadFile(got)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(b), len(a))
	require.True(t, bytes.Equal(a, b[:len(a)]), "%s and %s differ", want, got)
}

func TestFlushedDataSurvivesKill(t *testing.T) {
	harness.Need(t, "nbdcopy")
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			env := harness.New(t)
			volume(t, env, copies)
			d := env.Serve("v")
			data := random(t, 64<<20, 1)
			harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
			d.Kill()
			d = d.Again()
			out := filepath.Join(t.TempDir(), "out")
			harness.Tool(t, "nbdcopy", d.URI("e"), out)
			requireSame(t, data, out)
			require.Zero(t, d.Stop())
		})
	}
}

func TestStopLosesNothing(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	volume(t, env, 1)
	d := env.Serve("v")
	data := random(t, 32<<20, 2)
	harness.Tool(t, "nbdcopy", data, d.URI("e")) // no flush
	require.Contains(t, env.Must("stop", "v"), "no longer served")
	require.Zero(t, d.Wait())
	require.NoFileExists(t, d.Control)
	require.NoFileExists(t, d.NBD)
	d = d.Again()
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)
	d.Signal(syscall.SIGINT)
	require.Zero(t, d.Wait())
}

// What serve was told of jobs is in force.
func TestServeSaysHowJobsRun(t *testing.T) {
	env := harness.New(t)
	volume(t, env, 2)
	type rules struct {
		Rebalances bool    `json:"rebalances_by_itself"`
		Floor      float64 `json:"background_floor"`
	}
	for _, c := range []struct {
		args []string
		want rules
	}{{nil, rules{true, 0.02}}, {[]string{"--no-rebalance", "--background-floor", "5"}, rules{false, 0.05}}} {
		d := env.Serve("v", c.args...)
		var got rules
		decode(t, env.Must("status", "v", "--json"), &got)
		require.Equal(t, c.want, got)
		require.Zero(t, d.Stop())
	}
}

func TestTheCommandsOfAServedVolume(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	disks := volume(t, env, 2)
	d := env.Serve("v", "--nbd", "tcp:127.0.0.1:0", "--nbd", "unix:"+filepath.Join(env.Run, "v-nbd.sock"), "--http", "127.0.0.1:0")
	harness.Tool(t, "nbdcopy", "--flush", random(t, 16<<20, 3), d.URI("e"))

	var status struct {
		Schema, Volume, State string
		Copies                int
		Used                  int64 `json:"used_bytes"`
		Devices               []struct{ ID, Path, State string }
		Jobs                  []any
		Daemon                struct{ NBD []string }
	}
	decode(t, env.Must("status", "--json"), &status)
	require.Equal(t, "ballast.status/1", status.Schema)
	require.Equal(t, "ok", status.State)
	require.GreaterOrEqual(t, status.Used, int64(16<<20))
	require.Len(t, status.Devices, 3)
	require.Equal(t, disks[0], status.Devices[0].Path)
	require.NotNil(t, status.Jobs)
	require.Len(t, status.Daemon.NBD, 2)
	require.Regexp(t, `^tcp:127\.0\.0\.1:[1-9]`, status.Daemon.NBD[0])

	require.Contains(t, env.Must("status", "v"), "state: OK")
	require.Contains(t, env.Must("status", "--check", "v"), "BALLAST OK")
	require.Contains(t, env.Must("usage", "v"), "volume v holds")
	require.Contains(t, env.Must("list"), "ok")
	require.Contains(t, env.Must("device", "ls", "v"), disks[2])
	require.Contains(t, env.Must("iostat", "-q", "-l", "v", "0.1", "2"), "SLOWDOWN")
	lines := strings.Split(strings.TrimSpace(env.Must("iostat", "--json", "v", "0.1", "3")), "\n")
	require.Len(t, lines, 3)
	env.Must("events", "v")
	require.Contains(t, env.Must("export", "ls", "v"), "nbd+unix:///e?socket=")

	// Exports come, grow and go while serving.
	env.Must("export", "create", "v/other one", "1GiB")
	require.Contains(t, harness.Tool(t, "nbdinfo", "--list", d.URI("")), "other one")
	env.Must("export", "resize", "v/other one", "2GiB")
	require.Equal(t, "2147483648", strings.TrimSpace(harness.Tool(t, "nbdinfo", "--size", d.URI("other%20one"))))
	require.Equal(t, 1, env.Command("export", "resize", "v/other one", "1GiB").Code)
	env.Must("export", "resize", "--force", "v/other one", "1GiB")
	env.Must("export", "rm", "v/other one")
	refused(t, env.Command("export", "rm", "v/e"), 1, "E_EXPORT_DATA")
	env.Must("export", "rm", "--yes", "v/e")
	refused(t, env.Command("export", "rm", "v/e"), 10, "E_NO_EXPORT")
	require.Zero(t, d.Stop())
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), v), text)
}

// refused requires an exit code, a code, and that the way out is told.
func refused(t *testing.T, r harness.Result, exit int, code string) {
	t.Helper()
	require.Equal(t, exit, r.Code, r.Stdout+r.Stderr)
	require.Contains(t, r.Stderr, "code: "+code)
	require.Empty(t, r.Stdout)
}

func TestMetricsAndHealthOverHTTP(t *testing.T) {
	env := harness.New(t)
	volume(t, env, 1)
	d := env.Serve("v", "--http", "127.0.0.1:0")
	var status struct{ Daemon struct{ HTTP string } }
	decode(t, env.Must("status", "--json"), &status)
	for path, want := range map[string]string{"/metrics": `ballast_volume_state{state="ok"} 1`, "/healthz": "ok", "/readyz": "ready"} {
		reply, err := http.Get("http://" + status.Daemon.HTTP + path)
		require.NoError(t, err)
		text, err := io.ReadAll(reply.Body)
		require.NoError(t, err)
		require.NoError(t, reply.Body.Close())
		require.Equal(t, 200, reply.StatusCode)
		require.Contains(t, string(text), want)
	}
	reply, err := http.Get("http://" + status.Daemon.HTTP + "/v1/status")
	require.NoError(t, err)
	require.NoError(t, reply.Body.Close())
	require.Equal(t, 404, reply.StatusCode)
	http.DefaultClient.CloseIdleConnections()
	require.Zero(t, d.Stop())
}

func TestRefusals(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 1)
	refused(t, env.Command("status", "none"), 10, "E_NO_VOLUME")
	refused(t, env.Command("status", "v"), 14, "E_NOT_RUNNING")
	refused(t, env.Command("stop", "v"), 14, "E_NOT_RUNNING")
	refused(t, env.Command("serve", "none"), 10, "E_NO_VOLUME")
	refused(t, env.Command("create", "w", disks[0]), 1, "E_DEVICE_MEMBER")
	refused(t, env.Command("serve", "v", "--nbd", "tcp:0.0.0.0:10809"), 2, "E_ADDRESS")
	refused(t, env.Command("serve", "v", "--nbd", "unix:/"+strings.Repeat("x", 200)), 2, "E_ADDRESS")
	refused(t, env.Command("serve", "v", "--dirty-limit", "1e9"), 2, "E_SIZE")
	refused(t, env.Command("serve", "v", "--background-floor", "0"), 2, "E_USAGE")
	refused(t, env.Command("serve", "v", "--background-floor", "100"), 2, "E_USAGE")
	refused(t, env.Command("serve", "v", "--stdio", "none"), 10, "E_NO_EXPORT")
	refused(t, env.Command("nonsense"), 2, "E_USAGE")
	refused(t, env.Command("status", "--nonsense"), 2, "E_USAGE")
	refused(t, env.Command("status", "a", "b"), 2, "E_USAGE")
	refused(t, env.Command("create", "w"), 2, "E_USAGE")
	check := env.Command("status", "--check", "v")
	require.Equal(t, 3, check.Code)
	require.Contains(t, check.Stdout, "BALLAST UNKNOWN")

	d := env.Serve("v")
	refused(t, env.Command("serve", "v"), 11, "E_BUSY")
	refused(t, env.Command("create", "w", disks[0], "--force"), 11, "E_DEVICE_BUSY")
	refused(t, env.Command("export", "create", "v/e", "1GiB"), 1, "E_EXPORT_EXISTS")
	refused(t, env.Command("export", "create", "v/f", "1GiB "), 2, "E_SIZE")
	refused(t, env.Command("attach", "v/e", "/dev/sda"), 2, "E_USAGE")
	if _, err := os.Stat("/sys/module/nbd"); err != nil {
		refused(t, env.Command("attach", "v/e", "/dev/nbd0"), 1, "E_KERNEL")
		refused(t, env.Command("detach", "/dev/nbd0"), 1, "E_KERNEL")
	}
	// Errors are a document too.
	r := env.Command("export", "create", "v/e", "1GiB", "--json")
	var doc struct {
		Schema string
		Exit   int
		Errors []struct {
			Code string
			Try  []string
		}
	}
	decode(t, r.Stderr, &doc)
	require.Equal(t, "ballast.errors/1", doc.Schema)
	require.Equal(t, "E_EXPORT_EXISTS", doc.Errors[0].Code)
	require.NotEmpty(t, doc.Errors[0].Try)
	require.Zero(t, d.Stop())
}

func TestAMissingDisk(t *testing.T) {
	harness.Need(t, "nbdcopy")
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			env := harness.New(t)
			disks := volume(t, env, copies)
			d := env.Serve("v")
			data := random(t, 32<<20, 4)
			harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
			require.Zero(t, d.Stop())
			moved := disks[1] + ".away"
			require.NoError(t, os.Rename(disks[1], moved))
			out := filepath.Join(t.TempDir(), "out")
			if copies == 1 {
				_, err := env.TryServe("v")
				require.ErrorContains(t, err, "E_DEVICE_MISSING")
				require.NoFileExists(t, filepath.Join(env.Run, "v.sock"))
				d = env.Serve("v", "--degraded")
				_, err = harness.Try(t, "nbdcopy", d.URI("e"), out)
				require.Error(t, err)
			} else {
				d = env.Serve("v")
				harness.Tool(t, "nbdcopy", d.URI("e"), out)
				requireSame(t, data, out)
				require.Contains(t, env.Must("status", "v"), "missing")
				require.Equal(t, 1, env.Command("status", "--check", "v").Code)
				harness.Tool(t, "nbdcopy", "--flush", random(t, 8<<20, 5), d.URI("e"))
			}
			require.Zero(t, d.Stop())
			// It is found again where it was moved to, and remembered.
			d = env.Serve("v", "--device", moved)
			require.Contains(t, env.Must("device", "ls", "v"), moved)
			harness.Tool(t, "nbdcopy", d.URI("e"), out)
			if copies == 2 {
				requireSame(t, random(t, 8<<20, 5), out)
			} else {
				requireSame(t, data, out)
			}
			require.Zero(t, d.Stop())
			d = env.Serve("v")
			require.Zero(t, d.Stop())
		})
	}
}

func TestTheRaceDetectorSeesNothing(t *testing.T) {
	harness.Need(t, "fio", "nbdcopy")
	env := harness.New(t)
	env.Bin = harness.RaceBinary(t)
	volume(t, env, 2)
	d := env.Serve("v")
	harness.Tool(t, "fio", "--name=r", "--ioengine=nbd", "--uri="+d.URI("e"), "--rw=randrw", "--bs=4k-256k", "--iodepth=16", "--size=64M", "--io_size=96M",
		"--numjobs=2", "--fsync=32")
	env.Must("export", "create", "v/x", "64MiB")
	env.Must("status", "v")
	_, _, err := d.Get("/metrics")
	require.NoError(t, err)
	harness.Tool(t, "nbdcopy", "--flush", random(t, 16<<20, 6), d.URI("x"))
	env.Must("export", "rm", "--yes", "v/x")
	require.Zero(t, d.Stop())
}

func TestRemovingAnExportThatIsOpen(t *testing.T) {
	env := harness.New(t)
	volume(t, env, 1)
	d := env.Serve("v")
	c, e, err := dial(d.NBD, "e")
	require.NoError(t, err)
	defer c.conn.Close()
	require.EqualValues(t, 256<<20, e.Size)
	data := make([]byte, block)
	read := func() error {
		require.NoError(t, c.send(wire.CmdRead, 0, 0, block, nil))
		return c.reply(data)
	}
	require.NoError(t, read())
	refused(t, env.Command("export", "rm", "v/e"), 11, "E_EXPORT_BUSY")
	require.NoError(t, read())
	env.Must("export", "rm", "--force", "v/e")
	require.Error(t, read())
	require.NotContains(t, env.Must("export", "ls", "v", "--json"), `"e"`)
	require.Zero(t, d.Stop())
}

func TestInspect(t *testing.T) {
	env := harness.New(t)
	disks := volume(t, env, 2)
	var x struct {
		Schema string
		Label  struct {
			Volume, Device string
			Members        []any
		}
		Copies []struct{ Fault string } `json:"label_copies"`
	}
	decode(t, env.Must("inspect", disks[1], "--json"), &x)
	require.Equal(t, "ballast.inspect/1", x.Schema)
	require.Equal(t, "v", x.Label.Volume)
	require.Equal(t, "d2", x.Label.Device)
	require.Len(t, x.Label.Members, 3)
	require.Len(t, x.Copies, 4)
	// The start of the disk is overwritten: the copies at the end say so and save it.
	f, err := os.OpenFile(disks[1], os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Contains(t, env.Must("inspect", disks[1]), "device d2")
	d := env.Serve("v")
	require.Contains(t, env.Must("status", "v"), "state: OK")
	require.Zero(t, d.Stop())
	refused(t, env.Command("inspect", "/dev/null"), 1, "E_DEVICE_KIND")
	refused(t, env.Command("inspect", filepath.Join(t.TempDir(), "none")), 1, "E_DEVICE_NOT_FOUND")
}

// TestADomainMayFailAsAWhole: of a mirror over two enclosures of two disks each, either enclosure
// holds everything.
func TestADomainMayFailAsAWhole(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	dir := t.TempDir()
	var disks, args []string
	for i, size := range []string{"200MiB", "300MiB", "500MiB", "400MiB"} {
		disks = append(disks, filepath.Join(dir, fmt.Sprintf("disk%d", i)))
		args = append(args, disks[i]+":"+size)
	}
	args = append(args, "--copies", "2", "--domain", "left="+disks[0]+","+disks[1])
	require.Equal(t, 2, env.Command(append(append([]string{"create", "v"}, args...), "--domain", "left="+disks[2]+","+disks[3])...).Code)
	env.Must(append(append([]string{"create", "v"}, args...), "--domain", "right="+disks[2]+","+disks[3])...)
	env.Must("export", "create", "v/e", "128MiB")
	data := random(t, 64<<20, 4)
	d := env.Serve("v")
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	require.Regexp(t, `d1 +left +online`, env.Must("device", "ls", "v"))
	require.Regexp(t, `d4 +right `, env.Must("usage", "v"))
	require.Zero(t, d.Stop())
	for _, gone := range [][]string{disks[:2], disks[2:]} {
		for _, path := range gone {
			require.NoError(t, os.Rename(path, path+".away"))
		}
		d = d.Again()
		out := filepath.Join(t.TempDir(), "out")
		harness.Tool(t, "nbdcopy", d.URI("e"), out)
		requireSame(t, data, out)
		require.Zero(t, d.Stop())
		for _, path := range gone {
			require.NoError(t, os.Rename(path+".away", path))
		}
	}
}

// TestThreads: the daemon has more threads than there are few processors, unless its environment says how many.
func TestThreads(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	for set, want := range map[string]int{"": max(processors, min(2*processors, 8)), "3": 3} {
		t.Setenv("GOMAXPROCS", set)
		env := harness.New(t)
		volume(t, env, 1)
		_, metrics, err := env.Serve("v").Get("/metrics")
		require.NoError(t, err)
		require.Contains(t, metrics, fmt.Sprintf("go_sched_gomaxprocs_threads %d\n", want))
	}
}
