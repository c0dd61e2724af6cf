package striping

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"

	"github.com/stretchr/testify/require"
)

// buffersOut is how many buffers are in use.
func buffersOut() (n int) {
	for i := range freeBuffers {
		f := &freeBuffers[i]
		f.mu.Lock()
		n += f.made - len(f.warm) - len(f.cold)
		f.mu.Unlock()
	}
	return n
}

// TestBuffersComeBack holds that all that goes wrong on a disk, and a volume that ends with it, leave no
// buffer behind: what is mapped is lost for good then.
func TestBuffersComeBack(t *testing.T) {
	faults := map[string]faultdisk.Fault{
		"read errors":  {On: faultdisk.OnRead, Rate: 0.3, Sticky: true, Effect: faultdisk.Fail},
		"write errors": {On: faultdisk.OnWrite, Rate: 0.3, Sticky: true, Effect: faultdisk.Fail},
		"rotten":       {On: faultdisk.OnRead, Rate: 0.3, Sticky: true, Effect: faultdisk.Corrupt, Target: -1},
		"sync errors":  {On: faultdisk.OnSync, Rate: 0.3, Effect: faultdisk.Fail},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := buffersOut()
				r := newRig(t, rigConfig{disks: 3, copies: 2, timing: gentle,
					opts: Options{DirtyLimit: 256 << 10, FlushInterval: 50 * time.Millisecond, WriteAge: 5 * time.Millisecond}})
				const size = 8 * 64 << 10
				require.NoError(t, r.v.CreateExport(t.Context(), "e", size))
				l := startLoad(r, newModel(size), rand.New(rand.NewPCG(7, 1)), 2, 10*time.Millisecond)
				time.Sleep(200 * time.Millisecond)
				r.disks[1].Add(fault)
				most := before
				for range 1000 {
					time.Sleep(10 * time.Millisecond)
					most = max(most, buffersOut())
				}
				require.Greater(t, most, before, "nothing is buffered: the test shows nothing")
				l.stop.Store(true)
				l.wg.Wait()
				l.e.Close()
				_ = r.end()
				synctest.Wait()
				require.Equal(t, before, buffersOut())
			})
		})
	}
}

// TestMappedBuffersAreGivenBack holds that memory which is not needed any more goes back to the kernel,
// and that what is needed stays.
func TestMappedBuffersAreGivenBack(t *testing.T) {
	if !mayMap {
		t.Log("the race detector does not see mapped memory, so none is mapped")
		return
	}
	MapBuffers()
	t.Cleanup(func() { mapBuffers.Store(false) })
	for _, size := range []int{blockSize, 3 * blockSize, 1 << 20} {
		f := &freeBuffers[bufferClass(size)]
		f.warm, f.cold, f.low = nil, nil, 0
		n := 64 << 20 / size
		list := make([]*Buffer, n)
		for i := range list {
			list[i] = NewBuffer(size)
			fillBytes(list[i].Bytes(), byte(i)|1)
		}
		for i, b := range list {
			require.Equal(t, byte(i)|1, b.Bytes()[size-1])
			if i >= 4 {
				b.Release()
			}
		}
		f.trim() // they were needed since the last one
		require.Empty(t, f.cold)
		for range 10 {
			f.trim()
		}
		require.Greater(t, len(f.cold), (n-4)*9/10)
		for i := range 4 {
			require.Equal(t, byte(i)|1, list[i].Bytes()[size-1], "in use")
		}
		given := f.cold[len(f.cold)-1]
		require.Zero(t, given.mem[size-1], "the kernel has it")
		for len(f.warm) > 0 {
			_ = NewBuffer(size)
		}
		require.Same(t, given, NewBuffer(size), "used again before any is made")
	}
}

func fillBytes(p []byte, x byte) {
	for i := range p {
		p[i] = x
	}
}
