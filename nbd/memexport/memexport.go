// Package memexport is an NBD export in memory, for tests, benchmarks and demonstrations.
//
// An [Export] is sparse and does everything that package nbd knows: it serves inline, takes over
// large payloads, zeroes, trims, tells its extents. A [Set] offers several by name.
//
// # Guarantees
//
//  1. A read sees each 64 KiB page before or after a write to it, never between; what it
//     returned stays as it was until released.
//  2. What was never written, was trimmed or was zeroed reads as zeros; whole pages of it take
//     no memory.
//  3. Outstanding counts the pieces and payloads that were handed out and not given back.
//
// # Concurrency
//
// Everything is safe for concurrent use. Locks: one per page, held for copying only.
//
// # Failures
//
// ErrRemoved after Remove; EINVAL outside the size.
//
// # On disk
//
// Nothing.
package memexport

import (
	"context"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"

	"ballast/nbd"
)

// PageSize is the unit of allocation in bytes.
const PageSize = 64 << 10

const tablePages = 1024

// Export is a sparse export in memory.
type Export struct {
	size        atomic.Int64
	removed     atomic.Bool
	outstanding atomic.Int64
	syncs       atomic.Int64
	tables      sync.Map // index -> *table; most of a large export has none
}

type table [tablePages]slot

type slot struct {
	mu sync.Mutex
	p  *page // nil for a hole
}

// page is written in place while nobody else holds it, else it is replaced by a copy.
type page struct {
	refs atomic.Int32 // the slot's own included
	e    *Export
	b    []byte
}

// Release is called by readers.
func (p *page) Release() {
	p.e.outstanding.Add(-1)
	p.drop()
}

func (p *page) drop() {
	if p.refs.Add(-1) == 0 {
		p.e = nil
		pages.Put(p)
	}
}

var pages = sync.Pool{New: func() any { return &page{b: make([]byte, PageSize)} }}

var (
	_ nbd.Export     = (*Export)(nil)
	_ nbd.Inliner    = (*Export)(nil)
	_ nbd.Receiver   = (*Export)(nil)
	_ nbd.Zeroer     = (*Export)(nil)
	_ nbd.Trimmer    = (*Export)(nil)
	_ nbd.Mapper     = (*Export)(nil)
	_ nbd.Prefetcher = (*Export)(nil)
)

// New returns an export of size bytes, all of them zero.
func New(size int64) *Export {
	e := &Export{}
	e.size.Store(size)
	return e
}

// Resize changes the size; what lies beyond is forgotten.
func (e *Export) Resize(size int64) {
	old := e.size.Swap(size)
	if size < old {
		e.zero(size, old-size, false)
	}
}

// Remove makes all methods return nbd.ErrRemoved.
func (e *Export) Remove() { e.removed.Store(true) }

// Outstanding is the number of pieces and payloads handed out and not released.
func (e *Export) Outstanding() int64 { return e.outstanding.Load() }

// Syncs is the number of calls of Sync.
func (e *Export) Syncs() int64 { return e.syncs.Load() }

// Size is the size in bytes.
func (e *Export) Size() int64 { return e.size.Load() }

func (e *Export) check(off, size int64) error {
	if e.removed.Load() {
		return nbd.ErrRemoved
	}
	if n := e.size.Load(); off < 0 || size < 0 || off > n || size > n-off {
		return syscall.EINVAL
	}
	return nil
}

// slot returns the slot of a page, or nil if it has none and create is false.
func (e *Export) slot(index int64, create bool) *slot {
	t, ok := e.tables.Load(index / tablePages)
	if !ok {
		if !create {
			return nil
		}
		t, _ = e.tables.LoadOrStore(index/tablePages, new(table))
	}
	return &t.(*table)[index%tablePages]
}

// Read implements nbd.Export.
func (e *Export) Read(_ context.Context, off, size int64, data *nbd.Data) error {
	if err := e.check(off, size); err != nil {
		return err
	}
	for size > 0 {
		in := off % PageSize
		n := min(PageSize-in, size)
		var p *page
		if s := e.slot(off/PageSize, false); s != nil {
			s.mu.Lock()
			if p = s.p; p != nil {
				p.refs.Add(1)
			}
			s.mu.Unlock()
		}
		if p == nil {
			data.AppendHole(n)
		} else {
			e.outstanding.Add(1)
			data.Append(p.b[in:in+n], p)
		}
		off, size = off+n, size-n
	}
	return nil
}

// TryRead implements nbd.Inliner.
func (e *Export) TryRead(off, size int64, data *nbd.Data) (bool, error) {
	return true, e.Read(context.Background(), off, size, data)
}

// own returns a page for the slot that nobody else looks at, with keep holding what was there.
func (e *Export) ownLocked(s *slot, keep bool) *page {
	old := s.p
	if old != nil && old.refs.Load() == 1 {
		return old // new references are taken under s.mu only
	}
	p := pages.Get().(*page)
	p.e = e
	p.refs.Store(1)
	switch {
	case !keep:
	case old != nil:
		copy(p.b, old.b)
	default:
		clear(p.b)
	}
	if old != nil {
		old.drop()
	}
	s.p = p
	return p
}

// WriteAt implements nbd.Export.
func (e *Export) WriteAt(_ context.Context, b []byte, off int64, _ bool) error {
	if err := e.check(off, int64(len(b))); err != nil {
		return err
	}
	for len(b) > 0 {
		in := off % PageSize
		n := min(PageSize-in, int64(len(b)))
		s := e.slot(off/PageSize, true)
		s.mu.Lock()
		p := e.ownLocked(s, n < PageSize)
		copy(p.b[in:], b[:n])
		s.mu.Unlock()
		b, off = b[n:], off+n
	}
	return nil
}

// TryWriteAt implements nbd.Inliner.
func (e *Export) TryWriteAt(b []byte, off int64) (bool, error) {
	return true, e.WriteAt(context.Background(), b, off, false)
}

// Sync implements nbd.Export.
func (e *Export) Sync(context.Context) error {
	e.syncs.Add(1)
	return e.check(0, 0)
}

type payload struct {
	e   *Export
	b   []byte // page-aligned, cap the size of its class
	all *sync.Pool
}

func (p *payload) Bytes() []byte { return p.b }

func (p *payload) Release() {
	p.e.outstanding.Add(-1)
	p.e = nil
	p.all.Put(p)
}

var payloads [32]sync.Pool // by power of two

// Buffer implements nbd.Receiver.
func (e *Export) Buffer(size int) nbd.Payload {
	class := 12
	for 1<<class < size {
		class++
	}
	p, _ := payloads[class].Get().(*payload)
	if p == nil {
		p = &payload{b: alignedBytes(1 << class), all: &payloads[class]}
	}
	e.outstanding.Add(1)
	p.e, p.b = e, p.b[:size]
	return p
}

// WriteBuffer implements nbd.Receiver.
func (e *Export) WriteBuffer(ctx context.Context, b nbd.Payload, off int64, fua bool) error {
	defer b.Release()
	return e.WriteAt(ctx, b.Bytes(), off, fua)
}

func (e *Export) zero(off, size int64, noHole bool) {
	for size > 0 {
		in := off % PageSize
		n := min(PageSize-in, size)
		if !noHole && n == PageSize {
			if _, ok := e.tables.Load(off / PageSize / tablePages); !ok { // skip the whole table
				n = min(size, (off/PageSize/tablePages+1)*tablePages*PageSize-off)
				off, size = off+n, size-n
				continue
			}
		}
		if s := e.slot(off/PageSize, noHole); s != nil {
			s.mu.Lock()
			switch {
			case n == PageSize && !noHole:
				if s.p != nil {
					s.p.drop()
					s.p = nil
				}
			case s.p != nil || noHole:
				p := e.ownLocked(s, true)
				clear(p.b[in : in+n])
			}
			s.mu.Unlock()
		}
		off, size = off+n, size-n
	}
}

// WriteZeroes implements nbd.Zeroer.
func (e *Export) WriteZeroes(_ context.Context, off, size int64, noHole, _, fast bool) error {
	if err := e.check(off, size); err != nil {
		return err
	}
	if fast && noHole {
		return nbd.ErrNotSupported // has to touch every byte
	}
	e.zero(off, size, noHole)
	return nil
}

// Trim implements nbd.Trimmer.
func (e *Export) Trim(_ context.Context, off, size int64, _ bool) error {
	if err := e.check(off, size); err != nil {
		return err
	}
	e.zero(off, size, false)
	return nil
}

// Prefetch implements nbd.Prefetcher.
func (e *Export) Prefetch(_ context.Context, off, size int64) error { return e.check(off, size) }

// Extents implements nbd.Mapper.
func (e *Export) Extents(_ context.Context, ext []nbd.Extent, off, size int64, limit int) ([]nbd.Extent, error) {
	if err := e.check(off, size); err != nil {
		return ext, err
	}
	first, end := len(ext), e.size.Load()
	for size > 0 {
		n := min(PageSize-off%PageSize, end-off)
		hole := true
		if t, ok := e.tables.Load(off / PageSize / tablePages); !ok {
			n = min(end, (off/PageSize/tablePages+1)*tablePages*PageSize) - off
		} else {
			s := &t.(*table)[off/PageSize%tablePages]
			s.mu.Lock()
			hole = s.p == nil
			s.mu.Unlock()
		}
		if last := len(ext) - 1; last >= first && ext[last].Hole == hole {
			ext[last].Size += n
		} else {
			if len(ext)-first == limit {
				break
			}
			ext = append(ext, nbd.Extent{Size: n, Hole: hole, Zero: hole})
		}
		off, size = off+n, size-n
	}
	return ext, nil
}

// Set offers exports by name. The zero value is empty. The name "" stands for the only export, if
// there is just one.
type Set struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	export nbd.Export
	info   nbd.Info
	opens  int
}

// Add adds e under info.Name, or replaces what stood there.
func (s *Set) Add(e nbd.Export, info nbd.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == nil {
		s.entries = make(map[string]*entry)
	}
	s.entries[info.Name] = &entry{export: e, info: info}
}

// Delete takes an export out of the set; who has it open keeps it.
func (s *Set) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, name)
}

// Opens is how often an export is open now.
func (s *Set) Opens(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if en := s.entries[name]; en != nil {
		return en.opens
	}
	return 0
}

// List implements nbd.Exports.
func (s *Set) List() []nbd.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []nbd.Info
	for _, en := range s.entries {
		all = append(all, en.info)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Open implements nbd.Exports.
func (s *Set) Open(name string) (nbd.Export, nbd.Info, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	en := s.entries[name]
	if en == nil && name == "" && len(s.entries) == 1 {
		for _, en = range s.entries {
		}
	}
	if en == nil {
		return nil, nbd.Info{}, nil, nbd.ErrNoExport
	}
	en.opens++
	return en.export, en.info, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		en.opens--
	}, nil
}
