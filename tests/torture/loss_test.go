package torture

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLosingADiskLive takes a disk away from the running daemon, under load: with two copies no
// client sees an error, the status says what happened, and after a kill everything is there.
func TestLosingADiskLive(t *testing.T) {
	for _, way := range []struct {
		name    string
		noticed bool // the device is judged failed, not only its errors counted
		take    func(t *testing.T, r *rig, loops []*harness.Loop)
	}{
		// The block device is there, and every access to it fails.
		{"a block device without capacity", true, func(t *testing.T, r *rig, loops []*harness.Loop) {
			dev, err := os.OpenFile(loops[1].Path, os.O_RDWR, 0)
			require.NoError(t, err)
			defer dev.Close()
			// A write between the two makes the file, and with it the device, grow again.
			for size := int64(1); size > 0; {
				require.NoError(t, os.Truncate(loops[1].File, 0))
				require.NoError(t, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0))
				size, err = dev.Seek(0, io.SeekEnd)
				require.NoError(t, err)
			}
		}},
		// What was on it cannot be read any more; writes make the file grow again.
		{"a block device that lost its end", false, func(t *testing.T, r *rig, loops []*harness.Loop) {
			require.NoError(t, os.Truncate(loops[1].File, 4<<20))
		}},
		// Writes fail for lack of space below the disk; reads go on.
		{"a thin disk that is full", true, nil},
	} {
		t.Run(way.name, func(t *testing.T) {
			rng := newRand(t)
			env := harness.New(t)
			r := &rig{t: t, env: env, shape: shape{copies: 2, size: 64 << 20}, m: newModel(64 << 20)}
			var loops []*harness.Loop
			args := []string{"create", "v", "--copies", "2"}
			thin := filepath.Join(env.State, "thin")
			for i, size := range diskSizes {
				file := harness.Sparse(t, size)
				if way.take == nil && i == 1 {
					tmpfs(t, thin, 24<<20)
					file = filepath.Join(thin, "disk")
					require.NoError(t, os.WriteFile(file, nil, 0o600))
					require.NoError(t, os.Truncate(file, size))
				}
				r.disks = append(r.disks, file)
				loops = append(loops, harness.NewLoop(t, file))
				args = append(args, loops[i].Path)
			}
			env.Must(args...)
			env.Must("export", "create", "v/e", "64MiB")
			r.start()
			if way.take != nil {
				r.work(rng, 300)
			}
			l := startLoad(r.m, rng, 6, r.connect(3)...)
			before := l.ops.Load()
			if way.take != nil {
				way.take(t, r, loops)
			}
			if !way.noticed { // reads may go where the disk is not, as when it has been slow
				env.Must("scrub", "start", "v")
			}
			// How much is written before the loss shows depends on the disks' speeds.
			told := func() bool {
				s := r.status()
				return s.Devices[1].Errors > 0 && (s.Devices[1].Reason != "" || !way.noticed)
			}
			for deadline := time.Now().Add(harness.Patience); l.err() == nil && (l.ops.Load() < before+1500 || !told()); {
				require.True(t, time.Now().Before(deadline), "after %d requests: %+v", l.ops.Load()-before, r.status().Devices[1])
				<-time.After(10 * time.Millisecond)
			}
			l.finish()
			require.NoError(t, l.err())
			require.NoError(t, r.connect(1)[0].Flush())
			r.m.flushed(r.m.now())
			s := r.status()
			t.Logf("state %s, %s is %s (%s), %d errors, %d healed", s.State, s.Devices[1].ID, s.Devices[1].State, s.Devices[1].Reason, s.Devices[1].Errors, s.Healed)
			require.Positive(t, s.Devices[1].Errors)
			require.Empty(t, s.Bad)
			if way.noticed {
				require.Equal(t, "degraded", s.State)
				require.NotEmpty(t, s.Devices[1].Reason)
				require.NotEmpty(t, s.Health)
			}
			require.True(t, r.verify())
			r.kill()
			r.start()
			require.True(t, r.verify())
			r.d.Stop()
			r.d = nil
		})
	}
}
