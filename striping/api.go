package striping

import (
	"errors"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// Member is one device of a volume, as handed to Open.
type Member struct {
	Record journal.Device  // as journaled, but for what its label knows better: path and size
	Device *devices.Device // nil when it is missing
	Why    string          // it is missing, where that is known
	Stale  bool            // its disk is there, and is an older image of it
	// DataOff and DataSize are the area for slots, in bytes; also of a missing device.
	DataOff, DataSize int64
	// WriteLabel stores the volume's anchor on the device; nil for simulated ones.
	WriteLabel func(s journal.State) error
	// Foreign is the share of the time for which other processes keep the disk busy; nil where
	// nobody knows.
	Foreign func() float64
}

// ExportInfo describes an export.
type ExportInfo struct {
	Name      string    `json:"name"`
	SizeBytes int64     `json:"size_bytes"`
	UsedBytes int64     `json:"used_bytes"` // placed chunks, one copy counted
	ReadOnly  bool      `json:"read_only"`
	Created   time.Time `json:"created"`
}

// Status is the volume as people and scripts look at it. Taking it never waits for a disk.
type Status struct {
	Volume     string         `json:"volume"`
	UUID       string         `json:"uuid"`
	State      string         `json:"state"` // ok, degraded, critical
	Copies     int            `json:"copies"`
	Rebalances bool           `json:"rebalances_by_itself"` // while clients are quiet
	Floor      float64        `json:"background_floor"`     // share of a busy device's time that jobs get
	ChunkSize  int64          `json:"chunk_size_bytes"`
	SizeBytes  int64          `json:"size_bytes"` // what copies copies can hold in all
	UsedBytes  int64          `json:"used_bytes"` // of SizeBytes
	FreeBytes  int64          `json:"free_bytes"` // what can still be written at copies copies
	RawBytes   int64          `json:"raw_bytes"`
	Devices    []DeviceStatus `json:"devices"`
	Exports    []ExportInfo   `json:"exports"`
	FilesBytes int64          `json:"files_bytes"`     // of UsedBytes: what files take
	Degraded   int64          `json:"degraded_chunks"` // fewer good copies than asked for
	Lost       int64          `json:"lost_chunks"`     // no good copy left
	Bad        []BadRange     `json:"bad_ranges"`      // reads that ended in EIO
	Health     []Health       `json:"health"`
	Dirty      int64          `json:"dirty_bytes"`
	Healed     int64          `json:"healed_blocks"`
	Journal    JournalStatus  `json:"journal"`
}

// DeviceStatus is one device in a Status.
type DeviceStatus struct {
	older      bool       // missing, and its disk is an older image of it
	ID         devices.ID `json:"-"`
	Name       string     `json:"id"` // "d1"
	Path       string     `json:"path"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	Since      time.Time  `json:"since,omitzero"` // of the state
	SizeBytes  int64      `json:"size_bytes"`
	UsedBytes  int64      `json:"used_bytes"`
	Unused     int64      `json:"unused_bytes"` // by which the disk is larger than what is used of it; filled in by who knows
	ReadBytes  int64      `json:"read_bytes_total"`
	WriteBytes int64      `json:"write_bytes_total"`
	ReadRate   float64    `json:"read_bytes_per_second"`
	WriteRate  float64    `json:"write_bytes_per_second"`
	InFlight   int        `json:"in_flight"`
	Waiting    int        `json:"waiting"`
	QueueLimit int        `json:"queue_limit"`
	P50Seconds float64    `json:"p50_seconds"`
	P99Seconds float64    `json:"p99_seconds"`
	Errors     int64      `json:"errors"`
	Slowdown   float64    `json:"slowdown"` // sigma: now over baseline
	Domain     string     `json:"domain,omitempty"`
	Rotational bool       `json:"rotational"`
	Buffered   bool       `json:"buffered"` // O_DIRECT was refused
	// Kernel is what the kernel sees of the disk under the device; nil where it keeps no statistics.
	Kernel *KernelStatus `json:"kernel,omitempty"`
}

// KernelStatus is a whole disk as the kernel sees it, over the last second or so. Others are all
// who are not devices of the volume: other processes, but also the journal, if it lies there.
type KernelStatus struct {
	Disk         string  `json:"disk"` // as in /sys/block
	InFlight     int     `json:"in_flight"`
	ForeignShare float64 `json:"foreign_share"` // of the time, for which others kept it busy
	ForeignRate  float64 `json:"foreign_bytes_per_second"`
}

// BadRange is a range of an export, or a file, that could not be read.
type BadRange struct {
	Export string    `json:"export"`
	File   uint64    `json:"file,omitempty"` // its object, if it is a file
	Path   string    `json:"path,omitempty"` // of the file; filled in by who knows
	Off    int64     `json:"offset"`
	Size   int64     `json:"size"`
	Since  time.Time `json:"since"`
}

// Health is one condition that wants attention.
type Health struct {
	Code     string `json:"code"`     // stable, DEVICE_MISSING
	Severity string `json:"severity"` // warning, critical
	Message  string `json:"message"`
	Action   string `json:"action"`
}

// JournalStatus is the journal in a Status.
type JournalStatus struct {
	Seq     uint64 `json:"seq"`
	Records uint64 `json:"records"`
	Failed  bool   `json:"failed"`

	// Copies on the devices; filled in by who keeps them.
	CopiesWanted int           `json:"copies_wanted"`
	CopiesGood   int           `json:"copies_good"`
	Copies       []JournalCopy `json:"copies"`
	LiveBytes    int64         `json:"live_bytes"`          // of its records in a copy; 0: far less than there is room for
	Recovered    string        `json:"recovered,omitempty"` // what opening it took; "": nothing
}

// JournalCopy is a copy of the journal on a device.
type JournalCopy struct {
	Device    string `json:"device"`
	State     string `json:"state"` // good, making, failed, unused
	Seq       uint64 `json:"seq"`
	UsedBytes int64  `json:"used_bytes"`
	SizeBytes int64  `json:"size_bytes"`
	Reason    string `json:"reason,omitempty"`
}

var (
	// ErrNoSpace is returned by writes that need new space when the devices have none that the
	// asked number of copies can use.
	ErrNoSpace = errors.New("volume has no space")
	// ErrReadOnly is returned by writes to a read-only export.
	ErrReadOnly = errors.New("export is read-only")
	// ErrExists and ErrNotExist are returned by operations on the names of exports.
	ErrExists   = errors.New("export exists already")
	ErrNotExist = errors.New("no such export")
	// ErrBusy is returned when an export that clients hold open is to be removed.
	ErrBusy = errors.New("export is in use")
	// ErrRemoved is returned by requests to an export that was removed while open.
	ErrRemoved = errors.New("export was removed")
	// ErrRange is returned by requests beyond the end of an export.
	ErrRange = errors.New("beyond the end")
	// ErrLost is returned by flushes while data that was acknowledged before could not be made
	// durable, and by reads of it.
	ErrLost = errors.New("written data could not be made durable")
	// ErrNotFast is returned by WriteZeroes with fast set when it would take as long as writing.
	ErrNotFast = errors.New("not faster than writing zeros")
	// ErrUnreadable is returned by reads of blocks of which no copy passes its check.
	ErrUnreadable = errors.New("no good copy")
)
