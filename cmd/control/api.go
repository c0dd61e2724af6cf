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
)

// Paths of the API, below http://ballast on the control socket.
const (
	PathStatus  = "/v1/status"
	PathExports = "/v1/exports"
	PathEvents  = "/v1/events"
	PathStop    = "/v1/stop"
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
}

// Job is background work under way.
type Job struct {
	ID            string   `json:"id"`
	Kind          string   `json:"kind"`
	State         string   `json:"state"`
	BytesTotal    int64    `json:"bytes_total"`
	BytesDone     int64    `json:"bytes_done"`
	Rate          float64  `json:"rate_bytes_per_second"`
	SecondsLeft   *float64 `json:"seconds_left"`
	BlockedReason *string  `json:"blocked_reason"`
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
	Done   string `json:"done"` // a sentence
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
