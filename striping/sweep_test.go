package striping

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// script is a client that follows a fixed list of requests and knows from a model what may come
// of them.
type script struct {
	*rig
	m      *model
	e      *Export
	ctx    context.Context
	strict bool // no request may fail
	failed int  // requests that did

	countdown atomic.Int64 // commits until the journal is full
}

const scriptBlocks = 6 * 16

func newScript(t testing.TB, cfg rigConfig) *script {
	s := &script{rig: newRig(t, cfg), m: newModel(scriptBlocks * blockSize), ctx: context.Background(), strict: true}
	require.NoError(t, s.v.CreateExport(s.ctx, "e", scriptBlocks*blockSize))
	s.e = s.export("e")
	return s
}

func (s *script) result(what string, err error) {
	if err == nil {
		return
	}
	s.failed++
	if s.strict {
		require.NoError(s.t, err, what)
	}
}

func (s *script) write(first, n int, fua bool) {
	ver := s.m.begin(first, n, false)
	marks := s.m.mark()
	err := s.e.WriteAt(s.ctx, stamped(first, n, ver), int64(first)*blockSize, fua)
	s.m.end(first, n, err)
	if err == nil && fua {
		for i := first; i < first+n; i++ {
			marks[i] = s.m.blocks[i].completed
		}
		s.m.flushedOnly(marks, first, n)
	}
	s.result(fmt.Sprintf("write of blocks %d+%d, fua %v", first, n, fua), err)
}

// unaligned writes blocks [first, first+n) in pieces that end within blocks.
func (s *script) unaligned(first, n int) {
	ver := s.m.begin(first, n, false)
	p := stamped(first, n, ver)
	var err error
	for at := 0; at < len(p) && err == nil; {
		size := min(5000, len(p)-at)
		err = s.e.WriteAt(s.ctx, p[at:at+size], int64(first)*blockSize+int64(at), false)
		at += size
	}
	if err != nil {
		// Some block may be half new now: write it whole.
		err = s.e.WriteAt(s.ctx, p, int64(first)*blockSize, false)
		if err != nil {
			s.m.forget(first, n)
		}
	}
	s.m.end(first, n, err)
	s.result(fmt.Sprintf("unaligned write of blocks %d+%d", first, n), err)
}

func (s *script) zero(first, n int, how string) {
	s.m.begin(first, n, true)
	var err error
	off, size := int64(first)*blockSize, int64(n)*blockSize
	switch how {
	case "trim":
		err = s.e.Trim(s.ctx, off, size, false)
	case "zero":
		err = s.e.WriteZeroes(s.ctx, off, size, false, false, false)
	default:
		err = s.e.WriteZeroes(s.ctx, off, size, true, false, false)
	}
	s.m.end(first, n, err)
	s.result(how, err)
}

func (s *script) sync() {
	marks := s.m.mark()
	err := s.e.Sync(s.ctx)
	if err == nil {
		s.m.flushed(marks)
	}
	s.result("sync", err)
}

func (s *script) read(first, n int) {
	p := make([]byte, n*blockSize)
	err := s.e.ReadAt(s.ctx, p, int64(first)*blockSize)
	if err == nil {
		for i := range n {
			require.NoError(s.t, s.m.check(p[i*blockSize:(i+1)*blockSize], first+i))
		}
	}
	s.result(fmt.Sprintf("read of blocks %d+%d", first, n), err)
}

// resize makes the export size blocks long; what is cut off counts as zeroed.
func (s *script) resize(blocks int) {
	if n := scriptBlocks - blocks; n > 0 {
		s.m.begin(blocks, n, true)
		defer func() { s.m.end(blocks, n, nil) }()
	}
	err := s.v.ResizeExport(s.ctx, "e", int64(blocks)*blockSize)
	if err != nil && blocks < scriptBlocks { // to be seen later which it is
		s.m.forget(blocks, scriptBlocks-blocks)
	}
	s.result("resize", err)
}

func (s *script) pause() { time.Sleep(200 * time.Millisecond) }

// scenario is a script: ready runs with sound disks, then the fault comes, then body runs. With
// reopen the volume is opened between the two, with the fault in force.
type scenario struct {
	name   string
	ready  func(s *script)
	crash  bool // instead of a clean end before reopening
	reopen bool
	spoils bool // the body damages disk 0
	body   func(s *script)
}

var scenarios = []scenario{
	{name: "first writes", body: func(s *script) {
		s.write(0, 3, false)
		s.sync()
		s.write(16, 32, false)
		s.sync()
		s.read(0, 64)
	}},
	{name: "no flush", body: func(s *script) {
		for i := range 4 {
			s.write(i*16, 16, false)
			s.write(i*16+20, 2, false)
			s.pause()
		}
		s.read(0, scriptBlocks)
		s.sync()
	}},
	{name: "fua", body: func(s *script) {
		s.write(3, 1, true)
		s.write(0, 16, true)
		s.write(3, 1, true)
		s.write(14, 4, true)
		s.read(0, 32)
	}},
	{name: "overwrite in place", ready: func(s *script) {
		s.write(0, 48, false)
		s.sync()
	}, body: func(s *script) {
		s.write(2, 3, false)
		s.pause()
		s.write(2, 2, false)
		s.sync()
		s.write(4, 2, false)
		s.write(30, 4, false)
		s.sync()
		s.read(0, 48)
		s.write(3, 1, false)
		s.pause()
	}},
	{name: "rewrite", ready: func(s *script) {
		s.write(0, 48, false)
		s.sync()
	}, body: func(s *script) {
		s.write(0, 16, false)
		s.pause()
		s.write(16, 16, false)
		s.sync()
		s.write(0, 16, false)
		s.pause()
		s.write(5, 1, false)
		s.sync()
		s.read(0, 48)
	}},
	{name: "trim", ready: func(s *script) {
		s.write(0, 48, false)
		s.sync()
	}, body: func(s *script) {
		s.zero(3, 2, "trim")
		s.sync()
		s.zero(16, 16, "trim")
		s.pause()
		s.write(20, 2, false)
		s.sync()
		s.zero(32, 4, "zero")
		s.zero(60, 10, "keep")
		s.write(33, 1, false)
		s.sync()
		s.read(0, scriptBlocks)
	}},
	{name: "unaligned", ready: func(s *script) {
		s.write(0, 32, false)
		s.sync()
	}, body: func(s *script) {
		s.unaligned(3, 4)
		s.sync()
		s.unaligned(30, 6)
		s.sync()
		s.read(0, 48)
	}},
	{name: "resize", ready: func(s *script) {
		s.write(0, scriptBlocks, false)
		s.sync()
	}, body: func(s *script) {
		s.resize(40)
		s.resize(scriptBlocks)
		if s.failed == 0 {
			s.read(0, scriptBlocks)
			s.write(44, 40, false)
			s.sync()
			s.read(0, scriptBlocks)
		}
	}},
	{name: "create and remove", ready: func(s *script) {
		s.write(0, scriptBlocks, false)
		s.sync()
	}, body: func(s *script) {
		err := s.v.CreateExport(s.ctx, "f", 1<<20)
		s.result("create", err)
		if err != nil {
			return
		}
		f := s.export("f")
		s.result("write", f.WriteAt(s.ctx, stamped(0, 20, 1), 0, true))
		f.Close()
		s.result("remove", s.v.RemoveExport(s.ctx, "f", false))
		s.write(10, 20, false)
		s.sync()
	}},
	{name: "read after open", reopen: true, ready: func(s *script) {
		s.write(0, scriptBlocks, false)
		s.write(50, 3, false)
		s.zero(20, 3, "trim")
		s.sync()
	}, body: func(s *script) {
		for range 2 {
			for i := 0; i < scriptBlocks; i += 8 {
				s.read(i, 8)
			}
		}
		s.read(0, scriptBlocks)
	}},
	{name: "read ahead", reopen: true, ready: func(s *script) {
		s.write(0, scriptBlocks, false)
		s.sync()
	}, body: func(s *script) {
		for i := 0; i < scriptBlocks; i += 4 {
			s.read(i, 4)
		}
		s.write(40, 3, false)
		s.read(32, 32)
		s.pause()
		s.sync()
		s.read(0, scriptBlocks)
	}},
	{name: "recovery", reopen: true, crash: true, ready: func(s *script) {
		s.write(0, 64, false)
		s.sync()
		s.write(3, 4, false)
		s.write(20, 4, false)
		s.pause()
		s.write(3, 2, false)
		s.zero(40, 2, "trim")
		s.pause()
	}, body: func(s *script) {
		s.write(5, 4, false)
		s.sync()
		s.write(22, 3, false)
		s.sync()
	}},
	{name: "healing", reopen: true, spoils: true, ready: func(s *script) {
		s.write(0, 64, false)
		s.sync()
		s.pause()
	}, body: func(s *script) {
		if s.cfg.copies > 1 {
			s.disks[0].CorruptMedia(0, s.cfg.size, faultdisk.Flip, rand.New(rand.NewPCG(1, 2)))
			s.v.bal.SetReadable(2, false)
		}
		s.read(0, 64)
		s.pause()
		s.write(3, 3, false)
		s.sync()
		s.read(0, 64)
		s.pause()
		s.sync()
	}},
}

// sweepFault is something that goes wrong at the n-th call.
type sweepFault struct {
	name  string
	disk  bool // of one disk: with two copies no client may notice
	apply func(s *script, n int) (seen func() bool)
}

func diskFault(name string, f faultdisk.Fault) sweepFault {
	return sweepFault{name, true, func(s *script, n int) func() bool {
		f := f
		f.Nth = int64(n)
		a := s.disks[0].Add(f)
		return func() bool { return a.Seen() > 0 }
	}}
}

func sweepFaults() []sweepFault {
	var list []sweepFault
	for _, on := range []struct {
		name string
		ops  faultdisk.Ops
	}{{"read", faultdisk.OnRead}, {"write", faultdisk.OnWrite}, {"sync", faultdisk.OnSync}} {
		list = append(list,
			diskFault(on.name+" fails once", faultdisk.Fault{On: on.ops, Effect: faultdisk.Fail, Extent: faultdisk.Torn}),
			diskFault(on.name+" fails from then on", faultdisk.Fault{On: on.ops, Effect: faultdisk.Fail, Sticky: true, Extent: faultdisk.Any}),
			diskFault(on.name+" hangs once", faultdisk.Fault{On: on.ops, Effect: faultdisk.Hang, Delay: 3 * time.Minute}),
			diskFault(on.name+" hangs from then on", faultdisk.Fault{On: on.ops, Effect: faultdisk.Hang, Sticky: true}))
	}
	list = append(list,
		diskFault("disk vanishes", faultdisk.Fault{On: faultdisk.OnAll, Effect: faultdisk.Fail, Err: syscall.ENXIO, Sticky: true}),
		sweepFault{"journal dies", false, func(s *script, n int) func() bool {
			s.j.FailAt(n)
			j := s.j
			return func() bool { return j.Counters().Failed > 0 }
		}},
		sweepFault{"journal is full", false, func(s *script, n int) func() bool {
			s.countdown.Store(int64(n))
			j := s.j
			return func() bool { return j.Counters().Refused > 0 }
		}})
	return list
}

// lyingDisk is a disk whose syncs mean nothing once one has failed, as with caches that mark
// pages clean whose write-back failed.
type lyingDisk struct {
	*simdisk.Disk
	lies atomic.Bool
}

func (d *lyingDisk) Sync() error {
	if d.lies.Load() {
		return nil
	}
	err := d.Disk.Sync()
	if err != nil {
		d.lies.Store(true)
	}
	return err
}

// TestNthCall fails the n-th call of each kind, for n = 1, 2, ... until the fault is no longer
// met, in each scenario, and cuts the power at the end: no wrong bytes, no flush that said yes
// for nothing, no hang, and with two copies no error from one disk's faults.
func TestNthCall(t *testing.T) {
	total, seen := 0, map[string]int{}
	for _, copies := range []uint8{1, 2} {
		for _, sc := range scenarios {
			for _, f := range sweepFaults() {
				for n := 1; ; n += sweepStep(n, total) {
					met := false
					ok := t.Run(fmt.Sprintf("%s/%d copies/%s/%d", sc.name, copies, f.name, n), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { met = sweepOne(t, sc, f, n, copies) })
					})
					if !ok {
						return
					}
					total++
					if !met {
						break
					}
					seen[f.name]++
				}
			}
		}
	}
	for _, f := range sweepFaults() {
		require.NotZero(t, seen[f.name], "%s: never met", f.name)
	}
	faults := 0
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		faults += seen[k]
	}
	fmt.Printf("failed calls: %d runs, %d faults met, none of them lost or invented anything\n", total, faults)
}

// sweepStep is how far the next call is that fails: all of the first ones do, and of the later ones,
// which are much alike, every third or so, but for the long version.
func sweepStep(n, salt int) int {
	if *everyState || n < 6 {
		return 1
	}
	return 2 + salt%3
}

func sweepOne(t *testing.T, sc scenario, f sweepFault, n int, copies uint8) (met bool) {
	cfg := rigConfig{disks: 2, copies: copies, size: 1 << 20, seed: uint64(n), latency: time.Millisecond, timing: gentle, opts: Options{
		DirtyLimit: 1 << 20, FlushInterval: time.Hour, WriteAge: 10 * time.Millisecond, CacheBytes: 1, ReadAhead: 256 << 10}}
	var s *script
	cfg.wrapD = func(_ int, d devices.Disk) devices.Disk { return &lyingDisk{Disk: d.(*simdisk.Disk)} }
	cfg.wrapJ = func(j journal.Journal) journal.Journal {
		return &hookJournal{Journal: j, beforeCommit: func(*journal.Batch) {
			if s != nil && s.countdown.Add(-1) == 0 {
				s.j.SetFull(true)
			}
		}}
	}
	s = newScript(t, cfg)
	if sc.ready != nil {
		sc.ready(s)
	}
	rng := rand.New(rand.NewPCG(uint64(n), uint64(len(sc.name))))
	opened := true
	if sc.reopen {
		s.e.Close()
		if sc.crash {
			s.crash(rng, oneOf(rng))
		} else {
			require.NoError(t, s.close())
		}
	}
	seen := f.apply(s, n)
	s.strict = copies > 1 && f.disk
	if sc.reopen {
		err := s.tryOpen()
		s.result("open", err)
		if opened = err == nil; opened {
			s.e = s.export("e")
			if sc.crash {
				s.settle()
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if opened {
			sc.body(s)
		}
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Hour):
		panic(fmt.Sprintf("%s, %d copies, %s, %d: hangs", sc.name, copies, f.name, n))
	}
	met = seen()
	if opened && !f.disk && f.name == "journal is full" {
		s.j.SetFull(false)
		s.strict = true
		s.sync()
		s.strict = false
	}
	if copies > 1 && f.disk && !sc.spoils {
		// What counts as a good copy is one, although nobody has read it yet.
		s.disks[0].Faults.Clear()
		time.Sleep(time.Minute)
		require.NoError(t, s.v.checkCopies(s.ctx))
		s.m.flushed(s.m.mark())
	}
	if opened {
		s.e.Close()
		s.crash(rng, oneOf(rng))
	} else {
		for i, d := range s.disks {
			s.disks[i] = d.Crash(rng, simdisk.KeepAll)
		}
		s.j = s.j.Crash(rng)
	}
	s.cfg.wrapJ, s.cfg.wrapD = nil, nil
	s.open()
	if e := s.export("e"); e.Size() < scriptBlocks*blockSize {
		require.NoError(t, s.v.ResizeExport(s.ctx, "e", scriptBlocks*blockSize))
		e.Close()
	} else {
		e.Close()
	}
	for _, e := range s.v.Exports() {
		require.True(t, e.Name == "e" || e.Name == "f" && s.failed > 0)
	}
	for _, m := range s.v.devs() { // so that each copy is read once
		s.v.bal.SetReadable(m.id, false)
		s.readAll(t)
		s.v.bal.SetReadable(m.id, true)
		time.Sleep(time.Minute)
	}
	// A write that failed may have torn the only copy of what it was to replace.
	verifyReopened(t, s.rig, s.m, copies == 1 && strings.HasPrefix(f.name, "write fails"))
	require.NoError(t, s.rig.close())
	return met
}

// oneOf returns what a power cut leaves where no write is torn.
func oneOf(rng *rand.Rand) simdisk.Policy {
	return []simdisk.Policy{simdisk.KeepNone, simdisk.KeepAll, func(rng *rand.Rand, pending []simdisk.Write) []simdisk.Fate {
		return simdisk.KeepMask(rng.Uint64())(rng, pending)
	}}[rng.IntN(3)]
}

// settle finds out after a crash which version each block has, as far as it can be read now.
func (s *script) settle() {
	p := make([]byte, blockSize)
	for i := range s.m.blocks {
		err := s.e.ReadAt(s.ctx, p, int64(i)*blockSize)
		if err == nil {
			require.NoError(s.t, s.m.collapse(p, i))
		} else {
			s.m.unseen(i)
		}
		s.result("read after the crash", err)
	}
}

// readAll reads every block without judging it.
func (s *script) readAll(t *testing.T) {
	e := s.export("e")
	defer e.Close()
	p := make([]byte, blockSize)
	for i := range s.m.blocks {
		err := e.ReadAt(s.ctx, p, int64(i)*blockSize)
		if err != nil && !errors.Is(err, ErrUnreadable) {
			require.NoError(t, err)
		}
	}
}
