package striping

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestJournalDiesWithCommitThatLasts lets the journal fail a commit that is found after the crash
// nevertheless. Whatever is written meanwhile, durable blocks read as one of their versions then.
func TestJournalDiesWithCommitThatLasts(t *testing.T) {
	for _, how := range []string{"rewrite", "in place", "trim and rewrite another"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				r := newRig(t, rigConfig{disks: 1, size: 256 << 10, latency: time.Millisecond,
					opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
				require.NoError(t, r.v.CreateExport(ctx, "e", 128<<10))
				e := r.export("e")
				require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 1), 0, true))
				require.NoError(t, r.v.Flush(ctx))
				r.j.FailAt(1)
				require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 2), 0, false))
				time.Sleep(100 * time.Millisecond)
				require.Error(t, e.Sync(ctx))
				switch how {
				case "rewrite":
					require.NoError(t, e.WriteAt(ctx, stamped(0, 16, 3), 0, false))
					time.Sleep(time.Second)
					require.NoError(t, e.WriteAt(ctx, stamped(16, 16, 4), 64<<10, false))
				case "in place":
					require.NoError(t, e.WriteAt(ctx, stamped(3, 2, 3), 3*blockSize, false))
				default:
					require.NoError(t, e.Trim(ctx, 0, 64<<10, false))
					time.Sleep(time.Second)
					require.NoError(t, e.WriteAt(ctx, stamped(16, 16, 4), 64<<10, false))
				}
				time.Sleep(time.Second)
				require.Error(t, e.Sync(ctx))
				e.Close()
				after := r.disks[0].Crash(nil, simdisk.KeepAll)
				j := r.j.CrashKeeping(r.j.Counters().InFlight)
				require.Error(t, r.end())
				r.disks[0], r.j = after, j
				r.open()
				e = r.export("e")
				p := make([]byte, blockSize)
				for i := range 16 {
					require.NoError(t, e.ReadAt(ctx, p, int64(i)*blockSize))
					ver, err := versionOf(p, i)
					require.NoError(t, err)
					require.Contains(t, []uint32{1, 2, 3}, ver, "block %d", i)
				}
				require.NoError(t, r.v.checkCopies(ctx))
				e.Close()
				require.NoError(t, r.close())
			})
		})
	}
}
