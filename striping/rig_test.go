package striping

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"ballast/devices"
	"ballast/devices/devicetest"
	"ballast/devices/simdisk"
	"ballast/journal"
	"ballast/journal/simjournal"

	"github.com/stretchr/testify/require"
)

// rigConfig is a small volume over simulated disks.
type rigConfig struct {
	disks   int
	size    int64 // of each disk
	chunk   uint32
	copies  uint8
	timing  simdisk.Timing
	latency time.Duration // of a journal commit
	opts    Options
	seed    uint64

	domains    []string // failure domains of the disks
	rotational bool
	sizes      []int64                               // of the disks one by one, instead of size
	wrapJ      func(journal.Journal) journal.Journal // stands between the engine and the journal
	wrapD      func(disk int, d devices.Disk) devices.Disk
}

// diskSize is the size of disk i.
func (c *rigConfig) diskSize(i int) int64 {
	if len(c.sizes) > 0 {
		return c.sizes[i]
	}
	return c.size
}

func (c *rigConfig) domain(i int) string {
	if len(c.domains) == 0 {
		return ""
	}
	return c.domains[i]
}

func (c *rigConfig) setDefaults() {
	if c.disks == 0 {
		c.disks = 3
		if len(c.sizes) > 0 {
			c.disks = len(c.sizes)
		}
	}
	if c.size == 0 {
		c.size = 4 << 20
	}
	if c.chunk == 0 {
		c.chunk = 64 << 10
	}
	if c.copies == 0 {
		c.copies = 1
	}
}

// powerCuts counts those of the whole run.
var powerCuts atomic.Int64

// rig is a volume over simulated disks that can be crashed and opened again.
type rig struct {
	t     testing.TB
	cfg   rigConfig
	disks []*simdisk.Disk
	devs  []*devices.Device
	j     *simjournal.Journal
	v     *Volume
	up    bool          // v and devs are to be ended
	grown map[int]int64 // sizes by disk that labels say and the journal may not
}

func newRig(t testing.TB, cfg rigConfig) *rig {
	cfg.setDefaults()
	r := &rig{t: t, cfg: cfg}
	devicetest.AfterFailure(t, func() { r.crash(rand.New(rand.NewPCG(1, 1)), simdisk.KeepNone) })
	for i := range cfg.disks {
		r.disks = append(r.disks, simdisk.New(simdisk.Options{Size: cfg.diskSize(i), Seed: cfg.seed + uint64(i), Timing: cfg.timing}))
	}
	o := simjournal.Options{}
	if cfg.latency > 0 {
		o.Latency = func(*journal.Batch) time.Duration { return cfg.latency }
	}
	r.j = simjournal.New(o)
	vol := journal.Volume{UUID: [16]byte{1, 2, 3}, Name: "rig", ChunkSize: cfg.chunk, Copies: cfg.copies}
	var recs []journal.Device
	for i := range cfg.disks {
		recs = append(recs, journal.Device{ID: uint16(i + 1), UUID: [16]byte{byte(i + 1)}, Path: fmt.Sprintf("/sim/%d", i+1),
			Size: cfg.diskSize(i), Domain: cfg.domain(i), State: journal.Online})
	}
	require.NoError(t, Format(context.Background(), r.j, vol, recs))
	r.open()
	return r
}

// open opens the volume over the present disks and journal; nil disks are missing.
func (r *rig) open() { require.NoError(r.t, r.tryOpen()) }

func (r *rig) tryOpen() error {
	info, recs, err := LoadConfig(r.j)
	if err != nil {
		return err
	}
	o := r.cfg.opts
	o.Journal, o.Volume, o.Seed = r.j, info, r.cfg.seed
	if r.cfg.wrapJ != nil {
		o.Journal = r.cfg.wrapJ(r.j)
	}
	r.devs = nil
	for _, rec := range recs {
		i := int(rec.ID) - 1
		if size := r.grown[i]; size > 0 {
			rec.Size = size
		}
		m := Member{Record: rec, DataSize: rec.Size}
		if d := r.disks[i]; d != nil {
			disk := devices.Disk(d)
			if r.cfg.wrapD != nil {
				disk = r.cfg.wrapD(i, d)
			}
			m.Device = devices.NewDevice(disk, devices.Options{ID: devices.ID(rec.ID), Rotational: r.cfg.rotational, Learned: LearnedSpeeds(&rec)})
			r.devs = append(r.devs, m.Device)
		}
		o.Members = append(o.Members, m)
	}
	r.v, err = Open(context.Background(), o)
	if r.up = err == nil; !r.up {
		for _, d := range r.devs {
			_ = d.Close()
		}
	}
	return err
}

// close ends the volume. What was not made durable by that is gone.
func (r *rig) close() error {
	err := r.end()
	for i, d := range r.disks {
		if d != nil {
			r.disks[i] = d.Crash(nil, simdisk.KeepNone)
		}
	}
	return err
}

// end ends the engine over the present disks.
func (r *rig) end() error {
	if !r.up {
		return nil
	}
	r.up = false
	err := r.v.Close(context.Background())
	for _, d := range r.devs {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// crash cuts the power: what comes back is left in the rig, not opened. The old engine is ended;
// nothing it does from here on reaches what comes back.
func (r *rig) crash(rng *rand.Rand, policy simdisk.Policy) {
	r.crashEach(rng, func(int) simdisk.Policy { return policy })
}

// crashEach is crash with a policy for each disk.
func (r *rig) crashEach(rng *rand.Rand, policy func(disk int) simdisk.Policy) {
	powerCuts.Add(1)
	var after []*simdisk.Disk
	for i, d := range r.disks {
		if d == nil {
			after = append(after, nil)
			continue
		}
		after = append(after, d.Crash(rng, policy(i)))
	}
	j := r.j.Crash(rng)
	for _, d := range r.disks {
		if d != nil {
			d.Faults.Clear()
		}
	}
	_ = r.end() // fails: its journal is dead
	r.disks, r.j = after, j
}

func (r *rig) export(name string) *Export {
	e, err := r.v.OpenExport(name)
	require.NoError(r.t, err)
	return e
}

// hookJournal calls its hooks around the calls of a journal; nil ones are left out.
type hookJournal struct {
	journal.Journal
	beforeCommit func(*journal.Batch)
	afterCommit  func(*journal.Batch, error)
	afterScan    func(journal.Space)
}

func (h *hookJournal) Commit(ctx context.Context, b *journal.Batch) error {
	if h.beforeCommit != nil {
		h.beforeCommit(b)
	}
	err := h.Journal.Commit(ctx, b)
	if h.afterCommit != nil {
		h.afterCommit(b, err)
	}
	return err
}

func (h *hookJournal) ScanFrom(from journal.Key, fn func(journal.Key, []byte) error) error {
	err := h.Journal.ScanFrom(from, fn)
	if h.afterScan != nil {
		h.afterScan(from.Space())
	}
	return err
}

// stamped returns n blocks of version ver from block first on.
func stamped(first, n int, ver uint32) []byte {
	p := make([]byte, n*blockSize)
	for i := range n {
		stamp(p[i*blockSize:(i+1)*blockSize], first+i, ver)
	}
	return p
}
