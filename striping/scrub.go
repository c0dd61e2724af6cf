package striping

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ballast/devices"
	"ballast/journal"
)

// A scrub reads every copy of every written block, device by device in the order in which they lie
// there, and checks it. What fails is rewritten from another copy; what no copy has is listed. It
// reads in the background class, no faster than its pace. With a date it leaves out chunks that were
// neither written nor moved since, as the versions of their records tell.

// scrubItem is a copy to be read.
type scrubItem struct {
	off int64
	key chunkKey
}

// scrubWindow is how many copies are remembered at once: reading them in order takes one scan of the
// journal for so many.
const scrubWindow = 1 << 15

// Scrub begins to check everything, or what changed since o.Since.
func (v *Volume) Scrub(ctx context.Context, o JobOptions) (string, error) {
	if err := v.conflicts(journal.JobScrub); err != nil {
		return "", err
	}
	if o.Reason == "" {
		o.Reason = "asked for"
	}
	if err := v.settledSince(ctx, o.Since); err != nil {
		return "", err
	}
	var bytes int64
	err := v.scanCopies(ctx, o.Since, func(rec *journal.Chunk, _ chunkKey, p *journal.Copy) {
		if m := v.dev(devices.ID(p.Device)); m.Device != nil {
			bytes += int64(len(rec.Sums)) * blockSize
		}
	})
	if err != nil {
		return "", err
	}
	j, err := v.addJob(ctx, journal.Job{Kind: journal.JobScrub, Total: uint64(bytes), Pace: uint64(max(o.Pace, 0)), Since: o.Since.UTC(), Reason: o.Reason})
	if err != nil {
		return "", err
	}
	return j.id(), nil
}

// settledSince has the journal know what has changed since then.
func (v *Volume) settledSince(ctx context.Context, since time.Time) error {
	if since.IsZero() {
		return nil
	}
	return v.commitWritten(ctx)
}

// scanCopies calls fn for every copy that is not stale, of chunks that changed since then.
func (v *Volume) scanCopies(ctx context.Context, since time.Time, fn func(rec *journal.Chunk, key chunkKey, p *journal.Copy)) error {
	return v.scanChunks(ctx, func(key chunkKey, rec *journal.Chunk, _ []place) {
		if !changedSince(rec.Version, since) {
			return
		}
		for i := range rec.Copies {
			if p := &rec.Copies[i]; !p.Stale {
				fn(rec, key, p)
			}
		}
	})
}

// rechecker is a journal that can read all of itself and compare it with what it has noted.
type rechecker interface{ Recheck() error }

// A scrub begins with the journal, as it is by the journal's sums that all else is judged.
func (v *Volume) recheckJournal() error {
	if j, ok := v.opts.Journal.(rechecker); ok {
		return j.Recheck()
	}
	return nil
}

func (v *Volume) runScrub(ctx context.Context, j *job) error {
	v.jobs.mu.Lock()
	j.sized = true
	at, off := devices.ID(j.rec.CursorDevice), j.rec.CursorOff
	v.jobs.mu.Unlock()
	if at == 0 && off == 0 {
		if err := v.recheckJournal(); err != nil {
			return fmt.Errorf("the journal: %w", err)
		}
	}
	for _, m := range v.devs() {
		if m.id < at || m.Device == nil {
			continue
		}
		if m.id > at {
			off = 0
		}
		for {
			items, err := v.scrubList(ctx, j.rec.Since, m.id, off)
			if err != nil {
				return err
			}
			for _, it := range items {
				n, err := v.scrubCopy(ctx, j, m, it)
				if err != nil {
					return err
				}
				off = it.off + 1
				v.jobs.mu.Lock()
				j.rec.CursorDevice, j.rec.CursorOff = uint16(m.id), off
				v.jobs.mu.Unlock()
				v.countJob(j, n)
				if err := v.keepPace(ctx, j, n); err != nil {
					return err
				}
				if v.moreUrgent(j) {
					return errYield
				}
			}
			if len(items) < scrubWindow {
				break
			}
		}
	}
	v.endJob(j, journal.JobDone, "")
	return nil
}

// moreUrgent reports whether a job waits that goes before j, or one may be due.
func (v *Volume) moreUrgent(j *job) bool {
	if v.rebuildDue.Load() {
		return true
	}
	t := &v.jobs
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.list, func(o *job) bool {
		return o.rec.State == journal.JobRunning && o.blocked == "" && o.urgency() < j.urgency()
	})
}

// scrubList returns the copies on a device from off on, in order: all, or the first scrubWindow.
func (v *Volume) scrubList(ctx context.Context, since time.Time, id devices.ID, off int64) ([]scrubItem, error) {
	var list []scrubItem
	cut := func() {
		slices.SortFunc(list, func(a, b scrubItem) int {
			switch {
			case a.off < b.off:
				return -1
			case a.off > b.off:
				return 1
			}
			return 0
		})
		list = list[:min(len(list), scrubWindow)]
	}
	err := v.scanCopies(ctx, since, func(_ *journal.Chunk, key chunkKey, p *journal.Copy) {
		if devices.ID(p.Device) == id && p.Off >= off {
			if list = append(list, scrubItem{p.Off, key}); len(list) == 2*scrubWindow {
				cut()
			}
		}
	})
	cut()
	return list, err
}

// scrubCopy checks one copy and returns how many bytes it read.
func (v *Volume) scrubCopy(ctx context.Context, j *job, m *member, it scrubItem) (int64, error) {
	o, release := v.hold(it.key.object)
	defer release()
	c, err := v.acquire(it.key)
	if err != nil {
		return 0, err
	}
	defer v.cache.put(c)
	c.mu.Lock()
	vw := c.viewLocked()
	c.mu.Unlock()
	at := slices.IndexFunc(vw.places, func(p place) bool { return p.dev == m.id && p.off == it.off && !p.stale })
	if at < 0 {
		return 0, nil // it has moved
	}
	piece := pieceBlocks(m.Device.Rotational(), m.Device.Rate(devices.Read), m.Device.Awaited(awaitedLately))
	read := int64(0)
	for i := 0; i < vw.slot; {
		n, written := vw.written.run(i, min(vw.slot, i+piece))
		if written {
			if err := ctx.Err(); err != nil {
				return read, err
			}
			v.scrubRun(j, o, &vw, at, i, n)
			read += int64(n) * blockSize
		}
		i += n
	}
	return read, nil
}

// scrubRun checks n blocks of the copy at index at.
func (v *Volume) scrubRun(j *job, o *object, vw *view, at, first, n int) {
	seed := sumSeed(v.info.UUID, vw.c.key.object, vw.c.key.index, vw.gen)
	buf, err := v.readForMove(vw, []int{at}, first, n, devices.Background)
	for i := range n {
		b := first + i
		if err == nil && blockSum(seed, b, buf.Bytes()[i*blockSize:(i+1)*blockSize]) == vw.sums[b] {
			continue
		}
		if err != nil { // which of them is it
			one, err := v.readForMove(vw, []int{at}, b, 1, devices.Background)
			if err == nil {
				ok := blockSum(seed, b, one.Bytes()) == vw.sums[b]
				one.Release()
				if ok {
					continue
				}
			}
		}
		if v.overwriting(vw) {
			continue
		}
		v.scrubBad(j, o, vw, at, b)
	}
	if err == nil {
		buf.Release()
	}
}

// scrubBad deals with a block that one copy has wrong.
func (v *Volume) scrubBad(j *job, o *object, vw *view, at, b int) {
	dev := vw.places[at].dev
	v.stats.checkFailures.Add(1)
	v.checkFailed(dev, vw.c.key, b)
	if len(vw.places) > 1 {
		before := v.stats.healed.Load()
		v.heal(heal{vw.c, b, dev})
		if v.stats.healed.Load() > before {
			v.jobErrors(j, 0, 1)
			return
		}
	}
	if buf, err := v.loadRun(o, vw, b, 1, nil); err == nil { // another copy has it
		buf.Release()
		return
	}
	if !v.overwriting(vw) {
		v.jobErrors(j, 1, 0)
	}
}
