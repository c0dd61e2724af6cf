package devices

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// image is a blank disk image with pieces put in.
type piece struct {
	off  int64
	data string
}

func image(size int64, pieces ...piece) []byte {
	b := make([]byte, size)
	for _, p := range pieces {
		off := p.off
		if off < 0 {
			off += size
		}
		copy(b[off:], p.data)
	}
	return b
}

func le32(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }

func TestFindSignatures(t *testing.T) {
	const mib, bootMark = 1 << 20, "\x55\xaa"
	ext := func(compat, incompat, roCompat uint32) []piece {
		return []piece{{1080, "\x53\xef"}, {1024 + 92, le32(compat) + le32(incompat) + le32(roCompat)}, {1024 + 120, "backup"}}
	}
	partition := func(kind byte) string {
		return "\x00\x20\x21\x00" + string([]byte{kind}) + "\x00\x00\x00" + le32(2048) + le32(4096)
	}
	tests := map[string]struct {
		pieces []piece
		want   []Signature
	}{
		"blank":                 {nil, nil},
		"ext2":                  {ext(0, 0x2, 0x3), []Signature{{"ext2", 1080, "backup"}}},
		"ext3":                  {ext(0x4, 0x6, 0x3), []Signature{{"ext3", 1080, "backup"}}},
		"ext4 by extents":       {ext(0x4, 0x42, 0x3), []Signature{{"ext4", 1080, "backup"}}},
		"ext4 by metadata_csum": {ext(0, 0x2, 0x400), []Signature{{"ext4", 1080, "backup"}}},
		"ext4 journal":          {ext(0, 0x8, 0), []Signature{{"ext4 journal", 1080, "backup"}}},
		"XFS":                   {[]piece{{0, "XFSB"}, {108, "data\n\xff"}}, []Signature{{"XFS", 0, "data??"}}},
		"btrfs":                 {[]piece{{0x10040, "_BHRfS_M"}, {0x1012b, "pool"}}, []Signature{{"btrfs", 0x10040, "pool"}}},
		"LUKS":                  {[]piece{{0, "LUKS\xba\xbe\x00\x02"}, {0x4000, "SKUL\xba\xbe\x00\x02"}}, []Signature{{"LUKS", 0, ""}}},
		"LUKS, second header":   {[]piece{{0x8000, "SKUL\xba\xbe\x00\x02"}}, []Signature{{"LUKS", 0x8000, ""}}},
		"LVM2 in sector 0":      {[]piece{{0, "LABELONE"}, {24, "LVM2 001"}}, []Signature{{"LVM2 physical volume", 0, ""}}},
		"LVM2 in sector 1":      {[]piece{{512, "LABELONE"}, {536, "LVM2 001"}}, []Signature{{"LVM2 physical volume", 512, ""}}},
		"LVM2 in sector 3":      {[]piece{{1536, "LABELONE"}, {1560, "LVM2 001"}}, []Signature{{"LVM2 physical volume", 1536, ""}}},
		"LABELONE of another":   {[]piece{{512, "LABELONE"}, {536, "LVM9 001"}}, nil},
		"md 0.90":               {[]piece{{-65536, "\xfc\x4e\x2b\xa9"}}, []Signature{{"md RAID superblock 0.90", 8*mib - 65536, ""}}},
		"md 0.90 big endian":    {[]piece{{-65536, "\xa9\x2b\x4e\xfc"}}, []Signature{{"md RAID superblock 0.90", 8*mib - 65536, ""}}},
		"md 1.0":                {[]piece{{-8192, "\xfc\x4e\x2b\xa9" + le32(1)}, {-8192 + 32, "host:0"}}, []Signature{{"md RAID superblock 1.0", 8*mib - 8192, "host:0"}}},
		"md 1.1":                {[]piece{{0, "\xfc\x4e\x2b\xa9" + le32(1)}}, []Signature{{"md RAID superblock 1.1", 0, ""}}},
		"md 1.2":                {[]piece{{4096, "\xfc\x4e\x2b\xa9" + le32(1)}, {4128, "host:1"}}, []Signature{{"md RAID superblock 1.2", 4096, "host:1"}}},
		"GPT": {[]piece{{450, "\xee"}, {458, le32(100)}, {510, bootMark}, {512, "EFI PART"}},
			[]Signature{{"GPT partition table", 512, ""}}},
		"GPT, 4 KiB sectors": {[]piece{{4096, "EFI PART"}}, []Signature{{"GPT partition table", 4096, ""}}},
		"GPT at the end":     {[]piece{{-512, "EFI PART"}}, []Signature{{"GPT partition table", 8*mib - 512, ""}}},
		"GPT at the end, 4K": {[]piece{{-4096, "EFI PART"}}, []Signature{{"GPT partition table", 8*mib - 4096, ""}}},
		"DOS partitions":     {[]piece{{446, partition(0x83)}, {510, bootMark}}, []Signature{{"DOS partition table", 510, ""}}},
		"active partition":   {[]piece{{446 + 16, "\x80" + partition(0x83)[1:]}, {510, bootMark}}, []Signature{{"DOS partition table", 510, ""}}},
		"boot sector":        {[]piece{{510, bootMark}}, []Signature{{"boot sector", 510, ""}}},
		"random with 55aa":   {[]piece{{446, "\x17"}, {510, bootMark}}, nil},
		"swap":               {[]piece{{4086, "SWAPSPACE2"}, {1052, "swap0"}}, []Signature{{"swap", 4086, "swap0"}}},
		"swap, old":          {[]piece{{4086, "SWAP-SPACE"}}, []Signature{{"swap", 4086, ""}}},
		"swap, 64K pages":    {[]piece{{65526, "SWAPSPACE2"}}, []Signature{{"swap", 65526, ""}}},
		"FAT32":              {[]piece{{82, "FAT32   "}, {71, "STICK      "}, {510, bootMark}}, []Signature{{"FAT32 (vfat)", 82, "STICK"}}},
		"FAT16":              {[]piece{{54, "FAT16   "}, {43, "NO NAME    "}, {510, bootMark}}, []Signature{{"FAT16 (vfat)", 54, "NO NAME"}}},
		"FAT12":              {[]piece{{54, "FAT12   "}, {510, bootMark}}, []Signature{{"FAT12 (vfat)", 54, ""}}},
		"NTFS":               {[]piece{{3, "NTFS    "}, {510, bootMark}}, []Signature{{"NTFS", 3, ""}}},
		"exFAT":              {[]piece{{3, "EXFAT   "}, {510, bootMark}}, []Signature{{"exFAT", 3, ""}}},
		"BitLocker":          {[]piece{{3, "-FVE-FS-"}, {510, bootMark}}, []Signature{{"BitLocker", 3, ""}}},
		"ZFS":                {[]piece{{128<<10 + 4096, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}}, []Signature{{"ZFS", 128<<10 + 4096, ""}}},
		"ZFS, last label":    {[]piece{{-128 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"}}, []Signature{{"ZFS", 8*mib - 128<<10, ""}}},
		"bcachefs": {[]piece{{4120, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"}, {4168, "fs"}},
			[]Signature{{"bcachefs", 4120, "fs"}}},
		"bcache":      {[]piece{{4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"}}, []Signature{{"bcache", 4120, ""}}},
		"F2FS":        {[]piece{{1024, "\x10\x20\xf5\xf2"}}, []Signature{{"F2FS", 1024, ""}}},
		"JFS":         {[]piece{{32768, "JFS1"}}, []Signature{{"JFS", 32768, ""}}},
		"ReiserFS":    {[]piece{{65588, "ReIsEr2Fs"}}, []Signature{{"ReiserFS", 65588, ""}}},
		"ISO 9660":    {[]piece{{32769, "CD001"}, {32808, "Debian 12 "}}, []Signature{{"ISO 9660", 32769, "Debian 12"}}},
		"HFS+":        {[]piece{{1024, "H+\x00\x04"}}, []Signature{{"HFS+", 1024, ""}}},
		"APFS":        {[]piece{{32, "NXSB"}}, []Signature{{"APFS", 32, ""}}},
		"SquashFS":    {[]piece{{0, "hsqs"}}, []Signature{{"SquashFS", 0, ""}}},
		"VDO":         {[]piece{{0, "dmvdo001"}}, []Signature{{"VDO", 0, ""}}},
		"BlueStore":   {[]piece{{0, "bluestore block device\n"}}, []Signature{{"Ceph BlueStore", 0, ""}}},
		"qcow2":       {[]piece{{0, "QFI\xfb\x00\x00\x00\x03"}}, []Signature{{"QEMU disk image (qcow2)", 0, ""}}},
		"VMDK":        {[]piece{{0, "KDMV"}}, []Signature{{"VMware disk image (VMDK)", 0, ""}}},
		"two of them": {append(ext(0x4, 0x42, 0), piece{-8192, "\xfc\x4e\x2b\xa9" + le32(1)}), []Signature{{"ext4", 1080, "backup"}, {"md RAID superblock 1.0", 8*mib - 8192, ""}}},
	}
	covered := map[string]bool{}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := image(8*mib, tt.pieces...)
			got, err := findSignatures(bytes.NewReader(b), int64(len(b)))
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
		for _, s := range tt.want {
			covered[s.Name] = true
		}
	}
	for _, m := range fixedMarks {
		require.True(t, covered[m.name], "no test for %s", m.name)
	}
}

func TestFindSignaturesOfAnySize(t *testing.T) {
	for size := int64(0); size < 3000; size += 7 {
		b := bytes.Repeat([]byte{0xff}, int(size))
		got, err := findSignatures(bytes.NewReader(b), size)
		require.NoError(t, err)
		require.Empty(t, got)
	}
	for _, size := range []int64{4096, 65536, 65537, 262143, 1<<20 - 1} {
		got, err := findSignatures(bytes.NewReader(make([]byte, size)), size)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

type badReader struct{ from int64 }

func (r badReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.from {
		return 0, errors.New("bad sector")
	}
	return copy(p, "XFSB"), nil
}

func TestFindSignaturesOnABadDisk(t *testing.T) {
	_, err := findSignatures(badReader{0}, 1<<20)
	require.ErrorContains(t, err, "bad sector")
	got, err := findSignatures(badReader{1}, 1<<20)
	require.NoError(t, err)
	require.Equal(t, "XFS", got[0].Name)
	_, err = findSignatures(bytes.NewReader(nil), 1<<20)
	require.ErrorIs(t, err, io.EOF)
}

func TestSignatureString(t *testing.T) {
	require.Equal(t, `ext4 "backup" at 0x438`, Signature{"ext4", 1080, "backup"}.String())
	require.Equal(t, `LUKS at 0x0`, Signature{"LUKS", 0, ""}.String())
}

func FuzzFindSignatures(f *testing.F) {
	f.Add([]byte("XFSB"), uint16(0))
	f.Add([]byte{0x53, 0xef}, uint16(1080))
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		b := make([]byte, 128<<10)
		copy(b[at:], data)
		_, err := findSignatures(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
	})
}
