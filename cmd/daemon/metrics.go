package daemon

import (
	"net/http"
	"runtime"
	"strings"

	"ballast/cmd/control"
	"ballast/nbd"
	"ballast/striping"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsHandler serves the cached status in Prometheus' format.
func metricsHandler(cache *statusCache, clients func() nbd.Stats, mounts func() []control.Mount) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{cache, clients, mounts}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// collector turns a status into metrics. It is unchecked (Describe tells nothing), since which
// devices and exports there are changes.
type collector struct {
	cache   *statusCache
	clients func() nbd.Stats
	mounts  func() []control.Mount
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s, age := c.cache.get()
	m := meter{ch}
	m.gauge("ballast_build_info", "The build that runs.", 1, "version", control.Version, "go", runtime.Version())
	m.gauge("ballast_status_age_seconds", "How old the figures below are.", age.Seconds())
	for _, state := range []string{"ok", "degraded", "critical"} {
		m.gauge("ballast_volume_state", "1 for the state the volume is in.", is(s.State == state), "state", state)
	}
	m.gauge("ballast_volume_size_bytes", "What the volume can hold with its copies.", float64(s.SizeBytes))
	m.gauge("ballast_volume_used_bytes", "What it holds, one copy counted.", float64(s.UsedBytes))
	m.gauge("ballast_volume_writable_bytes", "What can still be written.", float64(s.FreeBytes))
	m.gauge("ballast_volume_raw_bytes", "The size of all devices.", float64(s.RawBytes))
	m.gauge("ballast_volume_copies", "How many copies each chunk should have.", float64(s.Copies))
	m.gauge("ballast_degraded_chunks", "Chunks with fewer good copies than that.", float64(s.Degraded))
	m.gauge("ballast_lost_chunks", "Chunks with no good copy.", float64(s.Lost))
	m.gauge("ballast_bad_ranges", "Ranges whose reads ended in an error.", float64(len(s.Bad)))
	m.gauge("ballast_dirty_bytes", "Acknowledged and not yet on a device.", float64(s.Dirty))
	m.counter("ballast_healed_blocks_total", "Blocks rewritten from another copy.", float64(s.Healed))
	m.counter("ballast_journal_commits_total", "Groups committed over the volume's life.", float64(s.Journal.Seq))
	m.gauge("ballast_journal_records", "Records in the journal.", float64(s.Journal.Records))
	m.gauge("ballast_journal_failed", "1 when the journal takes no more.", is(s.Journal.Failed))
	for _, h := range s.Health {
		m.gauge("ballast_health_check", "1 for each condition that wants attention.", 1, "code", h.Code, "severity", h.Severity)
	}
	for _, d := range s.Devices {
		m.device(&d)
	}
	for _, e := range s.Exports {
		m.gauge("ballast_export_size_bytes", "Size of an export.", float64(e.SizeBytes), "export", e.Name)
		m.gauge("ballast_export_used_bytes", "What is stored of it, one copy counted.", float64(e.UsedBytes), "export", e.Name)
	}
	if c.clients != nil {
		m.nbd(c.clients())
	}
	for _, x := range c.mounts() {
		m.gauge("ballast_fuse_mounted", "1 while the volume is mounted.", 1, "dir", x.Dir)
		m.gauge("ballast_fuse_open_files", "Files that programs have open.", float64(x.OpenFiles), "dir", x.Dir)
		m.counter("ballast_fuse_read_bytes_total", "Bytes read from files; what the kernel has cached is not asked for.", float64(x.ReadBytes), "dir", x.Dir)
		m.counter("ballast_fuse_written_bytes_total", "Bytes written to files.", float64(x.Written), "dir", x.Dir)
	}
}

// nbd is what clients do; the server keeps these figures apart from any disk.
func (m meter) nbd(s nbd.Stats) {
	m.gauge("ballast_nbd_handshakes", "Connections that do not serve requests yet.", float64(s.Handshakes))
	m.counter("ballast_nbd_accepted_total", "Connections so far.", float64(s.Accepted))
	m.counter("ballast_nbd_panics_total", "Faults of our own that ended a connection.", float64(s.Panics))
	m.gauge("ballast_nbd_inflight_bytes", "Bytes of requests under way.", float64(s.InFlightBytes))
	for _, e := range s.Exports {
		m.gauge("ballast_nbd_connections", "Connections of an export.", float64(e.Connections), "export", e.Name)
		m.gauge("ballast_nbd_inflight", "Requests under way.", float64(e.InFlight), "export", e.Name)
		for _, c := range e.Commands {
			m.counter("ballast_nbd_bytes_total", "Bytes that requests covered.", float64(c.Bytes), "export", e.Name, "op", c.Command)
			m.counter("ballast_nbd_errors_total", "Requests answered with an error.", float64(c.Errors), "export", e.Name, "op", c.Command)
			m.histogram("ballast_nbd_op_duration_seconds", "From a request's arrival to its result.", c.Latency, "export", e.Name, "op", c.Command)
		}
	}
}

func (m meter) histogram(name, help string, h nbd.Histogram, labels ...string) {
	names, values := pairs(labels)
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range h.Counts {
		total += n
		if i < len(h.Counts)-1 {
			buckets[h.Bound(i).Seconds()] = total
		}
	}
	m.ch <- prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, names, nil), total, h.Sum.Seconds(), buckets, values...)
}

func (m meter) device(d *striping.DeviceStatus) {
	m.gauge("ballast_device_info", "Where a device is.", 1, "device", d.Name, "path", d.Path, "domain", d.Domain)
	for _, state := range []string{"online", "slow", "draining", "drained", "failed", "missing", "rebuilding"} {
		m.gauge("ballast_device_state", "1 for the state a device is in.", is(d.State == state), "device", d.Name, "state", state)
	}
	m.gauge("ballast_device_size_bytes", "Size of a device.", float64(d.SizeBytes), "device", d.Name)
	m.gauge("ballast_device_used_bytes", "What it holds.", float64(d.UsedBytes), "device", d.Name)
	m.counter("ballast_device_read_bytes_total", "Bytes read from a device.", float64(d.ReadBytes), "device", d.Name)
	m.counter("ballast_device_written_bytes_total", "Bytes written to a device.", float64(d.WriteBytes), "device", d.Name)
	m.counter("ballast_device_errors_total", "Operations that ended in an error.", float64(d.Errors), "device", d.Name)
	m.gauge("ballast_device_inflight", "Operations in the disk.", float64(d.InFlight), "device", d.Name)
	m.gauge("ballast_device_queue_waiting", "Operations that wait for their turn.", float64(d.Waiting), "device", d.Name)
	m.gauge("ballast_device_queue_limit", "Operations it may have at a time.", float64(d.QueueLimit), "device", d.Name)
	m.gauge("ballast_device_io_latency_seconds", "Time an operation takes.", d.P50Seconds, "device", d.Name, "quantile", "0.5")
	m.gauge("ballast_device_io_latency_seconds", "Time an operation takes.", d.P99Seconds, "device", d.Name, "quantile", "0.99")
	if k := d.Kernel; k != nil {
		m.gauge("ballast_device_kernel_inflight", "Requests in the kernel for the disk under a device, by whomever.", float64(k.InFlight), "device", d.Name, "disk", k.Disk)
		m.gauge("ballast_device_foreign_share_ratio", "Share of the time for which others kept that disk busy.", k.ForeignShare, "device", d.Name, "disk", k.Disk)
		m.gauge("ballast_device_foreign_bytes_per_second", "What others read and wrote there.", k.ForeignRate, "device", d.Name, "disk", k.Disk)
	}
	m.gauge("ballast_device_slowdown_ratio", "How many times slower than its own history.", d.Slowdown, "device", d.Name)
}

// meter writes metrics; labels come as names and values in turn.
type meter struct{ ch chan<- prometheus.Metric }

func (m meter) gauge(name, help string, value float64, labels ...string) {
	m.put(prometheus.GaugeValue, name, help, value, labels)
}

func (m meter) counter(name, help string, value float64, labels ...string) {
	m.put(prometheus.CounterValue, name, help, value, labels)
}

func (m meter) put(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	names, values := pairs(labels)
	m.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
}

func pairs(labels []string) (names, values []string) {
	for i := 0; i < len(labels); i += 2 {
		names = append(names, labels[i])
		values = append(values, strings.ToValidUTF8(labels[i+1], "?"))
	}
	return names, values
}

func is(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
