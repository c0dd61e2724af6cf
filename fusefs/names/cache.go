package names

import "ballast/journal"

// cache keeps values of records that the journal has, also that it has none. It has two halves:
// what is asked for moves into the young one; when that is full it becomes the old one, and what
// was in the old one is forgotten.
//
// The delta guards it. What is read from the journal may be old when it comes: remember takes it
// only if nothing was committed since the reader began.
type cache struct {
	limit      int64 // bytes, of both halves
	young, old map[journal.Key][]byte
	bytes      int64  // of young
	commits    uint64 // grows with each commit
}

// cachedBytes is about what a record takes besides its value.
const cachedBytes = 64

func newCache(limit int64) cache {
	return cache{limit: limit, young: map[journal.Key][]byte{}}
}

// get returns the value of a record, nil if the journal has none.
func (c *cache) get(key journal.Key) (value []byte, known bool) {
	if value, known = c.young[key]; known {
		return value, true
	}
	if value, known = c.old[key]; known {
		c.put(key, value)
	}
	return value, known
}

func (c *cache) put(key journal.Key, value []byte) {
	if before, ok := c.young[key]; ok {
		c.bytes -= int64(len(before)) + cachedBytes
	}
	c.young[key] = value
	if c.bytes += int64(len(value)) + cachedBytes; c.bytes > c.limit/2 {
		c.young, c.old, c.bytes = make(map[journal.Key][]byte, len(c.young)), c.young, 0
	}
}
