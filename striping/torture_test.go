package striping

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// torture reports whether the campaigns are to be as long as a release wants them.
func torture() bool { return os.Getenv("BALLAST_TORTURE") != "" }

func spaceCases() int {
	if torture() {
		return 100
	}
	return 4
}

var (
	crashCount = flag.Int("crashes", 400, "simulated power cuts of the engine")
	crashSeed  = flag.Uint64("seed", 0, "run one crash scenario with this seed")
	crashFirst = flag.Uint64("first", 1, "first seed of the campaigns")
)

// campaign runs one with seed after seed, each in fake time and with that many power cuts, on all
// processors, until there were cuts of them or something has failed. It returns how many there were.
func campaign(t *testing.T, cuts, each int, one func(t *testing.T, seed uint64)) int {
	if *crashSeed != 0 {
		synctest.Test(t, func(t *testing.T) { one(t, *crashSeed) })
		return each
	}
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !t.Failed() {
				n := next.Add(1)
				if (n-1)*int64(each) >= int64(cuts) {
					return
				}
				seed := *crashFirst + uint64(n-1)
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					defer func() {
						if t.Failed() {
							t.Logf("repeat with: go test ./striping -run '%s$' -seed %d", t.Name()[:len(t.Name())-len(fmt.Sprint(seed))-1], seed)
						}
					}()
					synctest.Test(t, func(t *testing.T) { one(t, seed) })
				})
				done.Add(int64(each))
			}
		})
	}
	wg.Wait()
	return int(done.Load())
}
