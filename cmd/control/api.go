package control

import (
	"time"

	"ballast/striping"
)

// Schemas of the documents.
const (
	SchemaStatus  = "ballast.status/1"
	SchemaExports = "ballast.exports/1"
	SchemaEvent   = "ballast.event/1"
	SchemaDone    = "ballast.done/1"
	SchemaJobs    = "ballast.jobs/1"
	SchemaJob     = "ballast.job/1"
	SchemaPlan    = "ballast.forecast/1"
	SchemaMap     = "ballast.map/1"
	SchemaWhy     = "ballast.why/1"
)

// Paths of the API, below http://ballast on the control socket.
const (
	PathStatus  = "/v1/status"
	PathExports = "/v1/exports"
	PathEvents  = "/v1/events"
	PathStop    = "/v1/stop"
	PathDevices = "/v1/devices"
	PathJobs    = "/v1/jobs"
	PathMap     = "/v1/map"
	PathWhy     = "/v1/why"
	PathMounts  = "/v1/mounts"
)

// MaxRequest is the most a request's body may hold, in bytes.
const MaxRequest = 1 << 20

// Status answers GET PathStatus.
type Status struct {
	Schema string `json:"schema"`
	striping.Status
	Daemon Daemon `json:"daemon"`
	Jobs   []Job  `json:"jobs"`
}

// Daemon is the process that serves the volume.
type Daemon struct {
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	NBD       []string  `json:"nbd"`  // addresses: unix:PATH, tcp:HOST:PORT
	HTTP      string    `json:"http"` // HOST:PORT or ""
	Clients   int       `json:"nbd_connections"`
	ReadBytes int64     `json:"nbd_read_bytes_total"`
	Written   int64     `json:"nbd_written_bytes_total"`
	Mounts    []Mount   `json:"mounts"`
}

// Mount is where the volume is mounted as a file system.
type Mount struct {
	Dir       string    `json:"dir"`
	Since     time.Time `json:"since"`
	ReadOnly  bool      `json:"read_only"`
	OpenFiles int       `json:"open_files"`
	ReadBytes uint64    `json:"read_bytes_total"`
	Written   uint64    `json:"written_bytes_total"`
}

// MountRequest is the body of POST on PathMounts.
type MountRequest struct {
	Dir     string `json:"dir"`               // an absolute path
	Options string `json:"options,omitempty"` // as after -o
}

// Job is background work.
type Job = striping.JobStatus

// Jobs answers GET PathJobs: also those that are over.
type Jobs struct {
	Schema string `json:"schema"`
	Volume string `json:"volume"`
	Jobs   []Job  `json:"jobs"`
}

// DeviceRequest is the body of POST PathDevices.
type DeviceRequest struct {
	Op      string   `json:"op"` // add, remove, drain, replace, grow, offline, online, set
	Devices []string `json:"devices,omitempty"`
	Path    string   `json:"path,omitempty"`       // of the disk that is to join, absolute; of online: where it is now
	Given   string   `json:"given,omitempty"`      // Path as it was typed
	Size    int64    `json:"size_bytes,omitempty"` // of the sparse file to make at Path
	Domain  string   `json:"domain,omitempty"`
	State   string   `json:"state,omitempty"` // of set: online, slow, auto
	Reason  string   `json:"reason,omitempty"`
	Force   bool     `json:"force,omitempty"`
	Pace    int64    `json:"pace_bytes_per_second,omitempty"`
	DryRun  bool     `json:"dry_run,omitempty"` // of drain
	Resync  bool     `json:"resync,omitempty"`  // of online: believe nothing of what is on it
}

// JobRequest is the body of POST PathJobs.
type JobRequest struct {
	Op     string `json:"op"`             // start, pause, resume, cancel
	Kind   string `json:"kind,omitempty"` // rebuild, rebalance, scrub
	ID     string `json:"id,omitempty"`
	Pace   int64  `json:"pace_bytes_per_second,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"` // of start
	// Since has a scrub read only what was written or moved since then.
	Since time.Time `json:"since,omitzero"`
	// Reverse has a cancelled drain or replacement move back what it has moved.
	Reverse bool `json:"reverse,omitempty"`
}

// Plan answers a request that asked for a dry run.
type Plan struct {
	Schema string `json:"schema"`
	Volume string `json:"volume"`
	striping.Forecast
}

// Map answers GET PathMap?if_lost=d1,d2.
type Map struct {
	Schema string `json:"schema"`
	Volume string `json:"volume"`
	striping.Loss
}

// Why answers GET PathWhy?export=NAME[&offset=N], or ?inode=N[&offset=N] for a file.
type Why struct {
	Schema string `json:"schema"`
	Volume string `json:"volume"`
	striping.Why
}

// Exports answers GET PathExports.
type Exports struct {
	Schema  string                `json:"schema"`
	Volume  string                `json:"volume"`
	Exports []striping.ExportInfo `json:"exports"`
	URIs    map[string][]string   `json:"uris"` // by export name
}

// ExportRequest is the body of POST (create) and PATCH (resize) on PathExports, and of DELETE.
// What may destroy data names the volume it means.
type ExportRequest struct {
	Name       string `json:"name"`
	SizeBytes  int64  `json:"size_bytes,omitempty"`
	VolumeUUID string `json:"volume_uuid,omitempty"` // of DELETE and a PATCH that shrinks
	Force      bool   `json:"force,omitempty"`       // of DELETE: although clients have it open; of PATCH: shrink
}

// Done answers what has nothing to show.
type Done struct {
	Schema string `json:"schema"`
	Volume string `json:"volume"`
	Done   string `json:"done"`          // a sentence
	Job    string `json:"job,omitempty"` // that was started
}

// Event is one line of GET PathEvents?since=N[&follow=1].
type Event struct {
	Schema   string    `json:"schema"`
	Number   uint64    `json:"number"`
	Time     time.Time `json:"time"`
	Severity string    `json:"severity"` // info, warning, critical
	Code     string    `json:"code"`
	Device   string    `json:"device,omitempty"`
	Message  string    `json:"message"`
}
