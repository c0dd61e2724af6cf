package balance

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ballast/devices"
	"ballast/striping/policy"

	"github.com/stretchr/testify/require"
)

// TestHedgesLeaveFinishedReadsAlone: owners use a Read again once it is done, so nothing may be
// asked of it from then on. An answer and the timer of a second attempt meet here many times.
func TestHedgesLeaveFinishedReadsAlone(t *testing.T) {
	var members []Member
	space := newTestSpace(nil)
	for i := range 2 {
		d := devices.NewDevice(nullDisk{}, devices.Options{ID: devices.ID(i + 1)})
		defer d.Close()
		space.add(d.ID(), diskSize)
		members = append(members, Member{Device: d})
	}
	b := New(members, Options{Copies: 2, Space: space})
	defer b.Close()
	second, stale := 0, 0
	for range 20000 {
		var done atomic.Bool
		var late atomic.Int32 // times that buffers were asked for when the read was over
		var out sync.WaitGroup
		out.Add(1)
		r := &Read{Copies: []Copy{{1, 0}, {2, 0}}, Size: 4096, Bufs: [][]byte{make([]byte, 4096)}}
		r.Returned = func([][]byte) { out.Done() }
		r.NewBufs = func() [][]byte {
			if done.Load() {
				late.Add(1)
			}
			second++
			out.Add(1)
			return [][]byte{make([]byte, 4096)}
		}
		r.Done = func(*Read, int, [][]byte, error) { done.Store(true) }
		rd := &read{b: b, r: r}
		a := &rd.first
		a.rd, a.bufs, a.m, a.began = rd, r.Bufs, b.dev(1), b.now()-time.Second
		rd.attempts, rd.live = []*attempt{a}, 1
		b.mu.Lock()
		b.reads = policy.Tokens{}
		b.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() {
			a.result(&a.req, nil)
			a.letGo(&a.req)
		})
		a.overdue()
		both.Wait()
		out.Wait()
		stale += int(late.Load())
	}
	require.Zero(t, stale, "of %d second attempts", second)
	require.Positive(t, second)
}
