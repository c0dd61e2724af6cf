package balance

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
)

// written is what became of a Write.
type written struct {
	mu       sync.Mutex
	w        Write
	done     int
	returned int
	placed   []Placed
	err      error
	at       time.Time
}

func (r *rig) write(change ...func(*Write)) *written {
	o := &written{w: Write{Slot: chunk, Runs: []Run{{Bufs: [][]byte{r.buf}}}, Independent: true}}
	for _, f := range change {
		f(&o.w)
	}
	o.w.Done = func(_ *Write, placed []Placed, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.done++
		o.placed, o.err, o.at = placed, err, time.Now()
	}
	o.w.Returned = func(*Write) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.done != 1 {
			panic("Returned before Done")
		}
		o.returned++
	}
	r.b.Write(&o.w)
	return o
}

func (o *written) require(t *testing.T, done, returned int, err error, on ...devices.ID) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Equal(t, done, o.done, "calls of Done")
	require.Equal(t, returned, o.returned, "calls of Returned")
	if err == nil {
		require.NoError(t, o.err)
	} else {
		require.ErrorIs(t, o.err, err)
	}
	var ids []devices.ID
	for _, p := range o.placed {
		ids = append(ids, p.Device)
	}
	require.ElementsMatch(t, on, ids)
}

// wasRead is what became of a Read.
type wasRead struct {
	mu       sync.Mutex
	done     int
	given    int // destinations
	returned map[*byte]int
	copy     int
	bufs     [][]byte
	err      error
	at       time.Time
}

func (r *rig) read(spares bool, on ...devices.ID) *wasRead {
	o := &wasRead{given: 1, returned: map[*byte]int{}}
	rd := &Read{Size: 4096, Bufs: [][]byte{make([]byte, 4096)}}
	for _, id := range on {
		rd.Copies = append(rd.Copies, Copy{id, mib})
	}
	if spares {
		rd.NewBufs = func() [][]byte {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.given++
			return [][]byte{make([]byte, 4096)}
		}
	}
	rd.Done = func(_ *Read, copy int, bufs [][]byte, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.done++
		o.copy, o.bufs, o.err, o.at = copy, bufs, err, time.Now()
	}
	rd.Returned = func(bufs [][]byte) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.returned[&bufs[0][0]]++
	}
	r.b.Read(rd)
	return o
}

func (o *wasRead) require(t *testing.T, copy, given, returned int, err error) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	require.Equal(t, 1, o.done, "calls of Done")
	require.Equal(t, given, o.given, "destinations")
	require.Len(t, o.returned, returned, "destinations returned")
	for _, n := range o.returned {
		require.Equal(t, 1, n, "calls of Returned")
	}
	if err != nil {
		require.ErrorIs(t, o.err, err)
		return
	}
	require.NoError(t, o.err)
	require.Equal(t, copy, o.copy)
	require.Len(t, o.bufs, 1)
}

// withRig runs f over devices that have been used enough to be known.
func withRig(t *testing.T, o rigOptions, f func(t *testing.T, r *rig)) {
	t.Helper()
	inFakeTime(t, func(t *testing.T) {
		r := newRig(t, o)
		defer r.close()
		defer func() {
			for _, d := range r.disks {
				d.Faults.Clear()
			}
		}()
		for range 20 {
			for _, d := range r.devs {
				for _, kind := range []devices.Kind{devices.Read, devices.Write} {
					for _, size := range []int{4096, mib} {
						require.NoError(t, d.Do(&devices.Request{Kind: kind, Off: 8 * mib, Bufs: [][]byte{r.buf[:size]}}))
					}
				}
			}
		}
		f(t, r)
	})
}

func (r *rig) taken(id devices.ID) int {
	r.space.mu.Lock()
	defer r.space.mu.Unlock()
	return len(r.space.by[id].taken)
}

func TestOverdueWriteIsReplacedAndItsSlotQuarantined(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 1, device: devices.Options{Timeout: time.Minute}}, func(t *testing.T, r *rig) {
		hang := r.disks[2].Faults.HangAll(faultdisk.OnAll)
		began := time.Now()
		o := r.write()
		time.Sleep(time.Second)
		// Done on the next best device, while the hung disk may still write to its slot.
		o.require(t, 1, 0, nil, 2)
		require.Less(t, o.at.Sub(began), 100*time.Millisecond)
		require.Equal(t, 1, r.taken(3), "quarantined")
		require.Equal(t, 1, r.taken(2))
		require.EqualValues(t, 1, r.b.Stats().Replacements)

		// Nobody gets this slot meanwhile, however long it takes: the deadline changes nothing.
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, r.taken(3))
		o.require(t, 1, 0, nil, 2)

		hang.Lift()
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 2)
		require.Zero(t, r.taken(3))
		require.Equal(t, 1, r.taken(2), "the published slot stays")
	})
}

func TestLateCopyInTheQueueIsCancelled(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{50, 50}, copies: 1}, func(t *testing.T, r *rig) {
		hang := r.disks[0].Faults.HangAll(faultdisk.OnAll)
		r.b.SetPlaceable(2, false)
		var all []*written
		for range 3 {
			all = append(all, r.write())
		}
		synctest.Wait()
		require.Equal(t, 1, r.devs[0].Stats().Waiting+r.b.Stats().Waiting)
		r.b.SetPlaceable(2, true)
		time.Sleep(2 * time.Second)
		for i, o := range all {
			if i < 2 {
				o.require(t, 1, 0, nil, 2)
			} else {
				o.require(t, 1, 1, nil, 2)
			}
		}
		require.Equal(t, 2, r.taken(1))
		hang.Lift()
		time.Sleep(time.Second)
		require.Zero(t, r.taken(1))
	})
}

func TestFailedCopyIsWrittenElsewhere(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  func(d *simdisk.Disk)
		device devices.Options
		want   error
	}{
		{"error", func(d *simdisk.Disk) { d.Faults.FailNth(faultdisk.OnWrite, 1, syscall.EIO, true) }, devices.Options{}, syscall.EIO},
		{"timeout", func(d *simdisk.Disk) { d.Faults.HangAll(faultdisk.OnWrite) }, devices.Options{Timeout: 50 * time.Millisecond}, devices.ErrTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var told []devices.ID
			withRig(t, rigOptions{rates: abc, copies: 2, device: c.device, opts: Options{
				NoHedges: true,
				OnError: func(id devices.ID, err error) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, id)
					if !errors.Is(err, c.want) {
						t.Errorf("unexpected error %v", err)
					}
				},
			}}, func(t *testing.T, r *rig) {
				c.fault(r.disks[2])
				o := r.write()
				time.Sleep(time.Second)
				synctest.Wait()
				o.mu.Lock()
				placed := o.placed
				o.mu.Unlock()
				require.Len(t, placed, 2)
				require.Equal(t, []devices.ID{3}, told)
				require.EqualValues(t, 1, r.b.Stats().Rewrites)
				require.ElementsMatch(t, []devices.ID{1, 2}, []devices.ID{placed[0].Device, placed[1].Device})

				// With no third device left, the write makes do with what there is.
				c.fault(r.disks[0])
				o = r.write()
				time.Sleep(time.Second)
				returned := 1
				if c.want == devices.ErrTimeout {
					returned = 0
				}
				o.require(t, 1, returned, nil, 2)

				c.fault(r.disks[1])
				o = r.write()
				time.Sleep(time.Second)
				o.require(t, 1, returned, c.want)
				for _, d := range r.disks {
					d.Faults.Clear()
				}
				time.Sleep(time.Second)
				o.require(t, 1, 1, c.want)
				require.Equal(t, 1, r.taken(1))
				require.Equal(t, 2, r.taken(2))
				require.Zero(t, r.taken(3))
			})
		})
	}
}

func TestWriteWithNoDevice(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		for i, d := range r.devs[:2] {
			d.Fail(errors.New("gone"))
			o := r.write()
			time.Sleep(time.Second)
			if i == 0 {
				o.require(t, 1, 1, nil, 2, 3)
			} else {
				o.require(t, 1, 1, nil, 3)
			}
		}
		r.b.SetPlaceable(3, false)
		r.write().require(t, 1, 1, ErrNoDevice)
	})
}

func TestWriteWithoutSpace(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2, sizes: []int64{4 * chunk, 8 * chunk, 2 * chunk}}, func(t *testing.T, r *rig) {
		for range 6 {
			o := r.write()
			time.Sleep(time.Second)
			synctest.Wait()
			require.NoError(t, o.err)
			require.Len(t, o.placed, 2)
		}
		// Two slots are left, both on one device: they cannot hold two copies of anything.
		r.write().require(t, 1, 1, ErrNoSpace)
		require.Equal(t, 12, r.taken(1)+r.taken(2)+r.taken(3))
		// With too few devices it is another matter.
		r.devs[0].Fail(nil)
		r.devs[2].Fail(nil)
		o := r.write()
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 2)
	})
}

func TestAllocatorKnowsBetter(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 1}, func(t *testing.T, r *rig) {
		r.space.by[3].used = diskSize - scratch - 1 // Usage said otherwise when it was asked
		liar := &lyingSpace{testSpace: r.space, id: 3}
		r.b.opts.Space = liar
		o := r.write()
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 2)
		require.Positive(t, liar.refused)
	})
}

type lyingSpace struct {
	*testSpace
	id      devices.ID
	refused int
}

func (s *lyingSpace) Usage(id devices.ID) (int64, int64) {
	used, capacity := s.testSpace.Usage(id)
	if id == s.id {
		used = 0
	}
	return used, capacity
}

func (s *lyingSpace) Reserve(id devices.ID, size int64) (int64, bool) {
	off, ok := s.testSpace.Reserve(id, size)
	if !ok {
		s.refused++
	}
	return off, ok
}

func TestDomainsAreKeptApart(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{100, 500, 500, 400}, copies: 2, domain: func(i int) string {
		return []string{"", "shelf", "shelf", "shelf"}[i]
	}}, func(t *testing.T, r *rig) {
		for range 20 {
			o := r.write()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			require.NoError(t, o.err)
			require.Len(t, o.placed, 2)
			first := o.placed[0].Device == 1
			second := o.placed[1].Device == 1
			require.True(t, first != second, "one inside the shelf, one outside: %v", o.placed)
		}
		// A copy that fails is not put beside the other one.
		r.devs[0].Fail(nil)
		o := r.write()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, o.placed, 1)
	})
}

func TestPreferredDevices(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		prefer := func(w *Write) { w.Prefer = []devices.ID{1, 2} }
		o := r.write(prefer)
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 1, 2)
		// Not at any price.
		var all []*written
		for range 16 {
			all = append(all, r.write(prefer))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		elsewhere := 0
		for _, o := range all {
			for _, p := range o.placed {
				if p.Device == 3 {
					elsewhere++
				}
			}
		}
		require.Positive(t, elsewhere)
		r.b.SetPlaceable(1, false)
		o = r.write(prefer)
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 2, 3)
	})
}

func TestWritesWaitInTheDaemonAndAreFreedByAFailure(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{100, 100}, copies: 2}, func(t *testing.T, r *rig) {
		hang := r.disks[1].Faults.HangAll(faultdisk.OnAll)
		var all []*written
		for range 32 {
			all = append(all, r.write())
		}
		time.Sleep(5 * time.Second)
		require.Greater(t, r.b.Stats().Waiting, 20)
		r.devs[1].Fail(errors.New("hung"))
		time.Sleep(5 * time.Second)
		for _, o := range all {
			synctest.Wait()
			require.Equal(t, 1, o.done)
			require.NoError(t, o.err)
			require.Len(t, o.placed, 1)
		}
		hang.Lift()
		time.Sleep(time.Second)
		for _, o := range all {
			o.require(t, 1, 1, nil, 1)
		}
		require.Zero(t, r.taken(2))
		require.Equal(t, 32, r.taken(1))
	})
}

func TestCloseAnswersWhatWaits(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{100}, copies: 1}, func(t *testing.T, r *rig) {
		var all []*written
		for range 32 {
			all = append(all, r.write())
		}
		r.b.Close()
		time.Sleep(5 * time.Second)
		refused := 0
		for _, o := range all {
			synctest.Wait()
			require.Equal(t, 1, o.done)
			require.Equal(t, 1, o.returned)
			if o.err != nil {
				require.ErrorIs(t, o.err, ErrClosed)
				refused++
			}
		}
		require.Greater(t, refused, 16)
		require.Less(t, refused, 32)
		r.write().require(t, 1, 1, ErrClosed)
	})
}

func TestSlotsWithSeveralRunsAndWithNone(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		before := r.devs[2].Stats().Write.Bytes
		o := r.write(func(w *Write) {
			w.Runs = []Run{{Off: 4096, Bufs: [][]byte{r.buf[:4096]}}, {Off: 64 << 10, Bufs: [][]byte{r.buf[:4096], r.buf[:8192]}}}
		})
		time.Sleep(time.Second)
		o.require(t, 1, 1, nil, 2, 3)
		require.EqualValues(t, 16<<10, r.devs[2].Stats().Write.Bytes-before)
		o = r.write(func(w *Write) { w.Runs = nil })
		synctest.Wait()
		require.NoError(t, o.err)
		require.Len(t, o.placed, 2)
		require.Equal(t, 1, o.returned)
	})
}

func TestReadGoesToAnotherCopyOnError(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		o := r.read(false, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 1, 1, 1, nil)
		r.disks[2].Faults.FailNth(faultdisk.OnRead, 1, syscall.EIO, true)
		o = r.read(false, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 0, 1, 1, nil) // in the same buffer: the disk had let go of it
		require.EqualValues(t, 1, r.b.Stats().Redirects)
		r.disks[0].Faults.FailNth(faultdisk.OnRead, 1, syscall.EIO, true)
		o = r.read(true, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 0, 1, 1, syscall.EIO)
		o = r.read(true)
		o.require(t, 0, 1, 1, ErrNoDevice)
		o = r.read(true, 9)
		o.require(t, 0, 1, 1, ErrNoDevice)
	})
}

func TestReadIsHedged(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		hang := r.disks[2].Faults.HangAll(faultdisk.OnRead)
		began := time.Now()
		o := r.read(true, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 0, 2, 1, nil)
		require.Less(t, o.at.Sub(began), 10*time.Millisecond)
		require.EqualValues(t, 1, r.b.Stats().Hedges)
		hang.Lift()
		time.Sleep(time.Second)
		o.require(t, 0, 2, 2, nil)
	})
}

func TestTimedOutReadIsRepeatedInAnotherBuffer(t *testing.T) {
	withRig(t, rigOptions{
		rates: abc, copies: 2, opts: Options{NoHedges: true},
		device: devices.Options{Timeout: 100 * time.Millisecond},
	}, func(t *testing.T, r *rig) {
		hang := r.disks[2].Faults.HangAll(faultdisk.OnRead)
		with, without := r.read(true, 1, 3), r.read(false, 3)
		time.Sleep(time.Second)
		with.require(t, 0, 2, 1, nil)
		without.require(t, 0, 1, 0, devices.ErrTimeout)
		hang.Lift()
		time.Sleep(time.Second)
		with.require(t, 0, 2, 2, nil)
		without.require(t, 0, 1, 1, devices.ErrTimeout)
	})
}

func TestUnreadableDevicesAreTheLastResort(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		r.b.SetReadable(3, false)
		o := r.read(true, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 0, 1, 1, nil)
		r.devs[0].Fail(nil)
		o = r.read(true, 1, 3)
		time.Sleep(time.Second)
		o.require(t, 1, 1, 1, nil)
	})
}

func TestReadSync(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		for _, copies := range [][]Copy{{{3, mib}}, {{1, mib}, {3, mib}}} {
			returned := 0
			rd := &Read{Copies: copies, Size: 4096, Bufs: [][]byte{r.buf[:4096]}, Returned: func([][]byte) { returned++ }}
			i, bufs, err := r.b.ReadSync(rd)
			require.NoError(t, err)
			require.Equal(t, len(copies)-1, i)
			require.Len(t, bufs, 1)
			synctest.Wait()
			require.Equal(t, 1, returned)
		}
		// The other copy's device is gone: still served, by the caller itself.
		r.devs[2].Fail(nil)
		i, _, err := r.b.ReadSync(&Read{Copies: []Copy{{1, mib}, {3, mib}}, Size: 4096, Bufs: [][]byte{r.buf[:4096]}})
		require.NoError(t, err)
		require.Zero(t, i)
		r.disks[0].Faults.FailNth(faultdisk.OnRead, 1, syscall.EIO, true)
		_, _, err = r.b.ReadSync(&Read{Copies: []Copy{{1, mib}, {3, mib}}, Size: 4096, Bufs: [][]byte{r.buf[:4096]}})
		require.ErrorIs(t, err, syscall.EIO)
		_, _, err = r.b.ReadSync(&Read{Copies: []Copy{{3, mib}}, Size: 4096, Bufs: [][]byte{r.buf[:4096]}})
		require.ErrorIs(t, err, ErrNoDevice)
	})
}

func TestTokensBoundSecondAttempts(t *testing.T) {
	withRig(t, rigOptions{rates: []float64{100, 100, 100}, copies: 1}, func(t *testing.T, r *rig) {
		// The disk takes 30 ms more for every second operation: always late, never quite known.
		r.disks[0].Faults.Add(faultdisk.Fault{On: faultdisk.OnRead, Rate: 0.5, Sticky: true, Effect: faultdisk.Slow, Delay: 30 * time.Millisecond})
		const reads = 4000
		for range reads {
			o := r.read(true, 1, 2)
			time.Sleep(2 * time.Millisecond)
			_ = o
		}
		time.Sleep(time.Second)
		require.LessOrEqual(t, float64(r.b.Stats().Hedges), 50+0.05*reads+10)
		require.Positive(t, r.b.Stats().Hedges)
	})
}

func TestBackgroundWork(t *testing.T) {
	withRig(t, rigOptions{rates: abc, copies: 2}, func(t *testing.T, r *rig) {
		background := func(w *Write) { w.Class = devices.Background }
		var all []*written
		for range 64 {
			all = append(all, r.write(background))
		}
		synctest.Wait()
		require.Positive(t, r.b.Stats().Waiting, "late binding holds for them as well")
		began := time.Now()
		client := r.write()
		time.Sleep(10 * time.Second)
		client.require(t, 1, 1, nil, 2, 3)
		require.Less(t, client.at.Sub(began), 100*time.Millisecond, "one piece on each disk is in its way")
		for _, o := range all {
			synctest.Wait()
			require.NoError(t, o.err)
			require.Len(t, o.placed, 2)
			require.Equal(t, 1, o.returned)
		}
		require.Zero(t, r.b.Stats().Replacements)
	})
}

// nullDisk takes no time.
type nullDisk struct{}

func (nullDisk) ReadAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (nullDisk) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nullDisk) Sync() error                            { return nil }
func (nullDisk) Size() int64                            { return diskSize }
func (nullDisk) Close() error                           { return nil }

func benchRig(b *testing.B) *Balancer {
	var members []Member
	space := newTestSpace(nil)
	for i := range 3 {
		d := devices.NewDevice(nullDisk{}, devices.Options{ID: devices.ID(i + 1)})
		b.Cleanup(func() { _ = d.Close() })
		space.add(d.ID(), diskSize)
		members = append(members, Member{Device: d})
	}
	bal := New(members, Options{Copies: 2, Space: space})
	b.Cleanup(bal.Close)
	return bal
}

func BenchmarkReadSyncOneCopy(b *testing.B) {
	bal := benchRig(b)
	r := &Read{Copies: []Copy{{1, 0}}, Size: 4096, Bufs: [][]byte{make([]byte, 4096)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := bal.ReadSync(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadSyncTwoCopies(b *testing.B) {
	bal := benchRig(b)
	buf := make([]byte, 4096)
	r := &Read{Copies: []Copy{{1, 0}, {2, 0}}, Size: 4096, Bufs: [][]byte{buf}, NewBufs: func() [][]byte { return [][]byte{make([]byte, 4096)} }}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := bal.ReadSync(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteTwoCopies(b *testing.B) {
	bal := benchRig(b)
	buf := make([]byte, 4096)
	done := make(chan struct{})
	b.ReportAllocs()
	for b.Loop() {
		bal.Write(&Write{Slot: chunk, Runs: []Run{{Bufs: [][]byte{buf}}}, Done: func(_ *Write, placed []Placed, err error) {
			for _, p := range placed {
				bal.opts.Space.Release(p.Device, p.Off, chunk)
			}
			done <- struct{}{}
		}})
		<-done
	}
}
