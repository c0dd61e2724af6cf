package show

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/verify"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// golden compares got with testdata/name. To accept a change: go test ./cmd/show -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "%s: if this is meant, go test ./cmd/show -update", path)
}

// both writes the text and the JSON golden file of one value.
func both(t *testing.T, name string, v any, text func(*bytes.Buffer)) {
	t.Helper()
	var out bytes.Buffer
	text(&out)
	golden(t, name+".txt", out.Bytes())
	out.Reset()
	require.NoError(t, JSON(&out, v))
	golden(t, name+".json", out.Bytes())
	var head struct{ Schema string }
	require.NoError(t, json.Unmarshal(out.Bytes(), &head))
	require.Regexp(t, `^ballast\.[a-z]+/[0-9]+$`, head.Schema)
}

var day = time.Date(2026, 11, 22, 7, 2, 11, 0, time.UTC)

func healthy() *control.Status {
	return &control.Status{
		Schema: control.SchemaStatus,
		Status: striping.Status{
			Volume: "vault", UUID: "6f1c2a52-8a34-4d0f-9d6e-0c5b1a7e1f00", State: "ok", Copies: 2, ChunkSize: 1 << 20,
			SizeBytes: 2_800_000_000_000, UsedBytes: 1_300_000_000_000, FreeBytes: 1_500_000_000_000, RawBytes: 6_000_000_000_000,
			Devices: []striping.DeviceStatus{
				{Name: "d1", Path: "/dev/disk/by-id/nvme-A", State: "online", SizeBytes: 1e12, UsedBytes: 610e9, WriteBytes: 5 << 40, ReadBytes: 1 << 40, WriteRate: 432e6,
					InFlight: 9, QueueLimit: 32, P50Seconds: 0.0009, P99Seconds: 0.0031, Slowdown: 1},
				{Name: "d2", Path: "/dev/disk/by-id/ata-B", State: "online", SizeBytes: 2e12, UsedBytes: 940e9, WriteBytes: 3 << 40, ReadBytes: 2 << 40, ReadRate: 92e6, WriteRate: 123e6,
					InFlight: 3, Waiting: 2, QueueLimit: 4, P50Seconds: 0.0098, P99Seconds: 0.031, Slowdown: 1.1, Rotational: true,
					Kernel: &striping.KernelStatus{Disk: "sdb", InFlight: 7, ForeignShare: 0.42, ForeignRate: 61e6}},
				{Name: "d3", Path: "/backup/disk.img", State: "online", SizeBytes: 3e12, UsedBytes: 1e9, QueueLimit: 4, Slowdown: 1, Buffered: true},
			},
			Exports: []striping.ExportInfo{
				{Name: "veeam0", SizeBytes: 2 << 40, UsedBytes: 1_200_000_000_000, Created: day},
				{Name: "gold image", SizeBytes: 20 << 30, UsedBytes: 3 << 30, ReadOnly: true, Created: day},
			},
			Health: []striping.Health{}, Bad: []striping.BadRange{},
			Journal: striping.JournalStatus{Seq: 81234, Records: 1_300_211, CopiesWanted: 3, CopiesGood: 2, Copies: []striping.JournalCopy{
				{Device: "d1", State: "good", Seq: 81234, UsedBytes: 1 << 30, SizeBytes: 8 << 30}, {Device: "d2", State: "good", Seq: 81233, UsedBytes: 1 << 30, SizeBytes: 16 << 30},
				{Device: "d3", State: "making", Seq: 0, UsedBytes: 1 << 20, SizeBytes: 16 << 30}}},
		},
		Daemon: control.Daemon{PID: 4711, Version: "v1.0", Started: day, NBD: []string{"unix:/run/ballast/vault-nbd.sock", "tcp:127.0.0.1:10809"}, HTTP: "127.0.0.1:7710", Clients: 4,
			Mounts: []control.Mount{{Dir: "/backup", Since: day, OpenFiles: 3, ReadBytes: 1 << 30, Written: 5 << 40}}},
		Jobs: []control.Job{},
	}
}

func degraded() *control.Status {
	s := healthy()
	s.State = "degraded"
	s.Degraded, s.Healed, s.Dirty = 2_314_102, 3, 12<<20
	s.Devices[1].State, s.Devices[1].Reason, s.Devices[1].Errors = "missing", "not found at any path", 7
	s.Health = []striping.Health{{Code: "DEVICE_MISSING", Severity: "warning",
		Message: "device d2 was not found; 2314102 chunks have 1 of 2 copies", Action: "attach it and restart, or replace it"}}
	return s
}

func critical() *control.Status {
	s := degraded()
	s.State = "critical"
	s.Lost = 1
	s.Bad = []striping.BadRange{{Export: "veeam0", Off: 4096, Size: 4096, Since: day}}
	s.Health = append(s.Health, striping.Health{Code: "DATA_LOST", Severity: "critical", Message: "1 chunk has no good copy"})
	return s
}

// grouped has two disks in one enclosure.
func grouped() *control.Status {
	s := degraded()
	s.Devices[0].Domain, s.Devices[1].Domain = "shelf-1", "shelf-1"
	return s
}

func TestStatus(t *testing.T) {
	for name, s := range map[string]*control.Status{"status-ok": healthy(), "status-degraded": degraded(), "status-critical": critical(), "status-domains": grouped()} {
		both(t, name, s, func(w *bytes.Buffer) { Status(w, s) })
	}
}

func TestCheckCodes(t *testing.T) {
	for _, c := range []struct {
		s    *control.Status
		code int
	}{{healthy(), 0}, {degraded(), 1}, {critical(), 2}} {
		code, line := Check(c.s)
		require.Equal(t, c.code, code, line)
	}
	s := healthy()
	s.State = "degraded" // even if no health line says why
	code, line := Check(s)
	require.Equal(t, 1, code)
	require.Equal(t, "BALLAST WARNING - volume vault is degraded, 46% used of 2.55 TiB", line)
}

func TestUsage(t *testing.T) {
	u := UsageOf(healthy())
	both(t, "usage", u, func(w *bytes.Buffer) { u.Write(w) })
	u = UsageOf(grouped())
	both(t, "usage-domains", u, func(w *bytes.Buffer) { u.Write(w) })
}

func TestExports(t *testing.T) {
	s := healthy()
	e := &control.Exports{Schema: control.SchemaExports, Volume: s.Volume, Exports: s.Status.Exports,
		URIs: map[string][]string{"veeam0": {"nbd+unix:///veeam0?socket=/run/ballast/vault-nbd.sock", "nbd://127.0.0.1:10809/veeam0"},
			"gold image": {"nbd://127.0.0.1:10809/gold%20image"}}}
	both(t, "exports", e, func(w *bytes.Buffer) { Exports(w, e) })
	none := &control.Exports{Schema: control.SchemaExports, Volume: "vault", Exports: []striping.ExportInfo{}}
	both(t, "exports-none", none, func(w *bytes.Buffer) { Exports(w, none) })
}

func TestIOStat(t *testing.T) {
	before, now := healthy(), healthy()
	now.Devices[0].WriteBytes += 800e6
	now.Devices[1].ReadBytes += 200e6
	s := IOStatOf(before, now, 2*time.Second, day)
	require.InDelta(t, 400e6, s.Devices[0].WriteRate, 1)
	require.InDelta(t, 100e6, s.Devices[1].ReadRate, 1)
	both(t, "iostat", s, func(w *bytes.Buffer) {
		s.Write(w, false, false)
		s.Write(w, true, false)
		s.Write(w, true, true)
	})
	first := IOStatOf(nil, now, 0, day)
	require.Equal(t, now.Devices[0].WriteRate, first.Devices[0].WriteRate)
	// A daemon that was restarted begins to count anew.
	now.Devices[0].WriteBytes = 0
	require.Zero(t, IOStatOf(before, now, time.Second, day).Devices[0].WriteRate)
}

func TestEvents(t *testing.T) {
	var text, lines bytes.Buffer
	for i, e := range []control.Event{
		{Time: day, Severity: "warning", Code: "DEVICE_SLOW", Device: "d2", Message: "p99 212 ms (x6.1)"},
		{Time: day.Add(time.Hour), Severity: "info", Code: "STARTED", Message: "volume opened\x1b[31m\nforged line"},
	} {
		e.Schema, e.Number = control.SchemaEvent, uint64(i+1)
		Event(&text, e)
		require.NoError(t, Line(&lines, e))
	}
	golden(t, "events.txt", text.Bytes())
	golden(t, "events.json", lines.Bytes())
}

func TestList(t *testing.T) {
	l := &List{Schema: "ballast.list/1", Dir: "/var/lib/ballast", Volumes: []Listed{
		{Volume: "archive", State: "not running", Copies: 1, Devices: 5, Raw: 9e12, UUID: "aa"},
		{Volume: "broken", Fault: "volume.json: unexpected end"},
		{Volume: "vault", State: "degraded", Copies: 2, Devices: 3, Raw: 6e12, UUID: "bb"}}}
	both(t, "list", l, func(w *bytes.Buffer) { l.Write(w) })
	none := &List{Schema: "ballast.list/1", Dir: "/var/lib/ballast", Volumes: []Listed{}}
	both(t, "list-none", none, func(w *bytes.Buffer) { none.Write(w) })
}

func TestRefusals(t *testing.T) {
	rs := control.Refusals{
		control.Refuse("E_DEVICE_SIGNATURE", "/dev/sdb holds an ext4 file system").WithTry("another device").WithTry("--force to overwrite it"),
		control.Refuse("E_DEVICE_TWICE", "/dev/sdc and /dev/disk/by-id/x are the same disk"),
	}
	var out bytes.Buffer
	Refusals(&out, rs)
	require.NoError(t, RefusalsJSON(&out, rs))
	golden(t, "refusals.txt", out.Bytes())
}

func TestCheckReport(t *testing.T) {
	chunk, off := int64(81), int64(0x5100000)
	r := &verify.Report{Schema: verify.Schema, Volume: "vault", Verdict: "damaged", Chunks: 1_300_211, Blocks: 2_000_000, Bytes: 2_000_000 * 4096, Stale: 3, Unreadable: 12,
		Missing: []string{"d2"}, FaultCount: 2, Faults: []verify.Fault{
			{Device: "d1", Off: &off, What: "label at 0x5100000: corrupt"},
			{Device: "d1", Object: "veeam0", Chunk: &chunk, Off: &off, What: "block 7: sum 0x00000001, journal says 0x00000002"}}}
	both(t, "check-damaged", r, func(w *bytes.Buffer) { CheckReport(w, r) })
	sound := &verify.Report{Schema: verify.Schema, Volume: "vault", Verdict: "sound", Chunks: 1, Blocks: 256, Bytes: 1 << 20, Missing: []string{}, Faults: []verify.Fault{}}
	both(t, "check-sound", sound, func(w *bytes.Buffer) { CheckReport(w, sound) })
}

func TestInspection(t *testing.T) {
	label := &devices.Label{Volume: devices.UUID{1}, Name: "vault", Device: devices.UUID{2}, ID: 2, Size: 1 << 40, ChunkSize: 1 << 20, Copies: 2, Epoch: 1, Writes: 9,
		Layout: devices.Layout{JournalOff: 65536, JournalSize: 2 << 30, DataOff: 3 << 30, DataSize: 900 << 30}, Anchor: devices.Anchor{Seq: 81234, Count: 1_300_211},
		Members: []devices.Member{{ID: 1, UUID: devices.UUID{3}, Size: 1 << 39, Epoch: 1}, {ID: 2, UUID: devices.UUID{2}, Size: 1 << 40, Epoch: 1}}}
	for name, in := range map[string]*devices.Inspection{
		"inspect-member": {Path: "/dev/sdb", Block: true, Size: 1 << 40, SectorSize: 512, Uses: []string{"locked by another process"}, Label: label},
		"inspect-ext4":   {Path: "/dev/sdc1", Block: true, Size: 1 << 40, SectorSize: 4096, Signatures: []devices.Signature{{Name: "ext4", Off: 0x438, Label: "home"}}, LabelErr: devices.ErrNoLabel},
		"inspect-blank":  {Path: "/srv/disk.img", Size: 10 << 30, Blank: true, LabelErr: devices.ErrNoLabel},
	} {
		copies := []devices.LabelCopy{}
		if in.Label != nil {
			copies = []devices.LabelCopy{{Off: 0, Label: *label}, {Off: 4096, Err: devices.ErrCorrupt}}
		}
		x := InspectionOf(in, copies)
		both(t, name, x, func(w *bytes.Buffer) { x.Write(w) })
	}
}

func TestCreated(t *testing.T) {
	c := &volumes.Config{Schema: volumes.SchemaConfig, Name: "vault", UUID: volumes.UUID{1}, ChunkSize: 1 << 20, Copies: 2, Created: day,
		Devices: []volumes.ConfigDevice{{ID: 1, UUID: volumes.UUID{2}, Path: "/dev/disk/by-id/ata-A", Size: 2e12}, {ID: 2, UUID: volumes.UUID{3}, Path: "/srv/b.img", Size: 1e12}}}
	both(t, "created", c, func(w *bytes.Buffer) { Created(w, c) })
	c.Devices[1].Domain = "shelf-1"
	both(t, "created-domains", c, func(w *bytes.Buffer) { Created(w, c) })
}
