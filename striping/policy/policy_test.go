package policy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bisect is the largest T with sum min(x_i, T) >= k·T, by its definition.
func bisect(x []float64, k int) float64 {
	lo, hi := 0.0, 1.0
	for _, v := range x {
		hi += v
	}
	for range 200 {
		t := (lo + hi) / 2
		var sum float64
		for _, v := range x {
			sum += min(v, t)
		}
		if sum >= float64(k)*t {
			lo = t
		} else {
			hi = t
		}
	}
	return lo
}

func TestBoundIsWhatItsDefinitionSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20000 {
		n, k := 1+rng.IntN(10), 1+rng.IntN(4)
		x, free := make([]float64, n), make([]int64, n)
		for i := range x {
			free[i] = int64(math.Exp(rng.Float64() * 12))
			if rng.IntN(8) == 0 {
				free[i] = 0
			}
			x[i] = float64(free[i])
		}
		got := Bound(x, k)
		if n < k {
			require.Zero(t, got)
			require.Zero(t, Capacity(free, k))
			continue
		}
		require.InDelta(t, bisect(x, k), got, 1e-6*(1+got), "%v k=%d", x, k)
		require.Equal(t, int64(math.Floor(got+1e-9)), Capacity(free, k), "%v k=%d", x, k)
	}
}

func TestBoundTable(t *testing.T) {
	for _, c := range []struct {
		x    []float64
		k    int
		want float64
	}{
		{[]float64{50, 100, 200}, 1, 350},
		{[]float64{50, 100, 200}, 2, 150}, // S - b_1
		{[]float64{50, 100, 120}, 2, 135}, // S / 2
		{[]float64{50, 100, 200}, 3, 50},
		{[]float64{50, 80, 100, 120, 200, 200, 400, 500}, 2, 825},
		{[]float64{16, 8, 4, 4, 2}, 2, 17},
		{[]float64{5}, 1, 5},
		{nil, 1, 0},
		{[]float64{5, 0, 0}, 2, 0},
	} {
		require.InDelta(t, c.want, Bound(c.x, c.k), 1e-9, "%v k=%d", c.x, c.k)
	}
}

func TestTargets(t *testing.T) {
	speed := []float64{50, 100, 200}
	capacity := []float64{1, 1, 1}
	require.InDeltaSlice(t, []float64{.30, .35, .35}, Targets(speed, capacity, 2.88, 1), 0.006)
	require.InDeltaSlice(t, []float64{.14, .29, .57}, Targets(speed, capacity, 1.50, 1), 0.006)
	require.InDeltaSlice(t, []float64{1. / 3, 1. / 3, 1. / 3}, Targets(speed, capacity, 99, 1), 0.006)
	require.Equal(t, []float64{0, 0, 0}, Targets(speed, capacity, 0, 1))

	rng := rand.New(rand.NewPCG(2, 2))
	for range 3000 {
		n, k := 1+rng.IntN(8), 1+rng.IntN(3)
		if n < k {
			continue
		}
		speed, capacity := make([]float64, n), make([]float64, n)
		for i := range speed {
			speed[i] = math.Exp(rng.Float64() * 5)
			capacity[i] = math.Exp(rng.Float64() * 5)
		}
		volume := Bound(capacity, k) * rng.Float64()
		var sum float64
		for i, p := range Targets(speed, capacity, volume, k) {
			require.GreaterOrEqual(t, p, 0.0)
			require.LessOrEqual(t, p*float64(k)*volume, capacity[i]*(1+1e-6), "capacity")
			require.LessOrEqual(t, p*float64(k), 1+1e-6, "one copy of each chunk at most")
			sum += p
		}
		require.InDelta(t, 1, sum, 1e-9)
	}
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func idleAt(expect int, domain int) Candidate {
	return Candidate{Expect: ms(expect), Idle: true, Free: 1 << 30, Domain: domain}
}

func busyAt(expect int, domain int) Candidate {
	c := idleAt(expect, domain)
	c.Idle, c.Outstanding, c.Backlog = false, 3, ms(expect)-ms(1)
	return c
}

func TestPlaceTable(t *testing.T) {
	const size = 1 << 20
	full := idleAt(1, 0)
	full.Free = size - 1
	barred := idleAt(1, 0)
	barred.Barred = true
	filled := idleAt(10, 1)
	filled.Used, filled.Free, filled.Target = 600<<20, 424<<20, 0.4
	emptyish := idleAt(11, 2)
	emptyish.Used, emptyish.Free, emptyish.Target = 100<<20, 924<<20, 0.6

	for _, c := range []struct {
		name  string
		cands []Candidate
		order Order
		set   []int
		then  Verdict
	}{
		{"least expected completion", []Candidate{idleAt(9, 0), idleAt(5, 1), idleAt(7, 2)}, Order{Copies: 1}, []int{1}, Chosen},
		{"two copies", []Candidate{idleAt(9, 0), idleAt(5, 1), idleAt(7, 2)}, Order{Copies: 2}, []int{1, 2}, Chosen},
		{"an idle device for independent writes", []Candidate{busyAt(10, 0), idleAt(19, 1)}, Order{Copies: 1, Independent: true}, []int{1}, Chosen},
		{"but not at any price", []Candidate{busyAt(10, 0), idleAt(21, 1)}, Order{Copies: 1, Independent: true}, []int{0}, Chosen},
		{"and not for pieces of a request", []Candidate{busyAt(10, 0), idleAt(19, 1)}, Order{Copies: 1}, []int{0}, Chosen},
		{"late binding", []Candidate{busyAt(60, 0), busyAt(70, 1)}, Order{Copies: 1}, nil, Wait},
		{"one has room, two are needed", []Candidate{busyAt(10, 0), busyAt(70, 1)}, Order{Copies: 2}, nil, Wait},
		{"one domain once", []Candidate{idleAt(1, 7), idleAt(2, 7), idleAt(9, 3)}, Order{Copies: 2}, []int{0, 2}, Chosen},
		{"fewer domains than copies", []Candidate{idleAt(3, 7), idleAt(2, 7)}, Order{Copies: 2}, []int{1}, Chosen},
		{"no space", []Candidate{full}, Order{Copies: 1}, nil, NoSpace},
		{"space for one copy of two", []Candidate{full, idleAt(1, 1)}, Order{Copies: 2}, nil, NoSpace},
		{"barred", []Candidate{barred}, Order{Copies: 1}, nil, NoDevice},
		{"nothing", nil, Order{Copies: 1}, nil, NoDevice},
		{"barred does not count", []Candidate{barred, idleAt(1, 1)}, Order{Copies: 2}, []int{1}, Chosen},
		{"taken domains", []Candidate{idleAt(1, 1), idleAt(2, 2)}, Order{Copies: 1, Taken: func(d int) bool { return d == 1 }}, []int{1}, Chosen},
		{"only some", []Candidate{idleAt(1, 1), idleAt(2, 2)}, Order{Copies: 1, Only: func(i int) bool { return i == 1 }}, []int{1}, Chosen},
		{"speed under load", []Candidate{filled, emptyish}, Order{Copies: 1, Eta: Eta(1)}, []int{0}, Chosen},
		{"fill when there is time", []Candidate{filled, emptyish}, Order{Copies: 1, Eta: Eta(0.2)}, []int{1}, Chosen},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.order.Size = size
			c.order.Promised = size
			set, verdict := Place(c.cands, c.order)
			require.Equal(t, c.then, verdict)
			require.Equal(t, c.set, set)
		})
	}
}

func TestGuardWaitsForTheDeviceThatIsNeeded(t *testing.T) {
	// 6 GiB on the slow one, 2 on each other: every chunk needs a copy there.
	cands := []Candidate{busyAt(70, 0), idleAt(5, 1), idleAt(6, 2)}
	cands[0].Free, cands[1].Free, cands[2].Free = 4<<30, 2<<30, 2<<30
	o := Order{Size: 1 << 20, Copies: 2, Promised: -1}
	_, verdict := Place(cands, o)
	require.Equal(t, Wait, verdict)
	cands[0].Backlog = 0
	set, verdict := Place(cands, o)
	require.Equal(t, Chosen, verdict)
	require.Contains(t, set, 0)
	// When not all of it was promised, speed may have its way.
	o.Promised = 1 << 30
	set, _ = Place(cands, o)
	require.Equal(t, []int{1, 2}, set)
	// A stand-in has to obey as well.
	o.Promised = -1
	_, sound := Spare(cands, o, []int{1}, []int{0})
	require.False(t, sound)
	i, sound := Spare(cands, o, []int{0}, []int{1})
	require.True(t, sound)
	require.Equal(t, 2, i)
}

// TestNothingIsStranded fills random sets of devices with random scores: never is a chunk refused
// while k copies of it fit somewhere, and in the end nothing is left that k copies could use.
func TestNothingIsStranded(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 400 {
		n, k := 1+rng.IntN(8), 1+rng.IntN(3)
		if rng.IntN(10) == 0 {
			n, k = 20+rng.IntN(12), 3 // more sets than are tried
		}
		if n < k {
			continue
		}
		cands := make([]Candidate, n)
		free := make([]int64, n)
		for i := range cands {
			free[i] = 1 + int64(math.Exp(rng.Float64()*4))
			cands[i] = Candidate{Domain: i, Free: free[i]}
		}
		usable := Capacity(free, k)
		speed := make([]float64, n)
		for i := range speed {
			speed[i] = math.Exp(rng.Float64() * 4)
		}
		for written := int64(0); ; written++ {
			for i := range cands {
				cands[i].Expect = time.Duration(speed[i] * (0.5 + rng.Float64()) * 1e6)
			}
			set, verdict := Place(cands, Order{Size: 1, Copies: k, Promised: -1})
			if verdict != Chosen {
				require.Equal(t, NoSpace, verdict)
				require.Equal(t, usable, written, "%v k=%d", free, k)
				break
			}
			require.Len(t, set, k)
			for j, i := range set {
				require.NotContains(t, set[:j], i)
				cands[i].Free--
				cands[i].Used++
				require.GreaterOrEqual(t, cands[i].Free, int64(0))
			}
		}
	}
}

func TestTiesAreBrokenByChance(t *testing.T) {
	cands := []Candidate{idleAt(5, 0), idleAt(5, 1), idleAt(5, 2)}
	var first [3]int
	rng := rand.New(rand.NewPCG(4, 4))
	for range 3000 {
		r := []uint64{rng.Uint64(), rng.Uint64(), rng.Uint64()}
		set, _ := Place(cands, Order{Size: 1, Copies: 1, Tie: func(i int) uint64 { return r[i] }})
		first[set[0]]++
	}
	for _, n := range first {
		require.InDelta(t, 1000, n, 150)
	}
}

func TestReplica(t *testing.T) {
	src := func(expect int) Source { return Source{Expect: ms(expect), Readable: true} }
	slow, gone, tried, idle := src(1), src(1), src(1), src(9)
	slow.Readable, gone.Gone, tried.Tried, idle.Idle = false, true, true, true
	for _, c := range []struct {
		sources []Source
		want    int
	}{
		{nil, -1},
		{[]Source{src(5), src(3), src(4)}, 1},
		{[]Source{src(5), idle}, 1},
		{[]Source{src(4), idle}, 0},
		{[]Source{slow, src(900)}, 1},
		{[]Source{slow, gone, tried}, 0},
		{[]Source{gone, tried}, -1},
	} {
		require.Equal(t, c.want, Replica(c.sources), "%+v", c.sources)
	}
}

func TestHedgeRules(t *testing.T) {
	require.Equal(t, ms(22), HedgeAt(ms(2), WriteSlack, ms(2)))
	require.Equal(t, ms(80), HedgeAt(ms(40), WriteSlack, 0))
	require.Equal(t, ms(3), HedgeAt(ms(1), ReadSlack, 0))
	require.Equal(t, ms(130), HedgeAt(ms(5), WriteSlack, ms(100)))
	require.False(t, HedgePays(ms(29), ms(10), ms(20)))
	require.True(t, HedgePays(ms(30), ms(10), ms(20)))
	require.False(t, CommonCause(1, 3))
	require.False(t, CommonCause(1, 2))
	require.True(t, CommonCause(2, 3))
	require.True(t, CommonCause(2, 2))
}

func TestTokens(t *testing.T) {
	var k Tokens
	require.InDelta(t, 50, k.Left(0), 1e-9)
	for range 50 {
		require.True(t, k.Take(0))
	}
	require.False(t, k.Take(0))
	for range 19 {
		k.Earn()
	}
	require.False(t, k.Take(0))
	k.Earn()
	require.True(t, k.Take(0))
	require.False(t, k.Take(ms(999)))
	require.True(t, k.Take(ms(1001)), "one a second without any operation")
	require.InDelta(t, 50, k.Left(time.Hour), 1e-9)
}

func TestSegments(t *testing.T) {
	const piece = 1 << 20
	run := func(s *Segments, n int, sources ...StreamSource) (order []int, share map[int]int) {
		share = map[int]int{}
		for range n {
			i := s.Next(s.next, piece, sources)
			order = append(order, sources[i].Device)
			share[sources[i].Device]++
		}
		return order, share
	}
	var s Segments
	order, share := run(&s, 96, StreamSource{1, 160e6}, StreamSource{2, 160e6})
	for i, d := range order {
		require.Equal(t, order[i/16*16], d, "segments of 16 MiB")
	}
	require.Equal(t, map[int]int{1: 48, 2: 48}, share)

	s = Segments{}
	_, share = run(&s, 960, StreamSource{1, 200e6}, StreamSource{2, 100e6})
	require.InDelta(t, 640, share[1], 16)

	// A device that had no copy for a while takes no more than its share afterwards.
	s = Segments{}
	run(&s, 500, StreamSource{1, 100e6})
	_, share = run(&s, 320, StreamSource{1, 100e6}, StreamSource{2, 100e6})
	require.InDelta(t, 160, share[1], 33)

	// No copy on the segment's device: another begins.
	s = Segments{}
	run(&s, 4, StreamSource{1, 100e6}, StreamSource{2, 100e6})
	other := 3 - s.device
	require.Zero(t, s.Next(s.next, piece, []StreamSource{{other, 100e6}}))
	require.Equal(t, other, s.device)
	require.Zero(t, s.Next(s.next, piece, []StreamSource{{9, 0}}), "nothing known: the first")
}

func BenchmarkPlace(b *testing.B) {
	cands := make([]Candidate, 16)
	for i := range cands {
		cands[i] = idleAt(5+i, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		Place(cands, Order{Size: 1 << 20, Copies: 2, Promised: -1})
	}
}
