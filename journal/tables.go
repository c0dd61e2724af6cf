package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/dgraph-io/badger/v4"
	badgertable "github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sync/errgroup"
)

// Reading all of a store is most of the time that its opening takes. So it is read once, past Badger: by
// large reads instead of page faults, each block's checksum at the moment its records are looked at instead
// of in a pass before, and no record is copied. What there is then has to be what the journal's own record
// says, as when Badger reads it; and that also the blocks with nothing but old versions are sound is what
// Badger is opened upon, without looking at them again.

// tableSet is the tables of a store that is not open.
type tableSet struct {
	levels [][]*table // by level; but for level 0 they ascend, and have no keys in common
}

// contents is what was read of a store.
type contents struct {
	State
	placements *Placements // nil: too many
}

// readTables reads all of a store whose log is empty (see settle), in path, and compares what there is with
// what its own record says.
func readTables(path string, uuid [16]byte) (*contents, error) {
	set, err := openTables(path)
	if err != nil {
		return nil, err
	}
	defer set.close()
	parts := set.parts()
	placements := &Placements{parts: make([][]byte, len(parts))}
	found := make([]tablePart, len(parts))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range parts {
		g.Go(func() error {
			err := found[i].read(&parts[i])
			placements.set(i, &found[i].chunks)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var sum State
	var own []byte
	for i := range found {
		sum.Count += found[i].sum.Count
		sum.Digest = sum.Digest.Add(found[i].sum.Digest)
		if found[i].own != nil {
			own = found[i].own
		}
	}
	if own == nil {
		return nil, fmt.Errorf("%w: it has lost its own record", ErrCorrupt)
	}
	m, err := parseMeta(own)
	if err != nil {
		return nil, err
	}
	if m.UUID != uuid {
		return nil, fmt.Errorf("%w: %x, want %x", ErrForeign, m.UUID, uuid)
	}
	if sum.Seq = m.Seq; sum != m.State {
		return nil, fmt.Errorf("%w: there is %v, noted is %v", ErrCorrupt, sum, m.State)
	}
	return &contents{sum, placements.done()}, nil
}

// openTables finds out from the MANIFEST which tables there are.
func openTables(path string) (*tableSet, error) {
	f, err := os.Open(filepath.Join(path, badger.ManifestFilename))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	options := badger.DefaultOptions(path).WithLogger(&tripwire{log: slog.New(slog.DiscardHandler)})
	manifest, _, err := badger.ReplayManifestFile(f, externalMagic, options)
	if err != nil {
		return nil, fmt.Errorf("%w: MANIFEST: %w", ErrCorrupt, err)
	}
	set := &tableSet{levels: make([][]*table, len(manifest.Levels))}
	for level, list := range manifest.Levels {
		for id := range list.Tables {
			t := &table{path: badgertable.NewFilename(id, path)}
			set.levels[level] = append(set.levels[level], t)
		}
	}
	if err := set.begin(); err != nil {
		set.close()
		return nil, err
	}
	return set, nil
}

// begin finds out where the tables begin, and brings each level into order.
func (s *tableSet) begin() error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for number, level := range s.levels {
		for _, t := range level {
			g.Go(func() error {
				err := t.begin(number == 0)
				if errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%w: %w", ErrCorrupt, err)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, level := range s.levels {
		slices.SortFunc(level, func(a, b *table) int {
			return cmp.Or(a.smallest.compare(b.smallest), cmp.Compare(a.path, b.path))
		})
	}
	return nil
}

func (s *tableSet) close() {
	for _, level := range s.levels {
		for _, t := range level {
			t.close()
		}
	}
}

// keyRange is a range of keys, and the tables that may hold some of them, by level; those of level 0 are
// each a list of its own.
type keyRange struct {
	from, before *entryKey // nil: no limit
	lists        [][]*table
}

// parts cuts the keys where tables begin, and large ones within.
func (s *tableSet) parts() []keyRange {
	var cuts []entryKey
	for _, level := range s.levels {
		for _, t := range level {
			cuts = append(append(cuts, t.smallest), t.within...)
		}
	}
	for i := range cuts {
		cuts[i].age = 0 // all versions of a key are in one part
	}
	slices.SortFunc(cuts, entryKey.compare)
	cuts = slices.Compact(cuts)
	parts := make([]keyRange, len(cuts)+1)
	for i := range cuts {
		parts[i].before, parts[i+1].from = &cuts[i], &cuts[i]
	}
	for i := range parts {
		parts[i].lists = s.within(&parts[i])
	}
	return parts
}

// within returns the tables that may hold keys of a range, and counts them as used.
func (s *tableSet) within(r *keyRange) (lists [][]*table) {
	for number, level := range s.levels {
		if r.before != nil {
			end, _ := slices.BinarySearchFunc(level, r.before, beginsBefore)
			level = level[:end]
		}
		var at [][]*table
		if number == 0 {
			for i, t := range level {
				if r.from == nil || !t.largest.less(r.from) {
					at = append(at, level[i:i+1])
				}
			}
		} else {
			if r.from != nil {
				begin, _ := slices.BinarySearchFunc(level, r.from, beginsBefore)
				level = level[max(0, begin-1):] // that before may reach into the range
			}
			if len(level) > 0 {
				at = append(at, level)
			}
		}
		for _, list := range at {
			for _, t := range list {
				t.uses++
			}
		}
		lists = append(lists, at...)
	}
	return lists
}

// beginsBefore is for the search of the first table that does not.
func beginsBefore(t *table, k *entryKey) int {
	if t.smallest.less(k) {
		return -1
	}
	return 1
}

// run goes through tables that ascend, one after the other.
type run struct {
	*cursor
	rest []*table
	part *keyRange
	mem  *[]byte // of tableMemory: the cursor's
}

// advance goes to the next table with entries of the part. It returns false at the end.
func (r *run) advance() (bool, error) {
	for {
		if r.cursor != nil {
			if !r.isDone {
				return true, nil
			}
			r.t.done()
			*r.mem, r.cursor = r.buf, nil
		}
		if len(r.rest) == 0 {
			tableMemory.Put(r.mem)
			return false, nil
		}
		t := r.rest[0]
		r.rest = r.rest[1:]
		if err := t.open(); err != nil {
			return false, err
		}
		c, err := newCursor(t, r.part.from, r.part.before, *r.mem)
		if err != nil {
			return false, err
		}
		r.cursor = c
	}
}

// tablePart is what the records of a range of keys come to.
type tablePart struct {
	sum    State
	own    []byte // the journal's own record, if it is here
	chunks placementWriter
	check  recordChecker
}

// read reads the records of a range.
func (p *tablePart) read(r *keyRange) error {
	var runs []*run
	for _, list := range r.lists {
		n := &run{rest: list, part: r, mem: tableMemory.Get().(*[]byte)}
		there, err := n.advance()
		if err != nil {
			return err
		}
		if there {
			runs = append(runs, n)
		}
	}
	var last entryKey
	any := false
	for len(runs) > 0 {
		least := 0
		for i := 1; i < len(runs); i++ {
			if runs[i].at.less(&runs[least].at) {
				least = i
			}
		}
		c := runs[least]
		// Of the entries of a key the first is the newest, and the only one that counts.
		if !any || !c.at.sameKey(&last) {
			last, any = c.at, true
			if c.meta&entryDeleted == 0 {
				if err := p.take(c.at.key(), c.value); err != nil {
					return err
				}
			}
		}
		err := c.step()
		there := !c.isDone
		if err == nil && !there {
			there, err = c.advance()
		}
		if err != nil {
			return err
		}
		if !there {
			runs = slices.Delete(runs, least, least+1)
		}
	}
	return nil
}

// take counts a record in.
func (p *tablePart) take(key Key, value []byte) error {
	if key.Space() == SpaceReserve {
		if key == metaKey {
			p.own = slices.Clone(value)
		}
		return nil
	}
	p.sum.Count++
	p.sum.Digest = p.sum.Digest.Add(RecordDigest(key, value))
	if err := p.check.check(key, value); err != nil {
		return err
	}
	if key.Space() == SpaceChunk {
		p.chunks.add(key, &p.check.chunk)
	}
	return nil
}
