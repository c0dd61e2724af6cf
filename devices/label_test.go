package devices_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/devices"
	"ballast/devices/faultdisk"
	"ballast/devices/simdisk"
)

var update = flag.Bool("update", false, "rewrite golden files")

const (
	diskSize  = 16 << 20
	labelSize = devices.LabelSize
)

func uuid(b byte) (u devices.UUID) {
	for i := range u {
		u[i] = b + byte(i)
	}
	return u
}

// sample is a label with every field set, for a disk of the given size.
func sample(t testing.TB, size int64) *devices.Label {
	layout, err := devices.NewLayout(size, 1<<20)
	require.NoError(t, err)
	return &devices.Label{
		Volume: uuid(0x10), Name: "Sicherung-ü", Device: uuid(0x30), ID: 2, Size: size, Layout: layout,
		ChunkSize: 1 << 20, Copies: 2, Epoch: 7,
		Members: []devices.Member{{ID: 1, UUID: uuid(0x50), Size: 1 << 40, Epoch: 6},
			{ID: 2, UUID: uuid(0x30), Size: size, Epoch: 7}, {ID: 9, UUID: uuid(0x70), Size: 4096, Epoch: 1}},
		Anchor: devices.Anchor{Seq: 0x0102030405060708, Digest: [16]byte{1, 2, 3, 15: 16}, Count: 99},
		Writes: 5,
	}
}

func pack(t testing.TB, l *devices.Label, off int64) []byte {
	b, err := l.Pack(off)
	require.NoError(t, err)
	return b
}

// reseal makes the checksum right again after an edit.
func reseal(b []byte) {
	binary.LittleEndian.PutUint32(b[labelSize-4:], crc32.Checksum(b[:labelSize-4], crc32.MakeTable(crc32.Castagnoli)))
}

func TestLabelRoundTrip(t *testing.T) {
	l := sample(t, diskSize)
	got, err := devices.ParseLabel(pack(t, l, 4096), 4096)
	require.NoError(t, err)
	require.Equal(t, *l, got)

	for i := len(l.Members); i < devices.MaxMembers; i++ {
		l.Members = append(l.Members, devices.Member{ID: devices.ID(1000 + i), UUID: devices.NewUUID(), Size: 1 << 60, Epoch: 1<<64 - 1})
	}
	l.Name = strings.Repeat("n", devices.MaxVolumeName)
	got, err = devices.ParseLabel(pack(t, l, 0), 0)
	require.NoError(t, err)
	require.Equal(t, *l, got)
	l.Members = append(l.Members, devices.Member{ID: 5000, UUID: devices.NewUUID(), Size: 4096})
	_, err = l.Pack(0)
	require.ErrorContains(t, err, "65 members")
}

func TestLabelGolden(t *testing.T) {
	const path = "testdata/label-v1.hex"
	b := pack(t, sample(t, diskSize), 0)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(hex.Dump(b)), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.Dump(b), "the format has changed: that needs a new version")
}

func TestLabelDetectsEveryFlip(t *testing.T) {
	b := pack(t, sample(t, diskSize), 0)
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			_, err := devices.ParseLabel(b, 0)
			if err == nil {
				require.Failf(t, "not detected", "byte %d bit %d", i, bit)
			}
			b[i] ^= 1 << bit
		}
		old := b[i]
		b[i] = ^old
		_, err := devices.ParseLabel(b, 0)
		if err == nil {
			require.Failf(t, "not detected", "byte %d inverted", i)
		}
		b[i] = old
	}
	_, err := devices.ParseLabel(b, 0)
	require.NoError(t, err)
}

func TestLabelDetectsEveryCut(t *testing.T) {
	b := pack(t, sample(t, diskSize), 0)
	for n := range b {
		_, err := devices.ParseLabel(b[:n], 0)
		require.ErrorIs(t, err, devices.ErrCorrupt)
		cut := append(append([]byte{}, b[:n]...), make([]byte, len(b)-n)...)
		_, err = devices.ParseLabel(cut, 0)
		if n < labelSize && err == nil {
			require.Failf(t, "not detected", "zeros from %d on", n)
		}
	}
	_, err := devices.ParseLabel(append(b, 0), 0)
	require.ErrorIs(t, err, devices.ErrCorrupt)
}

// TestLabelRefusesSealedNonsense: bytes whose checksum is right and whose content is not.
func TestLabelRefusesSealedNonsense(t *testing.T) {
	le := binary.LittleEndian
	u64 := func(at int, v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b[at:], v) } }
	u16 := func(at int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], v) } }
	u32 := func(at int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], v) } }
	u8 := func(at int, v byte) func([]byte) { return func(b []byte) { b[at] = v } }
	tests := map[string]struct {
		edit func([]byte)
		want error
		text string
	}{
		"magic of another":        {u8(0, 'X'), devices.ErrNoLabel, ""},
		"version 0":               {u16(8, 0), devices.ErrCorrupt, "version"},
		"version 2":               {u16(8, 2), devices.ErrFuture, "format 2"},
		"version 65535":           {u16(8, 65535), devices.ErrFuture, "format 65535"},
		"incompatible feature":    {u64(32, 1<<63), devices.ErrFuture, "0x8000000000000000"},
		"device ID 0":             {u16(10, 0), devices.ErrCorrupt, "no device ID"},
		"device ID not a member":  {u16(10, 3), devices.ErrCorrupt, "not among the members"},
		"device UUID of a member": {func(b []byte) { copy(b[56:72], b[256+8:]) }, devices.ErrCorrupt, "not among the members"},
		"no volume UUID":          {func(b []byte) { clear(b[40:56]) }, devices.ErrCorrupt, "no UUID"},
		"chunk size 0":            {u32(12, 0), devices.ErrCorrupt, "chunk size"},
		"chunk size odd":          {u32(12, 1<<20+1), devices.ErrCorrupt, "chunk size"},
		"chunk size 2^31":         {u32(12, 1<<31), devices.ErrCorrupt, "chunk size"},
		"size 0":                  {u64(72, 0), devices.ErrCorrupt, "device of 0 bytes"},
		"size negative":           {u64(72, 1<<63), devices.ErrCorrupt, "bytes"},
		"size 2^64-1":             {u64(72, 1<<64-1), devices.ErrCorrupt, "bytes"},
		"size of other layout":    {u64(72, 8<<20), devices.ErrCorrupt, "data area"},
		"another offset":          {u64(80, 4096), devices.ErrCorrupt, "its offset"},
		"journal into the label":  {u64(104, 4096), devices.ErrCorrupt, "journal area"},
		"journal past the end":    {u64(104, 16<<20), devices.ErrCorrupt, "journal area"},
		"journal offset 2^64-1":   {u64(104, 1<<64-4096), devices.ErrCorrupt, "journal area"},
		"journal empty":           {u64(112, 0), devices.ErrCorrupt, "journal area"},
		"journal over the data":   {u64(112, 2<<20), devices.ErrCorrupt, "overlaps"},
		"journal size overflow":   {u64(112, 1<<63-4096), devices.ErrCorrupt, "journal area"},
		"journal unaligned":       {u64(104, 65537), devices.ErrCorrupt, "journal area"},
		"data into the end label": {u64(128, 15<<20), devices.ErrCorrupt, "data area"},
		"data over the journal":   {u64(120, 65536), devices.ErrCorrupt, "overlaps"},
		"copies 0":                {u8(168, 0), devices.ErrCorrupt, "0 copies"},
		"copies 4":                {u8(168, 4), devices.ErrCorrupt, "4 copies"},
		"name too long":           {u8(169, 65), devices.ErrCorrupt, "name"},
		"name of 255":             {u8(169, 255), devices.ErrCorrupt, "name"},
		"no name":                 {u8(169, 0), devices.ErrCorrupt, "name"},
		"name shorter than told":  {u8(169, 5), devices.ErrCorrupt, "unused"},
		"name with NUL":           {u8(169, 20), devices.ErrCorrupt, "name"},
		"name not UTF-8":          {u8(176, 0xff), devices.ErrCorrupt, "UTF-8"},
		"name with a path":        {u8(177, '/'), devices.ErrCorrupt, "name"},
		"name with a new line":    {u8(177, '\n'), devices.ErrCorrupt, "name"},
		"no members":              {u16(170, 0), devices.ErrCorrupt, "0 members"},
		"65 members":              {u16(170, 65), devices.ErrCorrupt, "number of members"},
		"65535 members":           {u16(170, 65535), devices.ErrCorrupt, "number of members"},
		"a member more":           {u16(170, 4), devices.ErrCorrupt, "d0"},
		"a member fewer":          {u16(170, 2), devices.ErrCorrupt, "unused"},
		"members out of order":    {u16(256, 5), devices.ErrCorrupt, "out of order"},
		"members of one UUID":     {func(b []byte) { copy(b[256+96+8:256+96+24], b[256+8:]) }, devices.ErrCorrupt, "UUID"},
		"member of no size":       {u64(256+24, 0), devices.ErrCorrupt, "0 bytes"},
		"self of another size":    {u64(256+48+24, 4096), devices.ErrCorrupt, "not among the members"},
		"unused byte 172":         {u8(172, 1), devices.ErrCorrupt, "unused"},
		"unused byte of a member": {u8(256+2, 1), devices.ErrCorrupt, "unused"},
		"unused byte at the end":  {u8(4091, 1), devices.ErrCorrupt, "unused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := pack(t, sample(t, diskSize), 0)
			tt.edit(b)
			reseal(b)
			_, err := devices.ParseLabel(b, 0)
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.text)
		})
	}
}

func TestLabelFeatures(t *testing.T) {
	l := sample(t, diskSize)
	l.Compat = 1 << 40
	b := pack(t, l, 0)
	b[4000] = 1 // what a compatible feature may use
	reseal(b)
	got, err := devices.ParseLabel(b, 0)
	require.NoError(t, err)
	require.Equal(t, *l, got)
	require.False(t, got.ReadOnly())

	l.Compat, l.ROCompat = 0, 1
	got, err = devices.ParseLabel(pack(t, l, 0), 0)
	require.NoError(t, err)
	require.True(t, got.ReadOnly())
	require.ErrorIs(t, devices.WriteLabel(devices.NewMemory(diskSize), &got), devices.ErrFuture)
}

func TestCorruptErrorSaysWhere(t *testing.T) {
	b := pack(t, sample(t, diskSize), 4096)
	b[100]++
	_, err := devices.ParseLabel(b, 4096)
	e, ok := errors.AsType[*devices.CorruptError](err)
	require.True(t, ok)
	require.EqualValues(t, 4096, e.Off)
	require.Equal(t, "checksum", e.What)
	require.NotEqual(t, e.Want, e.Have)
	require.Regexp(t, `^label at 0x1000: corrupt: checksum: want 0x[0-9a-f]{8}, have 0x[0-9a-f]{8}$`, err.Error())
}

func sound(disk devices.Disk) (offs []int64, writes []uint64) {
	for _, c := range devices.ReadLabelCopies(disk) {
		if c.Err == nil {
			offs, writes = append(offs, c.Off), append(writes, c.Label.Writes)
		}
	}
	return offs, writes
}

// What is left of a label may be of the writing before the newest one: that is told where both copies of the
// newest are damaged, not where one is, nor where nothing was ever written.
func TestNewerLabelLost(t *testing.T) {
	d := devices.NewMemory(diskSize)
	require.NoError(t, devices.WriteLabel(d, sample(t, diskSize))) // writings 1 and 2
	l, err := devices.ReadLabel(d)
	require.NoError(t, err)
	require.EqualValues(t, 2, l.Writes)
	newest := []int64{4096, diskSize - 4096}
	require.False(t, devices.NewerLabelLost(d, &l))
	for _, fill := range []byte{0xff, 0} {
		for i, off := range newest {
			_, err = d.WriteAt(bytes.Repeat([]byte{fill}, 4096), off)
			require.NoError(t, err)
			if l, err = devices.ReadLabel(d); i == 1 {
				require.EqualValues(t, 1, l.Writes)
			}
			require.NoError(t, err)
			require.Equal(t, i == 1 && fill != 0, devices.NewerLabelLost(d, &l))
		}
	}
}

func TestWriteLabelTakesTurns(t *testing.T) {
	d := devices.NewMemory(diskSize)
	_, err := devices.ReadLabel(d)
	require.ErrorIs(t, err, devices.ErrNoLabel)

	l := sample(t, diskSize)
	require.NoError(t, devices.WriteLabel(d, l))
	offs, writes := sound(d)
	require.Equal(t, []int64{0, 4096, diskSize - 8192, diskSize - 4096}, offs)
	require.Equal(t, []uint64{1, 2, 1, 2}, writes)

	for n := uint64(3); n < 9; n++ {
		l.Anchor.Seq = n
		require.NoError(t, devices.WriteLabel(d, l))
		require.Equal(t, n, l.Writes)
		_, writes := sound(d)
		require.ElementsMatch(t, []uint64{n, n, n - 1, n - 1}, writes)
		got, err := devices.ReadLabel(d)
		require.NoError(t, err)
		require.Equal(t, *l, got)
	}
}

// TestWriteLabelSurvivesEveryCrash: whatever a power cut leaves of a writing, the label that is
// found is the old one or the new one, and the new one once WriteLabel has returned.
func TestWriteLabelSurvivesEveryCrash(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		base := simdisk.New(simdisk.Options{Size: diskSize})
		l := sample(t, diskSize)
		before := uint64(0)
		if !fresh {
			require.NoError(t, devices.WriteLabel(base, l))
			before = l.Writes
		}
		l.Anchor.Seq = 1234
		states := 0
		check := func(d *simdisk.Disk, done bool) {
			states++
			got, err := devices.ReadLabel(d)
			switch {
			case fresh && !done && errors.Is(err, devices.ErrNoLabel):
			case fresh && !done && errors.Is(err, devices.ErrCorrupt):
			case err != nil:
				require.NoError(t, err)
			case done || got.Writes > before:
				require.EqualValues(t, 1234, got.Anchor.Seq)
			default:
				require.NotEqualValues(t, 1234, got.Anchor.Seq)
			}
		}
		// At every operation the power goes, in every way.
		d := simdisk.New(simdisk.Options{Size: diskSize})
		d.Restore(base.Snapshot())
		d.Add(faultdisk.Fault{On: faultdisk.OnAll, Effect: faultdisk.Slow, Sticky: true})
		crash := func() {
			n := d.Pending()
			require.LessOrEqual(t, n, 2)
			for mask := range uint64(1) << n {
				check(d.Crash(nil, simdisk.KeepMask(mask)), false)
				for i := range n {
					for cut := range 8 {
						prefix := func(s, _ int) bool { return s < cut }
						suffix := func(s, _ int) bool { return s > cut }
						check(d.Crash(nil, simdisk.TearWrite(i, prefix, simdisk.KeepMask(mask))), false)
						check(d.Crash(nil, simdisk.TearWrite(i, suffix, simdisk.KeepMask(mask))), false)
					}
				}
			}
		}
		d.OnFault(func(faultdisk.Seen) { crash() })
		require.NoError(t, devices.WriteLabel(d, l))
		d.OnFault(nil)
		require.Zero(t, d.Pending())
		check(d.Crash(nil, simdisk.KeepNone), true)
		require.Greater(t, states, 70)
	}
}

func TestWriteLabelSweep(t *testing.T) {
	for _, on := range []faultdisk.Ops{faultdisk.OnWrite, faultdisk.OnSync} {
		for n := int64(1); ; n++ {
			d := simdisk.New(simdisk.Options{Size: diskSize})
			l := sample(t, diskSize)
			require.NoError(t, devices.WriteLabel(d, l))
			f := d.Add(faultdisk.Fault{On: on, Nth: n, Effect: faultdisk.Fail, Extent: faultdisk.Torn})
			err := devices.WriteLabel(d, l)
			if f.Seen() == 0 {
				require.NoError(t, err)
				require.EqualValues(t, 3, n)
				break
			}
			require.ErrorIs(t, err, syscall.EIO)
			got, err := devices.ReadLabel(d.Crash(nil, simdisk.KeepNone))
			require.NoError(t, err)
			require.GreaterOrEqual(t, got.Writes, uint64(2))
		}
	}
}

func TestLabelReadErrors(t *testing.T) {
	d := simdisk.New(simdisk.Options{Size: diskSize})
	require.NoError(t, devices.WriteLabel(d, sample(t, diskSize)))
	for n := int64(1); n <= 4; n++ {
		f := d.FailNth(faultdisk.OnRead, n, nil, false)
		_, err := devices.ReadLabel(d)
		require.NoError(t, err)
		require.EqualValues(t, 1, f.Seen())
	}
	d.Disappear()
	_, err := devices.ReadLabel(d)
	require.ErrorIs(t, err, syscall.ENXIO)
}

func TestLabelSurvivesAPartitionTable(t *testing.T) {
	d := devices.NewMemory(diskSize)
	l := sample(t, diskSize)
	require.NoError(t, devices.WriteLabel(d, l))
	table := devices.AlignedBytes(20 << 10)
	table[510], table[511] = 0x55, 0xaa
	copy(table[512:], "EFI PART")
	_, err := d.WriteAt(table, 0)
	require.NoError(t, err)
	got, err := devices.ReadLabel(d)
	require.NoError(t, err)
	require.Equal(t, *l, got)

	require.NoError(t, devices.WriteLabel(d, l)) // and is written again
	require.NoError(t, devices.WriteLabel(d, l))
	offs, _ := sound(d)
	require.Len(t, offs, 4)
}

func put(t *testing.T, d devices.Disk, l *devices.Label, off int64) {
	_, err := d.WriteAt(pack(t, l, off), off)
	require.NoError(t, err)
}

func TestLabelConflicts(t *testing.T) {
	newDisk := func() (*devices.Memory, *devices.Label) {
		d, l := devices.NewMemory(diskSize), sample(t, diskSize)
		require.NoError(t, devices.WriteLabel(d, l))
		return d, l
	}
	t.Run("equal counter, other content", func(t *testing.T) {
		d, l := newDisk()
		l.Anchor.Seq++
		put(t, d, l, 4096) // as writing 2, which also stands at the end
		_, err := devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrConflict)
		require.ErrorIs(t, devices.WriteLabel(d, l), devices.ErrConflict)
	})
	t.Run("two devices", func(t *testing.T) {
		d, l := newDisk()
		l.ID, l.Device, l.Writes = 1, uuid(0x50), 4
		l.Members[0].Size = diskSize
		put(t, d, l, 4096)
		_, err := devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrConflict)
	})
	t.Run("two volumes", func(t *testing.T) {
		d, l := newDisk()
		l.Volume, l.Writes = uuid(0x99), 1
		put(t, d, l, 0)
		_, err := devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrConflict)
	})
	t.Run("in the wrong place", func(t *testing.T) {
		d, l := newDisk()
		l.Writes = 7 // odd: not here
		put(t, d, l, 4096)
		got, err := devices.ReadLabel(d)
		require.NoError(t, err)
		require.EqualValues(t, 2, got.Writes)
		require.ErrorIs(t, devices.ReadLabelCopies(d)[1].Err, devices.ErrCorrupt)
	})
	t.Run("one from the future", func(t *testing.T) {
		d, l := newDisk()
		b := pack(t, l, 4096)
		b[8] = 9
		reseal(b)
		_, err := d.WriteAt(b, 4096)
		require.NoError(t, err)
		_, err = devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrFuture)
		require.ErrorIs(t, devices.WriteLabel(d, l), devices.ErrFuture)
	})
	t.Run("all damaged", func(t *testing.T) {
		d, l := newDisk()
		for _, c := range devices.ReadLabelCopies(d) {
			b := pack(t, l, c.Off)
			b[200]++
			_, err := d.WriteAt(b, c.Off)
			require.NoError(t, err)
		}
		_, err := devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrCorrupt)
		require.ErrorIs(t, devices.WriteLabel(d, l), devices.ErrCorrupt)
		require.NoError(t, devices.EraseLabel(d))
		_, err = devices.ReadLabel(d)
		require.ErrorIs(t, err, devices.ErrNoLabel)
	})
	t.Run("newer damaged", func(t *testing.T) {
		d, l := newDisk()
		b := pack(t, l, 4096)
		b[200]++
		for _, off := range []int64{4096, diskSize - 4096} {
			_, err := d.WriteAt(b, off)
			require.NoError(t, err)
		}
		got, err := devices.ReadLabel(d)
		require.NoError(t, err)
		require.EqualValues(t, 1, got.Writes)
	})
	t.Run("another device's disk", func(t *testing.T) {
		d, l := newDisk()
		l.Volume = uuid(0x99)
		err := devices.WriteLabel(d, l)
		require.ErrorIs(t, err, devices.ErrOtherLabel)
		require.ErrorContains(t, err, "Sicherung-ü")
		require.NoError(t, devices.EraseLabel(d))
		require.NoError(t, devices.WriteLabel(d, l))
	})
}

func TestLabelOfResizedDisk(t *testing.T) {
	d := simdisk.New(simdisk.Options{Size: diskSize})
	l := sample(t, diskSize)
	require.NoError(t, devices.WriteLabel(d, l))

	d.Resize(2 * diskSize)
	got, err := devices.ReadLabel(d)
	require.NoError(t, err)
	require.EqualValues(t, diskSize, got.Size)
	require.NoError(t, devices.WriteLabel(d, l))
	offs, writes := sound(d)
	require.Equal(t, []int64{0, 4096, diskSize - 8192, diskSize - 4096}, offs)
	require.Equal(t, []uint64{3, 2, 3, 2}, writes)

	l.Size, l.Members[1].Size = 2*diskSize, 2*diskSize
	l.Layout, err = devices.NewLayout(2*diskSize, 1<<20)
	require.NoError(t, err)
	require.NoError(t, devices.WriteLabel(d, l))
	got, err = devices.ReadLabel(d)
	require.NoError(t, err)
	require.EqualValues(t, 2*diskSize, got.Size)

	d.Resize(diskSize)
	got, err = devices.ReadLabel(d)
	require.ErrorIs(t, err, devices.ErrShrunk)
	require.Equal(t, uuid(0x30), got.Device)
	require.ErrorIs(t, devices.WriteLabel(d, l), devices.ErrShrunk)
}

func TestLabelNeedsADisk(t *testing.T) {
	for _, size := range []int64{0, 4096, 12288} {
		_, err := devices.ReadLabel(devices.NewMemory(size))
		require.ErrorIs(t, err, devices.ErrNoLabel)
	}
}

func TestVolumeNames(t *testing.T) {
	for _, good := range []string{"a", "backup", "My backups 2026", "größe", "日本", strings.Repeat("x", 64)} {
		require.NoError(t, devices.CheckVolumeName(good), good)
	}
	for _, bad := range []string{"", ".", "..", ".hidden", "-flag", " a", "a ", "a/b", "a\nb", "a\x00", "\x7f", "a\tb", "\xff", "a\u202eb", strings.Repeat("x", 65)} {
		require.Error(t, devices.CheckVolumeName(bad), "%q", bad)
	}
}

func TestUUID(t *testing.T) {
	u := uuid(0x10)
	require.Equal(t, "10111213-1415-1617-1819-1a1b1c1d1e1f", u.String())
	got, err := devices.ParseUUID("10111213-1415-1617-1819-1A1B1C1D1E1F")
	require.NoError(t, err)
	require.Equal(t, u, got)
	for _, bad := range []string{"", "x", "101112131415161718191a1b1c1d1e1f", "10111213-1415-1617-1819-1a1b1c1d1e1", "1011121314-15-1617-1819-1a1b1c1d1e1f"} {
		_, err := devices.ParseUUID(bad)
		require.Error(t, err, bad)
	}
	require.NotEqual(t, devices.NewUUID(), devices.NewUUID())
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, devices.NewUUID().String())
}

func TestLayout(t *testing.T) {
	const k, m, g = int64(1 << 10), int64(1 << 20), int64(1 << 30)
	tests := []struct {
		size, chunk int64
		want        devices.Layout
	}{
		{2*m + 8*k, m, devices.Layout{JournalOff: 64 * k, JournalSize: 64 * k, DataOff: m, DataSize: m}},
		{m + 72*k, 64 * k, devices.Layout{JournalOff: 64 * k, JournalSize: 64 * k, DataOff: m, DataSize: 64 * k}},
		{17*m + 8*k, 16 * m, devices.Layout{JournalOff: 64 * k, JournalSize: 320 * k, DataOff: m, DataSize: 16 * m}},
		{16*m + 100, m, devices.Layout{JournalOff: 64 * k, JournalSize: 256 * k, DataOff: m, DataSize: 15*m - 8*k}},
		{64 * m, m, devices.Layout{JournalOff: 64 * k, JournalSize: m, DataOff: 2 * m, DataSize: 62*m - 8*k}},
		{g, m, devices.Layout{JournalOff: 64 * k, JournalSize: 16 * m, DataOff: 17 * m, DataSize: g - 17*m - 8*k}},
		{4*g - 4*k, m, devices.Layout{JournalOff: 64 * k, JournalSize: 64 * m, DataOff: 65 * m, DataSize: 4*g - 65*m - 12*k}},
		{4 * g, m, devices.Layout{JournalOff: 64 * k, JournalSize: 64 * m, DataOff: 65 * m, DataSize: 4*g - 65*m - 8*k}},
		{8 * g, m, devices.Layout{JournalOff: 64 * k, JournalSize: 64 * m, DataOff: 65 * m, DataSize: 8*g - 65*m - 8*k}},
		{1000 * g, m, devices.Layout{JournalOff: 64 * k, JournalSize: 8000 * m, DataOff: 8001 * m, DataSize: 1000*g - 8001*m - 8*k}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.size), func(t *testing.T) {
			got, err := devices.NewLayout(tt.size, tt.chunk)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
	for _, chunk := range []int64{-1, 0, 1, 4096, 32 << 10, 65537, 3 << 20, 32 << 20, 1 << 62, -1 << 63} {
		_, err := devices.NewLayout(g, chunk)
		require.ErrorContains(t, err, "power of two", chunk)
	}
	_, err := devices.NewLayout(1<<62, m)
	require.Error(t, err)
}

// TestLayoutOfEverySize: areas never meet, scratch lies at the end of the journal area, grow with the device, and the smallest size is exact.
func TestLayoutOfEverySize(t *testing.T) {
	for chunk := int64(64 << 10); chunk <= 16<<20; chunk *= 2 {
		least := devices.MinDeviceSize(chunk)
		for size := int64(-4096); size < least; size += 4096 {
			_, err := devices.NewLayout(size, chunk)
			require.ErrorIs(t, err, devices.ErrTooSmall)
		}
		last := devices.Layout{}
		for size := least; size < 1<<45; size += 4096 + size/300/4096*4096 {
			l, err := devices.NewLayout(size, chunk)
			if err != nil || l.JournalOff != 64<<10 || l.DataOff < l.JournalOff+l.JournalSize || l.DataOff%(1<<20) != 0 ||
				l.DataOff+l.DataSize != size-8192 || l.DataSize < chunk || l.JournalSize < last.JournalSize || l.JournalSize%65536 != 0 {
				require.Failf(t, "bad layout", "size %d chunk %d: %+v %v", size, chunk, l, err)
			}
			if off, n := l.Scratch(); n != 0 && (n != 256<<10 || off%devices.BlockSize != 0 || off < l.JournalOff+768<<10 ||
				off+n > l.JournalOff+l.JournalSize || off+n > l.DataOff) || (n == 0) != (l.JournalSize < 1<<20) {
				require.Failf(t, "bad scratch", "size %d chunk %d: %+v: %d at %d", size, chunk, l, n, off)
			}
			last = l
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	l := sample(f, diskSize)
	b, err := l.Pack(0)
	require.NoError(f, err)
	f.Add([]byte(nil), false)
	f.Add(b, false)
	f.Add(b[10:450], true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal { // so that what lies behind the checksum is reached
			b = append(append([]byte("BALLAST\n\x01\x00"), b...), make([]byte, labelSize)...)[:labelSize]
			reseal(b)
		}
		l, err := devices.ParseLabel(b, 0)
		if err != nil {
			require.Equal(t, devices.Label{}, l)
			return
		}
		again, err := l.Pack(0)
		require.NoError(t, err)
		l2, err := devices.ParseLabel(again, 0)
		require.NoError(t, err)
		require.Equal(t, l, l2)
		if l.Compat == 0 && l.ROCompat == 0 {
			require.Equal(t, b, again)
		}
	})
}
