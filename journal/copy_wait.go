package journal

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// wait returns when so many copies have the group as Need says, or as there are, and none is far
// behind: a copy that is merely slower than the store slows commits down. Copies that keep it waiting
// for too long are given up, and long before that others take their part.
func (k *keeper) wait(seq Seq) {
	timeout := newPatience(k.opts.Timeout)
	defer timeout.stop()
	overdue := time.NewTicker(overdueAfter)
	defer overdue.Stop()
	for {
		k.mu.Lock()
		k.chooseLocked()
		done, changed := k.durableLocked(seq), k.changed
		k.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-overdue.C:
		case <-timeout.C:
			if timeout.over() {
				k.dropLaggards(seq)
			}
		}
	}
}

// durableLocked tells whether enough copies have the group, in as many failure domains as they can be in.
func (k *keeper) durableLocked(seq Seq) bool {
	var good, have []*copyRing
	for _, c := range k.copies {
		if c.state != CopyGood {
			continue
		}
		if c.bytes > queueMax/2 {
			return false
		}
		good = append(good, c)
		if c.seq >= seq {
			have = append(have, c)
		}
	}
	return len(have) >= min(k.opts.Need, len(good)) && domains(have) >= min(k.opts.Need, domains(good))
}

// domains is how many failure domains copies are in.
func domains(copies []*copyRing) (n int) {
	for i, c := range copies {
		if !slices.ContainsFunc(copies[:i], func(b *copyRing) bool { return b.place.domain() == c.place.domain() }) {
			n++
		}
	}
	return n
}

// overdueAfter is when, and how often, a commit looks for other copies than those it waits for.
const overdueAfter = 10 * time.Millisecond

// chooseLocked chooses the copies that a commit waits for: the fastest, but of different failure domains
// if there are enough. The others are lazy: a disk's flush that nobody waits for slows down those that
// somebody does, and a disk that turns has to seek to its journal area for each.
func (k *keeper) chooseLocked() {
	good := make([]*copyRing, 0, copiesMost)
	for _, c := range k.copies {
		if c.state == CopyGood {
			good = append(good, c)
		}
	}
	now := time.Now()
	slices.SortStableFunc(good, func(a, b *copyRing) int { return cmp.Compare(a.expected(now), b.expected(now)) })
	var eager []*copyRing
	for _, again := range []bool{false, true} { // the second time also where another one is
		for _, c := range good {
			there := slices.ContainsFunc(eager, func(e *copyRing) bool { return e == c || !again && e.place.domain() == c.place.domain() })
			if !there && len(eager) < k.opts.Need {
				eager = append(eager, c)
			}
		}
	}
	for _, c := range good {
		before := c.lazy
		c.lazy = !slices.Contains(eager, c)
		if before && !c.lazy {
			poke(c.work)
		}
	}
}

// expected is how long a group will take to be durable here. One that is waited for keeps its part until
// another is clearly faster.
func (c *copyRing) expected(now time.Time) time.Duration {
	d := c.took
	if c.writing {
		d = max(d, now.Sub(c.since))
	}
	if c.lazy {
		d += d / 2
	}
	return d
}

// waitFor returns when one copy has got so far, or was given up.
func (k *keeper) waitFor(c *copyRing, seq Seq) {
	timeout := newPatience(k.opts.Timeout)
	defer timeout.stop()
	for {
		k.mu.Lock()
		done, changed := c.state != CopyGood || c.seq >= seq && len(c.queue) == 0 && !c.writing, k.changed
		k.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			if timeout.over() {
				k.drop(c, fmt.Errorf("it does not answer for %v", k.opts.Timeout))
			}
		}
	}
}

// closeStuck is how long a copy that gets nowhere is waited for at the end.
func (o *CopyOptions) closeStuck() time.Duration { return min(o.Timeout, 2*time.Second) }

// awaitEnd waits until a copy has written what is queued for it and reports whether it has; one that
// gets nowhere is left.
func (k *keeper) awaitEnd(c *copyRing) bool {
	timeout := newPatience(k.opts.closeStuck())
	defer timeout.stop()
	for at := Seq(0); ; {
		k.mu.Lock()
		seq, changed := c.seq, k.changed
		k.mu.Unlock()
		if seq != at {
			at = seq
			timeout.again()
		}
		select {
		case <-c.ended:
			return true
		case <-changed:
		case <-timeout.C:
			if !timeout.over() {
				continue
			}
			select {
			case <-c.ended:
				return true
			default:
				return false
			}
		}
	}
}
