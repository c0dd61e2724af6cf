package striping

import (
	"flag"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/simdisk"
	"ballast/journal"
	"ballast/journal/simjournal"

	"github.com/stretchr/testify/require"
)

var (
	enumDepth = flag.Int("enumerate", 1, "operations in a row of which every crash is enumerated; with 1 also some pairs")
	enumOnly  = flag.String("sequence", "", "enumerate this sequence of operations alone, such as 3,10")
)

// enumOps are the operations of the enumeration. Blocks 0 to 31 hold durable data before.
var enumOps = []struct {
	name string
	do   func(s *script)
}{
	{"write a chunk", func(s *script) { s.write(0, 16, false) }},
	{"write a block", func(s *script) { s.write(2, 1, false) }},
	{"write into a hole", func(s *script) { s.write(36, 1, false) }},
	{"write over two chunks", func(s *script) { s.write(14, 4, false) }},
	{"write two blocks", func(s *script) { s.write(2, 2, false) }},
	{"write unaligned", func(s *script) { s.straddle(5) }},
	{"trim a chunk", func(s *script) { s.zero(0, 16, "trim") }},
	{"trim a block", func(s *script) { s.zero(2, 1, "trim") }},
	{"zeros that keep space", func(s *script) { s.zero(14, 20, "keep") }},
	{"write with fua", func(s *script) { s.write(3, 1, true) }},
	{"flush", func(s *script) { s.sync() }},
	{"shrink and grow", func(s *script) { s.resize(20); s.resize(scriptBlocks) }},
}

// straddle writes a block and the first sectors of the next one, these with what they hold.
func (s *script) straddle(block int) {
	ver := s.m.begin(block, 1, false)
	p := make([]byte, blockSize+512)
	stamp(p[:blockSize], block, ver)
	require.NoError(s.t, s.e.ReadAt(s.ctx, p[blockSize:], int64(block+1)*blockSize))
	err := s.e.WriteAt(s.ctx, p, int64(block)*blockSize, false)
	s.m.end(block, 1, err)
	s.result("straddling write", err)
}

// observer takes down every outcome that a power cut could have at each boundary of persistence:
// after each write that a disk took, each sync and each commit, and after each operation.
type observer struct {
	s *script

	mu      sync.Mutex
	on      bool
	seen    map[[2]uint64]bool
	seed    maphash.Seed
	moments []moment
}

// moment is one boundary: what each disk may hold, and what the model says.
type moment struct {
	disks [][]outcome
	j     *simjournal.Journal
	m     *model
}

type outcome struct {
	disk *simdisk.Disk
	hash uint64
	torn bool
	what string
}

func (o *observer) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.on {
		return
	}
	mo := moment{j: o.s.j.Outcome(0), m: o.s.m.clone()}
	for _, d := range o.s.disks {
		mo.disks = append(mo.disks, o.outcomes(d))
	}
	o.moments = append(o.moments, mo)
}

// outcomes lists the different contents that a power cut may leave of d.
func (o *observer) outcomes(d *simdisk.Disk) (list []outcome) {
	n := d.Pending()
	add := func(what string, torn bool, p simdisk.Policy) {
		after := d.Crash(rand.New(rand.NewPCG(1, 1)), p)
		h := o.hash(after)
		if !slices.ContainsFunc(list, func(x outcome) bool { return x.hash == h }) {
			list = append(list, outcome{after, h, torn, what})
		}
	}
	if n <= 3 {
		for mask := range uint64(1) << n {
			add(fmt.Sprintf("mask %b of %d", mask, n), false, simdisk.KeepMask(mask))
		}
	} else {
		add("none", false, simdisk.KeepNone)
		add("all", false, simdisk.KeepAll)
		for i := range n {
			add(fmt.Sprintf("first %d of %d", i, n), false, simdisk.KeepPrefix(i))
			add(fmt.Sprintf("all but %d of %d", i, n), false, simdisk.DropOnly(i))
			add(fmt.Sprintf("only %d of %d", i, n), false, simdisk.KeepOnly(i))
		}
		add("even", false, simdisk.KeepMask(0x5555555555555555))
		add("odd", false, simdisk.KeepMask(0xaaaaaaaaaaaaaaaa))
	}
	for i := range n {
		add(fmt.Sprintf("%d of %d half", i, n), true, simdisk.TearWrite(i, func(s, of int) bool { return s < of/2 }, simdisk.KeepAll))
		add(fmt.Sprintf("%d of %d every other sector", i, n), true, simdisk.TearWrite(i, func(s, of int) bool { return s%2 == 1 }, simdisk.KeepPrefix(i)))
	}
	return list
}

func (o *observer) hash(d *simdisk.Disk) uint64 {
	var h maphash.Hash
	h.SetSeed(o.seed)
	p := make([]byte, d.Size())
	d.Peek(p, 0)
	h.Write(p)
	return h.Sum64()
}

// watchedDisk tells the observer of what reaches the disk.
type watchedDisk struct {
	*simdisk.Disk
	o *observer
}

func (d *watchedDisk) WriteVec(bufs [][]byte, off int64) (int, error) {
	n, err := d.Disk.WriteVec(bufs, off)
	d.o.look()
	return n, err
}

func (d *watchedDisk) WriteAt(p []byte, off int64) (int, error) {
	return d.WriteVec([][]byte{p}, off)
}

func (d *watchedDisk) Sync() error {
	err := d.Disk.Sync()
	d.o.look()
	return err
}

func (m *model) clone() *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &model{blocks: slices.Clone(m.blocks), seq: m.seq}
	for i := range c.blocks {
		c.blocks[i].versions = slices.Clone(c.blocks[i].versions)
	}
	return c
}

// key identifies what the model allows.
func (m *model) key(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for i := range m.blocks {
		fmt.Fprint(&h, m.blocks[i].versions, ";")
	}
	return h.Sum64()
}

// TestEveryCrash enumerates, for short sequences of operations after a fixed beginning, every
// boundary of persistence, and there every outcome of a bounded set for each disk; each of the
// states that differ is opened, recovered and compared with the model.
func TestEveryCrash(t *testing.T) {
	var sequences [][]int
	if *enumOnly != "" {
		var one []int
		for f := range strings.SplitSeq(*enumOnly, ",") {
			var n int
			_, err := fmt.Sscan(f, &n)
			require.NoError(t, err)
			one = append(one, n)
		}
		sequences = append(sequences, one)
	} else {
		sequences = sequencesUpTo(max(*enumDepth, 2))
		if *enumDepth < 2 {
			sequences = slices.DeleteFunc(sequences, func(q []int) bool { return len(q) == 2 && (q[0]*5+q[1])%24 != 0 })
		}
	}
	var states, moments, worked atomic.Int64
	for _, cfg := range []rigConfig{{disks: 2, copies: 2}, {disks: 2, copies: 1}, {disks: 3, copies: 2}} {
		next := make(chan []int)
		var wg sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for q := range next {
					t.Run(fmt.Sprintf("%d disks, %d copies, sequence %v", cfg.disks, cfg.copies, q), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							m, n := enumerate(t, cfg, q)
							moments.Add(int64(m))
							states.Add(int64(n))
						})
					})
					worked.Add(1)
				}
			})
		}
		for _, q := range sequences {
			if t.Failed() {
				break
			}
			next <- q
		}
		close(next)
		wg.Wait()
	}
	fmt.Printf("enumerated crashes: %d sequences of at most %d operations, %d boundaries, %d different states, no promise broken: %v\n",
		worked.Load(), len(sequences[len(sequences)-1]), moments.Load(), states.Load(), !t.Failed())
}

func sequencesUpTo(depth int) (list [][]int) {
	from := [][]int{{}}
	for range depth {
		var longer [][]int
		for _, q := range from {
			for i := range enumOps {
				longer = append(longer, append(slices.Clone(q), i))
			}
		}
		list = append(list, longer...)
		from = longer
	}
	return list
}

func enumerate(t *testing.T, cfg rigConfig, sequence []int) (moments, states int) {
	o := &observer{seen: map[[2]uint64]bool{}, seed: maphash.MakeSeed()}
	cfg.size, cfg.seed = 8*64<<10, 1
	cfg.opts = Options{FlushInterval: time.Hour, WriteAge: time.Millisecond, ReadAhead: -1}
	plain := cfg
	cfg.wrapD = func(_ int, d devices.Disk) devices.Disk { return &watchedDisk{d.(*simdisk.Disk), o} }
	cfg.wrapJ = func(j journal.Journal) journal.Journal {
		return &hookJournal{Journal: j, afterCommit: func(*journal.Batch, error) { o.look() }}
	}
	s := newScript(t, cfg)
	o.s = s
	s.write(0, 32, false)
	require.NoError(t, s.v.Flush(s.ctx))
	s.write(9, 2, false)
	s.sync()
	o.mu.Lock()
	o.on = true
	o.mu.Unlock()
	o.look()
	for _, i := range sequence {
		enumOps[i].do(s)
		o.look()
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		o.look()
	}
	o.mu.Lock()
	o.on = false
	o.mu.Unlock()
	s.e.Close()
	require.NoError(t, s.end())
	for n, mo := range o.moments {
		states += o.verify(t, plain, n, mo)
		if t.Failed() {
			t.Logf("at boundary %d; repeat with: go test ./striping -run TestEveryCrash -sequence %s", n,
				strings.Trim(strings.ReplaceAll(fmt.Sprint(sequence), " ", ","), "[]"))
			break
		}
	}
	return len(o.moments), states
}

// verify opens the volume in every combination of the disks' outcomes that was not seen yet.
func (o *observer) verify(t *testing.T, cfg rigConfig, number int, mo moment) (states int) {
	digest := mo.j.State().Digest
	allowed := mo.m.key(o.seed)
	pick := make([]int, len(mo.disks))
	for {
		r := &rig{t: t, cfg: cfg}
		r.cfg.setDefaults()
		key := [2]uint64{allowed, maphash.Bytes(o.seed, digest[:])}
		torn, what := false, ""
		for i, at := range pick {
			out := mo.disks[i][at]
			key[1] = maphash.Comparable(o.seed, [2]uint64{key[1], out.hash})
			torn = torn || out.torn
			what += fmt.Sprintf("; disk %d: %s", i, out.what)
		}
		if !o.seen[key] {
			o.seen[key] = true
			states++
			for i, at := range pick {
				r.disks = append(r.disks, mo.disks[i][at].disk.Crash(nil, simdisk.KeepAll))
			}
			r.j = mo.j.Outcome(0)
			r.open()
			if e := r.export("e"); e.Size() < scriptBlocks*blockSize {
				require.NoError(t, r.v.ResizeExport(t.Context(), "e", scriptBlocks*blockSize))
				e.Close()
			} else {
				e.Close()
			}
			verifyReopened(t, r, mo.m.clone(), torn)
			if t.Failed() {
				t.Logf("boundary %d%s", number, what)
			}
			require.NoError(t, r.end())
		}
		i := 0
		for ; i < len(pick); i++ {
			if pick[i]++; pick[i] < len(mo.disks[i]) {
				break
			}
			pick[i] = 0
		}
		if i == len(pick) {
			return states
		}
	}
}
