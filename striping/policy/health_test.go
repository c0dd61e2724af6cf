package policy

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// condition is what is wrong with a device at second t of a day.
type condition struct {
	name    string
	slow    func(t int, rng *rand.Rand) float64 // factor on service times
	foreign func(t int) float64
	stall   func(t int) time.Duration
	hours   int
	// Seconds from t=1800 until it sits out and until it is condemned; 0: never.
	slowBy, condemnBy int
	common            bool
}

// second is the median ratio of a second of log-normal noise with outliers.
func second(rng *rand.Rand, factor float64) float64 {
	n := 8 + rng.IntN(40)
	r := make([]float64, n)
	for i := range r {
		r[i] = factor * math.Exp(0.4*rng.NormFloat64())
		if rng.IntN(100) == 0 {
			r[i] *= 5 + 20*rng.Float64()
		}
	}
	slices.Sort(r)
	return r[n/2]
}

const sick = 1800 // the second at which what goes wrong begins

// TestHealthTable is the table of conditions that the constants were chosen on: what is found in
// which time, and what must never be taken for illness.
func TestHealthTable(t *testing.T) {
	from := func(f float64) func(int, *rand.Rand) float64 {
		return func(t int, _ *rand.Rand) float64 {
			if t >= sick {
				return f
			}
			return 1
		}
	}
	for _, c := range []condition{
		{name: "healthy", hours: 24},
		{name: "garbage collection 5x in 10 % of seconds", hours: 24, slow: func(_ int, rng *rand.Rand) float64 {
			if rng.IntN(10) == 0 {
				return 5
			}
			return 1
		}},
		{name: "foreign load 4x for 60 s each 10 min", hours: 24,
			slow: func(t int, _ *rand.Rand) float64 {
				if t%600 < 60 {
					return 4.4
				}
				return 1
			}, foreign: func(t int) float64 {
				if t%600 < 60 {
					return 0.8
				}
				return 0
			}},
		{name: "20x, all devices", hours: 2, slow: from(20), common: true},
		{name: "20x", hours: 2, slow: from(20), slowBy: 6, condemnBy: 640},
		{name: "5x", hours: 2, slow: from(5), slowBy: 15, condemnBy: 660},
		{name: "2.5x", hours: 24, slow: from(2.5)},
		{name: "20x for 10 s of every 60 s", hours: 2, slow: func(t int, _ *rand.Rand) float64 {
			if t >= sick && t%60 < 10 {
				return 20
			}
			return 1
		}, slowBy: 10, condemnBy: 700},
		{name: "0.3 s stall each 3 s", hours: 2, stall: func(t int) time.Duration {
			if t >= sick && t%3 == 0 {
				return 300 * time.Millisecond
			}
			return 0
		}, slowBy: 60, condemnBy: 700},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(5) {
				rng := rand.New(rand.NewPCG(seed, 1))
				var h Health
				slowAt, condemnAt := 0, 0
				for s := range c.hours * 3600 {
					v := Vitals{Ops: 20, Common: c.common}
					factor := 1.0
					if c.slow != nil {
						factor = c.slow(s, rng)
					}
					v.Ratio = second(rng, factor)
					if c.foreign != nil {
						v.Foreign = c.foreign(s)
					}
					if c.stall != nil {
						v.Stalled = c.stall(s)
					}
					switch h.Step(time.Duration(s)*time.Second, time.Second, v, true) {
					case HealthSlow:
						if slowAt == 0 {
							slowAt = s
						}
					case HealthCondemn:
						if condemnAt == 0 {
							condemnAt = s
						}
					}
				}
				if c.slowBy == 0 {
					require.Zero(t, slowAt, "a false verdict")
					continue
				}
				require.NotZero(t, slowAt, "not found")
				require.GreaterOrEqual(t, slowAt, sick)
				require.LessOrEqual(t, slowAt-sick, c.slowBy)
				require.NotZero(t, condemnAt, "not condemned")
				require.LessOrEqual(t, condemnAt-sick, c.condemnBy)
			}
		})
	}
}

// TestHealthRecovery: a device that is well again is back after 8 s of being well, the next time within
// a minute, and one that comes and goes is not let in for ever.
func TestHealthRecovery(t *testing.T) {
	var h Health
	at := 0
	run := func(n int, ratio float64, ops int, allowed bool) HealthVerdict {
		for range n {
			at++
			if v := h.Step(time.Duration(at)*time.Second, time.Second, Vitals{Ops: ops, Ratio: ratio}, allowed); v != HealthSame {
				return v
			}
		}
		return HealthSame
	}
	require.Equal(t, HealthSame, run(20, 20, 20, false), "redundancy does not permit it")
	require.Equal(t, HealthSlow, run(1, 20, 20, true))
	require.Equal(t, HealthSame, run(20, 20, 4, true), "probes alone")
	began := at
	require.Equal(t, HealthBack, run(120, 1, 4, true))
	require.Contains(t, []int{8, 9}, at-began)
	for range condemnCount - 2 {
		require.Equal(t, HealthSlow, run(30, 20, 20, true))
		began = at
		require.Equal(t, HealthBack, run(120, 1, 4, true))
		require.InDelta(t, 30, at-began, 10)
	}
	require.Equal(t, HealthSlow, run(30, 20, 20, true))
	require.Equal(t, HealthCondemn, run(1, 20, 20, true), "it has come back often enough")

	h = Health{}
	h.SitOut(time.Duration(at) * time.Second)
	require.True(t, h.Slow)
	require.Equal(t, HealthSame, run(7, 1, 4, true))
	require.Equal(t, HealthBack, run(1, 1, 4, true))

	// That others are slow, or somebody else is at the disk, acquits it of what is bad and no more.
	for _, v := range []Vitals{{Ops: 1, Ratio: 1, Common: true}, {Ops: 1, Ratio: 1, Foreign: 0.5}} {
		h = Health{}
		for s := time.Duration(1); s <= 30; s++ {
			h.Step(s*time.Second, time.Second, Vitals{Ops: 20, Ratio: 20}, true)
		}
		require.True(t, h.Slow)
		bad := v
		bad.Ratio = 20
		require.Equal(t, HealthSame, h.Step(31*time.Second, time.Second, bad, true))
		require.Equal(t, maxScore, h.Score)
		for s := time.Duration(32); h.Slow; s++ {
			require.LessOrEqual(t, s, time.Duration(39), "what is well does not count")
			h.Step(s*time.Second, time.Second, v, true)
		}
	}
}

func TestCommonSlow(t *testing.T) {
	require.False(t, CommonSlow([]float64{20}, 0))
	require.False(t, CommonSlow([]float64{20, 1}, 0))
	require.True(t, CommonSlow([]float64{20, 5}, 0))
	require.False(t, CommonSlow([]float64{20, 5, 1, 1}, 0))
	require.True(t, CommonSlow([]float64{20, 5, 5, 1}, 0))
}
