package devices

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Signature is what somebody else has left on a disk.
type Signature struct {
	Name  string // "ext4", "GPT partition table"
	Off   int64  // where its mark stands
	Label string // what its owner called it; often empty
}

func (s Signature) String() string {
	if s.Label == "" {
		return fmt.Sprintf("%s at %#x", s.Name, s.Off)
	}
	return fmt.Sprintf("%s %q at %#x", s.Name, s.Label, s.Off)
}

// fixedMark is a mark that stands in one place.
type fixedMark struct {
	name            string
	off             int64
	mark            string
	label, labelLen int64 // where the owner's name for it stands; labelLen 0: nowhere
}

// The marks are those of the formats' own headers (Linux include/uapi and fs/, the LUKS, LVM2, GPT
// and ZFS on-disk documents); libblkid knows the same places.
var fixedMarks = []fixedMark{
	{name: "XFS", mark: "XFSB", label: 108, labelLen: 12},
	{name: "btrfs", off: 0x10040, mark: "_BHRfS_M", label: 0x1012b, labelLen: 256},
	{name: "LUKS", mark: "LUKS\xba\xbe"},
	{name: "md RAID superblock 1.1", mark: "\xfc\x4e\x2b\xa9\x01\x00\x00\x00", label: 32, labelLen: 32},
	{name: "md RAID superblock 1.2", off: 4096, mark: "\xfc\x4e\x2b\xa9\x01\x00\x00\x00", label: 4096 + 32, labelLen: 32},
	{name: "GPT partition table", off: 512, mark: "EFI PART"},
	{name: "GPT partition table", off: 4096, mark: "EFI PART"},
	{name: "exFAT", off: 3, mark: "EXFAT   "},
	{name: "NTFS", off: 3, mark: "NTFS    "},
	{name: "BitLocker", off: 3, mark: "-FVE-FS-"},
	{name: "bcachefs", off: 4096 + 24, mark: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", label: 4096 + 72, labelLen: 32},
	{name: "bcache", off: 4096 + 24, mark: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{name: "F2FS", off: 1024, mark: "\x10\x20\xf5\xf2"},
	{name: "JFS", off: 32768, mark: "JFS1"},
	{name: "ReiserFS", off: 65536 + 52, mark: "ReIsEr"},
	{name: "ISO 9660", off: 32769, mark: "CD001", label: 32768 + 40, labelLen: 32},
	{name: "HFS+", off: 1024, mark: "H+\x00\x04"},
	{name: "APFS", off: 32, mark: "NXSB"},
	{name: "SquashFS", mark: "hsqs"},
	{name: "VDO", mark: "dmvdo001"},
	{name: "Ceph BlueStore", mark: "bluestore block device"},
	{name: "QEMU disk image (qcow2)", mark: "QFI\xfb"},
	{name: "VMware disk image (VMDK)", mark: "KDMV"},
}

// findSignatures names what it finds on a disk of size bytes, in no order that means anything.
// What cannot be read counts as not there, unless nothing can be.
func findSignatures(r io.ReaderAt, size int64) ([]Signature, error) {
	p := &prober{r: r, size: size}
	if size > 0 && p.at(0, 1) == nil {
		_, err := r.ReadAt(make([]byte, min(size, 512)), 0)
		return nil, err
	}
	for _, m := range fixedMarks {
		if p.has(m.off, m.mark) {
			p.found(m.name, m.off, p.text(m.label, m.labelLen))
		}
	}
	p.ext()
	p.fat()
	p.partitions()
	p.swap()
	p.lvm()
	p.luksSecond()
	p.mdAtEnd()
	p.zfs()
	return p.all, nil
}

type prober struct {
	r    io.ReaderAt
	size int64
	all  []Signature
}

func (p *prober) found(name string, off int64, label string) {
	p.all = append(p.all, Signature{Name: name, Off: off, Label: label})
}

func (p *prober) named(names ...string) bool {
	for _, s := range p.all {
		for _, n := range names {
			if s.Name == n {
				return true
			}
		}
	}
	return false
}

// at returns n bytes at off, or nil where there are none.
func (p *prober) at(off, n int64) []byte {
	if off < 0 || off+n > p.size {
		return nil
	}
	b := make([]byte, n)
	if _, err := p.r.ReadAt(b, off); err != nil {
		return nil
	}
	return b
}

func (p *prober) has(off int64, mark string) bool {
	return string(p.at(off, int64(len(mark)))) == mark
}

// text returns a name that stands in n bytes at off, without its padding.
func (p *prober) text(off, n int64) string {
	b, _, _ := bytes.Cut(p.at(off, n), []byte{0})
	s := strings.ToValidUTF8(string(b), "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s))
}

func (p *prober) ext() {
	b := p.at(1024, 1024)
	if b == nil || b[56] != 0x53 || b[57] != 0xef {
		return
	}
	const hasJournal, journalDev = 0x4, 0x8
	// Features that ext3 does not know: extents, 64bit, flex_bg and so on; huge_file, gdt_csum,
	// dir_nlink, extra_isize, metadata_csum and so on.
	const ext2Incompat, ext2ROCompat = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
	le := binary.LittleEndian
	compat, incompat, roCompat := le.Uint32(b[92:]), le.Uint32(b[96:]), le.Uint32(b[100:])
	name := "ext2"
	switch {
	case incompat&journalDev != 0:
		name = "ext4 journal"
	case incompat&^ext2Incompat != 0 || roCompat&^ext2ROCompat != 0:
		name = "ext4"
	case compat&hasJournal != 0:
		name = "ext3"
	}
	p.found(name, 1024+56, p.text(1024+120, 16))
}

func (p *prober) fat() {
	if !p.has(510, "\x55\xaa") {
		return
	}
	if p.has(82, "FAT32   ") {
		p.found("FAT32 (vfat)", 82, p.text(71, 11))
		return
	}
	for _, mark := range []string{"FAT12   ", "FAT16   ", "FAT     "} {
		if p.has(54, mark) {
			p.found(strings.TrimSpace(mark)+" (vfat)", 54, p.text(43, 11))
		}
	}
}

func (p *prober) partitions() {
	for _, sector := range []int64{512, 4096} { // the second table at the end
		off := p.size/sector*sector - sector
		if off > sector && p.has(off, "EFI PART") {
			p.found("GPT partition table", off, "")
		}
	}
	b := p.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa ||
		p.named("GPT partition table", "exFAT", "NTFS", "BitLocker", "FAT32 (vfat)", "FAT12 (vfat)", "FAT16 (vfat)", "FAT (vfat)") {
		return // file systems end their boot sector with the same mark
	}
	used := 0
	for e := 446; e < 510; e += 16 {
		if b[e]&0x7f != 0 {
			return
		}
		if b[e+4] != 0 && binary.LittleEndian.Uint32(b[e+12:]) != 0 {
			used++
		}
	}
	if used > 0 {
		p.found("DOS partition table", 510, "")
	} else {
		p.found("boot sector", 510, "")
	}
}

func (p *prober) swap() {
	for _, page := range []int64{4096, 8192, 16384, 65536} {
		for _, mark := range []string{"SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\x00", "S2SUSPEND\x00"} {
			if p.has(page-10, mark) {
				p.found("swap", page-10, p.text(1052, 16))
			}
		}
	}
}

func (p *prober) lvm() {
	for off := int64(0); off < 4*512; off += 512 {
		if p.has(off, "LABELONE") && p.has(off+24, "LVM2 001") {
			p.found("LVM2 physical volume", off, "")
		}
	}
}

func (p *prober) luksSecond() {
	if p.named("LUKS") {
		return
	}
	for off := int64(0x4000); off <= 0x400000; off *= 2 {
		if p.has(off, "SKUL\xba\xbe") {
			p.found("LUKS", off, "")
			return
		}
	}
}

func (p *prober) mdAtEnd() {
	const little, big = "\xfc\x4e\x2b\xa9", "\xa9\x2b\x4e\xfc"
	if off := p.size/65536*65536 - 65536; p.has(off, little) || p.has(off, big) {
		p.found("md RAID superblock 0.90", off, "")
	}
	if off := (p.size/512 - 16) / 8 * 8 * 512; p.has(off, little+"\x01\x00\x00\x00") {
		p.found("md RAID superblock 1.0", off, p.text(off+32, 32))
	}
}

func (p *prober) zfs() {
	const label = 256 << 10
	end := p.size / label * label
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		ring := p.at(start+label/2, label/2)
		for off := 0; off < len(ring); off += 1024 {
			if mark := string(ring[off : off+8]); mark == "\x0c\xb1\xba\x00\x00\x00\x00\x00" || mark == "\x00\x00\x00\x00\x00\xba\xb1\x0c" {
				p.found("ZFS", start+label/2+int64(off), "")
				return
			}
		}
	}
}
