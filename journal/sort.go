package journal

import (
	"bufio"
	"bytes"
	"container/heap"
	"errors"
	"io"
	"os"
	"slices"
)

// The groups of a ring come in the order of their commits. To make a store of them they are sorted
// by key: as many as go into memory at a time, which makes a run; the runs are merged, and of several
// changes of a key the newest stays.

// sortMemory is how many bytes of changes are sorted at once.
var sortMemory = 64 << 20

// opStream gives changes by ascending key, each key once. What it gives is valid until the next call.
type opStream interface {
	next() (op Op, ok bool, err error)
}

// sorter sorts changes.
type sorter struct {
	dir   string       // where runs are kept
	room  func() error // is asked before each
	ops   []Op
	bytes int
	runs  []opStream
}

// add takes changes that are newer than all before them, and keeps their values.
func (s *sorter) add(ops []Op) error {
	s.ops = append(s.ops, ops...)
	for i := range ops {
		s.bytes += ops[i].Bytes()
	}
	if s.bytes < sortMemory {
		return nil
	}
	run, err := s.spill()
	if err != nil {
		return err
	}
	s.runs = append(s.runs, run)
	clear(s.ops)
	s.ops, s.bytes = s.ops[:0], 0
	return nil
}

// streams returns the runs, the oldest first.
func (s *sorter) streams() []opStream {
	return append(s.runs, &memoryRun{s.sorted()})
}

// sorted sorts what is in memory.
func (s *sorter) sorted() []Op {
	slices.SortStableFunc(s.ops, func(a, b Op) int { return compareKeys(&a.Key, &b.Key) })
	n := 0
	for i := range s.ops {
		if i+1 == len(s.ops) || s.ops[i].Key != s.ops[i+1].Key {
			s.ops[n] = s.ops[i]
			n++
		}
	}
	return s.ops[:n]
}

// spill writes a run to a file, which has no name: nothing of it stays behind.
func (s *sorter) spill() (run opStream, err error) {
	if err := s.room(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "run")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w := bufio.NewWriterSize(f, 1<<20)
	var buf []byte
	for _, op := range s.sorted() {
		buf = appendOps(buf[:0], []Op{op})
		if _, err := w.Write(buf); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	err = w.Flush()
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileRun{f: f, r: bufio.NewReaderSize(f, 256<<10), buf: []byte{}}, nil
}

func (s *sorter) close() {
	for _, run := range s.runs {
		run.(*fileRun).f.Close()
	}
}

// memoryRun is a run in memory.
type memoryRun struct{ ops []Op }

func (m *memoryRun) next() (op Op, ok bool, err error) {
	if len(m.ops) == 0 {
		return op, false, nil
	}
	op, m.ops = m.ops[0], m.ops[1:]
	return op, true, nil
}

// fileRun is a run in a file.
type fileRun struct {
	f   *os.File
	r   *bufio.Reader
	buf []byte
}

func (f *fileRun) next() (op Op, ok bool, err error) {
	var head [20]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if err == io.EOF {
			err = nil
		}
		return op, false, err
	}
	op.Key = Key(head[:16])
	n := le.Uint32(head[16:])
	if n == deleted {
		return op, true, nil
	}
	f.buf = slices.Grow(f.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		return op, false, err
	}
	op.Value = f.buf
	return op, true, nil
}

// merger is a heap of streams by their next key, of which a newer one comes first.
type merger []*mergerItem

type mergerItem struct {
	stream opStream
	age    int
	op     Op
}

func (m merger) Len() int { return len(m) }
func (m merger) Less(i, j int) bool {
	c := compareKeys(&m[i].op.Key, &m[j].op.Key)
	return c < 0 || c == 0 && m[i].age > m[j].age
}
func (m merger) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *merger) Push(x any)   { *m = append(*m, x.(*mergerItem)) }
func (m *merger) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// merge calls fn for the newest change of each key, by ascending key. streams go from old to new.
func merge(streams []opStream, fn func(op *Op) error) error {
	var m merger
	for age, s := range streams {
		op, ok, err := s.next()
		if err != nil {
			return err
		}
		if ok {
			m = append(m, &mergerItem{s, age, op})
		}
	}
	heap.Init(&m)
	var last Key
	for first := true; len(m) > 0; first = false {
		top := m[0]
		if first || top.op.Key != last {
			if err := fn(&top.op); err != nil {
				return err
			}
		}
		last = top.op.Key
		op, ok, err := top.stream.next()
		if err != nil {
			return err
		}
		if top.op = op; ok {
			heap.Fix(&m, 0)
		} else {
			heap.Pop(&m)
		}
	}
	return nil
}

func compareKeys(a, b *Key) int { return bytes.Compare(a[:], b[:]) }
