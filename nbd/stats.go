package nbd

import (
	"math/bits"
	"sort"
	"time"

	"ballast/nbd/wire"
)

// Stats is what a server has done and is doing.
type Stats struct {
	Exports       []ExportStats // that were ever used, by name
	Clients       []ClientStats // in transmission, oldest first
	Handshakes    int           // connections not yet in transmission
	Accepted      uint64        // connections
	Displaced     uint64        // handshakes that were ended for a newcomer
	Panics        uint64        // that were caught
	InFlightBytes int64         // that count for MaxTotalInFlight
}

// ExportStats is the use of one export by all its clients, those gone included.
type ExportStats struct {
	Name        string
	Connections int
	InFlight    int64 // requests
	Commands    []CommandStats
}

// CommandStats counts the requests of one command.
type CommandStats struct {
	Command string // read, write, flush, trim, cache, zero, status, other
	Ops     uint64
	Bytes   uint64 // of the ranges of those that succeeded
	Errors  uint64
	Latency Histogram
}

// ClientStats is one connection.
type ClientStats struct {
	ID            uint64
	Peer          string
	Export        string
	Age           time.Duration
	InFlight      int64 // requests
	InFlightBytes int64
}

// histogramBuckets reach from 1 us to 2^26 us = 67 s.
const histogramBuckets = 28

// Histogram counts times from the arrival of a request to its result. Counts[i] is those below
// Bound(i) and not below Bound(i-1); the last has no upper bound.
type Histogram struct {
	Counts [histogramBuckets]uint64
	Sum    time.Duration
}

// Bound is the upper bound of bucket i: 2^i microseconds.
func (Histogram) Bound(i int) time.Duration { return time.Microsecond << i }

func (h *Histogram) record(d time.Duration) {
	d = max(d, 0)
	h.Sum += d
	h.Counts[min(bits.Len64(uint64(d/time.Microsecond)), histogramBuckets-1)]++
}

const commands = 8

var commandNames = [commands]string{
	wire.CmdRead: "read", wire.CmdWrite: "write", wire.CmdDisc: "other", wire.CmdFlush: "flush",
	wire.CmdTrim: "trim", wire.CmdCache: "cache", wire.CmdWriteZeroes: "zero", wire.CmdBlockStatus: "status",
}

type commandStats [commands]struct {
	ops, bytes, errors uint64
	latency            Histogram
}

func (s *commandStats) record(r *request, took time.Duration) {
	i := r.Type
	if i >= commands {
		i = wire.CmdDisc
	}
	st := &s[i]
	st.ops++
	if r.err != nil {
		st.errors++
	} else {
		st.bytes += uint64(r.size)
	}
	st.latency.record(took)
}

func (s *commandStats) add(o *commandStats) {
	for i := range s {
		s[i].ops += o[i].ops
		s[i].bytes += o[i].bytes
		s[i].errors += o[i].errors
		s[i].latency.Sum += o[i].latency.Sum
		for j, n := range o[i].latency.Counts {
			s[i].latency.Counts[j] += n
		}
	}
}

// Stats returns a snapshot. It waits for no client and no export.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Handshakes:    len(s.handshakes),
		Accepted:      s.accepted,
		Displaced:     s.displaced,
		Panics:        s.panics.Load(),
		InFlightBytes: s.total.used.Load(),
	}
	now := time.Now()
	for name, es := range s.exports {
		sum := es.past
		e := ExportStats{Name: name, Connections: len(es.conns)}
		for c := range es.conns {
			c.mu.Lock()
			sum.add(&c.stats)
			c.mu.Unlock()
			cs := ClientStats{
				ID: c.id, Peer: c.peer, Export: name, Age: now.Sub(c.begin),
				InFlight: c.pending.Load(), InFlightBytes: c.used.Load(),
			}
			e.InFlight += cs.InFlight
			st.Clients = append(st.Clients, cs)
		}
		for i, name := range commandNames {
			e.Commands = append(e.Commands, CommandStats{
				Command: name, Ops: sum[i].ops, Bytes: sum[i].bytes, Errors: sum[i].errors, Latency: sum[i].latency,
			})
		}
		st.Exports = append(st.Exports, e)
	}
	sort.Slice(st.Exports, func(i, j int) bool { return st.Exports[i].Name < st.Exports[j].Name })
	sort.Slice(st.Clients, func(i, j int) bool { return st.Clients[i].ID < st.Clients[j].ID })
	return st
}
