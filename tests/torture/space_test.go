package torture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fillUp writes whole MiB from a block on until the volume has no space, and returns the first
// block that was not written.
func (r *rig) fillUp(c client, from int) int {
	r.t.Helper()
	p := make([]byte, 1<<20)
	for b := from; b+256 <= len(r.m.blocks); b += 256 {
		number := r.m.next()
		stampAll(p, b, number)
		w := r.m.begin(b, contents(p))
		err := c.Write(p, int64(b)*blockSize, 0)
		w.end(err == nil)
		if err != nil {
			require.Equal(r.t, wire.ENOSPC, nbdclient.ErrnoOf(err), "%v", err)
			return b
		}
	}
	r.t.Fatal("the volume does not get full")
	return 0
}

func stampAll(p []byte, first int, number uint32) {
	for i := 0; i < len(p); i += blockSize {
		stamp(p[i:i+blockSize], first+i/blockSize, number)
	}
}

// TestTortureFullVolume: a full volume refuses what needs new space and nothing else, loses nothing, and
// has space again after a trim, again and again and across a kill.
func TestTortureFullVolume(t *testing.T) {
	written := 0 // blocks
	for _, copies := range []int{1, 2} {
		for _, chunk := range []string{"1MiB", "64KiB"} {
			if chunk == "64KiB" && copies == 1 && !long() {
				continue
			}
			t.Run(fmt.Sprintf("copies=%d,chunk=%s", copies, chunk), func(t *testing.T) {
				rng := newRand(t)
				r := newRig(t, shape{copies: copies, chunk: chunk, size: 1 << 30})
				r.start()
				c := r.connect(3)
				end := r.fillUp(c[0], 0)
				// At least nine tenths of what the disks have, or half of it, is really there.
				require.Greater(t, int64(end)*blockSize, int64(600<<20)*9/10/int64(copies))
				written += end
				r.overwrites(rng, c, end)
				require.NoError(t, c[1].Flush(), "nothing acknowledged lacks space")
				r.m.flushed(r.m.now())
				r.kill()
				r.start()
				require.True(t, r.verify())
				c = r.connect(3)
				r.overwrites(rng, c, end)

				// What is trimmed can be written elsewhere; each time it is another half's.
				half := end / 512
				for i := range 2 {
					first, n := 256*(i*half+rng.IntN(half-32)), 256*32
					w := r.m.begin(first, repeatZero(n))
					require.NoError(t, c[0].Trim(int64(first)*blockSize, n*blockSize, 0))
					w.end(true)
					require.NoError(t, c[1].Flush())
					r.m.flushed(r.m.now())
					before := end
					end = r.fillUp(c[2], end)
					require.GreaterOrEqual(t, end-before, n*8/10, "blocks written after %d were trimmed", n)
					written += end - before
				}
				require.NoError(t, c[0].Flush())
				r.m.flushed(r.m.now())
				r.kill()
				r.start()
				require.True(t, r.verify())
				r.stop()
				require.Equal(t, "sound", r.check().Verdict)
			})
		}
	}
	fmt.Printf("full volumes: %d MiB written until nothing fitted any more and again after trims, nothing lost: %v\n", written>>8, !t.Failed())
}

func repeatZero(n int) []content {
	list := make([]content, n)
	for i := range list {
		list[i] = zeroContent
	}
	return list
}

// overwrites changes and reads blocks below end, which all exist.
func (r *rig) overwrites(rng *rand.Rand, c []client, end int) {
	r.t.Helper()
	for i := range 150 {
		n := 1 + rng.IntN(300)
		first := rng.IntN(end - n)
		p := make([]byte, n*blockSize)
		stampAll(p, first, r.m.next())
		w := r.m.begin(first, contents(p))
		require.NoError(r.t, c[i%3].Write(p, int64(first)*blockSize, 0))
		w.end(true)
		q := make([]byte, len(p))
		require.NoError(r.t, c[(i+1)%3].Read(q, int64(first)*blockSize))
		require.Equal(r.t, contents(p), contents(q))
	}
}

// tmpfs mounts a file system in memory of that size.
func tmpfs(t *testing.T, dir string, size int64) {
	t.Helper()
	harness.NeedRoot(t)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}

// TestFullJournalDisk: when there is no space where the journal is, what would need it is refused;
// nobody crashes, nothing that was flushed is lost, and with space everything goes on, in the
// running daemon as in one that was killed.
func TestFullJournalDisk(t *testing.T) {
	rng := newRand(t)
	env := harness.New(t)
	tmpfs(t, env.State, 512<<20)
	r := newRigIn(t, env, shape{copies: 2})
	r.start()
	r.work(rng, 200)
	filler := filepath.Join(env.State, "filler")
	harness.TakeAll(t, filler)

	conns := r.connect(3)
	l := startLoad(r.m, rng, 6, conns...)
	l.allow(wire.ENOSPC, wire.EIO)
	refusals := 0
	for deadline := time.Now().Add(harness.Patience); refusals < 3; {
		require.True(t, time.Now().Before(deadline), "a flush never fails though the journal cannot be written")
		since := r.m.now()
		switch err := conns[0].Flush(); {
		case err == nil:
			r.m.flushed(since)
		default:
			require.False(t, errors.Is(err, nbdclient.ErrLost), "the daemon has died: %v", err)
			refusals++
		}
		require.NoError(t, l.err())
	}
	l.finish()
	require.NoError(t, l.err())
	p := make([]byte, 1<<20)
	for off := int64(0); off < r.shape.size; off += 1 << 20 {
		require.NoError(t, conns[1].Read(p, off), "reads go on")
	}

	// Killed in this state it refuses to start, or starts; it does not crash and keeps all.
	r.kill()
	d, err := env.TryServe("v")
	if err != nil {
		require.ErrorContains(t, err, "code: E_")
		require.ErrorContains(t, err, "try: ")
	} else {
		r.d = d
		require.True(t, r.verify())
		r.kill()
	}
	require.NoError(t, os.Remove(filler))
	r.start()
	require.True(t, r.verify())
	r.work(rng, 200)

	// Full once more, and space again while it runs.
	harness.TakeAll(t, filler)
	conns = r.connect(3)
	l = startLoad(r.m, rng, 6, conns...)
	l.allow(wire.ENOSPC, wire.EIO)
	for deadline := time.Now().Add(harness.Patience); conns[0].Flush() == nil; {
		require.True(t, time.Now().Before(deadline), "a flush never fails though the journal cannot be written")
	}
	require.NoError(t, os.Remove(filler))
	for deadline := time.Now().Add(harness.Patience); ; {
		since := r.m.now()
		if err := conns[0].Flush(); err == nil {
			r.m.flushed(since)
			break
		}
		require.True(t, time.Now().Before(deadline), "flushes still fail though there is space\n%s", r.d.Log())
		<-time.After(10 * time.Millisecond)
	}
	l.finish()
	require.NoError(t, l.err())
	r.work(rng, 200)
	r.kill()
	r.start()
	require.True(t, r.verify())
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}
