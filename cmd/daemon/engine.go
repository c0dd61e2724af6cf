package daemon

import (
	"context"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/striping"
)

// engine is what the control API needs of a volume. None of it waits for a disk but what
// changes something.
type engine interface {
	Status() striping.Status
	Exports() []striping.ExportInfo
	Events(since uint64) []control.Event
	CreateExport(ctx context.Context, name string, size int64) error
	ResizeExport(ctx context.Context, name string, size int64) error
	RemoveExport(ctx context.Context, name string, force bool) error

	Jobs() []striping.JobStatus
	PauseJob(ctx context.Context, id, kind string) error
	ResumeJob(ctx context.Context, id, kind string) error
	ReverseJob(ctx context.Context, id, kind string) (string, error)
	CancelJob(ctx context.Context, id, kind string) error
	Drain(ctx context.Context, ids []devices.ID, o striping.JobOptions) (string, error)
	Rebuild(ctx context.Context, o striping.JobOptions) (string, error)
	Rebalance(ctx context.Context, o striping.JobOptions) (string, error)
	Scrub(ctx context.Context, o striping.JobOptions) (string, error)
	ForecastDrain(ctx context.Context, ids []devices.ID) (*striping.Forecast, error)
	ForecastRebuild(ctx context.Context) (*striping.Forecast, error)
	ForecastRebalance(ctx context.Context) (*striping.Forecast, error)
	ForecastScrub(ctx context.Context, since time.Time) (*striping.Forecast, error)
	IfLost(ctx context.Context, ids []devices.ID) (*striping.Loss, error)
	WhyExport(ctx context.Context, name string, off int64) (*striping.Why, error)
	WhyFile(ctx context.Context, number uint64, off int64) (*striping.Why, error)
	SetOnline(ctx context.Context, id devices.ID, auto bool) error
	SetSlow(ctx context.Context, id devices.ID) error

	id(name string) (devices.ID, error)
	addDevice(ctx context.Context, s volumes.Spec, domain string, force bool) (devices.ID, error)
	removeDevice(ctx context.Context, name string) error
	replace(ctx context.Context, name string, s volumes.Spec, force bool, o striping.JobOptions) (job, how string, err error)
	grow(ctx context.Context, name string) (string, error)
	offline(ctx context.Context, name string, force bool) error
	online(ctx context.Context, name string, look []string, resync bool) error
}
