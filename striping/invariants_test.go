package striping

import (
	"context"
	"errors"
	"fmt"

	"ballast/journal"
)

// checkCopies looks at a quiet volume from inside: every copy of every block passes its check,
// no two chunks share space, and the allocators know exactly the slots that the chunks have.
func (v *Volume) checkCopies(ctx context.Context) error {
	if err := v.Flush(ctx); err != nil {
		return err
	}
	used := map[*member]int64{}
	type slotKey struct {
		m   *member
		blk int64
	}
	owner := map[slotKey]chunkKey{}
	var errs []error
	err := v.j.Scan(journal.SpaceChunk, func(k journal.Key, val []byte) error {
		_, num, index := k.Parts()
		rec, err := journal.ParseChunk(k, val)
		if err != nil {
			return err
		}
		c, err := v.acquire(chunkKey{num, index})
		if err != nil {
			return err
		}
		defer v.cache.put(c)
		c.mu.Lock()
		vw := c.viewLocked()
		clean := c.cleanLocked()
		version := c.version
		c.mu.Unlock()
		if !clean || version != rec.Version {
			errs = append(errs, fmt.Errorf("%v: not settled by a flush: version %d, journal %d", c.key, version, rec.Version))
		}
		if c.claim != 0 {
			errs = append(errs, fmt.Errorf("%v: claims %d bytes at rest", c.key, c.claim))
		}
		if len(vw.places) != len(rec.Copies) {
			errs = append(errs, fmt.Errorf("%v: %d copies, journal %d", c.key, len(vw.places), len(rec.Copies)))
		}
		seed := sumSeed(v.info.UUID, num, index, vw.gen)
		for at, p := range vw.places {
			m := v.dev(p.dev)
			used[m] += int64(vw.slot) * blockSize
			for b := range vw.slot {
				key := slotKey{m, p.off/blockSize + int64(b)}
				if other, ok := owner[key]; ok {
					errs = append(errs, fmt.Errorf("%v and %v share block %d of %v", c.key, other, key.blk, m.id))
				}
				owner[key] = c.key
				if !vw.written.has(b) || p.stale || !m.usable() {
					continue
				}
				buf, _, err := v.readCopies(&vw, []int{at}, b, 1)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				if blockSum(seed, b, buf.Bytes()) != vw.sums[b] {
					errs = append(errs, fmt.Errorf("%v: block %d of the copy on %v fails its check", c.key, b, m.id))
				}
				buf.Release()
			}
		}
		return nil
	})
	errs = append(errs, err)
	for _, m := range v.devs() {
		if got, _ := m.alloc.usage(); got != used[m] {
			errs = append(errs, fmt.Errorf("device %v: %d bytes are taken, chunks have %d", m.id, got, used[m]))
		}
	}
	if n := v.claimed.Load(); n != 0 {
		errs = append(errs, fmt.Errorf("%d bytes are claimed at rest", n))
	}
	if n := v.dirty.inUse(); n != 0 {
		errs = append(errs, fmt.Errorf("%d bytes of the dirty budget are taken at rest", n))
	}
	return errors.Join(errs...)
}
