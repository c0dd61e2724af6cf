package striping

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"ballast/devices/simdisk"

	"github.com/stretchr/testify/require"
)

// TestRecoverySideBySide crashes a mirror while blocks of many chunks are being overwritten, on
// disks that take 10 ms for each operation: a start reads what follows each other at once, and
// many chunks side by side.
func TestRecoverySideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 64
		timing := simdisk.Timing{ReadRate: 200e6, WriteRate: 200e6, Latency: 10 * time.Millisecond}
		r := newRig(t, rigConfig{disks: 2, copies: 2, size: 16 << 20, timing: timing, opts: Options{FlushInterval: time.Hour, WriteAge: time.Millisecond}})
		require.NoError(t, r.v.CreateExport(t.Context(), "e", chunks*16*blockSize))
		e := r.export("e")
		m := newModel(chunks * 16 * blockSize)
		write := func(first, n int) {
			ver := m.begin(first, n, false)
			err := e.WriteAt(t.Context(), stamped(first, n, ver), int64(first)*blockSize, false)
			require.NoError(t, err)
			m.end(first, n, err)
		}
		write(0, chunks*16)
		require.NoError(t, r.v.Flush(t.Context()))
		m.flushed(m.mark())
		for c := range chunks {
			write(c*16+2, 7)
		}
		time.Sleep(time.Second)
		for c := range chunks {
			write(c*16+4, 7)
		}
		time.Sleep(12 * time.Millisecond) // some are on one disk, some on both
		e.Close()
		r.crash(rand.New(rand.NewPCG(5, 5)), simdisk.Random)
		began := time.Now()
		r.open()
		took := time.Since(began)
		reads := uint64(0)
		for _, d := range r.devs {
			reads += d.Stats().Read.Ops
		}
		t.Logf("%d reads of 2 copies of 9 blocks of %d chunks, started in %v", reads, chunks, took)
		require.LessOrEqual(t, reads, uint64(4*chunks))
		require.Less(t, took, time.Second)
		verifyReopened(t, r, m, true)
		require.NoError(t, r.close())
	})
}
