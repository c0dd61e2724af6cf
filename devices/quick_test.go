package devices

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMemoryIsWrittenByOneWorker: writes to a disk that answers sooner than a goroutine is woken
// are left to the one that is at it, until one of them hangs.
func TestMemoryIsWrittenByOneWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateDisk{size: 1 << 20}
		d := NewDevice(g, Options{})
		batch := func(n int) (reqs []Request, done *int) {
			done = new(int)
			reqs = make([]Request, n)
			for i := range reqs {
				reqs[i] = Request{Kind: Write, Off: int64(i) * BlockSize, Bufs: [][]byte{AlignedBytes(BlockSize)},
					Done: func(_ *Request, err error) {
						d.mu.Lock()
						*done++
						d.mu.Unlock()
					}}
			}
			return reqs, done
		}
		many, _ := batch(8)
		d.SubmitAll(many)
		require.Greater(t, len(g.inDisk()), 2, "nothing is known of the disk yet: it gets what it may")
		for len(g.inDisk()) > 0 {
			g.end(0, nil)
		}

		g.open.Store(true)
		warm, n := batch(100)
		d.SubmitAll(warm)
		synctest.Wait()
		require.Equal(t, 100, *n)

		g.open.Store(false)
		few, n := batch(8)
		d.SubmitAll(few)
		require.Len(t, g.inDisk(), 1)
		g.end(0, nil)
		calls := g.inDisk()
		require.Len(t, calls, 1)
		require.EqualValues(t, BlockSize, calls[0].off, "in the order in which they were given")

		time.Sleep(2 * quickStuck)
		more, m := batch(1)
		d.SubmitAll(more)
		require.Greater(t, len(g.inDisk()), 1, "one that hangs holds up the others")
		g.open.Store(true)
		for len(g.inDisk()) > 1 {
			g.end(1, nil)
		}
		require.Equal(t, 7, *n, "all but the one that hangs")
		require.Equal(t, 1, *m)
		g.end(0, nil)
		require.Equal(t, 8, *n)
		require.NoError(t, d.Close())
	})
}

// TestHangOnMemoryDelaysOthersByItsTimeout: without any other event the deadline of the operation
// that hangs lets the others go, and they do not share its error.
func TestHangOnMemoryDelaysOthersByItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateDisk{size: 1 << 20}
		g.open.Store(true)
		d := NewDevice(g, Options{Timeout: time.Second})
		results := make(chan error, 200)
		submit := func(n int) {
			reqs := make([]Request, n)
			for i := range reqs {
				reqs[i] = Request{Kind: Write, Off: int64(i) * BlockSize, Bufs: [][]byte{AlignedBytes(BlockSize)},
					Done: func(_ *Request, err error) { results <- err }}
			}
			d.SubmitAll(reqs)
		}
		submit(100)
		for range 100 {
			require.NoError(t, <-results)
		}
		synctest.Wait() // each worker that is still on its way back would take one
		g.open.Store(false)
		submit(3)
		require.Len(t, g.inDisk(), 1)
		g.open.Store(true) // for the others
		var timeouts int
		for range 3 {
			if err := <-results; errors.Is(err, ErrTimeout) {
				timeouts++
			} else {
				require.NoError(t, err)
			}
		}
		require.Equal(t, 1, timeouts)
		g.end(0, nil)
		require.NoError(t, d.Close())
	})
}

// TestSubmitAllToAFailedDevice: each request is answered and returned.
func TestSubmitAllToAFailedDevice(t *testing.T) {
	d := NewDevice(&gateDisk{size: 1 << 20}, Options{})
	d.Fail(errors.New("gone"))
	var done, returned int
	reqs := make([]Request, 3)
	for i := range reqs {
		reqs[i] = Request{Kind: Write, Bufs: [][]byte{AlignedBytes(BlockSize)}, Returned: func(*Request) { returned++ },
			Done: func(_ *Request, err error) {
				require.ErrorIs(t, err, ErrFailed)
				done++
			}}
	}
	d.SubmitAll(reqs)
	require.Equal(t, 3, done)
	require.Equal(t, 3, returned)
	require.NoError(t, d.Close())
}
