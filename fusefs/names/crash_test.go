package names

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

var (
	crashCount = flag.Int("crashes", 120, "simulated power cuts of the name space")
	crashSeed  = flag.Uint64("seed", 0, "run one crash scenario with this seed")
)

// TestCrash cuts the power at random moments of a random load, and compares what is found with the
// model (guarantees 1 to 5).
func TestCrash(t *testing.T) {
	if *crashSeed != 0 {
		crashScenario(t, *crashSeed, 6)
		return
	}
	const perScenario = 4
	var next, crashes atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for crashes.Load() < int64(*crashCount) && !t.Failed() {
				seed := uint64(next.Add(1))
				t.Run(fmt.Sprint(seed), func(t *testing.T) { crashScenario(t, seed, perScenario) })
				crashes.Add(perScenario)
			}
		})
	}
	wg.Wait()
	fmt.Printf("simulated crashes of the name space: %d power cuts, no promise broken: %v\n", crashes.Load(), !t.Failed())
}

func crashConfig(rng *rand.Rand, seed uint64) rigConfig {
	cfg := rigConfig{
		disks: 1 + rng.IntN(3), size: 48 << 20, copies: uint8(1 + rng.IntN(2)), seed: seed,
		latency: time.Duration(rng.IntN(3)) * time.Millisecond,
		timing:  simdisk.Timing{ReadRate: 200e6, WriteRate: 100e6, PerOp: 20 * time.Microsecond, Latency: time.Duration(rng.IntN(2000)) * time.Microsecond},
		volume: striping.Options{
			DirtyLimit: int64(256<<10) << rng.IntN(4), FlushInterval: time.Duration(1+rng.IntN(100)) * time.Millisecond,
			WriteAge: time.Duration(rng.IntN(20)) * time.Millisecond, CacheBytes: 1,
		},
		tree: Options{FlushInterval: time.Duration(1+rng.IntN(200)) * time.Millisecond, CacheLimit: 1 << (8 + seed%14)},
	}
	cfg.disks = max(cfg.disks, int(cfg.copies))
	return cfg
}

// crashScenario runs one name space through several power cuts.
func crashScenario(t *testing.T, seed uint64, crashes int) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		defer func() {
			if t.Failed() {
				t.Logf("repeat with: go test ./fusefs/names -run 'TestCrash$' -seed %d", seed)
			}
		}()
		r := newRig(t, crashConfig(rng, seed))
		m := &model{}
		m.root = &mInode{}
		fail := func(err error) bool {
			if err != nil {
				t.Error(err)
			}
			return err != nil
		}
		root, err := readTree(r.Tree, Root, map[Ino]*mInode{})
		require.NoError(t, err)
		*m = model{root: root, files: map[Ino]*mFile{}}
		m.note()
		for i := range crashes {
			quiet := i == crashes-1 // ends without a power cut
			var stop atomic.Bool
			c := &mClient{t: r.Tree, m: m, rng: rand.New(rand.NewPCG(seed, uint64(100+i))), stop: func() bool { return !quiet && stop.Load() }}
			var wg sync.WaitGroup
			var loadErr error
			wg.Go(func() {
				for !stop.Load() && loadErr == nil {
					loadErr = c.step()
					time.Sleep(time.Duration(c.rng.IntN(300)) * time.Microsecond)
				}
			})
			time.Sleep(time.Duration(rng.IntN(300_000)) * time.Microsecond)
			synctest.Wait()
			stop.Store(true)
			if quiet {
				wg.Wait()
				m.synced = len(m.states) - 1
				for _, f := range m.files {
					f.floor = len(f.versions) - 1
				}
				fail(r.close())
			} else {
				r.crash(rng)
				wg.Wait()
			}
			fail(loadErr)
			report, err := Verify(r.j)
			fail(err)
			if err == nil && report.Found > 0 {
				t.Errorf("problems found: %v", report.Problems)
			}
			r.open()
			if fail(m.adopt(r.Tree, r.cfg.copies == 1)) {
				break
			}
		}
		require.NoError(t, r.close())
		report, err := Verify(r.j)
		require.NoError(t, err)
		require.Empty(t, report.Problems)
		require.Zero(t, report.Orphans)
		require.Zero(t, report.LooseChunks)
	})
}
