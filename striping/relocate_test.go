package striping

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices"
	"ballast/devices/faultdisk"

	"github.com/stretchr/testify/require"
)

// moving is a volume of one chunk, of which block 4 is bad on all copies, that has to move.
type moving struct {
	*rig
	e    *Export
	vers [16]uint32 // 0: never written
	ctx  context.Context
}

const movingBad = 4

func newMoving(t *testing.T, copies uint8) *moving {
	m := &moving{rig: newRig(t, rigConfig{disks: int(copies), copies: copies, timing: gentle, opts: Options{ReadAhead: -1}}), ctx: context.Background()}
	require.NoError(t, m.v.CreateExport(m.ctx, "e", 10*blockSize))
	m.e = m.export("e")
	m.write(0, 10, 1)
	require.NoError(t, m.v.Flush(m.ctx))
	return m
}

func (m *moving) write(first, n int, ver uint32) {
	m.t.Helper()
	require.NoError(m.t, m.e.WriteAt(m.ctx, stamped(first, n, ver), int64(first)*blockSize, false))
	for i := first; i < first+n; i++ {
		m.vers[i] = ver
	}
}

// places returns where the copies of the chunk are.
func (m *moving) places() []place {
	c, err := m.v.acquire(chunkKey{m.e.o.number, 0})
	require.NoError(m.t, err)
	defer m.v.cache.put(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.places
}

// everyCopy calls f for each disk with the offset of a block on it.
func (m *moving) everyCopy(block int64, f func(disk int, off int64)) {
	for _, pl := range m.places() {
		f(int(pl.dev)-1, pl.off+block*blockSize)
	}
}

// check reads all that was written; the bad block, while it is bad, is an error and listed.
func (m *moving) check(bad bool) {
	m.t.Helper()
	p := make([]byte, blockSize)
	for i, ver := range m.vers {
		if int64(i)*blockSize >= m.e.Size() {
			break
		}
		err := m.e.ReadAt(m.ctx, p, int64(i)*blockSize)
		if i == movingBad && bad {
			require.ErrorIs(m.t, err, ErrUnreadable)
			continue
		}
		require.NoError(m.t, err, "block %d", i)
		if ver == 0 {
			require.Equal(m.t, make([]byte, blockSize), p)
			continue
		}
		got, err := versionOf(p, i)
		require.NoError(m.t, err)
		require.Equal(m.t, ver, got, "block %d", i)
	}
	list := m.v.Status().Bad
	if !bad {
		require.Empty(m.t, list)
		return
	}
	require.Len(m.t, list, 1)
	require.Equal(m.t, int64(movingBad*blockSize), list[0].Off)
	require.Equal(m.t, int64(blockSize), list[0].Size)
}

func (m *moving) reopen() {
	m.e.Close()
	require.NoError(m.t, m.close())
	m.open()
	m.e = m.export("e")
}

// TestMoveCarriesUnreadable moves a chunk with a block that no copy has any more, in several ways
// to lose it and to be moved: what its neighbours hold becomes durable, the block stays an error
// over a second move and a new start, and is whole once it is written again (R2).
func TestMoveCarriesUnreadable(t *testing.T) {
	lose := map[string]func(m *moving){
		"rot": func(m *moving) {
			m.everyCopy(movingBad, func(disk int, off int64) { m.disks[disk].Poke(off, stamped(movingBad, 1, 99)) })
		},
		"medium error": func(m *moving) {
			m.everyCopy(movingBad, func(disk int, off int64) {
				m.disks[disk].Add(faultdisk.Fault{On: faultdisk.OnRead, Off: off, Size: blockSize, Sticky: true, Effect: faultdisk.Fail})
			})
		},
	}
	move := map[string]func(m *moving){
		"grow": func(m *moving) {
			require.NoError(m.t, m.v.ResizeExport(m.ctx, "e", 16*blockSize))
			m.write(12, 1, 2)
		},
		"write error": func(m *moving) {
			m.everyCopy(7, func(disk int, off int64) {
				m.disks[disk].Add(faultdisk.Fault{On: faultdisk.OnWrite, Off: off, Size: blockSize, Sticky: true, Effect: faultdisk.Fail})
			})
			m.write(7, 1, 2)
		},
	}
	for how, lose := range lose {
		for why, move := range move {
			for copies := uint8(1); copies <= 2; copies++ {
				t.Run(fmt.Sprintf("%s/%s/copies=%d", how, why, copies), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := newMoving(t, copies)
						lose(m)
						before := m.places()
						move(m)
						require.NoError(t, m.e.Sync(m.ctx))
						require.NotEqual(t, before[0].off, m.places()[0].off)
						m.check(true)
						m.write(2, 1, 3)
						require.NoError(t, m.e.Sync(m.ctx))
						m.reopen()
						m.check(true)
						m.everyCopy(2, func(disk int, off int64) {
							m.disks[disk].Add(faultdisk.Fault{On: faultdisk.OnWrite, Off: off, Size: blockSize, Effect: faultdisk.Fail})
						})
						m.write(2, 1, 4)
						require.NoError(t, m.e.Sync(m.ctx))
						m.check(true)
						m.write(movingBad, 1, 5)
						require.NoError(t, m.e.Sync(m.ctx))
						m.check(false)
						require.NoError(t, m.v.checkCopies(m.ctx))
						m.reopen()
						m.check(false)
						m.e.Close()
						require.NoError(t, m.close())
					})
				})
			}
		}
	}
}

// TestMoveWaitsForSilentDisk has a chunk move while its disk answers nothing, or says EIO to
// everything as one that was pulled may: nothing is given up, and when the disk is back all is there.
func TestMoveWaitsForSilentDisk(t *testing.T) {
	faults := map[string]faultdisk.Fault{
		"hangs":          {On: faultdisk.OnRead, Sticky: true, Effect: faultdisk.Hang},
		"EIO throughout": {On: faultdisk.OnRead, Sticky: true, Effect: faultdisk.Fail},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMoving(t, 1)
				active := m.disks[0].Add(fault)
				require.NoError(t, m.v.ResizeExport(m.ctx, "e", 16*blockSize))
				m.write(12, 1, 2)
				require.ErrorIs(t, m.e.Sync(m.ctx), ErrUnreadable)
				active.Lift()
				time.Sleep(time.Minute)
				require.NoError(t, m.e.Sync(m.ctx))
				m.check(false)
				m.reopen()
				m.check(false)
				m.e.Close()
				require.NoError(t, m.close())
			})
		})
	}
}

// TestAwaitedRangesLeaveTheList reads from a disk that hangs: what could not be read is listed
// until the disk answers again; what has rotted stays.
func TestAwaitedRangesLeaveTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoving(t, 1)
		m.everyCopy(movingBad, func(disk int, off int64) { m.disks[disk].Poke(off, stamped(movingBad, 1, 99)) })
		m.check(true)
		hang := m.disks[0].HangAll(faultdisk.OnRead)
		err := m.e.ReadAt(m.ctx, make([]byte, 2*blockSize), 6*blockSize)
		require.ErrorIs(t, err, ErrUnreadable)
		list := m.v.Status().Bad
		require.Len(t, list, 2)
		require.Equal(t, BadRange{Export: "e", Off: 6 * blockSize, Size: 2 * blockSize, Since: list[1].Since}, list[1])
		hang.Lift()
		time.Sleep(time.Minute)
		m.check(true)
		m.e.Close()
		require.NoError(t, m.close())
	})
}

// TestAwaited pins which errors of a disk leave hope that what it holds can be read later.
func TestAwaited(t *testing.T) {
	of := func(err error) error { return &devices.OpError{Op: devices.Read, Err: err} }
	for _, err := range []error{devices.ErrTimeout, devices.ErrFailed, fmt.Errorf("%w: %w", devices.ErrFailed, of(syscall.EIO)), devices.ErrClosed, of(syscall.ENXIO), of(syscall.ENODEV), of(syscall.ENOMEM)} {
		require.True(t, awaited(err), err)
	}
	for _, err := range []error{of(syscall.EIO), of(syscall.ENODATA), of(syscall.EILSEQ), of(syscall.EBADMSG)} {
		require.False(t, awaited(err), err)
	}
}
