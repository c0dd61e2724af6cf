package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/striping"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// result is how a command line ended.
type result struct {
	out, errs string
	code      int
}

// call runs a command line in this process.
func call(t *testing.T, ctx context.Context, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, errs: &errs}
	code := a.run(ctx, args)
	return result{out.String(), errs.String(), code}
}

// here returns flags for a state and run directory of the test's own.
func here(t *testing.T) (volumes.Dirs, []string) {
	dir := t.TempDir()
	d := volumes.Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run")}
	return d, []string{"--state-dir", d.State, "--run-dir", d.Run}
}

func TestUsageErrors(t *testing.T) {
	_, dirs := here(t)
	for _, line := range []string{
		"nonsense", "status --nonsense", "create v", "create", "serve", "serve a b", "stop", "usage", "device", "device nonsense", "device ls", "export nonsense",
		"export create v/e", "export create v/e 1G x", "iostat", "iostat v 1 2 3", "iostat v x", "iostat v 0", "iostat v -1", "iostat v NaN", "iostat v 1e9", "iostat v 1 0", "iostat v 1 x",
		"events", "events v --since x", "attach v/e", "attach v /dev/nbd0", "attach v/e nbd0", "attach v/e /dev/nbd01", "attach v/e /dev/nbd-1", "attach v/e /dev/nbd99999999999",
		"attach v/e /dev/nbd0 --connections 0", "attach v/e /dev/nbd0 --connections 17", "detach", "detach /dev/sda", "help nonsense", "help E_NONSENSE", "version x",
		"create v x:1GiB --copies x", "create v x:1GiB --chunk 3x", "create v x:1GiB --chunk 3MiB", "serve v --nbd x", "serve v --cache 1", "export create v 1G", "export create v/e -1",
	} {
		r := call(t, t.Context(), append(strings.Fields(line), dirs...)...)
		require.Equal(t, control.ExitUsage, r.code, "%s: %s%s", line, r.out, r.errs)
		require.Contains(t, r.errs, "code: E_", line)
		require.Empty(t, r.out, line)
	}
}

func TestEveryCommandHasHelpWithExitCodes(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		path := strings.Fields(c.CommandPath())[1:]
		if c.Name() != "completion" && c.Name() != "help" && (c.Parent() == nil || c.Parent().Name() != "completion") {
			r := call(t, t.Context(), append(path, "--help")...)
			require.Zero(t, r.code, path)
			require.Contains(t, r.out, "Exit codes:", path)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
}

func TestEveryRefusalCodeIsExplained(t *testing.T) {
	for code, c := range control.Codes {
		r := call(t, t.Context(), "help", code)
		require.Zero(t, r.code)
		require.Contains(t, r.out, c.Text)
	}
	// And every code that the sources use is in the list.
	files, err := filepath.Glob("../*/*.go")
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		for i, part := range strings.Split(string(text), `Refuse("`) {
			if code, _, ok := strings.Cut(part, `"`); ok && i > 0 {
				require.Contains(t, control.Codes, code, f)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	r := call(t, t.Context(), "version", "--json")
	require.Zero(t, r.code)
	var doc struct{ Schema, Version string }
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, "ballast.version/1", doc.Schema)
	require.Equal(t, control.Version, doc.Version)
	require.Contains(t, call(t, t.Context(), "version").out, "ballast "+control.Version)
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := call(t, t.Context(), "completion", shell)
		require.Zero(t, r.code, r.errs)
		require.Contains(t, r.out, "ballast")
	}
}

func TestNoVolumes(t *testing.T) {
	_, dirs := here(t)
	r := call(t, t.Context(), append(dirs, "list")...)
	require.Zero(t, r.code)
	require.Contains(t, r.out, "no volumes in")
	r = call(t, t.Context(), append(dirs, "status")...)
	require.Equal(t, control.ExitNoVolume, r.code)
	r = call(t, t.Context(), append(dirs, "status", "v")...)
	require.Equal(t, control.ExitNoVolume, r.code)
	require.Contains(t, r.errs, "try:  ballast create v DEVICE...")
	r = call(t, t.Context(), append(dirs, "status", "v", "--json")...)
	require.Equal(t, control.ExitNoVolume, r.code)
	require.Contains(t, r.errs, `"schema":"ballast.errors/1"`)
}

// fakeDaemon answers GET status for a volume whose volume.json is there.
func fakeDaemon(t *testing.T, d volumes.Dirs, s *control.Status) {
	t.Helper()
	c := &volumes.Config{Schema: volumes.SchemaConfig, Name: "v", UUID: volumes.UUID(devices.NewUUID()), ChunkSize: 1 << 20, Copies: 1,
		Devices: []volumes.ConfigDevice{{ID: 1, UUID: volumes.UUID(devices.NewUUID()), Path: "/d", Size: 1 << 30}}}
	require.NoError(t, os.MkdirAll(d.Volume("v"), 0o700))
	require.NoError(t, os.MkdirAll(d.Run, 0o700))
	require.NoError(t, c.Write(d))
	if s == nil {
		return
	}
	l, err := net.Listen("unix", d.Control("v"))
	require.NoError(t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(s)
	})}}
	server.Start()
	t.Cleanup(server.Close)
}

func TestStatusOfAVolume(t *testing.T) {
	d, dirs := here(t)
	s := &control.Status{Schema: control.SchemaStatus, Status: striping.Status{Volume: "v", State: "degraded", Copies: 2,
		Health: []striping.Health{{Code: "DEVICE_MISSING", Severity: "warning", Message: "d1 is away", Action: "attach it"}}}}
	fakeDaemon(t, d, s)
	r := call(t, t.Context(), append(dirs, "status")...) // the only volume need not be named
	require.Zero(t, r.code, r.errs)
	require.Contains(t, r.out, "state: DEGRADED")
	require.Contains(t, r.out, "action:  attach it")
	r = call(t, t.Context(), append(dirs, "status", "--check")...)
	require.Equal(t, control.ExitCheckWarning, r.code)
	require.Contains(t, r.out, "BALLAST WARNING - volume v is degraded")
	r = call(t, t.Context(), append(dirs, "list")...)
	require.Contains(t, r.out, "degraded")
	r = call(t, t.Context(), append(dirs, "iostat", "v", "0.1", "2", "--json")...)
	require.Zero(t, r.code)
	require.Len(t, strings.Split(strings.TrimSpace(r.out), "\n"), 2)
	require.NoError(t, os.MkdirAll(d.Volume("w"), 0o700))
	r = call(t, t.Context(), append(dirs, "status")...)
	require.Equal(t, control.ExitUsage, r.code)
	require.Contains(t, r.errs, "several volumes: v, w")
}

func TestCheckOfADeadDaemonIsUnknown(t *testing.T) {
	d, dirs := here(t)
	fakeDaemon(t, d, nil)
	r := call(t, t.Context(), append(dirs, "status", "--check", "v")...)
	require.Equal(t, control.ExitCheckUnknown, r.code)
	require.Contains(t, r.out, "BALLAST UNKNOWN")
	r = call(t, t.Context(), append(dirs, "list")...)
	require.Contains(t, r.out, "not running")
}

func TestInterruptedIsItsOwnCode(t *testing.T) {
	d, dirs := here(t)
	fakeDaemon(t, d, nil)
	l, err := net.Listen("unix", d.Control("v")) // takes the connection and never answers
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r := call(t, ctx, append(dirs, "status", "v")...)
	require.Equal(t, control.ExitInterrupted, r.code, r.errs)
	require.Contains(t, r.errs, "E_INTERRUPTED")
}
