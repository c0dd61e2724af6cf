package nbd

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ballast/nbd/wire"
)

// Options of a Server. A zero field means its default.
type Options struct {
	// Logger gets one line per change of state, never one per request. Default: slog.Default().
	Logger *slog.Logger

	// HandshakeTimeout is how long a client may take to get to transmission. Default: 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes is how many connections may be in the handshake at a time. One more takes
	// the place of the oldest once that is a quarter of a second old, else it waits. Default: 16.
	MaxHandshakes int
	// MaxOptions is how many options a client may send. A client that lists the exports may
	// send 8 more for each. Default: 64.
	MaxOptions int
	// MaxConnections is how many connections an export may have. Default: 16.
	MaxConnections int

	// MaxInFlight is the bytes of requests that may be under way for a connection before no more
	// is read from it; the request that crosses the limit still counts. Default: 64 MiB.
	MaxInFlight int64
	// MaxTotalInFlight is the same for all connections together; one without any request under
	// way may always have one. Default: 256 MiB.
	MaxTotalInFlight int64
	// Workers is how many requests of a connection may wait for the export at the same time.
	// Default: 64.
	Workers int

	// Stall is how long a request that has begun to arrive, or a batch of replies, may take, on
	// top of the time it needs at MinRate. Default: 10 s for requests, 60 s for replies.
	RequestStall time.Duration
	ReplyStall   time.Duration
	// MinRate is in bytes per second. Default: 64 KiB/s.
	MinRate int64

	// DrainTimeout is how long a new connection waits for the requests of lost connections of
	// the same export to end. Default: 30 s.
	DrainTimeout time.Duration
}

// Fixed limits in bytes.
const (
	maxOption      = 64 << 10 // an option's data; a longer one ends the connection
	maxRequest     = 64 << 20 // of a request that is served
	maxSkip        = 128 << 20
	maxChunk       = wire.MaxPayload
	maxMessage     = 256 // of an error sent to a client
	requestCost    = 4096
	directPayload  = 16 << 10 // from here on payloads are read straight into their own memory
	inputSize      = 256 << 10
	holdBytes      = 256 << 10 // of replies that wait for the end of a batch of requests
	batchBytes     = 4 << 20   // of replies in one go
	maxExtents     = 16 << 10  // in a reply to BLOCK_STATUS
	maxExtentSize  = 1<<32 - 1<<20
	displaceAfter  = 250 * time.Millisecond
	watchInterval  = time.Second
	optionsPerName = 8
	lingerTime     = time.Second
	lingerBytes    = 64 << 20
)

func (o *Options) setDefaults() {
	def(&o.HandshakeTimeout, 10*time.Second)
	def(&o.MaxHandshakes, 16)
	def(&o.MaxOptions, 64)
	def(&o.MaxConnections, 16)
	def(&o.MaxInFlight, 64<<20)
	def(&o.MaxTotalInFlight, 256<<20)
	def(&o.Workers, 64)
	def(&o.RequestStall, 10*time.Second)
	def(&o.ReplyStall, 60*time.Second)
	def(&o.MinRate, 64<<10)
	def(&o.DrainTimeout, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// budget is the bytes in flight over all connections.
type budget struct {
	limit   int64
	used    atomic.Int64
	waiters atomic.Int32

	mu      sync.Mutex
	changed chan struct{} // closed by release while there are waiters
}

// wait registers a waiter and returns a channel that is closed after the next release. The
// caller looks at used once more before it waits, and calls done afterwards.
func (b *budget) wait() <-chan struct{} {
	b.waiters.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

func (b *budget) done() { b.waiters.Add(-1) }

func (b *budget) release(n int64) {
	b.used.Add(-n)
	if b.waiters.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}
