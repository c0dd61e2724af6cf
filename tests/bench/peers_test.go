//go:build bench

package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// server is one of those that serve the same kind of disk.
type server struct {
	name string
	pid  int
	uri  string
	stop func()
}

// cpu is the processor time that the server's process has used, in seconds.
func (s server) cpu(t testing.TB) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	require.NoError(t, err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func startPeer(t testing.TB, name string, args func(socket string) []string) server {
	harness.Need(t, name)
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(name, args(socket)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	require.Eventually(t, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	return server{name: name, pid: cmd.Process.Pid, uri: "nbd+unix:///?socket=" + socket, stop: stop}
}

// rounds is how often each side has its turn: $BALLAST_BENCH_ROUNDS; n unless set, or 1 in a short run.
func rounds(n int) int {
	if set, err := strconv.Atoi(os.Getenv("BALLAST_BENCH_ROUNDS")); err == nil {
		return set
	}
	if testing.Short() {
		return 1
	}
	return n
}

// TestBenchPeers: Ballast, qemu-nbd and nbdkit, each over a file in memory of its own, one after
// the other in every round ($BALLAST_BENCH_ROUNDS, 5 unless set). Writes end with a flush, the time
// and the processor time of which count: what a server still has in memory would otherwise be work
// for which the next one has to wait.
func TestBenchPeers(t *testing.T) {
	const size = 1 << 30
	env := harness.New(t)
	env.Must("create", "v", "--force", harness.SparseRAM(t, size+256*mib))
	env.Must("export", "create", "v/e", fmt.Sprint(size))
	d := env.Serve("v")
	disks := [2]string{harness.SparseRAM(t, size), harness.SparseRAM(t, size)}
	servers := []server{
		{name: "ballast", pid: d.Pid, uri: d.URI("e")},
		startPeer(t, "qemu-nbd", func(s string) []string {
			return []string{"-f", "raw", "--cache=none", "--aio=io_uring", "-t", "-e", "16", "-k", s, disks[0]}
		}),
		startPeer(t, "nbdkit", func(s string) []string { return []string{"-f", "-U", s, "file", disks[1]} }),
	}
	for _, s := range servers {
		job{rw: "write", bs: 1 << 20, depth: 8, uri: s.uri, size: size, fsync: true}.run(t)
	}
	for _, j := range []job{
		{rw: "randread", bs: 4096, depth: 1, jobs: 1}, {rw: "randwrite", bs: 4096, depth: 1, jobs: 1},
		{rw: "randread", bs: 4096, depth: 32, jobs: 1}, {rw: "randread", bs: 4096, depth: 32, jobs: 4}, {rw: "randread", bs: 4096, depth: 32, jobs: 16},
		{rw: "randwrite", bs: 4096, depth: 32, jobs: 1}, {rw: "randwrite", bs: 4096, depth: 32, jobs: 4}, {rw: "randwrite", bs: 4096, depth: 32, jobs: 16},
		{rw: "read", bs: 1 << 20, depth: 8, jobs: 1}, {rw: "write", bs: 1 << 20, depth: 8, jobs: 1},
	} {
		iops, cpu, latency := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range rounds(5) {
			for _, s := range servers {
				j.uri, j.size, j.seconds, j.ramp, j.fsync = s.uri, size, 3, 1, strings.HasSuffix(j.rw, "write")
				before, begun := s.cpu(t), time.Now()
				r := j.run(t)
				// The ramp counts for the processor time, so scale the operations up to it.
				ops := r.iops * time.Since(begun).Seconds()
				iops[s.name] = append(iops[s.name], r.iops)
				cpu[s.name] = append(cpu[s.name], (s.cpu(t)-before)/ops*1e6)
				latency[s.name] = append(latency[s.name], r.p50*1e6)
			}
		}
		what := fmt.Sprintf("%s %dK, depth %d, %d connections", j.rw, j.bs>>10, j.depth, j.jobs)
		if j.depth == 1 {
			ours, best, more := compared(latency, slices.Min[[]float64], "us")
			report(figure{Bench: "peers", What: what + ", median latency", Value: ours, Unit: "us", Ratio: ours / best, Against: "the better peer", Goal: 1, AtMost: true, More: more})
			continue
		}
		ours, best, more := compared(iops, slices.Max[[]float64], "per s")
		report(figure{Bench: "peers", What: what, Value: ours, Unit: "per s", Ratio: ours / best, Against: "the better peer", Goal: 1, More: more})
		if j.bs == 4096 {
			ours, best, more := compared(cpu, slices.Min[[]float64], "us of CPU")
			report(figure{Bench: "peers", What: what + ", of a second of its CPU", Value: 1e6 / ours, Unit: "per s", Ratio: best / ours, Against: "the better peer", Goal: 1.5, More: more})
		}
	}
	stop, longest := collectorStops(t, d)
	report(figure{Bench: "peers", What: "longest pause of the garbage collector", Value: longest * 1e3, Unit: "ms", More: map[string]float64{"median ms": stop * 1e3}})
}

// collectorStops are the median and the longest of the pauses that the daemon's garbage collector has lately
// made, as its metrics tell them, in seconds.
func collectorStops(t *testing.T, d *harness.Daemon) (median, longest float64) {
	_, text, err := d.Get("/metrics")
	require.NoError(t, err)
	for q, to := range map[string]*float64{"0.5": &median, "1": &longest} {
		_, line, found := strings.Cut(text, `go_gc_duration_seconds{quantile="`+q+`"} `)
		require.True(t, found)
		*to, err = strconv.ParseFloat(strings.Fields(line)[0], 64)
		require.NoError(t, err)
	}
	return median, longest
}

// compared returns the median of Ballast's values, the best of those of the others, and all of these by name.
func compared(values map[string][]float64, best func([]float64) float64, unit string) (ours, theirs float64, more map[string]float64) {
	more = map[string]float64{}
	var others []float64
	for name, list := range values {
		m := median(list)
		if name == "ballast" {
			ours = m
			continue
		}
		others = append(others, m)
		more[name+" "+unit] = m
	}
	return ours, best(others), more
}
