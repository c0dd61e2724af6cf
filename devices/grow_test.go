package devices_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
)

// TestGrowLabelSurvivesEveryCrash: whatever a power cut leaves of it, the label is the old one or the
// new one. Once it is done nothing at the old end counts, and losing either end of the disk costs no
// label.
func TestGrowLabelSurvivesEveryCrash(t *testing.T) {
	base := simdisk.New(simdisk.Options{Size: diskSize})
	l := sample(t, diskSize)
	require.NoError(t, devices.WriteLabel(base, l))
	d := simdisk.New(simdisk.Options{Size: diskSize})
	d.Restore(base.Snapshot())
	d.Resize(2 * diskSize)
	states := 0
	crash := func() {
		n := d.Pending()
		for mask := range uint64(1) << n {
			for i := range n + 1 {
				keep := simdisk.KeepMask(mask)
				if i < n {
					keep = simdisk.TearWrite(i, func(s, _ int) bool { return s < 3 }, keep)
				}
				got, err := devices.ReadLabel(d.Crash(nil, keep))
				require.NoError(t, err)
				require.Contains(t, []int64{diskSize, 2 * diskSize}, got.Size)
				require.Equal(t, got.Size-diskSize, got.DataSize-sample(t, diskSize).DataSize)
				states++
			}
		}
	}
	d.Add(faultdisk.Fault{On: faultdisk.OnAll, Effect: faultdisk.Slow, Sticky: true})
	d.OnFault(func(faultdisk.Seen) { crash() })
	l.Size, l.Members[1].Size, l.Layout = 2*diskSize, 2*diskSize, l.Layout.Grown(2*diskSize)
	require.NoError(t, devices.GrowLabel(d, l))
	d.OnFault(nil)
	require.Greater(t, states, 20)

	garbage := make([]byte, 1<<20)
	for i := range garbage {
		garbage[i] = 0xa5
	}
	at := l.DataOff + sample(t, diskSize).DataSize&^(1<<20-1) // data goes over the old end
	require.Less(t, at, int64(diskSize-8192))
	require.GreaterOrEqual(t, at+int64(len(garbage)), int64(diskSize))
	for _, lost := range []int64{0, 2*diskSize - 1<<20} {
		c := d.Crash(nil, simdisk.KeepNone)
		for _, off := range []int64{at, lost} {
			_, err := c.WriteAt(garbage, off)
			require.NoError(t, err)
		}
		got, err := devices.ReadLabel(c)
		require.NoError(t, err)
		require.Equal(t, *l, got)
	}
}

func TestFileThatGrows(t *testing.T) {
	path := sparse(t, t.TempDir(), 4<<20)
	f := openFile(t, path, devices.FileOptions{})
	b := devices.AlignedBytes(4096)
	require.NoError(t, os.Truncate(path, 8<<20+100))
	require.EqualValues(t, 4<<20, f.Size())
	_, err := f.WriteAt(b, 6<<20)
	require.ErrorIs(t, err, devices.ErrRange)
	require.NoError(t, f.LookAgain())
	require.EqualValues(t, 8<<20, f.Size())
	_, err = f.WriteAt(b, 8<<20-4096)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 4<<20))
	require.ErrorIs(t, f.LookAgain(), devices.ErrShrunk)
	require.EqualValues(t, 8<<20, f.Size())
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.LookAgain(), devices.ErrClosed)
}
