package balance

import (
	"container/heap"
	"sync"
	"time"
)

// timers runs functions at given times, on one goroutine. An entry costs a place in a heap, not
// a runtime timer: nearly all are removed before their time. Functions must not block.
type timers struct {
	epoch time.Time
	kick  chan struct{} // capacity 1
	stop  chan struct{}
	done  chan struct{}

	mu     sync.Mutex
	heap   timerHeap
	wakeAt time.Duration // the goroutine looks then; 0: it sleeps
	closed bool
}

// timer is embedded in what it is for.
type timer struct {
	at    time.Duration // since timers.epoch
	fire  func()
	index int // in the heap, from 1; 0: not in it
}

func newTimers(epoch time.Time) *timers {
	t := &timers{epoch: epoch, kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go t.run()
	return t
}

func (t *timers) close() {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if !closed {
		close(t.stop)
	}
	<-t.done
}

// set arms e, which must not be armed.
func (t *timers) set(e *timer, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	e.at = at
	heap.Push(&t.heap, e)
	if t.wakeAt == 0 || at < t.wakeAt {
		t.wakeAt = at
		select {
		case t.kick <- struct{}{}:
		default:
		}
	}
}

// remove disarms e. Its function may run at this very moment.
func (t *timers) remove(e *timer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.index > 0 {
		heap.Remove(&t.heap, e.index-1)
	}
}

func (t *timers) run() {
	defer close(t.done)
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		now := time.Since(t.epoch)
		var due []*timer
		t.mu.Lock()
		for len(t.heap) > 0 && t.heap[0].at <= now {
			due = append(due, heap.Pop(&t.heap).(*timer))
		}
		t.wakeAt = 0
		if len(t.heap) > 0 {
			t.wakeAt = t.heap[0].at
			clock.Reset(t.wakeAt - now)
		} else {
			clock.Stop()
		}
		t.mu.Unlock()
		for _, e := range due {
			e.fire()
		}
		if len(due) > 0 {
			continue
		}
		select {
		case <-clock.C:
		case <-t.kick:
		case <-t.stop:
			return
		}
	}
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
func (h *timerHeap) Push(x any) {
	e := x.(*timer)
	*h = append(*h, e)
	e.index = len(*h)
}
func (h *timerHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = 0
	return e
}
