package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"ballast/cmd/control"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/fusefs/names"
	"ballast/journal"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"
)

// Schema of a Report.
const Schema = "ballast.check/1"

// MaxFaults is how many faults a report lists; all are counted.
const MaxFaults = 1000

// Report is what a check found.
type Report struct {
	Schema     string        `json:"schema"`
	Volume     string        `json:"volume"`
	Verdict    string        `json:"verdict"` // sound, degraded, damaged
	Chunks     int64         `json:"chunks"`
	Blocks     int64         `json:"blocks"` // read and compared, each copy counted
	Bytes      int64         `json:"bytes"`
	Unnamed    int64         `json:"unnamed_chunks"` // of files that a crash came before; given back when the volume is served
	Stale      int64         `json:"stale_copies"`
	Unreadable int64         `json:"missing_copies"` // on devices that are missing
	Missing    []string      `json:"missing_devices"`
	Journal    []JournalCopy `json:"journal_copies"` // whole ones
	FaultCount int64         `json:"fault_count"`
	Faults     []Fault       `json:"faults"`
}

// Fault is one thing that is not as it should be.
type Fault struct {
	Device string `json:"device,omitempty"`
	Object string `json:"object,omitempty"` // name of the export, or its number
	Chunk  *int64 `json:"chunk,omitempty"`
	Off    *int64 `json:"offset,omitempty"` // on the device
	What   string `json:"what"`
}

// Options of Run.
type Options struct {
	Dirs      volumes.Dirs
	Volume    string
	Look      []string // more paths to look for devices at
	Preflight []string // command line of the journal's check
}

// run is a check under way.
type run struct {
	config  *volumes.Config
	opened  map[uint16]*volumes.Opened
	info    journal.Volume
	objects map[uint64]string
	intents map[journal.Key]journal.Intent

	mu     sync.Mutex
	report *Report
	slots  map[uint16]bitmap
}

// Run checks a volume. The error tells what kept it from checking; damage is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	config, err := volumes.ReadConfig(o.Dirs, o.Volume)
	if err != nil {
		return nil, err
	}
	lock, err := volumes.NotServed(o.Dirs, o.Volume)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	opened, err := volumes.OpenDevices(config, o.Look)
	if err != nil {
		return nil, err
	}
	defer volumes.CloseDevices(opened)
	r := &run{config: config, opened: map[uint16]*volumes.Opened{}, objects: map[uint64]string{}, intents: map[journal.Key]journal.Intent{},
		report: &Report{Schema: Schema, Volume: config.Name, Missing: []string{}, Journal: []JournalCopy{}, Faults: []Fault{}}, slots: map[uint16]bitmap{}}
	j, err := r.openJournal(ctx, o, opened)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	if err := r.stale(j, opened); err != nil {
		return nil, volumes.JournalRefusal(o.Volume, err)
	}
	r.labels(opened)
	r.copies(opened, j.State())
	if err := r.records(j); err != nil {
		return nil, volumes.JournalRefusal(o.Volume, err)
	}
	if err := r.nameSpace(j); err != nil {
		return nil, volumes.JournalRefusal(o.Volume, err)
	}
	if err := r.chunks(ctx, j); err != nil {
		return nil, err
	}
	r.judge()
	return r.report, nil
}

// nameSpace checks that the names, inodes and attributes of files fit together.
func (r *run) nameSpace(j journal.Journal) error {
	found, err := names.Verify(j)
	if err != nil {
		return err
	}
	for _, p := range found.Problems {
		r.fault(Fault{What: p})
	}
	if more := found.Found - int64(len(found.Problems)); more > 0 {
		r.fault(Fault{What: fmt.Sprintf("%d more problems of names", more)})
	}
	return nil
}

// copied is a journal in a temporary directory.
type copied struct {
	*journal.Store
	dir string
}

func (c *copied) Close() error { return errors.Join(c.Store.Close(), os.RemoveAll(c.dir)) }

func (r *run) openJournal(ctx context.Context, o Options, opened []volumes.Opened) (*copied, error) {
	dir, err := os.MkdirTemp("", "ballast-check-")
	if err != nil {
		return nil, control.Refuse("E_STATE", "a place for a copy of the journal: %v", err).WithTry("TMPDIR=DIR")
	}
	options := journal.Options{UUID: r.config.UUID, Logger: slog.New(slog.DiscardHandler), Anchors: volumes.Anchors(opened), Places: volumes.JournalPlaces(opened)}
	options.InChild(ctx, o.Preflight)
	target := filepath.Join(dir, "journal")
	err = os.CopyFS(target, os.DirFS(o.Dirs.Journal(o.Volume)))
	var store *journal.Store
	if err == nil || errors.Is(err, os.ErrNotExist) { // then a copy on a device takes its place
		store, err = journal.Open(target, options)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, volumes.JournalRefusal(o.Volume, err)
	}
	if rec := store.Recovery(); rec.From != "" {
		r.fault(Fault{What: fmt.Sprintf("the journal in %s is not used, its copy on device %s was checked instead: %s", o.Dirs.Journal(o.Volume), rec.From, rec.Why)})
	}
	return &copied{store, dir}, nil
}

// stale names older images of devices. What is on them is not looked at: it counts as missing.
func (r *run) stale(j journal.Journal, opened []volumes.Opened) error {
	var records []journal.Device
	err := j.Scan(journal.SpaceDevice, func(k journal.Key, value []byte) error {
		d, err := journal.ParseDevice(k, value)
		records = append(records, d)
		return err
	})
	for _, s := range volumes.JudgeStale(r.config.Name, opened, records) {
		r.fault(Fault{What: fmt.Sprintf("%s: %s", s.Code, s.Message)})
	}
	return err
}

// JournalCopy is a copy of the journal on a device, as it was found.
type JournalCopy struct {
	Device  string `json:"device"`
	Seq     uint64 `json:"sequence"`
	Records uint64 `json:"records"`
	Bytes   int64  `json:"bytes"`
	Newest  bool   `json:"newest"` // it holds all that the journal does
}

// copies reads the copies of the journal on the devices as a whole. Those on devices that have none,
// or an old one, are no fault: copies are on three devices at most.
func (r *run) copies(opened []volumes.Opened, state journal.State) {
	for _, v := range journal.SurveyAll(volumes.JournalPlaces(opened), r.config.UUID) {
		if errors.Is(v.Err, journal.ErrNotFound) {
			continue
		}
		if _, err := v.Content(); err != nil {
			r.fault(Fault{Device: v.Place.Name, What: fmt.Sprintf("copy of the journal: %v", err)})
			continue
		}
		r.report.Journal = append(r.report.Journal, JournalCopy{v.Place.Name, uint64(v.State.Seq), v.State.Count, v.Bytes, v.State == state})
	}
}

func (r *run) fault(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.FaultCount++
	if len(r.report.Faults) < MaxFaults {
		r.report.Faults = append(r.report.Faults, f)
	}
}

func (r *run) labels(opened []volumes.Opened) {
	for i := range opened {
		o := &opened[i]
		id := o.Config.ID
		r.opened[id] = o
		if o.File == nil {
			r.report.Missing = append(r.report.Missing, devices.ID(id).String())
			continue
		}
		r.slots[id] = newBitmap(o.File.Size() / devices.BlockSize)
		for _, c := range devices.ReadLabelCopies(o.File) {
			if c.Err != nil {
				r.fault(Fault{Device: devices.ID(id).String(), Off: &c.Off, What: c.Err.Error()})
			}
		}
	}
}

// records reads all there is but chunks.
func (r *run) records(j journal.Journal) error {
	key := journal.MakeKey(journal.SpaceVolume, 0, 0)
	value, err := j.Get(key)
	if err == nil {
		r.info, err = journal.ParseVolume(key, value)
	}
	if err != nil {
		return err
	}
	err = j.Scan(journal.SpaceObject, func(k journal.Key, value []byte) error {
		o, err := journal.ParseObject(k, value)
		r.objects[o.Number] = o.Name
		return err
	})
	if err != nil {
		return err
	}
	return j.Scan(journal.SpaceIntent, func(k journal.Key, value []byte) error {
		in, err := journal.ParseIntent(k, value)
		r.intents[k] = in
		return err
	})
}

// readers is how many chunks are read at a time.
const readers = 4

func (r *run) chunks(ctx context.Context, j journal.Journal) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	last, named := ^uint64(0), false // object of the chunk before; they come in order
	err := j.Scan(journal.SpaceChunk, func(k journal.Key, value []byte) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c, err := journal.ParseChunk(k, value)
		if err != nil || c.Slot == 0 {
			return err
		}
		r.report.Chunks++
		if _, object, _ := k.Parts(); object != last {
			last = object
			if named, err = r.isNamed(j, object); err != nil {
				return err
			}
		}
		if !named {
			r.report.Unnamed++
		}
		group.Go(func() error {
			r.chunk(k, &c)
			return nil
		})
		return nil
	})
	return errors.Join(err, group.Wait())
}

// isNamed tells whether an object is an export or a file.
func (r *run) isNamed(j journal.Journal, object uint64) (bool, error) {
	if _, export := r.objects[object]; export {
		return true, nil
	}
	_, err := j.Get(journal.InodeKey(object))
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (r *run) chunk(k journal.Key, c *journal.Chunk) {
	_, object, index := k.Parts()
	name := r.objects[object]
	if name == "" {
		name = fmt.Sprint(object)
	}
	number := int64(index)
	here := func(copy journal.Copy, off int64, format string, args ...any) {
		r.fault(Fault{Device: devices.ID(copy.Device).String(), Object: name, Chunk: &number, Off: &off, What: fmt.Sprintf(format, args...)})
	}
	for _, copy := range c.Copies {
		o := r.opened[copy.Device]
		switch {
		case o == nil:
			here(copy, copy.Off, "is on a device that is not of this volume")
		case copy.Stale:
			r.count(func(p *Report) { p.Stale++ })
			r.claim(copy, c, here)
		case o.File == nil:
			r.count(func(p *Report) { p.Unreadable++ })
		case r.claim(copy, c, here):
			r.compare(k, c, copy, o.File, here)
		}
	}
}

func (r *run) count(add func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	add(r.report)
}

// claim notes that a slot is taken and reports whether it may be where it is.
func (r *run) claim(copy journal.Copy, c *journal.Chunk, here func(journal.Copy, int64, string, ...any)) bool {
	o := r.opened[copy.Device]
	if o.File == nil {
		return false
	}
	l, size := &o.Label, int64(c.Slot)*devices.BlockSize
	if copy.Off%devices.BlockSize != 0 || copy.Off < l.DataOff || size > l.DataSize || copy.Off > l.DataOff+l.DataSize-size {
		here(copy, copy.Off, "slot of %d bytes is not inside the data area", size)
		return false
	}
	r.mu.Lock()
	overlap := r.slots[copy.Device].take(copy.Off/devices.BlockSize, int64(c.Slot))
	r.mu.Unlock()
	if overlap {
		here(copy, copy.Off, "slot overlaps that of another chunk")
	}
	return true
}

// compare reads the written blocks of a copy and checks their sums.
func (r *run) compare(k journal.Key, c *journal.Chunk, copy journal.Copy, disk devices.Disk, here func(journal.Copy, int64, string, ...any)) {
	_, object, index := k.Parts()
	seed := sumSeed(r.info.UUID, object, index, c.Generation)
	in, hasIntent := r.intents[journal.MakeKey(journal.SpaceIntent, object, index)]
	hasIntent = hasIntent && in.Base == c.Version
	mem := devices.AlignedBytes(int(c.Slot) * devices.BlockSize)
	_, err := disk.ReadAt(mem, copy.Off)
	sums, blocks := c.Sums, int64(0)
	for b := 0; b < len(c.Written)*64 && len(sums) > 0; b++ {
		if c.Written[b/64]>>(b%64)&1 == 0 {
			continue
		}
		want := sums[0]
		sums = sums[1:]
		off := copy.Off + int64(b)*devices.BlockSize
		if b >= int(c.Slot) {
			here(copy, off, "block %d lies beyond its slot", b)
			continue
		}
		block := mem[b*devices.BlockSize : (b+1)*devices.BlockSize]
		if err != nil { // find out which it is
			if _, err := disk.ReadAt(block, off); err != nil {
				here(copy, off, "block %d: %v", b, err)
				continue
			}
		}
		blocks++
		if have := blockSum(seed, b, block); have != want && !(hasIntent && announced(&in, b, have)) {
			here(copy, off, "block %d: sum %#08x, journal says %#08x", b, have, want)
		}
	}
	r.count(func(p *Report) {
		p.Blocks += blocks
		p.Bytes += blocks * devices.BlockSize
	})
}

func announced(in *journal.Intent, block int, sum uint32) bool {
	for _, c := range in.Candidates {
		if int(c.Block) == block && c.Sum == sum {
			return true
		}
	}
	return false
}

func (r *run) judge() {
	switch p := r.report; {
	case p.FaultCount > 0:
		p.Verdict = "damaged"
	case len(p.Missing) > 0 || p.Stale > 0:
		p.Verdict = "degraded"
	default:
		p.Verdict = "sound"
	}
}

// sumSeed and blockSum are the sum of a block: XXH3 over its data, mixed by SplitMix64's finalizer
// with XXH3 over volume UUID, object, chunk and generation (8 bytes each, little endian) plus the
// block number times 2^64/phi; the low 32 bits.
func sumSeed(volume [16]byte, object, chunk, generation uint64) uint64 {
	b := append([]byte(nil), volume[:]...)
	for _, n := range []uint64{object, chunk, generation} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return xxh3.Hash(b)
}

func blockSum(seed uint64, block int, data []byte) uint32 {
	x := xxh3.Hash(data) ^ (seed + uint64(block)*0x9E3779B97F4A7C15)
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return uint32(x ^ x>>31)
}

// bitmap knows which blocks of a device are taken.
type bitmap []uint64

func newBitmap(blocks int64) bitmap { return make(bitmap, (blocks+63)/64) }

// take marks n blocks and reports whether one was marked before.
func (b bitmap) take(first, n int64) (overlap bool) {
	for i := first; i < first+n; i++ {
		bit := uint64(1) << (i % 64)
		overlap = overlap || b[i/64]&bit != 0
		b[i/64] |= bit
	}
	return overlap
}
