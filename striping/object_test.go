package striping

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/faultdisk"
	"ballast/journal"

	"github.com/stretchr/testify/require"
)

// hungCommit makes the next commit that holds an object record wait until release is called.
func hungCommit() (wrap func(journal.Journal) journal.Journal, arm func(), entered chan struct{}, release func()) {
	armed := make(chan struct{}, 1)
	entered = make(chan struct{})
	gate := make(chan struct{})
	wrap = func(j journal.Journal) journal.Journal {
		return &hookJournal{Journal: j, beforeCommit: func(b *journal.Batch) {
			for _, op := range b.Ops {
				if op.Key.Space() != journal.SpaceObject {
					continue
				}
				select {
				case <-armed:
					close(entered)
					<-gate
				default:
				}
			}
		}}
	}
	return wrap, func() { armed <- struct{}{} }, entered, func() { close(gate) }
}

// TestObjectChangesDoNotUndoEachOther lets a second change of an export come while the first one
// waits for the journal, and looks at what the next open finds.
func TestObjectChangesDoNotUndoEachOther(t *testing.T) {
	type change struct {
		name string
		do   func(v *Volume) error
	}
	ctx := context.Background()
	grow := change{"resize", func(v *Volume) error { return v.ResizeExport(ctx, "e", 2<<20) }}
	lock := change{"read-only", func(v *Volume) error { return v.SetReadOnly(ctx, "e", true) }}
	remove := change{"remove", func(v *Volume) error { return v.RemoveExport(ctx, "e", false) }}
	for _, pair := range [][2]change{{grow, lock}, {lock, grow}, {remove, grow}, {remove, lock}, {lock, remove}, {remove, remove}} {
		t.Run(pair[0].name+" then "+pair[1].name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wrap, arm, entered, release := hungCommit()
				r := newRig(t, rigConfig{wrapJ: wrap})
				require.NoError(t, r.v.CreateExport(ctx, "e", 1<<20))
				first, second := make(chan error, 1), make(chan error, 1)
				arm()
				go func() { first <- pair[0].do(r.v) }()
				<-entered
				go func() { second <- pair[1].do(r.v) }()
				time.Sleep(time.Second)
				release()
				require.NoError(t, <-first)
				err := <-second
				if pair[0].name == "remove" {
					require.ErrorIs(t, err, ErrNotExist)
				} else {
					require.NoError(t, err)
				}
				now := r.v.Exports()
				require.NoError(t, r.close())
				r.open()
				require.Equal(t, now, r.v.Exports())
				if pair[0].name == "remove" || pair[1].name == "remove" {
					require.Empty(t, now)
				} else {
					require.Len(t, now, 1)
					require.Equal(t, int64(2<<20), now[0].SizeBytes)
					require.True(t, now[0].ReadOnly)
				}
				require.NoError(t, r.v.checkCopies(ctx))
				require.NoError(t, r.close())
			})
		})
	}
}

// TestShrinkCutsWritesUnderWay shrinks an export while a write beyond the new end waits, and
// grows it again: what is added reads as zeros whatever became of the write.
func TestShrinkCutsWritesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := newRig(t, rigConfig{opts: Options{DirtyLimit: 64 << 10, WriteAge: time.Millisecond}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 1<<20))
		e := r.export("e")
		var hangs []*faultdisk.Active
		for _, d := range r.disks {
			hangs = append(hangs, d.HangAll(faultdisk.OnWrite))
		}
		// Fills the budget, so that the next one waits.
		require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, false))
		late := make(chan error, 1)
		go func() { late <- e.WriteAt(ctx, stamped(192, 16, 2), 192*blockSize, false) }()
		time.Sleep(time.Second)
		shrunk := make(chan error, 1)
		go func() { shrunk <- r.v.ResizeExport(ctx, "e", 256<<10) }()
		time.Sleep(time.Second)
		for _, h := range hangs {
			h.Lift()
		}
		require.NoError(t, <-shrunk)
		if err := <-late; err != nil {
			require.ErrorIs(t, err, ErrRange)
		}
		require.NoError(t, r.v.ResizeExport(ctx, "e", 1<<20))
		p := make([]byte, blockSize)
		for i := 64; i < 256; i++ {
			require.NoError(t, e.ReadAt(ctx, p, int64(i)*blockSize))
			ver, err := versionOf(p, i)
			require.NoError(t, err)
			require.Zero(t, ver, "block %d", i)
		}
		synctest.Wait() // late copies give their slots back
		require.NoError(t, r.v.checkCopies(ctx))
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestExtentsSeeDataDuringCommit asks for the block status at the moment in which a chunk turns
// from unsettled to journaled.
func TestExtentsSeeDataDuringCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		var r *rig
		armed := false
		r = newRig(t, rigConfig{wrapJ: func(j journal.Journal) journal.Journal {
			return &hookJournal{Journal: j, afterScan: func(s journal.Space) {
				if armed && s == journal.SpaceChunk {
					armed = false
					require.NoError(t, r.v.Flush(ctx))
				}
			}}
		}})
		require.NoError(t, r.v.CreateExport(ctx, "e", 1<<20))
		e := r.export("e")
		require.NoError(t, e.WriteAt(ctx, stamped(16, 16, 1), 64<<10, false))
		armed = true
		ext, err := e.Extents(ctx, nil, 0, 1<<20, 100)
		require.NoError(t, err)
		require.Equal(t, []Extent{{64 << 10, true, true}, {64 << 10, false, false}, {(1 << 20) - (128 << 10), true, true}}, ext)
		e.Close()
		require.NoError(t, r.close())
	})
}

// TestVolumeRecordNeverGoesBack lets the commits of the volume's record overtake each other: the
// generations and object numbers found after a crash are above all that were given out.
func TestVolumeRecordNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		armed := make(chan struct{}, 1)
		gate := make(chan struct{})
		r := newRig(t, rigConfig{wrapJ: func(j journal.Journal) journal.Journal {
			return &hookJournal{Journal: j, beforeCommit: func(b *journal.Batch) {
				if b.Ops[0].Key.Space() != journal.SpaceVolume {
					return
				}
				select {
				case <-armed:
					<-gate
				default:
				}
			}}
		}})
		armed <- struct{}{}
		created := make(chan error, 1)
		go func() { created <- r.v.CreateExport(ctx, "a", 1<<20) }()
		synctest.Wait()
		// As if most generations had been used; the next placement raises the limit.
		r.v.gen.Store(r.v.generationLimit() - generationStep/8)
		r.v.newGeneration()
		synctest.Wait()
		close(gate)
		require.NoError(t, <-created)
		synctest.Wait()
		given, object := r.v.gen.Load(), r.v.nextID
		info, _, err := LoadConfig(r.j)
		require.NoError(t, err)
		require.GreaterOrEqual(t, info.Generation, given)
		require.GreaterOrEqual(t, info.NextObject, object)
		require.GreaterOrEqual(t, info.Generation, r.v.generationLimit())
		require.NoError(t, r.close())
	})
}
