package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ballast/cmd/control"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

const testUUID = "6f1c2a52-8a34-4d0f-9d6e-0c5b1a7e1f00"

// fakeEngine holds exports in memory.
type fakeEngine struct {
	engine  // what no test asks for
	mu      sync.Mutex
	status  striping.Status
	exports map[string]int64
	busy    bool
	log     []control.Event
	hang    chan struct{} // Status waits for it, when set
}

func (f *fakeEngine) Status() striping.Status {
	f.mu.Lock()
	hang, status := f.hang, f.status
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return status
}

func (f *fakeEngine) Jobs() []striping.JobStatus { return nil }

func (f *fakeEngine) Exports() []striping.ExportInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []striping.ExportInfo
	for name, size := range f.exports {
		list = append(list, striping.ExportInfo{Name: name, SizeBytes: size})
	}
	return list
}

func (f *fakeEngine) Events(since uint64) []control.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var later []control.Event
	for _, e := range f.log {
		if e.Number > since {
			later = append(later, e)
		}
	}
	return later
}

func (f *fakeEngine) add(code string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, control.Event{Number: uint64(len(f.log) + 1), Code: code, Severity: "info"})
}

func (f *fakeEngine) CreateExport(_ context.Context, name string, size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.exports[name]; ok {
		return striping.ErrExists
	}
	f.exports[name] = size
	return nil
}

func (f *fakeEngine) ResizeExport(_ context.Context, name string, size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.exports[name]; !ok {
		return striping.ErrNotExist
	}
	f.exports[name] = size
	return nil
}

func (f *fakeEngine) RemoveExport(_ context.Context, name string, force bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.exports[name]; !ok {
		return striping.ErrNotExist
	}
	if f.busy && !force {
		return striping.ErrBusy
	}
	delete(f.exports, name)
	return nil
}

type served struct {
	*control.Client
	engine  *fakeEngine
	api     *api
	asked   chan struct{} // closed by stop
	stopped chan struct{}
	socket  string
}

// serveFake serves the API over a socket and returns a client.
func serveFake(t *testing.T) *served {
	f := &fakeEngine{exports: map[string]int64{}, status: striping.Status{Volume: "vault", UUID: testUUID, State: "ok", Copies: 1,
		Devices: []striping.DeviceStatus{{Name: "d1", State: "online", Path: "/d\xff1", P99Seconds: 0.5, ReadBytes: 7}}}}
	s := &served{engine: f, asked: make(chan struct{}), stopped: make(chan struct{})}
	var once sync.Once
	a := &api{engine: f, cache: newStatusCache(f.Status()), stopped: s.stopped, ctx: t.Context(),
		self:  func() control.Daemon { return control.Daemon{PID: 1} },
		nbd:   []Address{{"unix", "/run/v-nbd.sock"}, {"tcp", "127.0.0.1:10809"}},
		stop:  func() { once.Do(func() { close(s.asked) }) },
		audit: func(string, ...any) {}}
	s.api = a
	s.socket = filepath.Join(t.TempDir(), "s")
	l, err := Address{"unix", s.socket}.listen()
	require.NoError(t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: a.handler()}}
	server.Start()
	s.Client = control.NewClient("vault", s.socket)
	t.Cleanup(func() {
		s.Client.Close()
		server.Close()
	})
	return s
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var r *control.Refusal
	require.ErrorAs(t, err, &r)
	require.Equal(t, code, r.Code, r.Message)
}

func (s *served) raw(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}}
	r, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	require.NoError(t, err)
	reply, err := c.Do(r)
	require.NoError(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	return reply.StatusCode, string(text)
}

func TestExportLife(t *testing.T) {
	s, ctx := serveFake(t), t.Context()
	require.NoError(t, s.CreateExport(ctx, "a b", 1<<30))
	requireCode(t, s.CreateExport(ctx, "a b", 1<<30), "E_EXPORT_EXISTS")
	e, err := s.Exports(ctx)
	require.NoError(t, err)
	require.Equal(t, int64(1<<30), e.Exports[0].SizeBytes)
	require.Equal(t, []string{"nbd+unix:///a%20b?socket=/run/v-nbd.sock", "nbd://127.0.0.1:10809/a%20b"}, e.URIs["a b"])
	require.NoError(t, s.ResizeExport(ctx, "a b", 2<<30, false, ""))
	requireCode(t, s.ResizeExport(ctx, "a b", 1<<30, false, testUUID), "E_EXPORT_SHRINK")
	requireCode(t, s.ResizeExport(ctx, "a b", 1<<30, true, "another"), "E_USAGE")
	require.Equal(t, int64(2<<30), s.engine.exports["a b"])
	require.NoError(t, s.ResizeExport(ctx, "a b", 1<<30, true, testUUID))
	requireCode(t, s.ResizeExport(ctx, "none", 1<<30, false, ""), "E_NO_EXPORT")
	requireCode(t, s.RemoveExport(ctx, "a b", false, "another"), "E_USAGE")
	s.engine.busy = true
	requireCode(t, s.RemoveExport(ctx, "a b", false, testUUID), "E_EXPORT_BUSY")
	require.NoError(t, s.RemoveExport(ctx, "a b", true, testUUID))
	requireCode(t, s.RemoveExport(ctx, "a b", true, testUUID), "E_NO_EXPORT")
	for _, size := range []int64{0, -1, 511, 513} {
		requireCode(t, s.CreateExport(ctx, "x", size), "E_SIZE")
	}
	for _, name := range []string{"", "a/b", "a\x00", " a", "a\n", strings.Repeat("x", 256)} {
		requireCode(t, s.CreateExport(ctx, name, 512), "E_NAME")
	}
	require.Empty(t, s.engine.exports)
}

func TestBadRequestsAreRefused(t *testing.T) {
	s := serveFake(t)
	for name, body := range map[string]string{
		"empty": "", "not json": "{", "unknown field": `{"name":"a","size_bytes":512,"sizzle":1}`, "array": `[]`,
		"size as text": `{"name":"a","size_bytes":"512"}`, "size 1e30": `{"name":"a","size_bytes":1e30}`, "half": `{"name":"a","size_bytes":512.5}`,
		"deep": strings.Repeat(`{"name":`, 20000), "long": `{"name":"` + strings.Repeat("a", control.MaxRequest) + `"}`,
	} {
		code, text := s.raw(t, "POST", control.PathExports, body)
		require.Equal(t, http.StatusBadRequest, code, name)
		var r control.Refusal
		require.NoError(t, json.Unmarshal([]byte(text), &r), name)
		require.Equal(t, "E_USAGE", r.Code, name)
	}
	require.Empty(t, s.engine.exports)
	code, _ := s.raw(t, "GET", control.PathEvents+"?since=-1", "")
	require.Equal(t, http.StatusBadRequest, code)
	code, _ = s.raw(t, "PUT", control.PathExports, "{}")
	require.Equal(t, http.StatusNotFound, code)
	code, _ = s.raw(t, "GET", "/v1/none", "")
	require.Equal(t, http.StatusNotFound, code)
}

func TestEventsAreFollowed(t *testing.T) {
	s := serveFake(t)
	s.engine.add("ONE")
	s.engine.add("TWO")
	var got []string
	require.NoError(t, s.Events(t.Context(), 1, false, func(e control.Event) error {
		got = append(got, e.Code)
		require.Equal(t, control.SchemaEvent, e.Schema)
		return nil
	}))
	require.Equal(t, []string{"TWO"}, got)

	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- s.Events(ctx, 2, true, func(e control.Event) error { seen <- e.Code; return nil })
	}()
	s.engine.add("THREE")
	require.Equal(t, "THREE", <-seen)
	s.engine.add("FOUR")
	require.Equal(t, "FOUR", <-seen)
	cancel()
	require.NoError(t, <-done)
}

func TestStopReturnsWhenAllHasEnded(t *testing.T) {
	s := serveFake(t)
	done := make(chan error, 1)
	go func() { done <- s.Stop(t.Context()) }()
	<-s.asked
	select {
	case <-done:
		t.Fatal("stop returned before the volume was closed")
	default:
	}
	close(s.stopped)
	require.NoError(t, <-done)
}

func TestNoChangeBeginsOnceTheDaemonEnds(t *testing.T) {
	s := serveFake(t)
	require.NoError(t, s.CreateExport(t.Context(), "a", 512))
	s.api.changes.close()
	requireCode(t, s.CreateExport(t.Context(), "b", 512), "E_NOT_RUNNING")
	_, err := s.Status(t.Context())
	require.NoError(t, err)
}

func TestMetricsDoNotWaitForTheVolume(t *testing.T) {
	s := serveFake(t)
	hang := make(chan struct{})
	defer close(hang)
	s.engine.mu.Lock()
	s.engine.hang = hang
	s.engine.mu.Unlock()
	for path, want := range map[string]string{
		"/metrics": `ballast_device_io_latency_seconds{device="d1",quantile="0.99"} 0.5`,
		"/healthz": "ok", "/readyz": "ready: volume vault is ok",
	} {
		code, text := s.raw(t, "GET", path, "")
		require.Equal(t, 200, code, path)
		require.Contains(t, text, want)
	}
	_, text := s.raw(t, "GET", "/metrics", "")
	for _, want := range []string{`ballast_volume_state{state="ok"} 1`, `ballast_volume_state{state="degraded"} 0`, `ballast_device_read_bytes_total{device="d1"} 7`,
		`ballast_device_info{device="d1",domain="",path="/d?1"} 1`, "ballast_build_info{", "go_goroutines"} {
		require.Contains(t, text, want)
	}
}

func TestReadySaysWhenTheJournalHasFailed(t *testing.T) {
	c := newStatusCache(striping.Status{Journal: striping.JournalStatus{Failed: true}})
	w := httptest.NewRecorder()
	(&api{cache: c}).ready(w, nil)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
}

func TestPprofIsOnlyOnTheControlSocket(t *testing.T) {
	s := serveFake(t)
	code, _ := s.raw(t, "GET", "/debug/pprof/", "")
	require.Equal(t, 200, code)
	a := &api{cache: newStatusCache(striping.Status{})}
	for _, path := range []string{"/debug/pprof/", control.PathStatus, control.PathStop} {
		w := httptest.NewRecorder()
		a.public().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		require.Equal(t, http.StatusNotFound, w.Code, path)
	}
}

func TestNobodyListens(t *testing.T) {
	c := control.NewClient("vault", filepath.Join(t.TempDir(), "none"))
	_, err := c.Status(t.Context())
	requireCode(t, err, "E_NOT_RUNNING")
	require.Equal(t, control.ExitNotRunning, control.ExitCode(err))
}

func TestCacheIsRenewed(t *testing.T) {
	c := newStatusCache(striping.Status{State: "ok"})
	ctx, cancel := context.WithCancel(t.Context())
	took := make(chan struct{})
	done := make(chan struct{})
	go func() {
		c.run(ctx, func() striping.Status {
			select {
			case took <- struct{}{}:
			case <-ctx.Done(): // a third one, of a test that is slow
			}
			return striping.Status{State: "degraded"}
		})
		close(done)
	}()
	<-took
	<-took // the first one has been put by now
	s, age := c.get()
	require.Equal(t, "degraded", s.State)
	require.Less(t, age, time.Minute)
	cancel()
	<-done
}

func TestRatesAreThoseOfTheLastInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := striping.Status{Devices: []striping.DeviceStatus{{Name: "d1", ReadBytes: 100}}}
		c := newStatusCache(s)
		time.Sleep(2 * time.Second)
		s.Devices = []striping.DeviceStatus{{Name: "d1", ReadBytes: 300, WriteBytes: 50}, {Name: "d2", ReadBytes: 7}}
		c.put(s)
		got, _ := c.get()
		require.Equal(t, 100.0, got.Devices[0].ReadRate)
		require.Equal(t, 25.0, got.Devices[0].WriteRate)
		require.Zero(t, got.Devices[1].ReadRate)
		require.Zero(t, s.Devices[0].ReadRate, "the engine's own slice was changed")
	})
}

func TestAddresses(t *testing.T) {
	for s, want := range map[string]string{
		"unix:/run/x.sock": "nbd+unix:///e?socket=/run/x.sock", "unix:rel/a b": "nbd+unix:///e?socket=rel/a+b",
		"tcp:127.0.0.1:10809": "nbd://127.0.0.1:10809/e", "tcp:localhost:1": "nbd://localhost:1/e", "tcp:[::1]:7": "nbd://[::1]:7/e", "tcp:127.9.9.9:0": "nbd://127.9.9.9:0/e",
	} {
		a, err := ParseAddress(s)
		require.NoError(t, err, s)
		require.Equal(t, want, a.URI("e"))
	}
	for _, s := range []string{"", "unix", "unix:", "tcp:", "tcp:1", "tcp:1.2.3.4:5", "tcp:0.0.0.0:5", "tcp::5", "tcp:[::]:5", "tcp:example.org:5", "tcp:127.0.0.1:", "tcp:127.0.0.1:99999",
		"tcp:127.0.0.1:x", "udp:127.0.0.1:5", "/run/x.sock", "unix:@abstract", "unix:a\x00b", "unix:/" + strings.Repeat("x", 107), "tcp:127.0.0.1.evil.org:5"} {
		_, err := ParseAddress(s)
		requireCode(t, err, "E_ADDRESS")
	}
}

func TestListenRefusesWhatIsInUse(t *testing.T) {
	dir := t.TempDir()
	a := Address{"unix", filepath.Join(dir, "s")}
	l, err := a.listen()
	require.NoError(t, err)
	_, err = a.listen()
	requireCode(t, err, "E_BUSY")
	require.NoError(t, l.Close())
	file := Address{"unix", filepath.Join(dir, "file")}
	require.NoError(t, os.WriteFile(file.Addr, []byte("kept"), 0o600))
	_, err = file.listen()
	requireCode(t, err, "E_ADDRESS")
	kept, err := os.ReadFile(file.Addr)
	require.NoError(t, err)
	require.Equal(t, "kept", string(kept))
	long := Address{"unix", filepath.Join(dir, strings.Repeat("x", 108))}
	_, err = long.listen()
	requireCode(t, err, "E_ADDRESS")
	tcp, err := Address{"tcp", "127.0.0.1:0"}.listen()
	require.NoError(t, err)
	_, err = Address{"tcp", tcp.Addr().String()}.listen()
	requireCode(t, err, "E_BUSY")
	require.NoError(t, tcp.Close())
}

func TestExportErrors(t *testing.T) {
	plain := errors.New("plain")
	require.Equal(t, plain, exportError("x", plain))
	requireCode(t, exportError("x", striping.ErrNoSpace), "E_NO_SPACE")
}
