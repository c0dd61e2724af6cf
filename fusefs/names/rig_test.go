package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ballast/devices"
	"ballast/devices/devicetest"
	"ballast/devices/simdisk"
	"ballast/journal"
	"ballast/journal/simjournal"
	"ballast/striping"

	"github.com/stretchr/testify/require"
)

// rigConfig is a small volume over simulated disks with a name space.
type rigConfig struct {
	disks   int
	size    int64 // of each
	copies  uint8
	latency time.Duration // of a journal commit
	timing  simdisk.Timing
	volume  striping.Options
	tree    Options
	seed    uint64
	wrapJ   func(journal.Journal) journal.Journal
}

// rig is a name space that can be crashed and opened again.
type rig struct {
	t     testing.TB
	cfg   rigConfig
	disks []*simdisk.Disk
	devs  []*devices.Device
	j     *simjournal.Journal
	v     *striping.Volume
	up    bool // the Tree, v and devs are to be ended
	*Tree
}

func newRig(t testing.TB, cfg rigConfig) *rig {
	if cfg.disks == 0 {
		cfg.disks = 2
	}
	if cfg.size == 0 {
		cfg.size = 8 << 20
	}
	if cfg.copies == 0 {
		cfg.copies = 1
	}
	r := &rig{t: t, cfg: cfg}
	devicetest.AfterFailure(t, func() { r.crash(rand.New(rand.NewPCG(1, 1))) })
	var recs []journal.Device
	for i := range cfg.disks {
		r.disks = append(r.disks, simdisk.New(simdisk.Options{Size: cfg.size, Seed: cfg.seed + uint64(i), Timing: cfg.timing}))
		recs = append(recs, journal.Device{ID: uint16(i + 1), UUID: [16]byte{byte(i + 1)}, Path: fmt.Sprintf("/sim/%d", i+1), Size: cfg.size, State: journal.Online})
	}
	o := simjournal.Options{}
	if cfg.latency > 0 {
		o.Latency = func(*journal.Batch) time.Duration { return cfg.latency }
	}
	r.j = simjournal.New(o)
	vol := journal.Volume{UUID: [16]byte{1, 2, 3}, Name: "rig", ChunkSize: 64 << 10, Copies: cfg.copies}
	require.NoError(t, striping.Format(context.Background(), r.j, vol, recs))
	r.open()
	return r
}

func (r *rig) open() { require.NoError(r.t, r.tryOpen()) }

func (r *rig) tryOpen() error {
	info, recs, err := striping.LoadConfig(r.j)
	if err != nil {
		return err
	}
	o := r.cfg.volume
	o.Journal, o.Volume, o.Seed = r.j, info, r.cfg.seed
	if r.cfg.wrapJ != nil {
		o.Journal = r.cfg.wrapJ(r.j)
	}
	r.devs = nil
	for i, rec := range recs {
		d := devices.NewDevice(r.disks[i], devices.Options{ID: devices.ID(rec.ID)})
		r.devs = append(r.devs, d)
		o.Members = append(o.Members, striping.Member{Record: rec, Device: d, DataSize: r.cfg.size})
	}
	if r.v, err = striping.Open(context.Background(), o); err == nil {
		to := r.cfg.tree
		to.Volume, to.Journal = r.v, o.Journal
		if r.Tree, err = Open(context.Background(), to); err == nil {
			r.up = true
			return nil
		}
		_ = r.v.Close(context.Background())
	}
	for _, d := range r.devs {
		_ = d.Close()
	}
	return err
}

// close ends all; what was not made durable by that is gone.
func (r *rig) close() error {
	err := r.end()
	for i, d := range r.disks {
		r.disks[i] = d.Crash(nil, simdisk.KeepNone)
	}
	return err
}

func (r *rig) end() error {
	if !r.up {
		return nil
	}
	r.up = false
	err := r.Tree.Close(context.Background())
	if verr := r.v.Close(context.Background()); err == nil {
		err = verr
	}
	for _, d := range r.devs {
		if derr := d.Close(); err == nil {
			err = derr
		}
	}
	return err
}

// crash cuts the power and leaves what comes back in the rig, not opened.
func (r *rig) crash(rng *rand.Rand) {
	var after []*simdisk.Disk
	for _, d := range r.disks {
		after = append(after, d.Crash(rng, simdisk.Random))
	}
	j := r.j.Crash(rng)
	for _, d := range r.disks {
		d.Faults.Clear()
	}
	_ = r.end() // fails: its journal is dead
	r.disks, r.j = after, j
}

func (r *rig) create(dir Ino, name string, mode uint32) Attr {
	a, err := r.Create(context.Background(), dir, name, New{Mode: mode})
	require.NoError(r.t, err)
	return a
}

func (r *rig) file(dir Ino, name string) Attr {
	return r.create(dir, name, journal.TypeRegular|0o644)
}
func (r *rig) mkdir(dir Ino, name string) Attr {
	return r.create(dir, name, journal.TypeDirectory|0o755)
}

func (r *rig) write(ino Ino, off int64, p []byte) {
	f, err := r.OpenFile(context.Background(), ino, true)
	require.NoError(r.t, err)
	defer f.Close()
	require.NoError(r.t, f.WriteAt(context.Background(), p, off))
}

func (r *rig) read(ino Ino) []byte {
	f, err := r.OpenFile(context.Background(), ino, false)
	require.NoError(r.t, err)
	defer f.Close()
	a, err := f.Attr(context.Background())
	require.NoError(r.t, err)
	p := make([]byte, a.Size)
	n, err := f.ReadAt(context.Background(), p, 0)
	require.NoError(r.t, err)
	require.Len(r.t, p, n)
	return p
}

func (r *rig) lookup(dir Ino, name string) Attr {
	a, err := r.Lookup(context.Background(), dir, name)
	require.NoError(r.t, err)
	r.Forget(a.Ino, 1)
	return a
}

func (r *rig) list(dir Ino) (names []string) {
	require.NoError(r.t, r.ReadDir(context.Background(), dir, 2, dirPage, func(e Entry) bool {
		names = append(names, e.Name)
		return true
	}))
	return names
}

func (r *rig) fsync(ino Ino) {
	f, err := r.OpenFile(context.Background(), ino, false)
	require.NoError(r.t, err)
	defer f.Close()
	require.NoError(r.t, f.Sync(context.Background()))
}
