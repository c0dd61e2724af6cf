//go:build torture

package torture

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// flushTimes is how long a client's flushes take, each after a write of 4 KiB to one of the chunks,
// for as long as asked.
func flushTimes(t *testing.T, c *nbdclient.Client, chunks []int64, length time.Duration) []time.Duration {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(length)))
	p := make([]byte, 4096)
	var took []time.Duration
	for began := time.Now(); time.Since(began) < length; {
		at := chunks[rng.IntN(len(chunks))]<<20 + rng.Int64N(256)*4096
		require.NoError(t, c.Write(p, at, 0))
		before := time.Now()
		require.NoError(t, c.Flush())
		took = append(took, time.Since(before))
	}
	slices.Sort(took)
	return took
}

// TestTortureSlowFlush: one of four disks takes 2 s to flush, and one client's data is on it. The
// flushes of another, whose data is not, take no more than three times as long as before.
func TestTortureSlowFlush(t *testing.T) {
	harness.NeedRoot(t)
	for copies := 1; copies <= 2; copies++ {
		t.Run(fmt.Sprint(copies), func(t *testing.T) {
			env := harness.New(t)
			create := []string{"create", "v", "--copies", fmt.Sprint(copies)}
			var disks []*harness.Sick
			for range 4 {
				s := harness.NewSick(t, 1<<30)
				s.Set(harness.Illness{Rate: 200 << 20})
				disks, create = append(disks, s), append(create, s.Path)
			}
			env.Must(create...)
			d := env.Serve("v")
			clients := map[string]*nbdclient.Client{}
			for _, name := range []string{"near", "far"} {
				env.Must("export", "create", "v/"+name, "64MiB")
				c, err := nbdclient.Dial("unix", d.NBD, name)
				require.NoError(t, err)
				defer c.Close()
				clients[name] = c
				for i := range int64(64) {
					require.NoError(t, c.Write(make([]byte, 1<<20), i<<20, 0))
				}
				require.NoError(t, c.Flush())
			}
			// on are the chunks of an export that have a copy on d4, and those that have none.
			on := func(name string) (with, without []int64) {
				for i := range int64(64) {
					var why struct {
						Chunk struct {
							Copies []struct {
								Device string `json:"device"`
							}
						}
					}
					require.NoError(t, json.Unmarshal([]byte(env.Must("why", "v/"+name, "--offset", fmt.Sprint(i<<20), "--json")), &why))
					require.Len(t, why.Chunk.Copies, copies)
					if slices.ContainsFunc(why.Chunk.Copies, func(c struct {
						Device string `json:"device"`
					}) bool {
						return c.Device == "d4"
					}) {
						with = append(with, i)
					} else {
						without = append(without, i)
					}
				}
				return with, without
			}
			_, far := on("far")
			near, _ := on("near")
			require.NotEmpty(t, far)
			require.NotEmpty(t, near)
			base := flushTimes(t, clients["far"], far, 10*time.Second)
			disks[3].Set(harness.Illness{Rate: 200 << 20, Flush: 2 * time.Second})
			slow := make(chan []time.Duration, 1)
			go func() { slow <- flushTimes(t, clients["near"], near, 20*time.Second) }()
			beside := flushTimes(t, clients["far"], far, 20*time.Second)
			theirs := <-slow
			p := func(took []time.Duration, q float64) time.Duration { return took[int(float64(len(took)-1)*q)] }
			ratio := p(beside, 0.99).Seconds() / p(base, 0.99).Seconds()
			t.Logf("copies %d: %d flushes, p50 %v p99 %v; beside a disk that flushes in 2 s %d, p50 %v p99 %v longest %v: %.2f times; on that disk %d, p50 %v longest %v",
				copies, len(base), p(base, 0.5), p(base, 0.99), len(beside), p(beside, 0.5), p(beside, 0.99), p(beside, 1), ratio, len(theirs), p(theirs, 0.5), p(theirs, 1))
			require.LessOrEqual(t, ratio, 3.0)
			disks[3].Set(harness.Illness{Rate: 200 << 20})
			require.Zero(t, d.Stop())
		})
	}
}
