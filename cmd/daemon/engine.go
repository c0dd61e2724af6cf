package daemon

import (
	"context"

	"ballast/cmd/control"
	"ballast/striping"
)

// engine is what the control API needs of a volume. None of it waits for a disk but the three
// changes.
type engine interface {
	Status() striping.Status
	Exports() []striping.ExportInfo
	Events(since uint64) []control.Event
	CreateExport(ctx context.Context, name string, size int64) error
	ResizeExport(ctx context.Context, name string, size int64) error
	RemoveExport(ctx context.Context, name string, force bool) error
}
