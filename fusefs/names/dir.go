package names

import (
	"context"
	"errors"
	"slices"

	"ballast/journal"
)

// errStop ends a scan.
var errStop = errors.New("stop")

// listRecords returns records of a group from one on, in order, about limit of them, and where the
// next call goes on; 0: that was all.
func (t *Tree) listRecords(space journal.Space, ino Ino, from uint64, limit int) (list []listed, next uint64, err error) {
	// In this order: what a commit moves from the delta to the journal meanwhile is in both.
	newer, more := t.delta.list(space, ino, from, limit)
	end := ^uint64(0) // nothing behind it is listed now
	if more {
		end = newer[len(newer)-1].b
		next = end + 1
	}
	var old []listed
	err = t.j.ScanFrom(journal.MakeKey(space, uint64(ino), from), func(k journal.Key, value []byte) error {
		_, a, b := k.Parts()
		if a != uint64(ino) || b > end {
			return errStop
		}
		if len(old) == limit+len(newer) { // what newer deletes of it does not count
			end = old[len(old)-1].b
			next = end + 1
			return errStop
		}
		old = append(old, listed{b, slices.Clone(value)})
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, 0, err
	}
	for len(old)+len(newer) > 0 {
		var x listed
		switch {
		case len(newer) == 0 || len(old) > 0 && old[0].b < newer[0].b:
			x, old = old[0], old[1:]
		case len(old) == 0 || newer[0].b < old[0].b:
			x, newer = newer[0], newer[1:]
		default:
			x, newer, old = newer[0], newer[1:], old[1:]
		}
		if x.b <= end && x.value != nil {
			list = append(list, x)
		}
	}
	return list, next, nil
}

// Cookies: 1 is behind ".", 2 behind "..", others are hash and slot of an entry.
const (
	cookieDot    = 1
	cookieDotDot = 2
	slotBits     = 4
)

// ReadDir calls fn for the entries of a directory behind cookie after (0: from the start, "." and
// ".." first), until fn returns false. What is there all the while is listed exactly once, however
// often the listing is interrupted. About want entries are asked for: from the start no more are read at once.
func (t *Tree) ReadDir(ctx context.Context, ino Ino, after uint64, want int, fn func(Entry) bool) error {
	dir, err := t.directory(ino)
	if err != nil {
		return err
	}
	if after < cookieDot && !fn(Entry{".", ino, journal.TypeDirectory, cookieDot}) {
		return nil
	}
	if after < cookieDotDot && !fn(Entry{"..", Ino(dir.Parent), journal.TypeDirectory, cookieDotDot}) {
		return nil
	}
	for from := after >> slotBits; ; {
		limit := dirPage
		if from == 0 {
			limit = min(want, dirPage)
		}
		l, err := t.listing(ino, from, limit)
		if err != nil {
			return err
		}
		i, _ := slices.BinarySearchFunc(l.entries, after, func(e Entry, after uint64) int {
			if e.Cookie <= after {
				return -1
			}
			return 1
		})
		for _, e := range l.entries[i:] {
			if !fn(e) {
				return nil
			}
		}
		if l.next == 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		from = l.next
	}
}
