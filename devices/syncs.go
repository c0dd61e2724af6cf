package devices

import "time"

// How syncs are shared. A disk sync covers the writes that completed before it began. A Sync
// request must cover the writes that completed before it was submitted. So a request may join
// the disk sync that runs if no write has completed since that began; otherwise it waits for
// the next one, together with all others that wait. At most one disk sync runs at a time.
//
// A sync that fails may have lost any write before it, and a later success would prove nothing
// (the kernel reports a lost page once), so the first error is given to every later Sync.
type syncState struct {
	written uint64 // writes completed
	running *syncRun
	next    requestList // they wait for the running one to end
	err     error       // of the first that failed
}

// syncRun is one Sync in the disk.
type syncRun struct {
	covers   uint64 // syncState.written when it began
	began    time.Duration
	requests requestList
}

// joinSyncLocked takes in a sync request.
func (d *Device) joinSyncLocked(r *Request, now time.Duration) {
	switch run := d.syncs.running; {
	case run == nil:
		d.syncs.next.push(r)
		d.startSyncLocked(now)
	case run.covers == d.syncs.written:
		r.state, r.dispatched = requestInDisk, now
		run.requests.push(r)
	default:
		d.syncs.next.push(r)
	}
}

// startSyncLocked begins a disk sync for those that wait. Hung operations may have used up the
// thread cap; then it begins when one comes back.
func (d *Device) startSyncLocked(now time.Duration) {
	if d.syncs.next.n == 0 || d.syncs.running != nil || d.inDisk >= d.opts.MaxWorkers {
		return
	}
	run := &syncRun{covers: d.syncs.written, began: now}
	for d.syncs.next.head != nil {
		r := d.syncs.next.head
		d.syncs.next.remove(r)
		r.state, r.dispatched = requestInDisk, now
		run.requests.push(r)
	}
	d.syncs.running = run
	d.inDisk++
	d.routines.Add(1)
	go d.sync(run)
}

// sync carries out one disk sync and answers all it stands for.
func (d *Device) sync(run *syncRun) {
	defer d.routines.Done()
	d.mu.Lock()
	err := d.syncs.err
	d.mu.Unlock()
	if err == nil {
		err = d.disk.Sync()
	}
	now := d.now()

	d.mu.Lock()
	if err != nil && d.syncs.err == nil {
		d.syncs.err = err
	}
	d.syncs.running = nil
	d.inDisk--
	d.lastProgress = now
	var answer, all []*Request
	for run.requests.head != nil {
		r := run.requests.head
		run.requests.remove(r)
		if r.answering {
			r.returnDue = true
		} else {
			all = append(all, r)
		}
		if !r.answered {
			r.answered = true
			answer = append(answer, r)
		}
		r.state = requestReturned
	}
	if d.closed && d.inDisk == 0 && d.drained != nil {
		close(d.drained)
		d.drained = nil
	}
	d.startSyncLocked(now)
	d.dispatchLocked(now)
	d.mu.Unlock()

	d.stats.countSync(now-run.began, err)
	for _, r := range answer {
		d.answer(r, d.wrap(r, err))
	}
	for _, r := range all {
		d.returned(r)
	}
	d.left()
}

// leaveSyncLocked takes a waiting sync out again.
func (d *Device) leaveSyncLocked(r *Request) bool {
	if r.list != &d.syncs.next {
		return false
	}
	d.syncs.next.remove(r)
	return true
}

// closeSyncsLocked adds the syncs that wait to those that are gone.
func (d *Device) closeSyncsLocked(gone []*Request) []*Request {
	for d.syncs.next.head != nil {
		r := d.syncs.next.head
		d.syncs.next.remove(r)
		r.state, r.answered = requestReturned, true
		gone = append(gone, r)
	}
	return gone
}

// failSyncsLocked adds the syncs that wait to gone and those in the disk to held.
func (d *Device) failSyncsLocked(gone, held []*Request) (_, _ []*Request) {
	gone = d.closeSyncsLocked(gone)
	if run := d.syncs.running; run != nil {
		for r := run.requests.head; r != nil; r = r.next {
			if !r.answered {
				held = append(held, r.hold())
			}
		}
	}
	return gone, held
}
