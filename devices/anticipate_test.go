package devices

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// turnDisk serves one operation after the other, 10 ms for each MiB.
type turnDisk struct {
	turn chan [2]time.Duration // how long it was busy with reads and with writes; who has it has the disk
}

func newTurnDisk() *turnDisk {
	t := &turnDisk{turn: make(chan [2]time.Duration, 1)}
	t.turn <- [2]time.Duration{}
	return t
}

// busy is how long it was busy with operations of that kind, those that are over.
func (t *turnDisk) busy(kind Kind) time.Duration {
	busy := <-t.turn
	t.turn <- busy
	return busy[kind]
}

func (t *turnDisk) op(kind Kind, n int) (int, error) {
	took := time.Duration(float64(n) / mib * float64(10*time.Millisecond))
	busy := <-t.turn
	time.Sleep(took)
	busy[kind] += took
	t.turn <- busy
	return n, nil
}

func (t *turnDisk) ReadAt(p []byte, off int64) (int, error)  { return t.op(Read, len(p)) }
func (t *turnDisk) WriteAt(p []byte, off int64) (int, error) { return t.op(Write, len(p)) }
func (t *turnDisk) Sync() error                              { return nil }
func (t *turnDisk) Size() int64                              { return 1 << 30 }
func (t *turnDisk) Close() error                             { return nil }

// besideClients has clients read 64 KiB at a time, each next one that long after the last answer, beside
// background writes that never end. It returns, for the later half of the requests, the share of
// the time that the disk spent on the background, and how long a read took.
func besideClients(t *testing.T, floor float64, clients, requests int, think func() time.Duration) (background float64, read time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		disk := newTurnDisk()
		d := NewDevice(disk, Options{Learned: learned(10e-3 / mib), BackgroundFloor: floor})
		var over sync.WaitGroup
		stop := make(chan struct{})
		for range 10 {
			over.Go(func() {
				done := make(chan error, 1)
				for {
					d.Submit(&Request{Kind: Write, Class: Background, Bufs: [][]byte{make([]byte, 256<<10)},
						Done: func(_ *Request, err error) { done <- err }})
					if err := <-done; err != nil {
						t.Error(err)
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		var took time.Duration
		var began time.Time
		var before time.Duration
		var readers sync.WaitGroup
		for c := range clients {
			readers.Go(func() {
				for i := range requests {
					if c == 0 && i == requests/2 {
						before = disk.busy(Write)
						began = time.Now()
					}
					asked := time.Now()
					if err := d.Do(&Request{Kind: Read, Bufs: [][]byte{make([]byte, 64<<10)}}); err != nil {
						t.Error(err)
						return
					}
					if c == 0 && i >= requests/2 {
						took += time.Since(asked)
					}
					time.Sleep(think())
				}
			})
		}
		readers.Wait()
		background = (disk.busy(Write) - before).Seconds() / time.Since(began).Seconds()
		read = took / time.Duration(requests/2)
		close(stop)
		over.Wait()
		require.NoError(t, d.Close())
	})
	return background, read
}

// TestReadsThatFollowComeFirst: a client that makes its next read at once does not wait for background
// requests but for those of the floor, and they have the disk to themselves when it takes its time.
func TestReadsThatFollowComeFirst(t *testing.T) {
	const alone = 625 * time.Microsecond // of a read; a background request takes 2.5 ms
	rng := rand.New(rand.NewPCG(1, 1))
	every := func(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
	random := func(mean time.Duration) func() time.Duration {
		return func() time.Duration { return time.Duration(rng.ExpFloat64() * float64(mean)) }
	}
	for _, c := range []struct {
		name                  string
		requests              int
		think                 func() time.Duration
		least, most           float64       // of the time is the background's
		longer, longerAtLeast time.Duration // than alone takes a read, at most and at least
	}{
		{"at once", 8000, every(0), 0.015, 0.025, alone / 5, 0},
		{"soon", 8000, every(200 * time.Microsecond), 0.015, 0.025, alone / 5, 0},
		{"in a while", 300, every(20 * time.Millisecond), 0.9, 1, 3 * time.Millisecond, 0},
		{"at random, often", 2000, random(600 * time.Microsecond), 0.4, 1, 3 * time.Millisecond, alone},
		{"at random", 1000, random(5 * time.Millisecond), 0.8, 1, 3 * time.Millisecond, alone},
	} {
		t.Run(c.name, func(t *testing.T) {
			share, read := besideClients(t, 0.02, 1, c.requests, c.think)
			t.Logf("background %.3f of the time, a read %v", share, read)
			require.GreaterOrEqual(t, share, c.least)
			require.LessOrEqual(t, share, c.most)
			require.LessOrEqual(t, read, alone+c.longer)
			require.GreaterOrEqual(t, read, alone+c.longerAtLeast)
		})
	}
}

// TestBackgroundGetsItsFloorAmongFew: background requests have their share of the time also beside clients who
// carry out each read themselves, as those do that find nothing queued.
func TestBackgroundGetsItsFloorAmongFew(t *testing.T) {
	for _, floor := range []float64{0.02, 0.1, 0.25} {
		for _, clients := range []int{2, 24} {
			share, _ := besideClients(t, floor, clients, 16000/clients, func() time.Duration { return 0 })
			t.Logf("floor %.2f, %d clients: %.3f", floor, clients, share)
			require.InDelta(t, floor, share, 0.15*floor)
		}
	}
}
