//go:build torture

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// tools are fio on an export of its own and restic on the mounted volume, each run after run until
// they are stopped.
type tools struct {
	stop  chan struct{}
	ended sync.WaitGroup
	mu    sync.Mutex
	errs  []error
	runs  map[string]int
}

func (x *tools) loop(name string, run func(n int) error) {
	x.ended.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-x.stop:
				return
			default:
			}
			err := run(n)
			x.mu.Lock()
			x.runs[name]++
			if err != nil {
				x.errs = append(x.errs, fmt.Errorf("%s: %w", name, err))
			}
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
}

// command runs a program, four minutes at most.
func command(dir string, env []string, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", args, errors.Join(err, ctx.Err()), out)
	}
	return nil
}

// useAll starts fio, restic and the load with its model.
func (w *ward) useAll(mount string) (end func()) {
	t := w.t
	t.Helper()
	harness.Need(t, "fio", "restic")
	w.env.Must("export", "create", "v/fio", "192MiB")
	work, source := t.TempDir(), t.TempDir()
	env := []string{"RESTIC_REPOSITORY=" + filepath.Join(mount, "repo"), "RESTIC_PASSWORD=secret", "RESTIC_CACHE_DIR=" + filepath.Join(work, "cache"), "HOME=" + work}
	require.NoError(t, command(work, env, "restic", "init"))
	x := &tools{stop: make(chan struct{}), runs: map[string]int{}}
	x.loop("fio", func(int) error {
		return command(work, nil, "fio", "--name=verify", "--ioengine=nbd", "--uri="+w.d.URI("fio"), "--size=192M", "--rw=randwrite", "--bsrange=4k-256k",
			"--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=0", "--end_fsync=1", "--io_size=96M")
	})
	rng := rand.NewChaCha8([32]byte{7})
	x.loop("restic", func(n int) error {
		p := make([]byte, 8<<20)
		rng.Read(p)
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(n%4)), p, 0o600); err != nil {
			return err
		}
		if err := command(work, env, "restic", "backup", source); err != nil || n%3 > 0 {
			return err
		}
		return command(work, env, "restic", "check", "--read-data")
	})
	w.begin()
	return func() {
		t.Helper()
		close(x.stop)
		x.ended.Wait()
		require.NoError(t, errors.Join(x.errs...))
		w.end()
		require.NoError(t, command(work, env, "restic", "check", "--read-data"))
		t.Logf("runs: %v, %d requests of the load", x.runs, w.load.ops.Load())
		require.NotZero(t, x.runs["fio"])
		require.NotZero(t, x.runs["restic"])
	}
}

// illness is what happens to a disk in the middle of the work.
type illness struct {
	name string
	// what makes the disk ill and well again; after it, all is to be whole.
	what func(t *testing.T, w *ward)
}

var illnesses = []illness{
	{"slow", func(t *testing.T, w *ward) {
		w.sick[2].Set(harness.Illness{Rate: wellRates[2], Slow: 20})
		t.Logf("found after %v", w.await("found", 40*time.Second, w.is("d3", "slow")))
		<-time.After(15 * time.Second)
		w.well(2)
		wasSlow := w.is("d3", "slow")
		judged := w.await("judged well", 2*time.Minute, func(s status) bool { return !wasSlow(s) })
		require.LessOrEqual(t, judged, time.Minute) // from then on it is read and written again
		missed := w.status().Degraded
		t.Logf("judged well after %v, back %v later: %d chunks had missed something", judged, w.await("back", 3*time.Minute, w.is("d3", "online")), missed)
	}},
	{"stalls", func(t *testing.T, w *ward) {
		w.sick[2].Set(harness.Illness{Rate: wellRates[2], Stall: 300 * time.Millisecond, Every: 3 * time.Second})
		<-time.After(30 * time.Second)
		w.well(2)
	}},
	{"hung for 60 s", func(t *testing.T, w *ward) {
		began := time.Now()
		w.sick[1].Set(harness.Illness{Hang: true})
		w.await("given up", time.Minute, w.is("d2", "failed"))
		<-time.After(time.Until(began.Add(time.Minute)))
		n, p99, longest := w.reads.between(began.Add(2*time.Second), time.Now())
		t.Logf("%d reads from 2 s on: p99 %v, longest %v", n, p99, longest)
		require.Less(t, p99, 250*time.Millisecond)
		w.well(1)
		t.Logf("back after %v", w.await("back", 3*time.Minute, w.is("d2", "online")))
	}},
	{"I/O errors", func(t *testing.T, w *ward) {
		w.sick[1].Set(harness.Illness{Fail: true})
		t.Logf("given up after %v", w.await("given up", time.Minute, w.is("d2", "failed")))
		<-time.After(5 * time.Second)
		w.well(1)
		w.env.Must("device", "online", "v", "d2")
	}},
	{"vanished and back", func(t *testing.T, w *ward) {
		w.sick[0].Vanish()
		w.await("given up", time.Minute, w.is("d1", "failed"))
		<-time.After(5 * time.Second)
		w.sick[0].Return()
		w.well(0)
		w.env.Must("device", "online", "v", "d1", "--path", w.sick[0].Path)
	}},
	{"drained and removed", func(t *testing.T, w *ward) {
		fresh := harness.NewSick(t, 1<<30)
		fresh.Set(harness.Illness{Rate: wellRates[1]})
		w.env.Must("device", "add", "v", fresh.Path)
		w.env.Must("device", "drain", "v", "d2")
		t.Logf("drained after %v", w.await("drained", 3*time.Minute, w.is("d2", "drained")))
		w.env.Must("device", "remove", "v", "d2")
	}},
	{"replaced while slow", func(t *testing.T, w *ward) {
		w.sick[0].Set(harness.Illness{Rate: wellRates[0], Slow: 5})
		fresh := harness.NewSick(t, 1<<30)
		fresh.Set(harness.Illness{Rate: wellRates[1]})
		w.env.Must("device", "replace", "v", "d1", fresh.Path)
		t.Logf("replaced after %v", w.await("drained", 4*time.Minute, w.is("d1", "drained")))
		w.env.Must("device", "remove", "v", "d1")
	}},
}

// is tells whether a device is in a state.
func (w *ward) is(id, state string) func(s status) bool {
	return func(s status) bool {
		for _, d := range s.Devices {
			if d.ID == id {
				return d.State == state
			}
		}
		return false
	}
}

// TestTortureIllDisks: what can happen to one of three disks of a mirror, while fio verifies what it
// writes through NBD, restic backs up and checks through FUSE, and a load compares every block.
// Nobody reads a wrong byte or sees an error.
func TestTortureIllDisks(t *testing.T) {
	for _, ill := range illnesses {
		t.Run(ill.name, func(t *testing.T) {
			mount := harness.MountPoint(t)
			w := newWard(t, "--mount", mount)
			end := w.useAll(mount)
			<-time.After(5 * time.Second)
			from := time.Now()
			ill.what(t, w)
			w.await("whole", 4*time.Minute, whole)
			n, p99, longest := w.reads.between(from, time.Now())
			t.Logf("whole %v after it began; %d reads: p99 %v, longest %v", time.Since(from), n, p99, longest)
			end()
			w.await("whole at the end", 4*time.Minute, whole)
			w.stop()
			require.Equal(t, "sound", w.check().Verdict)
		})
	}
}

// TestTortureHealthyBursts: disks that are well, of different speeds, under bursts of work of all
// kinds: nobody is called slow.
func TestTortureHealthyBursts(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "fio")
	env := harness.New(t)
	create := []string{"create", "v", "--copies", "2", "--force"}
	for _, limit := range []int64{50 << 20, 100 << 20, 200 << 20} {
		l := harness.NewLoop(t, harness.SparseRAM(t, 2<<30))
		l.Throttle(t, limit, limit)
		create = append(create, l.Path)
	}
	env.Must(create...)
	env.Must("export", "create", "v/e", "1GiB")
	d := env.Serve("v")
	rng := rand.New(rand.NewPCG(1, 1))
	const minutes = 5
	bursts := 0
	for began := time.Now(); time.Since(began) < minutes*time.Minute; bursts++ {
		kind := []string{"write", "read", "randwrite", "randread", "randrw"}[rng.IntN(5)]
		bs := []string{"4k", "64k", "256k", "1M"}[rng.IntN(4)]
		harness.Tool(t, "fio", "--name=burst", "--ioengine=nbd", "--uri="+d.URI("e"), "--size=1G", "--rw="+kind, "--bs="+bs,
			fmt.Sprintf("--iodepth=%d", 1<<rng.IntN(6)), "--time_based", fmt.Sprintf("--runtime=%d", 2+rng.IntN(12)))
		<-time.After(time.Duration(rng.IntN(8000)) * time.Millisecond)
	}
	log := env.Must("events", "v")
	t.Logf("%d bursts in %d min\n%s", bursts, minutes, log)
	for _, code := range []string{"DEVICE_SLOW", "DEVICE_HUNG", "DEVICE_FAILED"} {
		require.False(t, strings.Contains(log, code), "a false verdict")
	}
	require.Zero(t, d.Stop())
}
