//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// besideRate is how fast each of the four disks is, in bytes per second.
const besideRate = 60 * mib

// jobSpeed watches the first job of a kind until it is over or stop is closed, and returns the bytes
// per second that it moved from its first second on.
func jobSpeed(t testing.TB, env *harness.Env, kind string, stop chan struct{}) float64 {
	var first, last time.Time
	var from, to float64
	for {
		var doc struct {
			Jobs []struct {
				Kind, State string
				Done        float64 `json:"bytes_done"`
			}
		}
		if err := json.Unmarshal([]byte(env.Must("job", "ls", "v", "--json")), &doc); err != nil {
			t.Error(err)
			return 0
		}
		for _, j := range doc.Jobs {
			if j.Kind != kind {
				continue
			}
			switch now := time.Now(); {
			case j.State != "running":
				return (to - from) / last.Sub(first).Seconds()
			case j.Done > 0 && first.IsZero():
				first, from = now, j.Done
			case j.Done > 0:
				last, to = now, j.Done
			}
			break
		}
		select {
		case <-stop:
			return (to - from) / last.Sub(first).Seconds()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// TestBenchBeside: what a rebuild and a drain get of the time that clients leave, and what the clients
// feel of it. The kernel limits a disk's reads and its writes apart, so the bound is what the clients
// leave of either: each byte that is moved is read from any disk, the drained one too, and written to
// one of those that are left.
func TestBenchBeside(t *testing.T) {
	for _, c := range []struct {
		kind   string
		load   float64
		writes bool
	}{{"rebuild", 0.3, false}, {"rebuild", 0.3, true}, {"drain", 0.3, false}, {"drain", 0.3, true}, {"rebuild", 0.6, false}} {
		t.Run(fmt.Sprintf("%s load=%.1f writes=%v", c.kind, c.load, c.writes), func(t *testing.T) {
			harness.NeedRoot(t)
			env := harness.New(t)
			create := []string{"create", "v", "--force", "--copies=2"}
			var ds disks
			for range 4 {
				ds = append(ds, disk{Loop: harness.NewLoop(t, harness.SparseRAM(t, 2<<30))})
			}
			env.Must(append(create, ds.paths()...)...)
			env.Must("export", "create", "v/e", "1GiB")
			d := env.Serve("v")
			job{rw: "write", bs: 1 << 20, depth: 8, uri: d.URI("e"), size: 1 << 30, fsync: true}.run(t)
			for _, l := range ds {
				l.Throttle(t, besideRate, besideRate)
			}
			n := 4.0
			if c.kind == "rebuild" {
				env.Must("device", "offline", "v", "d4")
				n = 3
			}
			const bs = 16 << 10
			fg := job{rw: "randread", bs: bs, depth: 32, uri: d.URI("e"), size: 1 << 30, seconds: 7, ramp: 2}
			reads, writes := 1.0, 0.0
			if c.writes {
				fg.rw, fg.readShare = "randrw", 90
				reads, writes = 0.9, 2*0.1
			}
			fg.rate = int(c.load * n * besideRate / bs)
			base := fg.run(t)
			// What is drained gets no new chunks, but keeps getting what is overwritten: that is left out.
			bound := min(n*besideRate-base.bytesPerSecond*reads, 3*besideRate-base.bytesPerSecond*writes)
			if c.kind == "rebuild" {
				env.Must("rebuild", "start", "v")
			} else {
				env.Must("device", "drain", "v", "d4")
			}
			stop, speed := make(chan struct{}), make(chan float64, 1)
			go func() { speed <- jobSpeed(t, env, c.kind, stop) }()
			with := fg.run(t)
			close(stop)
			rate := <-speed
			require.NotZero(t, rate)
			what := fmt.Sprintf("%s at load %.1f", c.kind, c.load)
			if c.writes {
				what += ", a tenth of it writes"
			}
			report(figure{Bench: "beside", What: what, Value: rate / mib, Unit: "MiB/s", Ratio: rate / bound, Against: "the bound", Goal: 0.85,
				More: map[string]float64{"clients' rate %": 100 * with.iops / base.iops}})
			report(figure{Bench: "beside", What: what + ": p99 of reads", Value: with.p99 * 1e3, Unit: "ms", Ratio: with.p99 / base.p99, Against: "without", Goal: 3, AtMost: true})
		})
	}
}
