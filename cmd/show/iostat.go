package show

import (
	"fmt"
	"io"
	"time"

	"ballast/cmd/control"
	"ballast/striping"
)

// IOStat is one interval of ballast iostat.
type IOStat struct {
	Schema  string         `json:"schema"`
	Volume  string         `json:"volume"`
	Time    time.Time      `json:"time"`
	Seconds float64        `json:"seconds"` // the interval; 0 for the rates of the moment
	Devices []IOStatDevice `json:"devices"`
}

// IOStatDevice is one device's line.
type IOStatDevice struct {
	ID         string  `json:"id"`
	State      string  `json:"state"`
	ReadRate   float64 `json:"read_bytes_per_second"`
	WriteRate  float64 `json:"write_bytes_per_second"`
	InFlight   int     `json:"in_flight"`
	Waiting    int     `json:"waiting"`
	QueueLimit int     `json:"queue_limit"`
	P50Seconds float64 `json:"p50_seconds"`
	P99Seconds float64 `json:"p99_seconds"`
	Slowdown   float64 `json:"slowdown"`
	// Kernel is the disk under the device, and what others do to it; null if that is not known.
	Kernel *striping.KernelStatus `json:"kernel"`
}

// IOStatOf is what happened between two looks at a volume; before may be nil for the first.
func IOStatOf(before, now *control.Status, interval time.Duration, at time.Time) *IOStat {
	s := &IOStat{Schema: "ballast.iostat/1", Volume: now.Volume, Time: at, Devices: []IOStatDevice{}}
	past := map[string]int{}
	if before != nil && interval > 0 {
		s.Seconds = interval.Seconds()
		for i, d := range before.Devices {
			past[d.Name] = i
		}
	}
	for _, d := range now.Devices {
		line := IOStatDevice{ID: d.Name, State: d.State, ReadRate: d.ReadRate, WriteRate: d.WriteRate, InFlight: d.InFlight,
			Waiting: d.Waiting, QueueLimit: d.QueueLimit, P50Seconds: d.P50Seconds, P99Seconds: d.P99Seconds, Slowdown: d.Slowdown, Kernel: d.Kernel}
		if i, ok := past[d.Name]; ok {
			was := before.Devices[i]
			line.ReadRate = float64(max(0, d.ReadBytes-was.ReadBytes)) / s.Seconds
			line.WriteRate = float64(max(0, d.WriteBytes-was.WriteBytes)) / s.Seconds
		}
		s.Devices = append(s.Devices, line)
	}
	return s
}

// Write writes s for people; queues and latencies are extra columns. OTHERS is the share of the
// time for which others kept the disk busy, KERNEL the requests in it, by whomever.
func (s *IOStat) Write(w io.Writer, queues, latencies bool) {
	t := &table{}
	head := []string{"DEVICE", "STATE", ">READ", ">WRITE", ">OTHERS"}
	if queues {
		head = append(head, ">ACTIVE", ">WAITING", ">LIMIT", ">KERNEL")
	}
	if latencies {
		head = append(head, ">P50", ">P99", ">SLOWDOWN")
	}
	t.add(head...)
	var total IOStatDevice
	for _, d := range s.Devices {
		total.ReadRate += d.ReadRate
		total.WriteRate += d.WriteRate
		total.InFlight += d.InFlight
		total.Waiting += d.Waiting
		total.QueueLimit += d.QueueLimit
		row := s.row(d, queues)
		if latencies {
			row = append(row, seconds(d.P50Seconds), seconds(d.P99Seconds), fmt.Sprintf("%.1fx", d.Slowdown))
		}
		t.add(row...)
	}
	total.ID = "all"
	t.add(s.row(total, queues)...)
	t.write(w, "")
}

func (s *IOStat) row(d IOStatDevice, queues bool) []string {
	others, kernel := "-", "-"
	if k := d.Kernel; k != nil {
		others, kernel = fmt.Sprintf("%.0f%%", 100*k.ForeignShare), fmt.Sprint(k.InFlight)
	}
	row := []string{d.ID, d.State, rate(d.ReadRate), rate(d.WriteRate), others}
	if queues {
		row = append(row, fmt.Sprint(d.InFlight), fmt.Sprint(d.Waiting), fmt.Sprint(d.QueueLimit), kernel)
	}
	return row
}
