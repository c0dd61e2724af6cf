//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// sickDisks are disks as fast as limits says, which can fall ill. Unlike a throttled loop device they have
// no budget that a stall saves up.
func sickDisks(t *testing.T) (sick []*harness.Sick, ds disks) {
	for i := range limits {
		sick = append(sick, harness.NewSick(t, 2<<30))
		ds = append(ds, disk{Loop: sick[i].Loop})
	}
	return sick, ds
}

func well(i int) harness.Illness { return harness.Illness{Rate: float64(limits[i])} }

// TestBenchTail: what one disk that stalls for 300 ms every 3 s, or is 20 times slower, adds to the reads
// of a mirror at a third of what the disks can do, and how much of its share it has again after that.
func TestBenchTail(t *testing.T) {
	sick, ds := sickDisks(t)
	env := harness.New(t)
	env.Must(append([]string{"create", "v", "--force", "--copies=2"}, ds.paths()...)...)
	env.Must("export", "create", "v/e", "1GiB")
	d := env.Serve("v")
	job{rw: "write", bs: mib, depth: 8, uri: d.URI("e"), size: 1 << 30, fsync: true}.run(t)
	sum := int64(0)
	for i := range sick {
		sick[i].Set(well(i))
		sum += limits[i]
	}
	const bs = 64 << 10 // of smaller ones the processors would be what is measured
	load := job{rw: "randread", bs: bs, depth: 16, uri: d.URI("e"), size: 1 << 30, seconds: 12, ramp: 8, rate: int(sum / 3 / bs)}
	run := func() (result, float64) {
		before := ds.transferred(t, "read")
		r := load.run(t)
		after := ds.transferred(t, "read")
		all := 0.0
		for i := range after {
			all += after[i] - before[i]
		}
		return r, (after[2] - before[2]) / all
	}
	healthy, share := run() // once it is known how fast the disks are now: they were filled at full speed
	for _, c := range []struct {
		what string
		ill  harness.Illness
	}{
		{"stalls for 300 ms every 3 s", harness.Illness{Rate: float64(limits[2]), Stall: 300 * time.Millisecond, Every: 3 * time.Second}},
		{"is 20 times slower for 6 s", harness.Illness{Rate: float64(limits[2]), Slow: 20}},
	} {
		sick[2].Set(c.ill)
		ill := make(chan struct{})
		load.seconds, load.ramp = 12, 0
		if c.ill.Slow > 0 {
			load.seconds = 6
		}
		go func() {
			defer close(ill)
			<-time.After(time.Duration(load.seconds) * time.Second)
			sick[2].Set(well(2))
		}()
		r, _ := run()
		<-ill
		report(figure{Bench: "tail", What: "reads while a disk of three " + c.what + ", p99.9", Value: r.p999 * 1e3, Unit: "ms",
			Ratio: r.p999 / healthy.p999, Against: "without", Goal: 3, AtMost: true, More: map[string]float64{"p99 ms": r.p99 * 1e3, "p99 ms without": healthy.p99 * 1e3}})
		load.seconds, load.ramp = 10, 0
		run()
		load.seconds = 4
		_, back := run()
		report(figure{Bench: "tail", What: "its share of the reads, from 10 s after it " + c.what, Value: 100 * back, Unit: "%", Ratio: back / share, Against: "before", Goal: 0.8})
	}
}

// TestBenchFlushBeside: how long flushes of 4 KiB on the fast disks take while others wait for a disk that is
// 20 times slower, beside the same when it is well. There is one copy.
func TestBenchFlushBeside(t *testing.T) {
	sick, ds := sickDisks(t)
	env := harness.New(t)
	env.Must(append([]string{"create", "v", "--force"}, ds.paths()...)...)
	for _, name := range []string{"a", "b"} {
		env.Must("export", "create", "v/"+name, "64MiB")
	}
	d := env.Serve("v")
	on := map[string]int64{} // where a chunk of a is on the first disk, and one of b on the last
	for name, want := range map[string]string{"a": "d1", "b": "d3"} {
		job{rw: "write", bs: mib, depth: 8, uri: d.URI(name), size: 64 * mib, fsync: true}.run(t)
		at, ok := int64(0), false
		for ; at < 64*mib && !ok; at += mib {
			ok = slices.Equal(devicesOf(t, env, name, at), []string{want})
		}
		require.True(t, ok, "no chunk of %s on %s", name, want)
		on[name] = at - mib
	}
	a, err := nbdclient.Dial("unix", d.NBD, "a")
	require.NoError(t, err)
	t.Cleanup(a.Close)
	b, err := nbdclient.Dial("unix", d.NBD, "b")
	require.NoError(t, err)
	t.Cleanup(b.Close)
	measure := func() [2]time.Duration {
		stop, stopped := make(chan struct{}), make(chan error, 1)
		go func() {
			p := make([]byte, 256<<10)
			var err error
			for n := byte(0); err == nil; n++ {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				p[0] = n
				if err = b.Write(p, on["b"], 0); err == nil {
					err = b.Flush()
				}
			}
			stopped <- err
		}()
		var took []time.Duration
		p := make([]byte, 4096)
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
			p[0]++
			require.NoError(t, a.Write(p, on["a"], 0))
			start := time.Now()
			require.NoError(t, a.Flush())
			took = append(took, time.Since(start))
		}
		close(stop)
		require.NoError(t, <-stopped)
		return quantiles(took)
	}
	for i := range sick {
		sick[i].Set(well(i))
	}
	base := measure()
	sick[2].Set(harness.Illness{Rate: float64(limits[2]), Slow: 20, Flush: 50 * time.Millisecond})
	slow := measure()
	sick[2].Set(well(2))
	report(figure{Bench: "tail", What: "flush of 4 KiB beside flushes on a slow disk, p99", Value: milliseconds(slow[1]), Unit: "ms",
		Ratio: float64(slow[1]) / float64(base[1]), Against: "when it is well", Goal: 3, AtMost: true,
		More: map[string]float64{"median ms": milliseconds(slow[0]), "median ms when it is well": milliseconds(base[0])}})
}

// devicesOf is where the chunk at an offset of an export stands.
func devicesOf(t *testing.T, env *harness.Env, export string, off int64) (list []string) {
	var doc struct {
		Chunk struct{ Copies []struct{ Device string } }
	}
	require.NoError(t, json.Unmarshal([]byte(env.Must("why", "v/"+export, "--offset", fmt.Sprint(off), "--json")), &doc))
	for _, c := range doc.Chunk.Copies {
		list = append(list, c.Device)
	}
	return list
}
