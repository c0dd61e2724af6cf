package devices

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// modelBench drives a model alone: one operation after another, each of a given time.
type modelBench struct {
	m   *model
	now time.Duration
}

func learned(perByte float64) *Speeds {
	var s Speeds
	for i := range s.SecondsPerByte {
		s.SecondsPerByte[i] = perByte
	}
	return &s
}

func (b *modelBench) op(p pattern, size int64, took time.Duration) {
	start := b.now
	b.m.queue(p, size)
	b.now += took
	b.m.complete(b.now, start, p, size, false, true)
	b.m.unqueue(p, size)
}

func (b *modelBench) probe(p pattern, size int64, took time.Duration) {
	start := b.now
	b.now += took
	b.m.complete(b.now, start, p, size, true, true)
}

const (
	mib  = 1 << 20
	base = 10 * time.Millisecond // of 1 MiB on the device of these tests
)

func newBench() *modelBench {
	return &modelBench{m: newModel(false, learned(base.Seconds()/mib))}
}

func TestSigmaAfterOneStall(t *testing.T) {
	b := newBench()
	b.op(writeSeq, mib, base)
	b.op(writeSeq, mib, 300*time.Millisecond)
	require.InDelta(t, 1.4, b.m.sigma[0], 0.05)
	require.InDelta(t, 1, b.m.sigma[1], 1e-9, "reads were not touched")
}

func TestSigmaFollowsLastingSlowdown(t *testing.T) {
	b := newBench()
	var at [13]float64
	for i := 1; i <= 12; i++ {
		b.op(writeSeq, mib, 20*base)
		at[i] = b.m.sigma[0]
	}
	require.InDelta(t, 5, at[5], 1)
	require.InDelta(t, 16, at[12], 1.5)

	// And back. The baseline was not moved by what was an illness.
	for range 12 {
		b.op(writeSeq, mib, base)
	}
	require.Less(t, b.m.sigma[0], 1.35)
	require.InDelta(t, base.Seconds(), b.m.fits[writeSeq].predict(mib), 1e-4)
}

func TestProbesBringADeviceBackFaster(t *testing.T) {
	b := newBench()
	for range 20 {
		b.op(writeSeq, mib, 20*base)
	}
	n := 0
	for ; b.m.sigma[0] > probeSigma; n++ {
		b.probe(writeSeq, probeSize, base/4)
	}
	require.LessOrEqual(t, n, 8, "2 s of probes")
}

func TestTinyOperationsAreJudgedTogether(t *testing.T) {
	b := &modelBench{m: newModel(false, learned(1e-4/4096))} // 4 KiB in 100 µs
	for range 19 {
		b.op(readSeq, 4096, time.Millisecond)
	}
	require.InDelta(t, 1, b.m.sigma[1], 1e-9)
	b.op(readSeq, 4096, time.Millisecond)
	require.InDelta(t, math.Exp(sigmaAlpha*ln4), b.m.sigma[1], 1e-6)
}

// TestBursts: a disk that is limited to 100 MiB/s does 10 MiB in no time in each 100 ms.
func TestBursts(t *testing.T) {
	for _, known := range []*Speeds{nil, learned(10e-3 / mib)} {
		b := &modelBench{m: newModel(false, known)}
		for range 50 {
			for range 9 {
				b.op(writeSeq, mib, 500*time.Microsecond)
			}
			b.op(writeSeq, mib, 95500*time.Microsecond)
		}
		require.InEpsilon(t, 0.010, b.m.fits[writeSeq].predict(mib), 0.1)
		require.InDelta(t, 1, b.m.sigma[0], 0.15)
		require.InDelta(t, 0.095, b.m.gap[0], 0.02)
		// A pause is no stall, three times a pause is.
		o := oldest{dispatched: b.now, pattern: writeSeq, size: mib}
		require.Greater(t, b.m.patience(o, 2e-3), 0.1)
		require.Less(t, b.m.patience(o, 2e-3), 0.2)
	}
}

func TestBaselineSeparatesOperationAndBytes(t *testing.T) {
	b := &modelBench{m: newModel(false, nil)}
	took := func(size int64) time.Duration { // 1 ms + 5 ms per MiB
		return time.Millisecond + time.Duration(size)*5*time.Millisecond/mib
	}
	for i := range 400 {
		size := int64(4096)
		if i%2 == 0 {
			size = mib
		}
		b.op(writeSeq, size, took(size))
	}
	for _, size := range []int64{4096, 64 << 10, mib} {
		require.InEpsilon(t, took(size).Seconds(), b.m.fits[writeSeq].predict(size), 0.02, "%d", size)
	}
	require.InEpsilon(t, mib/took(mib).Seconds(), b.m.rate(Write), 0.02)
}

func TestSerialisedServiceTime(t *testing.T) {
	// Ten operations handed over at once and done one each 10 ms: each took 10 ms, not up to 100.
	b := newBench()
	for range 10 {
		b.m.queue(writeSeq, mib)
	}
	for i := range 10 {
		b.m.complete(time.Duration(i+1)*base, 0, writeSeq, mib, false, true)
		b.m.unqueue(writeSeq, mib)
	}
	require.InDelta(t, 1, b.m.sigma[0], 0.01)
}

func TestUnmeasuredDeviceIsAttractiveThenKnown(t *testing.T) {
	b := &modelBench{m: newModel(false, nil)}
	require.Less(t, b.m.service(writeSeq, mib), 1e-3)
	for range 4 {
		b.op(writeSeq, mib, 50*time.Millisecond)
	}
	require.InEpsilon(t, 0.05, b.m.service(writeSeq, mib), 0.01)
	require.InDelta(t, 1, b.m.sigma[0], 1e-9, "a wrong default is not an illness")
}

func TestBaselineLearnedInABadTimeIsCorrected(t *testing.T) {
	b := &modelBench{m: newModel(false, learned(20*base.Seconds()/mib))}
	for range 600 { // 6 s of work
		b.op(writeSeq, mib, base)
	}
	require.InEpsilon(t, base.Seconds(), b.m.fits[writeSeq].predict(mib), 0.05)
	require.InDelta(t, 1, b.m.sigma[0], 0.1)
	for range 8 {
		b.op(writeSeq, mib, 10*base)
	}
	require.Greater(t, b.m.sigma[0], 5.0, "and then a slowdown shows")
}

func TestBacklogProgressAndOverdue(t *testing.T) {
	b := newBench()
	for range 3 {
		b.m.queue(writeSeq, mib)
	}
	o := &oldest{dispatched: 0, pattern: writeSeq, size: mib}
	ms := func(d int) time.Duration { return time.Duration(d) * time.Millisecond }
	for _, c := range []struct {
		now  time.Duration
		want float64
	}{
		{ms(0), 0.030},
		{ms(4), 0.026},
		{ms(10), 0.020},
		{ms(15), 0.025},   // 5 ms late: 5 ms more, and the two behind it
		{ms(310), 0.320},  // hung for 300 ms
		{ms(3010), 3.020}, // a completion is not needed to know
	} {
		require.InDelta(t, c.want, b.m.backlog(c.now, o), 1e-6, "%v", c.now)
	}
	require.InDelta(t, 0.030, b.m.backlog(ms(310), nil), 1e-6)
}

func TestSpeedsSurvive(t *testing.T) {
	b := &modelBench{m: newModel(true, nil)}
	for range 32 {
		b.op(writeSeq, mib, base)
		b.op(readRand, 64<<10, 12*time.Millisecond)
	}
	s := b.m.speeds()
	require.Zero(t, s.SecondsPerByte[writeRand], "never measured")
	m := newModel(true, &s)
	require.InEpsilon(t, base.Seconds(), m.fits[writeSeq].predict(mib), 0.01)
	require.InEpsilon(t, 0.012, m.fits[readRand].predict(64<<10), 0.01)
	require.Equal(t, s.SecondsPerByte, m.speeds().SecondsPerByte)

	s.SecondsPerByte[readSeq], s.SecondsPerOp[writeSeq] = math.NaN(), math.Inf(1)
	m = newModel(true, &s)
	require.InDelta(t, 0, m.fits[writeSeq].predict(mib), 0.01, "nonsense is not believed")
	require.InDelta(t, 0, m.fits[readSeq].predict(mib), 0.01)
}

func TestPatternsOfASpinningDisk(t *testing.T) {
	m := newModel(true, nil)
	m.end = 8 * mib
	require.Equal(t, readSeq, m.patternOf(Read, 8*mib))
	require.Equal(t, readRand, m.patternOf(Read, 9*mib))
	require.Equal(t, writeRand, m.patternOf(Write, 0))
	m = newModel(false, nil)
	require.Equal(t, readSeq, m.patternOf(Read, 9*mib))
}

func TestFailedOperationsTeachNothing(t *testing.T) {
	b := newBench()
	b.m.complete(time.Second, 0, writeSeq, mib, false, false)
	require.InDelta(t, 1, b.m.sigma[0], 1e-9)
	require.Equal(t, time.Second, b.m.last)
}

// TestBurstsAreNoStalls: a disk that a throttle lets work in slices of 100 ms pauses, now for half of
// one, now for all of it, and is well. One that pauses for 300 ms now and then is not.
func TestBurstsAreNoStalls(t *testing.T) {
	b := newBench()
	for i := range 300 {
		for range 10 {
			b.op(writeSeq, mib, 500*time.Microsecond)
		}
		b.op(writeSeq, mib, []time.Duration{50, 55, 100}[i%3]*time.Millisecond)
	}
	require.Zero(t, b.m.stalledFor)

	b = newBench()
	for range 5 {
		for range 270 {
			b.op(writeSeq, mib, base)
		}
		b.op(writeSeq, mib, 300*time.Millisecond)
	}
	require.InDelta(t, 5*0.3, b.m.stalledFor, 0.01)
}
