package names

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"ballast/journal"
)

// ReadDirPlus is ReadDir with attributes. It calls fits for each entry until that returns false, and then fn for
// those that fit, with what Refer would return of each, until fn returns false: not for "." and "..", and not for
// what is gone or cannot be read, where the attributes are zero.
func (t *Tree) ReadDirPlus(ctx context.Context, ino Ino, after uint64, want int, fits func(name string) bool, fn func(*Entry, *Attr) bool) error {
	page := make([]Entry, 0, want)
	if err := t.ReadDir(ctx, ino, after, want, func(e Entry) bool {
		if !fits(e.Name) {
			return false
		}
		page = append(page, e)
		return true
	}); err != nil {
		return err
	}
	attrs := t.referAll(page)
	for i := range page {
		if !fn(&page[i], &attrs[i]) {
			for _, a := range attrs[i:] {
				if a.Ino != 0 {
					t.Forget(a.Ino, 1)
				}
			}
			break
		}
	}
	return nil
}

// isDot tells whether an entry is one that the kernel wants no reference to.
func (e *Entry) isDot() bool { return e.Cookie <= cookieDotDot }

// referAll is Refer for the inodes of a page.
func (t *Tree) referAll(page []Entry) []Attr {
	attrs := make([]Attr, len(page))
	referred := make([]bool, len(page))
	var nodes []*node
	t.mu.Lock()
	for i := range page {
		e := &page[i]
		if o := t.orphans[e.Ino]; e.isDot() || o != nil && o.reaping {
			continue
		}
		t.refs.add(e.Ino, 1)
		referred[i] = true
		if n := t.nodes[e.Ino]; n != nil { // before the record: see Attr
			n.uses++
			nodes = append(nodes, n)
		}
	}
	t.mu.Unlock()
	t.recordedAll(page, attrs)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range page {
		switch a := &attrs[i]; {
		case !referred[i]:
			*a = Attr{}
		case a.Ino == 0:
			t.forgetLocked(page[i].Ino, 1)
		case a.Mode&journal.TypeMask == journal.TypeRegular:
			t.overlayLocked(a)
		}
	}
	for _, n := range nodes {
		t.unuseLocked(n)
	}
	return attrs
}

// recordedAll puts what the records of the inodes of a page tell into attrs.
func (t *Tree) recordedAll(page []Entry, attrs []Attr) {
	keys := make([]journal.Key, len(page))
	for i := range page {
		keys[i] = journal.InodeKey(uint64(page[i].Ino))
	}
	for i, value := range t.getAll(keys) {
		if value == nil {
			continue
		}
		if rec, err := journal.ParseInode(keys[i], value); err == nil {
			attrs[i] = recorded(&rec)
		}
	}
}

// getAll is get for several records; nil stands for one that is not there or cannot be read.
func (t *Tree) getAll(keys []journal.Key) [][]byte {
	values := make([][]byte, len(keys))
	unknown, commits := t.delta.getAll(keys, values)
	if len(unknown) == 0 {
		return values
	}
	slices.SortFunc(unknown, func(a, b int) int { return bytes.Compare(keys[a][:], keys[b][:]) })
	known := unknown[:0:0]
	for len(unknown) > 0 {
		n := 1
		for n < len(unknown) && near(keys[unknown[n-1]], keys[unknown[n]]) {
			n++
		}
		known = append(known, t.readRun(keys, values, unknown[:n])...)
		unknown = unknown[n:]
	}
	t.delta.rememberAll(keys, values, known, commits)
	return values
}

// near tells whether the inode of the second key comes so soon after that of the first that reading all between
// them costs less than looking for it.
func near(a, b journal.Key) bool {
	_, x, _ := a.Parts()
	_, y, _ := b.Parts()
	return y-x <= 4
}

// scanLeast is how many records are worth an iterator of the journal's.
const scanLeast = 4

// readRun reads records of neighbours, by ascending key, and returns of which it is known now what they are.
func (t *Tree) readRun(keys []journal.Key, values [][]byte, run []int) (known []int) {
	if len(run) < scanLeast {
		for _, i := range run {
			value, err := t.j.Get(keys[i])
			if values[i] = value; err == nil || errors.Is(err, journal.ErrNotFound) {
				known = append(known, i)
			}
		}
		return known
	}
	left := run
	err := t.j.ScanFrom(keys[run[0]], func(key journal.Key, value []byte) error {
		for len(left) > 0 && bytes.Compare(keys[left[0]][:], key[:]) < 0 {
			left = left[1:]
		}
		for len(left) > 0 && keys[left[0]] == key { // a file may have several names in a directory
			values[left[0]] = slices.Clone(value)
			left = left[1:]
		}
		if len(left) == 0 {
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil
	}
	return run
}

// getAll is get for several records: it puts what is known into values, and returns of which only the journal
// can tell.
func (d *delta) getAll(keys []journal.Key, values [][]byte) (unknown []int, commits uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, key := range keys {
		if v, ok := d.live[key]; ok {
			values[i] = v.value
		} else if values[i], ok = d.cache.get(key); !ok {
			unknown = append(unknown, i)
		}
	}
	return unknown, d.cache.commits
}

// rememberAll is remember for several records.
func (d *delta) rememberAll(keys []journal.Key, values [][]byte, which []int, commits uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cache.commits != commits {
		return
	}
	for _, i := range which {
		d.cache.put(keys[i], values[i])
	}
}
