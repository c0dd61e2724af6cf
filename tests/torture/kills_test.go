package torture

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// totals are the figures of a kill loop.
type totals struct {
	kills  int
	acked  int64
	lost   int64
	torn   int64
	helped int
	starts []time.Duration
}

func (s *totals) String() string {
	slices.Sort(s.starts)
	at := func(q float64) time.Duration {
		return s.starts[min(int(q*float64(len(s.starts))), len(s.starts)-1)].Round(time.Millisecond)
	}
	return fmt.Sprintf("kills %d, acknowledged %.1f GiB, flushed bytes lost %d, start p50 %v p99 %v max %v, starts that needed help %d",
		s.kills, float64(s.acked)/(1<<30), s.lost, at(0.5), at(0.99), at(1), s.helped)
}

// TestTortureKills kills the daemon with SIGKILL at any time: under load, while it starts, while
// it recovers, while it is being read. It is started again and again and must find, without help,
// all that was flushed.
func TestTortureKills(t *testing.T) {
	kills := *killsFlag
	if kills == 0 {
		kills = 3
		if long() {
			kills = 50
		}
	}
	var all totals
	for _, copies := range []int{1, 2} {
		for _, chunk := range []string{"1MiB", "64KiB"} {
			for _, loop := range []bool{false, true} {
				on := "files"
				if loop {
					on = "loop"
				}
				if loop == (chunk == "64KiB") && !long() {
					continue
				}
				t.Run(fmt.Sprintf("copies=%d,chunk=%s,%s", copies, chunk, on), func(t *testing.T) {
					killLoop(t, shape{copies: copies, chunk: chunk, loop: loop}, kills, &all)
				})
			}
		}
	}
	if len(all.starts) > 0 {
		fmt.Println("kills of the daemon: " + strings.TrimPrefix(all.String(), "kills "))
	}
	require.Zero(t, all.lost)
	require.Zero(t, all.helped)
}

func killLoop(t *testing.T, s shape, kills int, all *totals) {
	rng := newRand(t)
	// Little memory and frequent commits: more of everything happens before the end comes.
	s.serve = [][]string{nil, {"--dirty-limit", "8MiB"}, {"--flush-interval", "100ms"}}[rng.IntN(3)]
	r := newRig(t, s)
	r.env.Must("export", "create", "v/fio", "64MiB")
	f := &fioJob{t: t}
	done := 0
	defer func() {
		all.kills += done
		all.lost += r.lost
		all.helped += r.helped
		all.starts = append(all.starts, r.starts...)
	}()
	for round := 0; done < kills; round++ {
		for rng.IntN(3) == 0 {
			r.startAndKill(time.Duration(rng.IntN(50)) * time.Millisecond)
			done++
		}
		if rng.IntN(8) == 0 {
			r.startAndKill(time.Duration(50+rng.IntN(400)) * time.Millisecond)
			done++
		}
		r.start()
		if rng.IntN(6) == 0 {
			killed := r.killAfter(time.Duration(rng.IntN(60)) * time.Millisecond)
			r.verify()
			<-killed
			r.d = nil
			done++
			r.start()
		}
		require.True(t, r.verify())
		require.False(t, t.Failed(), "round %d", round)
		f.verify(r)
		all.acked += r.underLoad(rng, func() {
			if round%2 == 0 {
				f.start(r, round)
				defer f.killed()
			}
			<-r.killAfter(time.Duration(20+rng.IntN(1500)) * time.Millisecond)
			r.d = nil
		})
		done++
	}
	r.start()
	require.True(t, r.verify())
	f.verify(r)
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}

// killAfter kills the daemon after a while; the channel is closed when it is gone.
func (r *rig) killAfter(after time.Duration) <-chan struct{} {
	d, gone := r.d, make(chan struct{})
	time.AfterFunc(after, func() {
		defer close(gone)
		d.Kill()
	})
	return gone
}

// underLoad runs f, which ends the daemon, while clients work on the export, and returns the bytes
// of modifications that were acknowledged.
func (r *rig) underLoad(rng *rand.Rand, f func()) int64 {
	r.t.Helper()
	l := startLoad(r.m, rng, 8, r.connect(3)...)
	f()
	l.ended.Wait()
	require.NoError(r.t, l.err())
	return l.acked.Load()
}

// fioJob is fio on the export fio: half of it is written to the end, flushed, and verified after
// the crash; on the other half fio writes, verifies what it wrote, and flushes until the crash.
type fioJob struct {
	t       *testing.T
	written []string // arguments of the job that was written and flushed
	cmd     *exec.Cmd
	out     strings.Builder
}

func (f *fioJob) start(r *rig, round int) {
	f.t.Helper()
	if _, err := exec.LookPath("fio"); err != nil {
		harness.Missing(f.t, "fio")
	}
	uri := "--uri=" + r.d.URI("fio")
	f.written = []string{"--name=flushed", "--ioengine=nbd", "--offset=32M", "--size=32M", "--rw=randwrite", "--bsrange=4k-256k", "--iodepth=8",
		"--verify=crc32c", "--verify_fatal=1", fmt.Sprintf("--randseed=%d", round+1)}
	out := harness.Tool(f.t, "fio", append(slices.Clone(f.written), uri, "--do_verify=0", "--end_fsync=1", "--verify_state_save=0")...)
	require.Contains(f.t, out, "err= 0")
	f.out.Reset()
	f.cmd = exec.Command("fio", "--name=mixed", "--ioengine=nbd", uri, "--size=32M", "--rw=randwrite", "--bsrange=4k-128k", "--iodepth=8",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=32", "--fsync=16", "--time_based", "--runtime=60", fmt.Sprintf("--randseed=%d", round))
	f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.out
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(f.t, f.cmd.Start())
}

// killed waits for the end of fio, whose server is gone.
func (f *fioJob) killed() {
	f.t.Helper()
	end := time.AfterFunc(harness.Patience, func() { f.cmd.Process.Kill() })
	f.cmd.Wait()
	require.True(f.t, end.Stop(), "fio does not notice that its server is gone\n%s", f.out.String())
	require.NotContains(f.t, f.out.String(), "verify:")
	require.NotContains(f.t, f.out.String(), "verify failed")
}

// verify reads what was written and flushed.
func (f *fioJob) verify(r *rig) {
	f.t.Helper()
	if f.written != nil {
		out := harness.Tool(f.t, "fio", append(slices.Clone(f.written), "--uri="+r.d.URI("fio"), "--verify_only", "--verify_state_save=0")...)
		require.Contains(f.t, out, "err= 0")
		require.NotContains(f.t, out, "verify:")
	}
}
