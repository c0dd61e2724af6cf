package devices_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"ballast/devices"
	"ballast/devices/devicetest"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// always opens one and the same disk, whose content ends with Close.
func always(make func() devices.Disk) func(t *testing.T) (devicetest.Opener, bool) {
	return func(*testing.T) (devicetest.Opener, bool) {
		return func(*testing.T) devices.Disk { return make() }, false
	}
}

func TestMemory(t *testing.T) {
	devicetest.Run(t, always(func() devices.Disk { return devices.NewMemory(devicetest.MinSize + devices.BlockSize) }))
}

func TestSimdisk(t *testing.T) {
	devicetest.Run(t, always(func() devices.Disk { return simdisk.New(simdisk.Options{Size: devicetest.MinSize}) }))
}

// TestSimdiskAfterPowerCut: what was synced is there when the power is cut before opening again.
func TestSimdiskAfterPowerCut(t *testing.T) {
	devicetest.Run(t, func(*testing.T) (devicetest.Opener, bool) {
		var d *simdisk.Disk
		return func(*testing.T) devices.Disk {
			if d == nil {
				d = simdisk.New(simdisk.Options{Size: devicetest.MinSize})
			} else {
				d = d.Crash(nil, simdisk.KeepNone)
			}
			return d
		}, true
	})
}

func TestSimdiskWithTiming(t *testing.T) {
	devicetest.Run(t, always(func() devices.Disk {
		return simdisk.New(simdisk.Options{Size: devicetest.MinSize, CacheSize: 1 << 20, Timing: simdisk.SSD(8e9, 8e9)})
	}))
}

func TestFaultdisk(t *testing.T) {
	devicetest.Run(t, always(func() devices.Disk { return faultdisk.Wrap(devices.NewMemory(devicetest.MinSize)) }))
}

// plain hides what a disk can do beyond devices.Disk.
type plain struct{ devices.Disk }

func TestPlain(t *testing.T) {
	devicetest.Run(t, always(func() devices.Disk { return plain{devices.NewMemory(devicetest.MinSize)} }))
}

func TestAlignedBytes(t *testing.T) {
	for size := 0; size <= 16*devices.BlockSize; size += 512 {
		b := devices.AlignedBytes(size)
		require.Len(t, b, size)
		if size%devices.BlockSize == 0 {
			_, err := devices.CheckIO([][]byte{b}, 0, 1<<20)
			require.NoError(t, err)
		}
	}
}
