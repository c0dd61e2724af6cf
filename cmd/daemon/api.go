package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/fusefs/names"
	"ballast/journal"
	"ballast/nbd"
	"ballast/striping"
)

// api answers the control socket.
type api struct {
	engine  engine
	cache   *statusCache
	self    func() control.Daemon // this process, as status shows it
	nbd     []Address
	clients func() nbd.Stats // nil: none
	mounter *mounter         // nil: none
	paths   *pathFinder      // nil: none
	tree    *names.Tree      // nil: none
	ctx     context.Context  // ends when the daemon begins to end
	changes gate
	stop    func()
	stopped <-chan struct{} // closed when everything has ended
	audit   func(what string, args ...any)
}

// eventInterval is how often followers of the event log are told.
const eventInterval = 250 * time.Millisecond

// handler serves the whole API; public only serves what --http does.
func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+control.PathStatus, a.status)
	mux.HandleFunc("GET "+control.PathExports, a.exports)
	mux.HandleFunc("POST "+control.PathExports, a.createExport)
	mux.HandleFunc("PATCH "+control.PathExports, a.resizeExport)
	mux.HandleFunc("DELETE "+control.PathExports, a.removeExport)
	mux.HandleFunc("POST "+control.PathMounts, a.mount)
	mux.HandleFunc("GET "+control.PathEvents, a.events)
	mux.HandleFunc("POST "+control.PathDevices, a.changeDevices)
	mux.HandleFunc("GET "+control.PathJobs, a.jobs)
	mux.HandleFunc("POST "+control.PathJobs, a.changeJobs)
	mux.HandleFunc("GET "+control.PathMap, a.ifLost)
	mux.HandleFunc("GET "+control.PathWhy, a.why)
	mux.HandleFunc("POST "+control.PathStop, a.askStop)
	mux.HandleFunc("GET "+control.PathStop, a.waitStop)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/", a.public())
	return mux
}

func (a *api) public() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(a.cache, a.clients, a.mounter.mounts))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.ready)
	return mux
}

// ready is for load balancers and monitoring: the volume is open and takes writes.
func (a *api) ready(w http.ResponseWriter, _ *http.Request) {
	s, _ := a.cache.get()
	if s.Journal.Failed {
		http.Error(w, "not ready: the journal has failed", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "ready: volume %s is %s\n", s.Volume, s.State)
}

func (a *api) status(w http.ResponseWriter, r *http.Request) {
	s := control.Status{Schema: control.SchemaStatus, Status: a.engine.Status(), Daemon: a.self(), Jobs: []control.Job{}}
	for _, j := range a.engine.Jobs() {
		if j.Ended == nil {
			s.Jobs = append(s.Jobs, j)
		}
	}
	a.cache.held.Load().fill(&s.Status)
	normalize(&s.Status)
	a.paths.fillBad(r.Context(), s.Bad)
	answer(w, &s)
}

// normalize makes empty lists [] in JSON.
func normalize(s *striping.Status) {
	s.Devices = append([]striping.DeviceStatus{}, s.Devices...)
	s.Exports = append([]striping.ExportInfo{}, s.Exports...)
	s.Health = append([]striping.Health{}, s.Health...)
	s.Bad = append([]striping.BadRange{}, s.Bad...)
}

func (a *api) exports(w http.ResponseWriter, _ *http.Request) {
	e := control.Exports{Schema: control.SchemaExports, Volume: a.engine.Status().Volume, URIs: map[string][]string{}}
	e.Exports = append([]striping.ExportInfo{}, a.engine.Exports()...)
	for _, x := range e.Exports {
		for _, address := range a.nbd {
			e.URIs[x.Name] = append(e.URIs[x.Name], address.URI(x.Name))
		}
	}
	answer(w, &e)
}

func (a *api) createExport(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, func(ctx context.Context, q *control.ExportRequest) (string, error) {
		if err := checkExport(q.Name, q.SizeBytes); err != nil {
			return "", err
		}
		return fmt.Sprintf("export %s of %d bytes created", q.Name, q.SizeBytes), a.engine.CreateExport(ctx, q.Name, q.SizeBytes)
	})
}

func (a *api) resizeExport(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, func(ctx context.Context, q *control.ExportRequest) (string, error) {
		if err := checkExport(q.Name, q.SizeBytes); err != nil {
			return "", err
		}
		for _, e := range a.engine.Exports() {
			if e.Name != q.Name || q.SizeBytes >= e.SizeBytes {
				continue
			}
			if !q.Force {
				return "", control.Refuse("E_EXPORT_SHRINK", "export %s has %d bytes; making it smaller destroys what lies beyond %d", q.Name, e.SizeBytes, q.SizeBytes).
					WithTry("--force, once the file system on it has been made smaller")
			}
			if err := a.sameVolume(q); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("export %s resized to %d bytes", q.Name, q.SizeBytes), a.engine.ResizeExport(ctx, q.Name, q.SizeBytes)
	})
}

func (a *api) removeExport(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, func(ctx context.Context, q *control.ExportRequest) (string, error) {
		if err := a.sameVolume(q); err != nil {
			return "", err
		}
		return fmt.Sprintf("export %s removed", q.Name), a.engine.RemoveExport(ctx, q.Name, q.Force)
	})
}

func checkExport(name string, size int64) error {
	if err := volumes.CheckExportName(name); err != nil {
		return err
	}
	return CheckExportSize(size)
}

// CheckExportSize refuses sizes that no disk has: clients count in sectors of 512 bytes.
func CheckExportSize(size int64) error {
	if size < 512 || size%512 != 0 {
		return control.Refuse("E_SIZE", "an export of %d bytes: it has to be a multiple of 512", size)
	}
	return nil
}

// sameVolume refuses what destroys unless the client repeats whose data it means.
func (a *api) sameVolume(q *control.ExportRequest) error {
	if s := a.engine.Status(); q.VolumeUUID != s.UUID {
		return control.Refuse("E_USAGE", "the request names volume %q, this is %s", q.VolumeUUID, s.UUID)
	}
	return nil
}

func (a *api) change(w http.ResponseWriter, r *http.Request, do func(context.Context, *control.ExportRequest) (string, error)) {
	q := &control.ExportRequest{}
	if err := decode(w, r, q); err != nil {
		refuse(w, err)
		return
	}
	if !a.changes.enter() {
		refuse(w, control.Refuse("E_NOT_RUNNING", "the daemon is about to end"))
		return
	}
	defer a.changes.leave()
	ctx, cancel := either(r.Context(), a.ctx)
	defer cancel()
	text, err := do(ctx, q)
	a.audit("control", "request", r.Method+" "+r.URL.Path, "export", q.Name, "force", q.Force, "error", err)
	if err != nil {
		refuse(w, exportError(q.Name, err))
		return
	}
	answer(w, &control.Done{Schema: control.SchemaDone, Volume: a.engine.Status().Volume, Done: text})
}

// decode reads a request's body.
func decode(w http.ResponseWriter, r *http.Request, q any) error {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, control.MaxRequest))
	body.DisallowUnknownFields()
	if err := body.Decode(q); err != nil {
		return control.Refuse("E_USAGE", "request: %v", err)
	}
	return nil
}

// exportError makes a refusal of an error of the volume.
func exportError(name string, err error) error {
	switch {
	case errors.Is(err, striping.ErrExists):
		return control.Refuse("E_EXPORT_EXISTS", "export %s exists already", name).WithTry("another name")
	case errors.Is(err, striping.ErrNotExist):
		return control.Refuse("E_NO_EXPORT", "there is no export %s", name).WithTry("ballast export ls VOLUME, to see which there are")
	case errors.Is(err, striping.ErrBusy):
		return control.Refuse("E_EXPORT_BUSY", "clients hold export %s open", name).WithTry("--force, to cut them off")
	case errors.Is(err, striping.ErrNoSpace):
		return control.Refuse("E_NO_SPACE", "%v", err)
	case errors.Is(err, journal.ErrFull):
		return control.Refuse("E_NO_SPACE", "%v", err).WithTry("free space where the state directory is")
	}
	return err
}

func (a *api) events(w http.ResponseWriter, r *http.Request) {
	var since uint64
	if s := r.URL.Query().Get("since"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			refuse(w, control.Refuse("E_USAGE", "since=%q is no number of an event", s))
			return
		}
		since = n
	}
	follow := r.URL.Query().Get("follow") == "1"
	w.Header().Set("Content-Type", "application/jsonl")
	lines := json.NewEncoder(w)
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	for {
		for _, e := range a.engine.Events(since) {
			e.Schema = control.SchemaEvent
			if lines.Encode(e) != nil {
				return
			}
			since = max(since, e.Number)
		}
		if !follow {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-a.stopped:
			return
		}
	}
}

func (a *api) askStop(w http.ResponseWriter, _ *http.Request) {
	a.audit("control", "request", "stop")
	answer(w, &control.Done{Schema: control.SchemaDone, Volume: a.engine.Status().Volume, Done: "stopping"})
	a.stop()
}

// waitStop does not answer until everything has ended.
func (a *api) waitStop(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-a.stopped:
	case <-r.Context().Done():
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, err error) {
	refusal := control.AsRefusals(err)[0]
	status := map[int]int{
		control.ExitUsage: http.StatusBadRequest, control.ExitNoVolume: http.StatusNotFound, control.ExitBusy: http.StatusConflict,
		control.ExitNotPermitted: http.StatusForbidden, control.ExitNoSpace: http.StatusInsufficientStorage,
	}[refusal.Exit]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(refusal)
}
