package devices

import (
	"math"
	"time"
)

// The measurement model of one device. It answers one question: if an operation were handed to
// the device now, when would it be done? It works on two time scales.
//
// Slow memory, the baseline: for each class of operation (write or read, sequential or random)
// the service time a + b·size of the device when it is well, fitted over the last 512 samples and
// 30 s of busy time. The time measured is the serialised service time of dm-multipath's
// historical-service-time selector: completion minus the later of dispatch and the previous
// completion, so that waiting behind one's own operations does not count as slowness.
//
// Fast memory, the slowdown sigma of each direction: a moving average of ln(measured/baseline)
// whose steps are clamped to ln 4. The clamp makes it behave like a median: one stall moves it
// to 1.4, a lasting slowdown of 20x reads 5x after 5 samples and 16x after 12, and it returns as
// fast. One average alone would be either too noisy to use or too slow to come back.
//
// Overdue: while the device makes no progress for longer than the oldest operation should take,
// the time that is still to come is taken to be the time already passed (Lindy), so a hung
// device becomes unattractive at once, without a single completion.
//
// Devices may work in bursts: a throttled or caching one does ten operations in no time and
// then pauses for 100 ms. The median of its service times would say that it is ten times as fast
// as it is. So evidence of speed is taken over 100 ms of busy time, evidence of slowness at once;
// the baseline takes in such batches whole, not only their typical samples; and gap, the median
// of the service times weighed by time, tells how long a pause is normal.
//
// The constants come from a discrete-event simulation over scenarios of unequal, slow and
// stalling disks; times are passed in, so the model runs in fake time as well.
const (
	sigmaAlpha      = 0.25 // weight of a batch in lnSigma
	sigmaAlphaProbe = 0.5  // of a probe: rare, and alone on the device

	batchExpected = 2e-3 // seconds of expected work that make a batch when it took much longer
	batchTime     = 0.1  // seconds of busy time that make a batch in any case

	fitSamples = 512
	fitMemory  = 30.0 // seconds of busy time
	fitMature  = 16   // samples, and
	fitBusy    = 0.5  // seconds of busy time after which outliers no longer move the baseline
	fitMax     = 3.0  // outlier: measured more than fitMax, or less than 1/fitMax, of expected
	refitAfter = 8    // batches in a row below 1/fitMax: the baseline was never true

	gapMemory = 0.25 // seconds of busy time that move gap by a factor of e

	minService = 100e-9 // seconds; keeps ratios finite where a clock does not advance
)

var ln4 = math.Log(4)

// pattern is a class of operation with a service time of its own. The order is that of Speeds.
type pattern uint8

const (
	writeSeq pattern = iota
	writeRand
	readSeq
	readRand
	patterns
)

// direction is 0 for writes, 1 for reads.
func (p pattern) direction() int { return int(p) >> 1 }

// Speeds is what a device was found to be able to do: an operation of n bytes takes
// SecondsPerOp + n·SecondsPerByte when the device is well. Indexes are write-sequential,
// write-random, read-sequential, read-random; 0, 0 means not known.
type Speeds struct {
	SecondsPerOp   [4]float64
	SecondsPerByte [4]float64
}

// defaultSpeeds are those of a good device of its kind: a device that was never measured looks
// attractive, is tried at once, and is known after a few operations.
func defaultSpeeds(rotational bool) Speeds {
	if rotational {
		return Speeds{
			SecondsPerOp:   [4]float64{100e-6, 8e-3, 100e-6, 8e-3},
			SecondsPerByte: [4]float64{1 / 250e6, 1 / 250e6, 1 / 250e6, 1 / 250e6},
		}
	}
	return Speeds{
		SecondsPerOp:   [4]float64{20e-6, 20e-6, 20e-6, 20e-6},
		SecondsPerByte: [4]float64{1 / 2e9, 1 / 2e9, 1 / 2e9, 1 / 2e9},
	}
}

// fit is the baseline of one pattern: a weighted linear regression of time over size.
type fit struct {
	n, s, t, ss, st float64 // weighted count and sums; sizes in bytes, times in seconds
	a, b            float64 // the line: seconds, seconds per byte
	mature          bool
}

func (f *fit) predict(size int64) float64 { return max(f.a+f.b*float64(size), minService) }

func (f *fit) add(size, t float64) {
	f.merge(&fit{n: 1, s: size, t: t, ss: size * size, st: size * t})
}

// merge takes in the samples that more sums up.
func (f *fit) merge(more *fit) {
	if more.n == 0 {
		return
	}
	w := max(math.Exp(-more.t/fitMemory), math.Pow(1-1.0/fitSamples, more.n))
	f.n = f.n*w + more.n
	f.s = f.s*w + more.s
	f.t = f.t*w + more.t
	f.ss = f.ss*w + more.ss
	f.st = f.st*w + more.st
	f.mature = f.mature || (f.n >= fitMature && f.t >= fitBusy)
	f.solve()
}

func (f *fit) solve() {
	ms, mt := f.s/f.n, f.t/f.n
	if ms <= 0 {
		return
	}
	perByte := mt / ms
	variance := f.ss/f.n - ms*ms
	if variance < 1e-6*ms*ms {
		f.a, f.b = 0, perByte // one size only: all time is charged to the bytes
		return
	}
	f.b = max(0.05*perByte, min(perByte, (f.st/f.n-ms*mt)/variance))
	f.a = mt - f.b*ms
}

// model is what is known about one device. It is not safe for concurrent use.
type model struct {
	rotational bool
	fits       [patterns]fit
	lnSigma    [2]float64
	sigma      [2]float64 // exp(lnSigma)
	batch      [2]struct {
		t, ex float64
		fits  [patterns]fit // sums only
		fast  int           // batches in a row that were far below the baseline
	}
	gap  [2]float64    // seconds; half of the busy time passes in operations that take longer
	last time.Duration // of the last completion; time since any fixed moment
	end  int64         // where the last operation issued ends: what starts here is sequential

	seen       [2]uint64 // completed operations by direction
	stalledFor float64   // seconds without progress, see Vitals

	// What is queued or dispatched, by pattern.
	ops   [patterns]int
	bytes [patterns]int64
}

func newModel(rotational bool, learned *Speeds) *model {
	m := &model{rotational: rotational, sigma: [2]float64{1, 1}, end: -1}
	def := defaultSpeeds(rotational)
	for p := range m.fits {
		f := &m.fits[p]
		f.a, f.b = def.SecondsPerOp[p], def.SecondsPerByte[p]
		if learned == nil {
			continue
		}
		a, b := learned.SecondsPerOp[p], learned.SecondsPerByte[p]
		// Two points on the learned line, of weight enough to make a mature baseline. Nonsense
		// (a damaged record) is ignored: the device is measured again.
		if !(a >= 0 && b >= 0 && a+b > 0) || math.IsInf(a+b, 0) {
			continue
		}
		f.a, f.b = a, b
		for _, size := range []float64{4096, 1 << 20} {
			t := a + b*size
			f.n += fitMature / 2
			f.s += fitMature / 2 * size
			f.t += fitMature / 2 * t
			f.ss += fitMature / 2 * size * size
			f.st += fitMature / 2 * size * t
		}
		f.mature = true
	}
	return m
}

// speeds returns the baselines, zeros for patterns that were never measured.
func (m *model) speeds() Speeds {
	var s Speeds
	for p := range m.fits {
		if m.fits[p].n > 0 {
			s.SecondsPerOp[p], s.SecondsPerByte[p] = m.fits[p].a, m.fits[p].b
		}
	}
	return s
}

// patternOf is the pattern of an operation that would start at off. Without moving parts the
// place does not matter.
func (m *model) patternOf(kind Kind, off int64) pattern {
	p := writeSeq
	if kind == Read {
		p = readSeq
	}
	if m.rotational && off != m.end {
		p++
	}
	return p
}

// queue counts an operation as waiting for the device or in it, until unqueue.
func (m *model) queue(p pattern, size int64) {
	m.ops[p]++
	m.bytes[p] += size
}

func (m *model) unqueue(p pattern, size int64) {
	m.ops[p]--
	m.bytes[p] -= size
}

// service is the predicted service time as the device is now, in seconds.
func (m *model) service(p pattern, size int64) float64 {
	return m.sigma[p.direction()] * m.fits[p].predict(size)
}

// work is the predicted service time of some operations of some bytes in all, in seconds.
func (m *model) work(ops *[patterns]int, bytes *[patterns]int64) float64 {
	var w float64
	for p := range ops {
		if ops[p] > 0 {
			w += m.sigma[pattern(p).direction()] * (float64(ops[p])*m.fits[p].a + float64(bytes[p])*m.fits[p].b)
		}
	}
	return w
}

// oldest is the operation that is longest in the device.
type oldest struct {
	dispatched time.Duration
	pattern    pattern
	size       int64
}

// stalled is how long the device has made no progress on o, and how long o should take in all.
func (m *model) stalled(now time.Duration, o oldest) (elapsed, expected float64) {
	return (now - max(m.last, o.dispatched)).Seconds(), m.service(o.pattern, o.size)
}

// patience is how long the device may make no progress before something is wrong.
func (m *model) patience(o oldest, slack float64) float64 {
	h := m.service(o.pattern, o.size)
	return max(2*h, h+slack, 1.25*m.gap[o.pattern.direction()])
}

// stallAfter is how long the device may make no progress before that is a stall, which tells against
// it: longer than patience, for to do a thing twice costs little and to have a disk sit out much.
func (m *model) stallAfter(o oldest) float64 {
	return max(m.patience(o, stallLeast), 3*m.gap[o.pattern.direction()])
}

// backlog is W, the expected time until the device is free, in seconds. o is nil when nothing is
// in flight.
func (m *model) backlog(now time.Duration, o *oldest) float64 {
	w := m.work(&m.ops, &m.bytes)
	if o != nil {
		e, h := m.stalled(now, *o)
		if e <= h {
			w -= e
		} else {
			w += (e - h) - h
		}
	}
	return max(w, 0)
}

// complete takes in that an operation dispatched at the given time is done. A failed one tells
// nothing about speed. It does not unqueue.
func (m *model) complete(now, dispatched time.Duration, p pattern, size int64, probe, ok bool) {
	t := max((now - max(dispatched, m.last)).Seconds(), minService)
	m.last = now
	m.seen[p.direction()]++
	if t > m.stallAfter(oldest{dispatched, p, size}) {
		m.stalledFor += t
	}
	if !ok {
		return
	}
	f := &m.fits[p]
	dir := p.direction()
	switch {
	case !f.mature:
		f.add(float64(size), t)
	case probe:
		m.judgeProbe(dir, t/f.predict(size))
		return // alone on the device: no sign of how it goes under load
	default:
		b := &m.batch[dir]
		b.t += t
		b.ex += f.predict(size)
		sums := &b.fits[p]
		sums.n++
		sums.s += float64(size)
		sums.t += t
		sums.ss += float64(size) * float64(size)
		sums.st += float64(size) * t
		// Slow now, or slow until now and as it should be again: that is told at once.
		slow := b.t > fitMax*b.ex || (m.sigma[dir] > probeSigma && b.t > b.ex/fitMax)
		if b.t >= batchTime || (b.ex >= batchExpected && slow) {
			m.judge(dir)
		}
	}
	m.pace(dir, t)
}

// judge draws conclusions from a batch.
func (m *model) judge(dir int) {
	b := &m.batch[dir]
	rho := b.t / b.ex
	m.deviate(dir, sigmaAlpha, rho)
	b.fast++
	if rho > 1/fitMax {
		b.fast = 0
	}
	// A device cannot be much better than well, for long: what was learned was learned in a bad
	// time.
	refit := b.fast >= refitAfter
	for p := range b.fits {
		f := &m.fits[p]
		if refit && b.fits[p].n > 0 {
			*f = fit{a: f.a, b: f.b, mature: true}
		}
		if refit || (rho < fitMax && rho > 1/fitMax) {
			f.merge(&b.fits[p])
		}
		b.fits[p] = fit{}
	}
	if refit {
		m.setSigma(dir, 0)
		b.fast = 0
	}
	b.t, b.ex = 0, 0
}

// judgeProbe takes in a probe. That one operation is done at once is no news about a device that
// is not slow: it may work in bursts.
func (m *model) judgeProbe(dir int, rho float64) {
	before := m.lnSigma[dir]
	m.deviate(dir, sigmaAlphaProbe, rho)
	if m.lnSigma[dir] < 0 {
		m.setSigma(dir, min(before, 0))
	}
}

func (m *model) deviate(dir int, alpha, rho float64) {
	step := math.Log(rho) - m.lnSigma[dir]
	m.setSigma(dir, m.lnSigma[dir]+alpha*max(-ln4, min(ln4, step)))
}

// pace follows the median, weighed by time, of the service times: each moves it by its own length.
func (m *model) pace(dir int, t float64) {
	switch g := m.gap[dir]; {
	case g == 0:
		m.gap[dir] = t
	case t > g:
		m.gap[dir] = min(t, g*math.Exp(t/gapMemory))
	default:
		m.gap[dir] = max(t, g*math.Exp(-t/gapMemory))
	}
}

func (m *model) setSigma(dir int, ln float64) {
	m.lnSigma[dir] = ln
	m.sigma[dir] = math.Exp(ln)
}

// follow draws the slowdown of one direction towards that of the other. It stands in for probes
// of a direction that cannot be probed: without it, a device once found slow at writing, and so
// given no writes, would stay so for good.
func (m *model) follow(dir int) {
	m.setSigma(dir, m.lnSigma[dir]+sigmaAlpha*(m.lnSigma[1-dir]-m.lnSigma[dir]))
}

// rate is the bytes per second at large operations when the device is well.
func (m *model) rate(kind Kind) float64 {
	const size = 1 << 20
	p := writeSeq
	if kind == Read {
		p = readSeq
	}
	if m.fits[p].n == 0 && m.fits[p+1].n > 0 {
		p++
	}
	return size / m.fits[p].predict(size)
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}
