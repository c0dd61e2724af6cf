package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/fusefs/names"
	"ballast/journal"
	"ballast/striping"
)

func (a *api) jobs(w http.ResponseWriter, _ *http.Request) {
	answer(w, &control.Jobs{Schema: control.SchemaJobs, Volume: a.engine.Status().Volume, Jobs: append([]control.Job{}, a.engine.Jobs()...)})
}

// ids are the devices of these names.
func (a *api) ids(names []string) (ids []devices.ID, err error) {
	for _, n := range names {
		id, err := a.engine.id(n)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (a *api) ifLost(w http.ResponseWriter, r *http.Request) {
	var names []string
	for n := range strings.SplitSeq(r.URL.Query().Get("if_lost"), ",") {
		if n != "" {
			names = append(names, n)
		}
	}
	ids, err := a.ids(names)
	var l *striping.Loss
	if err == nil {
		l, err = a.engine.IfLost(r.Context(), ids)
	}
	if err != nil {
		refuse(w, a.jobError(err))
		return
	}
	a.paths.fillLoss(r.Context(), l)
	answer(w, &control.Map{Schema: control.SchemaMap, Volume: a.engine.Status().Volume, Loss: *l})
}

func (a *api) why(w http.ResponseWriter, r *http.Request) {
	off, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		off = -1
	}
	name := r.URL.Query().Get("export")
	var y *striping.Why
	if inode := r.URL.Query().Get("inode"); inode != "" {
		y, err = a.whyFile(r.Context(), inode, off)
	} else if y, err = a.engine.WhyExport(r.Context(), name, off); err != nil {
		err = exportError(name, err)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, &control.Why{Schema: control.SchemaWhy, Volume: a.engine.Status().Volume, Why: *y})
}

// whyFile is why for the file of an inode.
func (a *api) whyFile(ctx context.Context, inode string, off int64) (*striping.Why, error) {
	ino, err := strconv.ParseUint(inode, 10, 64)
	if err != nil {
		return nil, control.Refuse("E_USAGE", "inode=%q is no number of an inode", inode)
	}
	none := control.Refuse("E_NO_FILE", "inode %d is no regular file of the volume", ino)
	if a.tree == nil {
		return nil, none
	}
	object, err := a.tree.Object(names.Ino(ino))
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ESTALE) {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	y, err := a.engine.WhyFile(ctx, object, off)
	if err == nil {
		y.Name = fmt.Sprintf("inode %d", ino)
	}
	return y, err
}

// ask reads a request and answers it: with what do returns, or a refusal.
func ask[Q any](a *api, w http.ResponseWriter, r *http.Request, do func(context.Context, *Q) (any, error)) {
	q := new(Q)
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, control.MaxRequest))
	body.DisallowUnknownFields()
	if err := body.Decode(q); err != nil {
		refuse(w, control.Refuse("E_USAGE", "request: %v", err))
		return
	}
	if !a.changes.enter() {
		refuse(w, control.Refuse("E_NOT_RUNNING", "the daemon is about to end"))
		return
	}
	defer a.changes.leave()
	ctx, cancel := either(r.Context(), a.ctx)
	defer cancel()
	result, err := do(ctx, q)
	a.audit("control", "request", r.Method+" "+r.URL.Path, "what", fmt.Sprintf("%+v", *q), "error", err)
	if err != nil {
		refuse(w, a.jobError(err))
		return
	}
	answer(w, result)
}

func (a *api) done(job, format string, args ...any) *control.Done {
	return &control.Done{Schema: control.SchemaDone, Volume: a.engine.Status().Volume, Done: fmt.Sprintf(format, args...), Job: job}
}

func (a *api) plan(f *striping.Forecast, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return &control.Plan{Schema: control.SchemaPlan, Volume: a.engine.Status().Volume, Forecast: *f}, nil
}

func (a *api) changeDevices(w http.ResponseWriter, r *http.Request) {
	ask(a, w, r, func(ctx context.Context, q *control.DeviceRequest) (any, error) {
		spec := volumes.Spec{Given: q.Given, Path: q.Path, Size: q.Size}
		if spec.Given == "" {
			spec.Given = spec.Path
		}
		switch q.Op {
		case "add":
			id, err := a.engine.addDevice(ctx, spec, q.Domain, q.Force)
			if err != nil {
				return nil, err
			}
			return a.done("", "%s is device %s now and takes part at once", spec.Given, id), nil
		case "drain":
			ids, err := a.ids(q.Devices)
			if err != nil {
				return nil, err
			}
			if q.DryRun {
				return a.plan(a.engine.ForecastDrain(ctx, ids))
			}
			job, err := a.engine.Drain(ctx, ids, striping.JobOptions{Reason: q.Reason, Pace: max(q.Pace, 0)})
			return a.done(job, "%s moves everything off %s", job, strings.Join(q.Devices, ", ")), err
		}
		if len(q.Devices) != 1 {
			return nil, control.Refuse("E_USAGE", "device %s wants one device, not %d", q.Op, len(q.Devices))
		}
		return a.changeDevice(ctx, q, spec)
	})
}

// changeDevice does what concerns one device.
func (a *api) changeDevice(ctx context.Context, q *control.DeviceRequest, spec volumes.Spec) (any, error) {
	name := q.Devices[0]
	switch q.Op {
	case "remove":
		return a.done("", "device %s is no longer part of the volume", name), a.engine.removeDevice(ctx, name)
	case "replace":
		job, how, err := a.engine.replace(ctx, name, spec, q.Force, striping.JobOptions{Reason: q.Reason, Pace: max(q.Pace, 0)})
		return a.done(job, "%s", how), err
	case "grow":
		how, err := a.engine.grow(ctx, name)
		return a.done("", "%s", how), err
	case "offline":
		return a.done("", "device %s is offline, its disk may be taken away", name), a.engine.offline(ctx, name, q.Force)
	case "online":
		var look []string
		if q.Path != "" {
			look = append(look, q.Path)
		}
		return a.done("", "device %s is used again; what it missed is copied to it", name), a.engine.online(ctx, name, look, q.Resync)
	case "set":
		id, err := a.engine.id(name)
		if err == nil {
			switch q.State {
			case "online", "auto":
				err = a.engine.SetOnline(ctx, id, q.State == "auto")
			case "slow":
				err = a.engine.SetSlow(ctx, id)
			default:
				err = control.Refuse("E_USAGE", "a device can be set to online, slow or auto, not to %q", q.State)
			}
		}
		return a.done("", "device %s: %s", name, q.State), err
	}
	return nil, control.Refuse("E_USAGE", "there is no operation %q on devices", q.Op)
}

func (a *api) changeJobs(w http.ResponseWriter, r *http.Request) {
	ask(a, w, r, func(ctx context.Context, q *control.JobRequest) (any, error) {
		name := q.ID
		if name == "" {
			name = "the " + q.Kind
		}
		switch q.Op {
		case "start":
			return a.startJob(ctx, q)
		case "pause":
			return a.done(q.ID, "%s rests", name), a.engine.PauseJob(ctx, q.ID, q.Kind)
		case "resume":
			return a.done(q.ID, "%s goes on", name), a.engine.ResumeJob(ctx, q.ID, q.Kind)
		case "cancel":
			if q.Reverse {
				job, err := a.engine.ReverseJob(ctx, q.ID, q.Kind)
				if job == "" {
					return a.done("", "%s is cancelled; it had moved nothing", name), err
				}
				return a.done(job, "%s is cancelled; %s moves back what it moved", name, job), err
			}
			return a.done(q.ID, "%s is cancelled; what it moved stays where it is now", name), a.engine.CancelJob(ctx, q.ID, q.Kind)
		}
		return nil, control.Refuse("E_USAGE", "there is no operation %q on jobs", q.Op)
	})
}

func (a *api) startJob(ctx context.Context, q *control.JobRequest) (any, error) {
	o := striping.JobOptions{Reason: "asked for", Pace: q.Pace}
	var start func(context.Context, striping.JobOptions) (string, error)
	var forecast func(context.Context) (*striping.Forecast, error)
	switch q.Kind {
	case "rebuild":
		start, forecast = a.engine.Rebuild, a.engine.ForecastRebuild
		o.Reason = ""
	case "rebalance":
		start, forecast = a.engine.Rebalance, a.engine.ForecastRebalance
	case "scrub":
		start = a.engine.Scrub
		forecast = func(ctx context.Context) (*striping.Forecast, error) { return a.engine.ForecastScrub(ctx, q.Since) }
		if q.Since.After(time.Now()) {
			return nil, control.Refuse("E_USAGE", "--since: %s is yet to come", q.Since.Format(time.RFC3339)).WithTry("--since 7d")
		}
		if o.Since = q.Since; !o.Since.IsZero() {
			o.Reason = "asked for, of what was written or moved since " + o.Since.Format(time.RFC3339)
		}
	default:
		return nil, control.Refuse("E_USAGE", "there is no job %q to start", q.Kind)
	}
	if q.DryRun {
		return a.plan(forecast(ctx))
	}
	job, err := start(ctx, o)
	return a.done(job, "%s has begun", job), err
}

// jobError makes a refusal of an error of the volume about devices and jobs.
func (a *api) jobError(err error) error {
	var r *control.Refusal
	var rs control.Refusals
	var state *striping.StateError
	volume := a.engine.Status().Volume
	switch {
	case errors.As(err, &r), errors.As(err, &rs):
		return err
	case errors.Is(err, striping.ErrNoDevice):
		return control.Refuse("E_NO_DEVICE", "%v", err).WithTry("ballast device ls %s", volume)
	case errors.Is(err, striping.ErrNotGrown):
		return control.Refuse("E_DEVICE_SIZE", "%v", err).WithTry("make the file or the block device larger first (truncate -s, lvextend, losetup -c)")
	case errors.Is(err, striping.ErrNotEmpty):
		return control.Refuse("E_DEVICE_NOT_EMPTY", "%v", err).WithTry("ballast device drain %s DEVICE", volume).
			WithTry("ballast rebuild start %s, if its disk is gone", volume)
	case errors.Is(err, striping.ErrNeeded):
		return control.Refuse("E_DEVICE_NEEDED", "%v", err).WithTry("ballast device add %s DEVICE", volume).WithTry("ballast rebuild start %s", volume)
	case errors.As(err, &state):
		return control.Refuse("E_JOB_CONFLICT", "%v", err).WithTry("ballast status %s", volume)
	case errors.Is(err, striping.ErrConflict):
		return control.Refuse("E_JOB_CONFLICT", "%v", err).WithTry("ballast job ls %s", volume)
	case errors.Is(err, striping.ErrNoJob):
		return control.Refuse("E_NO_JOB", "%v", err).WithTry("ballast job ls %s", volume)
	case errors.Is(err, striping.ErrNoSpace):
		return control.Refuse("E_NO_SPACE", "%v", err).WithTry("ballast device add %s DEVICE", volume).WithTry("trim or remove exports")
	case errors.Is(err, journal.ErrFull):
		return control.Refuse("E_NO_SPACE", "%v", err).WithTry("free space where the state directory is")
	}
	return err
}
