package nbd

import (
	"fmt"
	"sync"
	"time"
)

// watch looks once a second whether the peer keeps up. Deadlines of the network would do the
// same, but cost more than a small request does, and not every connection has them.
type watch struct {
	mid midRequest

	mu        sync.Mutex
	timer     *time.Timer
	stopped   bool
	midSeq    uint64
	midSince  time.Time
	sendSeq   uint64
	sendSince time.Time
}

func (w *watch) start(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(watchInterval, func() { w.tick(c) })
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}

func (w *watch) tick(c *conn) {
	if err := w.look(c, time.Now()); err != nil {
		c.kill(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.timer.Reset(watchInterval)
	}
}

func (w *watch) look(c *conn, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := &c.s.opts
	if seq := w.mid.seq.Load(); seq == 0 || seq != w.midSeq || !c.transmitting.Load() {
		w.midSeq, w.midSince = seq, now
	} else if allowed := o.RequestStall + o.duration(w.mid.size.Load()); now.Sub(w.midSince) > allowed {
		return fmt.Errorf("%w: a request took more than %v to arrive", errTooSlow, allowed)
	}
	if seq := c.sendSeq.Load(); !c.sending.Load() || seq != w.sendSeq {
		w.sendSeq, w.sendSince = seq, now
	} else if allowed := o.ReplyStall + o.duration(c.sendSize.Load()); now.Sub(w.sendSince) > allowed {
		return fmt.Errorf("%w: replies were not read for %v", errTooSlow, allowed)
	}
	return nil
}

// duration is the time that size bytes take at the minimum rate.
func (o *Options) duration(size int64) time.Duration {
	return time.Duration(float64(size) / float64(o.MinRate) * float64(time.Second))
}
