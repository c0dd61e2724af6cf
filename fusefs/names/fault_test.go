package names

import (
	"context"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// faultSteps is how many operations a client does in each run of a sweep.
const faultSteps = 150

// faultRun is one run of a sweep: a client works until an operation fails or it has done all.
type faultRun struct {
	*rig
	m   *model
	c   *mClient
	rng *rand.Rand
}

func newFaultRun(t *testing.T, seed uint64, copies uint8) *faultRun {
	r := newRig(t, rigConfig{disks: 2, size: 32 << 20, copies: copies, seed: seed,
		volume: striping.Options{DirtyLimit: 512 << 10, FlushInterval: 20 * time.Millisecond, WriteAge: 5 * time.Millisecond, CacheBytes: 1},
		tree:   Options{FlushInterval: 15 * time.Millisecond}})
	root, err := readTree(r.Tree, Root, map[Ino]*mInode{})
	require.NoError(t, err)
	m := &model{root: root, files: map[Ino]*mFile{}}
	m.note()
	return &faultRun{r, m, &mClient{t: r.Tree, m: m, rng: rand.New(rand.NewPCG(seed, 2)), stop: func() bool { return false }}, rand.New(rand.NewPCG(seed, 3))}
}

// work returns the first error.
func (f *faultRun) work() error {
	for range faultSteps {
		if err := f.c.step(); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// recover cuts the power and checks what is found without faults.
func (f *faultRun) recover() {
	f.crash(f.rng)
	report, err := Verify(f.j)
	require.NoError(f.t, err)
	require.Empty(f.t, report.Problems)
	f.open()
	require.NoError(f.t, f.m.adopt(f.Tree, f.cfg.copies == 1))
	require.NoError(f.t, f.Sync(context.Background()), "all goes on")
	require.NoError(f.t, f.close())
}

// sweep calls run in a bubble of its own for n from 1 on, until it says that nothing was struck, and
// returns how often something was.
func sweep(t *testing.T, run func(t *testing.T, n int) (struck bool)) (times int) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) { more = run(t, n) })
		if more {
			times++
		}
	}
	require.Positive(t, times)
	return times
}

// TestJournalFails has each commit of a run be the one with which the journal dies: somebody is
// told, no change becomes durable from then on, reads go on, and what was synced is found.
func TestJournalFails(t *testing.T) {
	times := sweep(t, func(t *testing.T, n int) bool {
		f := newFaultRun(t, 1, 1)
		f.j.FailAt(n)
		err := f.work()
		if err == nil {
			err = f.Sync(context.Background())
		}
		struck := f.j.Counters().Failed > 0
		if !struck {
			require.NoError(t, err, "commit %d", n)
		} else {
			_, err = f.Create(context.Background(), Root, "after", New{Mode: syscall.S_IFREG})
			if err == nil {
				err = f.Sync(context.Background())
			}
			require.Error(t, err)
			_, err = f.Lookup(context.Background(), Root, ".")
			require.NoError(t, err)
		}
		f.recover()
		return struck
	})
	t.Logf("%d commits failed", times)
}

// TestJournalFull has the journal refuse new records from each step on until somebody is told so;
// with space again all goes on.
func TestJournalFull(t *testing.T) {
	for step := 0; step < faultSteps; step += 4 {
		synctest.Test(t, func(t *testing.T) {
			f := newFaultRun(t, 2, 1)
			for range step {
				require.NoError(t, f.c.step())
			}
			f.j.SetFull(true)
			if err := f.work(); err == nil {
				_, err = f.Create(context.Background(), Root, "more", New{Mode: syscall.S_IFREG})
				require.NoError(t, err)
				require.Error(t, f.Sync(context.Background()))
			}
			f.j.SetFull(false)
			require.NoError(t, f.Sync(context.Background()), "there is space")
			f.recover()
		})
	}
}

// TestDeviceFails has each write, or each sync, fail on a disk, once or from then on. On a
// mirrored volume no client sees it; otherwise somebody is told of what is lost, and what was synced before
// and not written since is there.
func TestDeviceFails(t *testing.T) {
	for copies := uint8(1); copies <= 2; copies++ {
		for _, on := range []faultdisk.Ops{faultdisk.OnWrite, faultdisk.OnSync} {
			for _, sticky := range []bool{false, true} {
				times := sweep(t, func(t *testing.T, n int) bool {
					f := newFaultRun(t, 4, copies)
					fault := f.disks[0].FailNth(on, int64(n), syscall.EIO, sticky)
					err := f.work()
					if err == nil {
						err = f.Sync(context.Background())
					}
					if copies == 2 || fault.Seen() == 0 {
						require.NoError(t, err, "operation %d", n)
					} else {
						f.m.over = nil // a rename is committed without its file's data once that is lost
					}
					f.recover()
					return fault.Seen() > 0
				})
				t.Logf("copies %d, operations %v, sticky %v: %d failed", copies, on, sticky, times)
			}
		}
	}
}
