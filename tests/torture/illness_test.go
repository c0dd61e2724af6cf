package torture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ballast/devices"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// wellRates are the speeds of the disks that fall ill, in bytes per second.
var wellRates = []float64{100 << 20, 150 << 20, 200 << 20}

// ward is a mirror on three disks that can fall ill, with an export that a model knows.
type ward struct {
	*rig
	sick  []*harness.Sick
	mount string
	load  *load
	reads *timings
}

func newWard(t *testing.T, args ...string) *ward {
	t.Helper()
	w := &ward{rig: &rig{t: t, env: harness.New(t), shape: shape{copies: 2, size: 128 << 20, serve: args}, m: newModel(128 << 20)}}
	create := []string{"create", "v", "--copies", "2"}
	for _, rate := range wellRates {
		s := harness.NewSick(t, 1<<30)
		s.Set(harness.Illness{Rate: rate})
		w.sick = append(w.sick, s)
		create = append(create, s.Path)
	}
	w.env.Must(create...)
	w.env.Must("export", "create", "v/e", "128MiB")
	w.start()
	t.Cleanup(func() { // nobody waits for a daemon that waits for a disk
		for i := range w.sick {
			w.sick[i].Vanish()
		}
	})
	return w
}

func (w *ward) well(i int) { w.sick[i].Set(harness.Illness{Rate: wellRates[i]}) }

// begin starts clients on the export.
func (w *ward) begin() {
	w.t.Helper()
	w.reads = &timings{}
	var conns []client
	for _, c := range w.connect(3) {
		conns = append(conns, &timed{client: c, reads: w.reads})
	}
	w.load = startLoad(w.m, newRand(w.t), 6, conns...)
	w.load.ended.Go(func() { // one that never writes, and so never waits for a write
		r := &worker{load: &load{m: w.m, conns: conns[2:]}, rng: rand.New(rand.NewPCG(1, 2))}
		for {
			select {
			case <-w.load.stop:
				return
			default:
			}
			if err := errors.Join(r.read(), r.err()); err != nil {
				w.load.fault(err)
				return
			}
		}
	})
}

// end ends them: none of them has seen an error or a wrong byte.
func (w *ward) end() {
	w.t.Helper()
	w.load.finish()
	require.NoError(w.t, w.load.err())
	require.NoError(w.t, w.connect(1)[0].Flush())
	w.m.flushed(w.m.now())
	require.True(w.t, w.verify())
}

// await waits until ok, at most for that long.
func (w *ward) await(what string, limit time.Duration, ok func(s status) bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		s := w.status()
		if ok(s) {
			return time.Since(began)
		}
		require.Less(w.t, time.Since(began), limit, "%s: %+v %+v", what, s.Devices, s.Health)
		if w.load != nil {
			require.NoError(w.t, w.load.err())
		}
		<-time.After(200 * time.Millisecond)
	}
}

// cached reads where the labels of a block device are, and so leaves them in the page cache.
func cached(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	for _, off := range []int64{0, end - 2*devices.LabelSize} {
		_, err := f.ReadAt(make([]byte, 2*devices.LabelSize), off)
		require.NoError(t, err)
	}
}

// whole reports whether every device is online and every chunk has its copies.
func whole(s status) bool {
	return s.Degraded == 0 && !slices.ContainsFunc(s.Devices, func(d deviceStatus) bool { return d.State != "online" })
}

// codes are those of the events of a device so far.
func (w *ward) codes(device string) (list []string) {
	w.t.Helper()
	for line := range strings.Lines(w.env.Must("events", "v", "--json")) {
		var e struct{ Code, Device string }
		require.NoError(w.t, json.Unmarshal([]byte(line), &e))
		if e.Device == device {
			list = append(list, e.Code)
		}
	}
	return list
}

// timings are how long reads took.
type timings struct {
	mu   sync.Mutex
	list []timing
}

type timing struct {
	began time.Time
	took  time.Duration
}

// between returns the p99 and the longest of the reads that began between two moments.
func (x *timings) between(a, b time.Time) (n int, p99, longest time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var took []time.Duration
	for _, r := range x.list {
		if r.began.After(a) && r.began.Before(b) {
			took = append(took, r.took)
		}
	}
	if len(took) == 0 {
		return 0, 0, 0
	}
	slices.Sort(took)
	return len(took), took[len(took)*99/100], took[len(took)-1]
}

// timed is a client whose reads are timed.
type timed struct {
	client
	reads *timings
}

func (c *timed) Read(p []byte, off int64) error {
	began := time.Now()
	err := c.client.Read(p, off)
	c.reads.mu.Lock()
	c.reads.list = append(c.reads.list, timing{began, time.Since(began)})
	c.reads.mu.Unlock()
	return err
}

// TestHungDiskLive: one of three disks answers nothing for some seconds, while clients work. They see
// no error; the daemon ends while the disk still hangs, and what the disk does late changes nothing.
func TestHungDiskLive(t *testing.T) {
	w := newWard(t, "--dirty-limit", "16MiB")
	w.begin()
	at := func(ops int64) func() bool { return func() bool { return w.load.ops.Load() >= ops } }
	require.Eventually(t, at(500), harness.Patience, 10*time.Millisecond, "the load does not begin")
	w.sick[1].Set(harness.Illness{Hang: true})
	began := time.Now()
	w.await("noticed", harness.Patience, func(s status) bool { return s.Devices[1].State == "slow" })
	t.Logf("noticed after %v: %v", time.Since(began), w.codes("d2"))
	require.Eventually(t, at(w.load.ops.Load()+500), harness.Patience, 10*time.Millisecond, "the load does not get on")
	n, p99, longest := w.reads.between(began.Add(2*time.Second), time.Now())
	t.Logf("%d reads from 2 s on: p99 %v, longest %v", n, p99, longest)
	w.load.finish()
	require.NoError(t, w.load.err())
	require.NoError(t, w.connect(1)[0].Flush())
	w.m.flushed(w.m.now())
	w.endHung()
	w.start()
	require.True(t, w.verify())
	w.stop()
	c := w.check()
	require.Zero(t, c.FaultCount, "%+v", c) // the disk may still miss what was written without it
}

// endHung ends the daemon while a disk hangs. The kernel keeps what is left of the process until the
// disk answers; that it has closed everything and left is what is waited for.
func (w *ward) endHung() {
	w.t.Helper()
	began := time.Now()
	w.d.Signal(syscall.SIGTERM)
	gone := func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.d.Pid))
		return err != nil || strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " Z")
	}
	require.Eventually(w.t, gone, harness.Patience, 10*time.Millisecond, "it does not end")
	w.t.Logf("ended after %v", time.Since(began))
	w.well(1)
	w.d.Wait()
}

// TestDiskComesBackElsewhere: a disk that vanished under load and failed is back as another block
// device. Told where, the daemon uses that, and gives it what it missed.
// What the page cache still has of it at the old place does not count.
func TestDiskComesBackElsewhere(t *testing.T) {
	w := newWard(t, "--dirty-limit", "16MiB")
	w.begin()
	cached(t, w.sick[0].Path)
	w.sick[0].Vanish()
	w.await("given up", harness.Patience, func(s status) bool { return s.Devices[0].State == "failed" })
	w.sick[0].Return()
	w.well(0)
	w.env.Must("device", "online", "v", "d1", "--path", w.sick[0].Path)
	require.Equal(t, w.sick[0].Path, w.status().Devices[0].Path)
	w.await("whole", harness.Patience, whole)
	w.end()
	w.stop()
	require.Equal(t, "sound", w.check().Verdict)
}
