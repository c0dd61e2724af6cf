package names

import (
	"slices"

	"ballast/journal"
)

// Entries of a directory are asked for some fifty at a time. To find the place in the journal again costs
// about as much as reading them; so more are read, and kept until they are asked for. Whatever changes the
// names in a directory forgets what was kept of it.

// listing is a part of a directory's names: those with hashes from from on and before next, by cookie.
//
// INVARIANT: while it is among the delta's listings and made, it has what the directory has.
type listing struct {
	dir        uint64
	made       bool
	from, next uint64 // next 0: up to the end
	entries    []Entry
}

// maxListings is how many are kept, of dirPage names each.
const maxListings = 8

// dirPage is about how many entries are read at once, at most.
const dirPage = 1024

// covers tells whether the listing has the names of a directory from a hash on.
func (l *listing) covers(dir, from uint64) bool {
	return l.dir == dir && l.made && l.from <= from && (l.next == 0 || from < l.next)
}

// listings are what is kept, the newest last. The delta guards them.
type listings []*listing

func (s listings) find(dir, from uint64) *listing {
	for _, l := range s {
		if l.covers(dir, from) {
			return l
		}
	}
	return nil
}

// begin makes room for one that is about to be read, in place of others of its directory.
func (s *listings) begin(dir uint64) *listing {
	s.forget(dir)
	if len(*s) == maxListings {
		*s = slices.Delete(*s, 0, 1)
	}
	l := &listing{dir: dir}
	*s = append(*s, l)
	return l
}

// forget is called with each change of names.
func (s *listings) forget(dir uint64) {
	for i, l := range *s {
		if l.dir == dir {
			*s = slices.Delete(*s, i, i+1)
			return
		}
	}
}

// listing returns a part of a directory that begins with a hash, or before it; it has about limit names if
// none is kept.
func (t *Tree) listing(dir Ino, from uint64, limit int) (*listing, error) {
	kept, begun := t.delta.listing(uint64(dir), from)
	if kept != nil {
		return kept, nil
	}
	list, next, err := t.listRecords(journal.SpaceEntry, dir, from, limit)
	if err != nil {
		return nil, err
	}
	read := listing{dir: uint64(dir), made: true, from: from, next: next, entries: make([]Entry, 0, len(list))}
	for _, x := range list {
		entries, err := journal.ParseEntries(journal.EntryKey(uint64(dir), x.b), x.value)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			read.entries = append(read.entries, Entry{e.Name, Ino(e.Inode), e.Type, x.b<<slotBits | uint64(e.Slot)})
		}
	}
	t.delta.listed(begun, &read)
	return &read, nil
}

// listing returns what is kept of a directory from a hash on; else what is to be given to listed.
func (d *delta) listing(dir, from uint64) (kept, begun *listing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kept = d.listings.find(dir, from); kept != nil {
		return kept, nil
	}
	return nil, d.listings.begin(dir)
}

// listed keeps what was read, unless names of the directory have changed since the reader began.
func (d *delta) listed(begun, read *listing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.listings, begun); i >= 0 {
		d.listings[i] = read
	}
}
