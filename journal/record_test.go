package journal

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden samples of a new format version")

// kind is one kind of record, as the tests see it.
type kind struct {
	name string
	key  Key
	// sample is a record with something in each field.
	sample []byte
	// repack parses b and packs the result.
	repack func(key Key, b []byte) ([]byte, error)
}

func kinds() []kind {
	created := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	volume := Volume{
		UUID: uuidOf("volume"), Name: "backup", ChunkSize: 1 << 20, Copies: 2, NextObject: 7,
		NextDevice: 4, NextEvent: 19, Generation: 4711, Created: created,
	}
	device := Device{
		ID: 3, UUID: uuidOf("device"), Path: "/dev/sdb", Size: 4 << 40, Domain: "shelf 2", State: Slow,
		Reason: "reads take 80 ms, the others 9 ms", Since: created, Epoch: 12,
		SecondsPerOp:   [4]float64{0.001, 0.009, 0.0005, 0.0125},
		SecondsPerByte: [4]float64{5e-9, 6e-9, 4e-9, 0},
	}
	area := device
	area.DataOff, area.DataSize = 33<<30, 3<<40
	object := Object{Number: 6, Kind: Export, Name: "laptop", Size: 10 << 40, Flags: FlagReadOnly, Created: created}
	chunk := Chunk{
		Generation: 81, Version: 5, Slot: 12, Copies: []Copy{{Device: 3, Off: 1 << 30}, {Device: 1, Off: 8192, Stale: true}},
		Written: []uint64{0b1010_0000_0001}, Sums: []uint32{0xdeadbeef, 1, 0xffffffff},
	}
	intent := Intent{Base: 5, Candidates: []Candidate{{Block: 0, Sum: 0xdeadbeef}, {Block: 4095, Sum: 2}, {Block: 0, Sum: 3}}}
	settled := Intent{Base: 5, Candidates: []Candidate{{Block: 0, Sum: 0xdeadbeef}, {Block: 4095, Sum: 2, Settled: true}}}
	event := Event{Time: created, Severity: 1, Code: "device_slow", Device: 3, Message: "sdb is slow"}
	inode := Inode{
		Number: 9, Mode: TypeRegular | 0o4755, UID: 1000, GID: 100, Links: 2, Flags: 0x10, Xattrs: 3, Generation: 1,
		Size: 5000, Blocks: 2, Object: 12, Atime: created, Mtime: created, Ctime: created, Btime: created,
	}
	directory := Inode{Number: 9, Mode: TypeDirectory | 0o1777, Links: 2, Parent: 1, Atime: created, Mtime: created, Ctime: created, Btime: created}
	symlink := Inode{Number: 9, Mode: TypeSymlink | 0o777, Links: 1, Target: "../a", Atime: created, Mtime: created, Ctime: created, Btime: created}
	special := Inode{Number: 9, Mode: TypeBlock | 0o660, Links: 1, Rdev: 0x801, Atime: created, Mtime: created, Ctime: created, Btime: created}
	entries := Entries{{Slot: 0, Type: TypeRegular, Inode: 9, Name: "letter"}, {Slot: 15, Type: TypeDirectory, Inode: 1<<48 - 1, Name: "\xff"}}
	xattrs := Xattrs{{Name: "user.a", Value: []byte("value")}, {Name: "user.b", Value: []byte{}}}
	tree := Tree{Seed: uuidOf("seed"), Created: created}
	job := Job{Number: 14, Kind: JobDrain, State: JobPaused, Devices: []uint16{3, 1}, Target: 4, Created: created, Ended: created.Add(time.Hour),
		Total: 4 << 40, Done: 1 << 40, Errors: 2, Healed: 3, Pace: 1 << 20, CursorDevice: 3, CursorOff: 1 << 30, Reason: "slow"}
	scrub := Job{Number: 15, Kind: JobScrub, State: JobRunning, Created: created, Ended: time.Unix(0, 0).UTC(), Since: created.Add(-time.Hour)}
	all := []kind{
		{name: "inode", key: InodeKey(9), sample: inode.Pack(InodeKey(9))},
		{name: "inode-directory", key: InodeKey(9), sample: directory.Pack(InodeKey(9))},
		{name: "inode-symlink", key: InodeKey(9), sample: symlink.Pack(InodeKey(9))},
		{name: "inode-device", key: InodeKey(9), sample: special.Pack(InodeKey(9))},
		{name: "entries", key: EntryKey(1, 1<<57+5), sample: entries.Pack(EntryKey(1, 1<<57+5))},
		{name: "xattrs", key: XattrKey(9, 7), sample: xattrs.Pack(XattrKey(9, 7))},
		{name: "tree", key: TreeKey(), sample: tree.Pack(TreeKey())},
		{name: "volume", key: VolumeKey(), sample: volume.Pack(VolumeKey())},
		{name: "device", key: DeviceKey(3), sample: device.Pack(DeviceKey(3))},
		{name: "device-area", key: DeviceKey(3), sample: area.Pack(DeviceKey(3))},
		{name: "object", key: ObjectKey(6), sample: object.Pack(ObjectKey(6))},
		{name: "chunk", key: MakeKey(SpaceChunk, 6, 81), sample: chunk.Pack(MakeKey(SpaceChunk, 6, 81))},
		{name: "intent", key: MakeKey(SpaceIntent, 6, 81), sample: intent.Pack(MakeKey(SpaceIntent, 6, 81))},
		{name: "intent-settled", key: MakeKey(SpaceIntent, 6, 81), sample: settled.Pack(MakeKey(SpaceIntent, 6, 81))},
		{name: "event", key: EventKey(18), sample: event.Pack(EventKey(18))},
		{name: "job", key: JobKey(14), sample: job.Pack(JobKey(14))},
		{name: "job-since", key: JobKey(15), sample: scrub.Pack(JobKey(15))},
		{name: "meta", key: metaKey, sample: (&meta{State{9, 4, Digest{1, 15: 2}}, uuidOf("volume")}).pack()},
	}
	for i := range all {
		all[i].repack = repackers[all[i].name]
	}
	return all
}

func uuidOf(name string) (u [16]byte) {
	copy(u[:], name+strings.Repeat(".", 16))
	return u
}

var repackers = map[string]func(Key, []byte) ([]byte, error){
	"volume":          func(k Key, b []byte) ([]byte, error) { r, err := ParseVolume(k, b); return packed(err, &r, k) },
	"device":          func(k Key, b []byte) ([]byte, error) { r, err := ParseDevice(k, b); return packed(err, &r, k) },
	"device-area":     func(k Key, b []byte) ([]byte, error) { r, err := ParseDevice(k, b); return packed(err, &r, k) },
	"object":          func(k Key, b []byte) ([]byte, error) { r, err := ParseObject(k, b); return packed(err, &r, k) },
	"chunk":           func(k Key, b []byte) ([]byte, error) { r, err := ParseChunk(k, b); return packed(err, &r, k) },
	"intent":          func(k Key, b []byte) ([]byte, error) { r, err := ParseIntent(k, b); return packed(err, &r, k) },
	"intent-settled":  func(k Key, b []byte) ([]byte, error) { r, err := ParseIntent(k, b); return packed(err, &r, k) },
	"inode":           repackInode,
	"inode-directory": repackInode,
	"inode-symlink":   repackInode,
	"inode-device":    repackInode,
	"entries":         func(k Key, b []byte) ([]byte, error) { r, err := ParseEntries(k, b); return packed(err, r, k) },
	"xattrs":          func(k Key, b []byte) ([]byte, error) { r, err := ParseXattrs(k, b); return packed(err, r, k) },
	"tree":            func(k Key, b []byte) ([]byte, error) { r, err := ParseTree(k, b); return packed(err, &r, k) },
	"event":           func(k Key, b []byte) ([]byte, error) { r, err := ParseEvent(k, b); return packed(err, &r, k) },
	"job":             func(k Key, b []byte) ([]byte, error) { r, err := ParseJob(k, b); return packed(err, &r, k) },
	"job-since":       func(k Key, b []byte) ([]byte, error) { r, err := ParseJob(k, b); return packed(err, &r, k) },
	"meta": func(k Key, b []byte) ([]byte, error) {
		r, err := parseMeta(b)
		if err != nil {
			return nil, err
		}
		return r.pack(), nil
	},
}

func repackInode(k Key, b []byte) ([]byte, error) {
	r, err := ParseInode(k, b)
	return packed(err, &r, k)
}

func packed(err error, r interface{ Pack(Key) []byte }, k Key) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return r.Pack(k), nil
}

// sum gives b, whose last four bytes are room for it, the right checksum.
func sum(key Key, b []byte) []byte {
	return appendCRC(b[:len(b)-crcSize], 0, &key)
}

func TestGoldenRecords(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			path := filepath.Join("testdata", "v1", k.name+".hex")
			if *update {
				text := fmt.Sprintf("%x\n%s", k.key[:], hex.Dump(k.sample))
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
				require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
			}
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(text), fmt.Sprintf("%x\n%s", k.key[:], hex.Dump(k.sample)),
				"the format has changed: old volumes would not open")
			again, err := k.repack(k.key, k.sample)
			require.NoError(t, err)
			require.Equal(t, k.sample, again)
		})
	}
}

func TestEveryDamageOfARecordIsFound(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			for i := range k.sample {
				for bit := range 8 {
					b := append([]byte(nil), k.sample...)
					b[i] ^= 1 << bit
					_, err := k.repack(k.key, b)
					require.ErrorIs(t, err, ErrCorrupt, "byte %d bit %d", i, bit)
				}
				_, err := k.repack(k.key, k.sample[:i])
				require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", i)
			}
			_, err := k.repack(k.key, append(append([]byte(nil), k.sample...), 0))
			require.ErrorIs(t, err, ErrCorrupt, "a byte too many")
			_, err = k.repack(k.key, sum(k.key, append(append([]byte(nil), k.sample...), 0)))
			require.ErrorIs(t, err, ErrCorrupt, "a byte too many, with a right checksum")
			for n := 1 + crcSize; n < len(k.sample); n++ {
				_, err = k.repack(k.key, sum(k.key, append([]byte(nil), k.sample[:n]...)))
				require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes, with a right checksum", n)
			}
			if k.key != metaKey {
				for i := range k.key {
					other := k.key
					other[i] ^= 1
					_, err := k.repack(other, k.sample)
					require.ErrorIs(t, err, ErrCorrupt, "key byte %d", i)
				}
			}
		})
	}
}

func TestStoreFile(t *testing.T) {
	sample := packStoreFile(uuidOf("volume"), time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC))
	path := filepath.Join("testdata", "v2", "store.hex")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(hex.Dump(sample)), 0o666))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(text), hex.Dump(sample))
	uuid, err := parseStoreFile(sample)
	require.NoError(t, err)
	require.Equal(t, uuidOf("volume"), uuid)
	_, err = parseStoreFile(unhex(t, filepath.Join("testdata", "v1", "store.hex")))
	require.ErrorIs(t, err, ErrVersion)
	for i := range sample {
		for bit := range 8 {
			b := append([]byte(nil), sample...)
			b[i] ^= 1 << bit
			_, err := parseStoreFile(b)
			require.ErrorIs(t, err, ErrCorrupt)
		}
		_, err := parseStoreFile(sample[:i])
		require.ErrorIs(t, err, ErrCorrupt)
	}
	_, err = parseStoreFile(append(append([]byte(nil), sample...), 0))
	require.ErrorIs(t, err, ErrCorrupt)
	b := append([]byte(nil), sample...)
	b[8] = storeVersion + 1
	_, err = parseStoreFile(le.AppendUint32(b[:len(b)-crcSize], crc32.Checksum(b[:len(b)-crcSize], castagnoli)))
	require.ErrorIs(t, err, ErrVersion)
}

func TestFutureVersionOfARecordIsRefused(t *testing.T) {
	for _, k := range kinds() {
		b := append([]byte(nil), k.sample...)
		b[0] = 2
		_, err := k.repack(k.key, sum(k.key, b))
		require.ErrorIs(t, err, ErrVersion, k.name)
		require.NotErrorIs(t, err, ErrCorrupt, k.name)
		var re *RecordError
		require.True(t, errors.As(err, &re))
		require.Equal(t, k.key, re.Key)
	}
}

// TestFieldsBeyondLimitsDoNotParse changes single fields of the samples, with the right checksum.
func TestFieldsBeyondLimitsDoNotParse(t *testing.T) {
	samples := map[string]kind{}
	for _, k := range kinds() {
		samples[k.name] = k
	}
	for _, c := range []struct {
		kind, what string
		off        int
		bytes      []byte
	}{
		{"volume", "no copies", 1, []byte{0}},
		{"volume", "four copies", 1, []byte{4}},
		{"volume", "chunk size 0", 4, []byte{0, 0, 0, 0}},
		{"volume", "chunk size no power of two", 4, []byte{0, 0, 0x18, 0}},
		{"volume", "chunk size too large", 4, []byte{0, 0, 0, 2}},
		{"volume", "nanoseconds", 56, []byte{0, 0xca, 0x9a, 0x3b}},
		{"volume", "year", 48, []byte{0, 0, 0, 0, 0, 0, 0, 0x7f}},
		{"volume", "length of the name", 60, []byte{255}},
		{"device", "state 0", 1, []byte{0}},
		{"device", "state 8", 1, []byte{8}},
		{"device", "negative size", 25, []byte{0x80}},
		{"device", "NaN", 46, []byte{1, 0, 0, 0, 0, 0, 0xf0, 0x7f}},
		{"device", "infinite", 46, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x7f}},
		{"device", "negative speed", 53, []byte{0xbf}},
		{"device", "length of the path", 110, []byte{0xff, 0xff}},
		{"object", "kind", 1, []byte{3}},
		{"object", "flags", 2, []byte{4}},
		{"object", "negative size", 13, []byte{0x80}},
		{"chunk", "unused flag 3", 1, []byte{0x2a}},
		{"chunk", "unused flag 7", 1, []byte{0xa2}},
		{"chunk", "stale copy that is not there", 1, []byte{0x62}},
		{"chunk", "slot", 2, []byte{1, 0x10}},
		{"chunk", "slot 0", 2, []byte{0, 0}},
		{"chunk", "one written block more", 36, []byte{3}},
		{"chunk", "written block beyond the slot", 36, []byte{0, 0x1a}},
		{"chunk", "all written, bits follow", 1, []byte{0x26}},
		{"intent", "count", 1, []byte{4, 0}},
		{"intent", "count too large", 1, []byte{0xff, 0xff}},
		{"intent", "block", 17, []byte{0, 0x10}},
		{"inode", "no type", 1, []byte{0, 0}},
		{"inode", "unknown type", 1, []byte{0, 0x30}},
		{"inode", "mode bits", 3, []byte{1}},
		{"inode", "negative size", 40, []byte{0x80}},
		{"inode", "negative blocks", 48, []byte{0x80}},
		{"inode", "no object", 49, []byte{0}},
		{"inode", "object number", 55, []byte{1}},
		{"inode", "parent of a file", 57, []byte{1}},
		{"inode", "target of a file", 113, []byte{1, 0}},
		{"inode", "nanoseconds", 73, []byte{0, 0xca, 0x9a, 0x3b}},
		{"inode-directory", "no parent", 57, []byte{0}},
		{"inode-directory", "object of a directory", 49, []byte{1}},
		{"inode-symlink", "size of a symlink", 33, []byte{1}},
		{"inode-symlink", "a file with a target", 2, []byte{0x81}},
		{"entries", "no names", 1, []byte{0}},
		{"entries", "one name more", 1, []byte{3}},
		{"entries", "slot of another", 2, []byte{15}},
		{"entries", "slot", 17, []byte{16}},
		{"entries", "type", 3, []byte{3}},
		{"entries", "inode 0", 4, []byte{0}},
		{"entries", "slash", 11, []byte{'/'}},
		{"entries", "zero byte", 11, []byte{0}},
		{"xattrs", "none", 1, []byte{0}},
		{"xattrs", "the same name", 25, []byte{'a'}},
		{"xattrs", "length of a value", 9, []byte{0xff}},
		{"xattrs", "length of a value over the limit", 9, []byte{1, 0, 1}},
		{"tree", "nanoseconds", 25, []byte{0, 0xca, 0x9a, 0x3b}},
		{"event", "severity", 1, []byte{3}},
		{"event", "length of the code", 16, []byte{65}},
	} {
		k := samples[c.kind]
		b := append([]byte(nil), k.sample...)
		copy(b[c.off:], c.bytes)
		require.NotEqual(t, k.sample, b, "%s: %s", c.kind, c.what)
		_, err := k.repack(k.key, sum(k.key, b))
		require.ErrorIs(t, err, ErrCorrupt, "%s: %s", c.kind, c.what)
	}
}

func TestPackPanicsOnWhatWouldNotParse(t *testing.T) {
	key := MakeKey(SpaceChunk, 1, 1)
	for name, c := range map[string]Chunk{
		"copies":          {Slot: 1, Copies: make([]Copy, 4)},
		"slot":            {Slot: MaxSlot + 1},
		"copies, no slot": {Copies: make([]Copy, 1)},
		"offset":          {Slot: 1, Copies: []Copy{{Off: 512}}},
		"negative":        {Slot: 1, Copies: []Copy{{Off: -4096}}},
		"far":             {Slot: 1, Copies: []Copy{{Off: MaxOff}}},
		"beyond slot":     {Slot: 65, Written: []uint64{0, 2}, Sums: []uint32{1}},
		"word too many":   {Slot: 64, Written: []uint64{0, 1}, Sums: []uint32{1}},
		"sums":            {Slot: 8, Written: []uint64{3}, Sums: []uint32{1}},
	} {
		require.Panics(t, func() { c.Pack(key) }, name)
	}
	require.Panics(t, func() { (&Chunk{}).Pack(MakeKey(SpaceIntent, 1, 1)) })
	require.Panics(t, func() { (&Intent{Candidates: []Candidate{{Block: MaxSlot}}}).Pack(MakeKey(SpaceIntent, 1, 1)) })
	require.Panics(t, func() { (&Intent{Candidates: make([]Candidate, MaxCandidates+1)}).Pack(MakeKey(SpaceIntent, 1, 1)) })
	require.Panics(t, func() { (&Volume{ChunkSize: 4096, Copies: 1}).Pack(VolumeKey()) })
	require.Panics(t, func() { (&Device{ID: 1, State: Online}).Pack(DeviceKey(2)) })
	require.Panics(t, func() { (&Object{Number: 1, Kind: Export}).Pack(ObjectKey(2)) })
	require.Panics(t, func() { (&Object{Number: 1, Kind: Export, Name: strings.Repeat("x", 256)}).Pack(ObjectKey(1)) })
	require.Panics(t, func() { (&Event{Severity: 3}).Pack(EventKey(1)) })
	require.Panics(t, func() { (&Inode{Number: 1, Mode: TypeRegular}).Pack(InodeKey(1)) }, "no object")
	require.Panics(t, func() { (&Inode{Number: 1, Mode: TypeRegular, Object: 1}).Pack(InodeKey(2)) })
	require.Panics(t, func() { Entries{}.Pack(EntryKey(1, 1)) })
	require.Panics(t, func() { Entries{{Type: TypeFIFO, Inode: 2, Name: ".."}}.Pack(EntryKey(1, 1)) })
	require.Panics(t, func() { Xattrs{{Name: ""}}.Pack(XattrKey(1, 1)) })
	require.Panics(t, func() { Xattrs{{Name: "a", Value: make([]byte, MaxXattr+1)}}.Pack(XattrKey(1, 1)) })
}

func TestLongTextsForPeopleAreCut(t *testing.T) {
	e := Event{Message: strings.Repeat("ä", MaxMessage)}
	again, err := ParseEvent(EventKey(1), e.Pack(EventKey(1)))
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("ä", MaxMessage/2), again.Message)
	d := Device{State: Online, Reason: "x" + strings.Repeat("ä", MaxReason), SecondsPerOp: [4]float64{math.NaN(), math.Inf(1), -1, 2}}
	dev, err := ParseDevice(DeviceKey(0), d.Pack(DeviceKey(0)))
	require.NoError(t, err)
	require.Equal(t, "x"+strings.Repeat("ä", MaxReason/2-1), dev.Reason)
	require.Equal(t, [4]float64{0, 0, 0, 2}, dev.SecondsPerOp)
}

func genUUID(t *rapid.T) (u [16]byte) {
	copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	return u
}

func genTime(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(minSeconds, maxSeconds).Draw(t, "sec"), rapid.Int64Range(0, 1e9-1).Draw(t, "nsec")).UTC()
}

func genText(t *rapid.T, max int) string {
	return string(rapid.SliceOfN(rapid.Byte(), 0, min(max, 300)).Draw(t, "text"))
}

func genType(t *rapid.T) uint32 {
	return rapid.SampledFrom([]uint32{TypeSocket, TypeSymlink, TypeRegular, TypeBlock, TypeDirectory, TypeCharacter, TypeFIFO}).Draw(t, "type")
}

func genSpeeds(t *rapid.T) (s [4]float64) {
	for i := range s {
		s[i] = rapid.Float64Range(0, math.MaxFloat64).Draw(t, "speed") + 0 // no negative zero
	}
	return s
}

func genChunk(t *rapid.T) Chunk {
	c := Chunk{
		Generation: rapid.Uint64().Draw(t, "generation"), Version: rapid.Uint64().Draw(t, "version"),
		Slot: rapid.OneOf(rapid.Uint32Range(0, 80), rapid.Uint32Range(0, MaxSlot)).Draw(t, "slot"),
	}
	if c.Slot > 0 {
		c.Written = make([]uint64, (c.Slot+63)/64)
		for range rapid.IntRange(0, MaxCopies).Draw(t, "copies") {
			c.Copies = append(c.Copies, Copy{
				Device: rapid.Uint16().Draw(t, "device"), Stale: rapid.Bool().Draw(t, "stale"),
				Off: rapid.Int64Range(0, MaxOff/BlockSize-1).Draw(t, "block") * BlockSize,
			})
		}
	}
	how := rapid.IntRange(0, 2).Draw(t, "how")
	for i := range c.Slot {
		if how == 0 || how == 1 && rapid.Bool().Draw(t, "written") {
			c.Written[i/64] |= 1 << (i % 64)
			c.Sums = append(c.Sums, uint32(i)*0x9e3779b9)
		}
	}
	return c
}

func TestRecordsRoundTrip(t *testing.T) {
	t.Run("chunk", rapid.MakeCheck(func(t *rapid.T) {
		c := genChunk(t)
		key := MakeKey(SpaceChunk, rapid.Uint64Range(0, 1<<48-1).Draw(t, "a"), rapid.Uint64().Draw(t, "b"))
		b := c.Pack(key)
		require.Len(t, b, c.PackedSize())
		again, err := ParseChunk(key, b)
		require.NoError(t, err)
		require.Equal(t, c.Generation, again.Generation)
		require.Equal(t, c.Version, again.Version)
		require.Equal(t, c.Slot, again.Slot)
		require.ElementsMatch(t, c.Copies, again.Copies)
		require.ElementsMatch(t, c.Written, again.Written)
		require.Equal(t, len(c.Sums), len(again.Sums))
		for i := range c.Sums {
			require.Equal(t, c.Sums[i], again.Sums[i])
		}
		// In used memory, behind other bytes, with a longer or shorter bit set.
		dirty := Chunk{Copies: make([]Copy, 3), Written: []uint64{^uint64(0), 5}, Sums: make([]uint32, 7)}
		require.NoError(t, dirty.Parse(key, b))
		dirty.Written = append(dirty.Written, 0, 0)
		require.Equal(t, b, dirty.AppendPack([]byte("before"), key)[6:])
		words := dirty.Written
		for len(words) > 0 && words[len(words)-1] == 0 {
			words = words[:len(words)-1]
		}
		dirty.Written = words
		require.Equal(t, b, dirty.Pack(key))
	}))
	t.Run("intent", rapid.MakeCheck(func(t *rapid.T) {
		in := Intent{Base: rapid.Uint64().Draw(t, "base")}
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			in.Candidates = append(in.Candidates, Candidate{rapid.Uint32Range(0, MaxSlot-1).Draw(t, "block"), rapid.Uint32().Draw(t, "sum"), rapid.Bool().Draw(t, "settled")})
		}
		key := MakeKey(SpaceIntent, 5, rapid.Uint64().Draw(t, "b"))
		again, err := ParseIntent(key, in.Pack(key))
		require.NoError(t, err)
		require.Equal(t, in, again)
	}))
	t.Run("volume", rapid.MakeCheck(func(t *rapid.T) {
		v := Volume{
			UUID: genUUID(t), Name: genText(t, MaxName), ChunkSize: 1 << rapid.IntRange(16, 24).Draw(t, "bits"),
			Copies: rapid.Uint8Range(1, 3).Draw(t, "copies"), NextObject: rapid.Uint64().Draw(t, "object"),
			NextDevice: rapid.Uint16().Draw(t, "device"), NextEvent: rapid.Uint64().Draw(t, "event"),
			Generation: rapid.Uint64().Draw(t, "generation"), Created: genTime(t),
		}
		v.Name = v.Name[:min(len(v.Name), MaxName)]
		again, err := ParseVolume(VolumeKey(), v.Pack(VolumeKey()))
		require.NoError(t, err)
		require.Equal(t, v, again)
	}))
	t.Run("device", rapid.MakeCheck(func(t *rapid.T) {
		d := Device{
			ID: rapid.Uint16().Draw(t, "id"), UUID: genUUID(t), Path: genText(t, MaxPath),
			Size: rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"), Domain: genText(t, 200),
			State: DeviceState(rapid.Uint8Range(1, 7).Draw(t, "state")), Reason: genText(t, MaxReason), Since: genTime(t),
			Epoch: rapid.Uint64().Draw(t, "epoch"), SecondsPerOp: genSpeeds(t), SecondsPerByte: genSpeeds(t),
		}
		d.Domain = d.Domain[:min(len(d.Domain), MaxDomain)]
		if rapid.Bool().Draw(t, "area") {
			d.DataOff, d.DataSize = rapid.Int64Range(0, math.MaxInt64).Draw(t, "off"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "size")
		}
		d.LabelSeq = Seq(rapid.Uint64().Draw(t, "label"))
		again, err := ParseDevice(DeviceKey(d.ID), d.Pack(DeviceKey(d.ID)))
		require.NoError(t, err)
		require.Equal(t, d, again)
	}))
	t.Run("object", rapid.MakeCheck(func(t *rapid.T) {
		o := Object{
			Number: rapid.Uint64Range(0, 1<<48-1).Draw(t, "number"), Kind: ObjectKind(rapid.Uint8Range(1, 2).Draw(t, "kind")),
			Name: genText(t, 200), Size: rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"),
			Flags: rapid.Uint32Range(0, 3).Draw(t, "flags"), Created: genTime(t),
		}
		o.Name = o.Name[:min(len(o.Name), MaxName)]
		again, err := ParseObject(ObjectKey(o.Number), o.Pack(ObjectKey(o.Number)))
		require.NoError(t, err)
		require.Equal(t, o, again)
	}))
	t.Run("inode", rapid.MakeCheck(func(t *rapid.T) {
		n := Inode{
			Number: rapid.Uint64Range(0, 1<<48-1).Draw(t, "number"), Mode: genType(t) | rapid.Uint32Range(0, PermMask).Draw(t, "mode"),
			UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"), Links: rapid.Uint32().Draw(t, "links"),
			Rdev: rapid.Uint32().Draw(t, "rdev"), Flags: rapid.Uint32().Draw(t, "flags"), Xattrs: rapid.Uint32().Draw(t, "xattrs"),
			Generation: rapid.Uint32().Draw(t, "generation"), Atime: genTime(t), Mtime: genTime(t), Ctime: genTime(t), Btime: genTime(t),
		}
		switch n.Type() {
		case TypeRegular:
			n.Size, n.Blocks = rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"), rapid.Int64Range(0, math.MaxInt64).Draw(t, "blocks")
			n.Object = rapid.Uint64Range(1, 1<<48-1).Draw(t, "object")
		case TypeDirectory:
			n.Parent = rapid.Uint64Range(1, 1<<48-1).Draw(t, "parent")
		case TypeSymlink:
			n.Target = "t" + genText(t, 4000)
		}
		again, err := ParseInode(InodeKey(n.Number), n.Pack(InodeKey(n.Number)))
		require.NoError(t, err)
		require.Equal(t, n, again)
	}))
	t.Run("entries", rapid.MakeCheck(func(t *rapid.T) {
		var e Entries
		for slot := range rapid.IntRange(1, MaxSharing).Draw(t, "n") {
			name := rapid.StringMatching(`[a-z]{1,9}`).Draw(t, "name")
			e = append(e, Entry{uint8(slot), genType(t), rapid.Uint64Range(1, 1<<48-1).Draw(t, "inode"), fmt.Sprint(name, slot)})
		}
		key := EntryKey(rapid.Uint64Range(1, 1<<48-1).Draw(t, "dir"), rapid.Uint64Range(0, MaxEntryHash-1).Draw(t, "hash"))
		again, err := ParseEntries(key, e.Pack(key))
		require.NoError(t, err)
		require.Equal(t, e, again)
	}))
	t.Run("xattrs", rapid.MakeCheck(func(t *rapid.T) {
		var x Xattrs
		for i := range rapid.IntRange(1, 4).Draw(t, "n") {
			x = append(x, Xattr{fmt.Sprint(rapid.StringMatching(`user\.[a-z]{1,9}`).Draw(t, "name"), i), []byte("v" + genText(t, 300))})
		}
		key := XattrKey(7, rapid.Uint64Range(0, MaxEntryHash-1).Draw(t, "hash"))
		again, err := ParseXattrs(key, x.Pack(key))
		require.NoError(t, err)
		require.Equal(t, x, again)
	}))
	t.Run("event", rapid.MakeCheck(func(t *rapid.T) {
		e := Event{
			Time: genTime(t), Severity: rapid.Uint8Range(0, 2).Draw(t, "severity"), Code: genText(t, MaxCode),
			Device: rapid.Uint16().Draw(t, "device"), Message: genText(t, MaxMessage),
		}
		e.Code = e.Code[:min(len(e.Code), MaxCode)]
		key := EventKey(rapid.Uint64().Draw(t, "b"))
		again, err := ParseEvent(key, e.Pack(key))
		require.NoError(t, err)
		require.Equal(t, e, again)
	}))
}

func TestZeroTimeAndLocalTime(t *testing.T) {
	e := Event{}
	again, err := ParseEvent(EventKey(1), e.Pack(EventKey(1)))
	require.NoError(t, err)
	require.True(t, again.Time.IsZero())
	now := time.Now()
	e.Time = now
	again, err = ParseEvent(EventKey(1), e.Pack(EventKey(1)))
	require.NoError(t, err)
	require.True(t, now.Equal(again.Time))
	require.Equal(t, time.UTC, again.Time.Location())
}

func TestChunkPackingDoesNotAllocate(t *testing.T) {
	c, key := fullChunk(), MakeKey(SpaceChunk, 1, 2)
	dst := make([]byte, 0, c.PackedSize())
	require.Zero(t, testing.AllocsPerRun(100, func() { dst = c.AppendPack(dst[:0], key) }))
	var again Chunk
	require.NoError(t, again.Parse(key, dst))
	require.Zero(t, testing.AllocsPerRun(100, func() { require.NoError(t, again.Parse(key, dst)) }))
}

func fullChunk() *Chunk {
	c := &Chunk{Generation: 8, Version: 3, Slot: 256, Copies: []Copy{{1, false, 1 << 40}, {2, false, 1 << 41}}, Sums: make([]uint32, 256)}
	for i := range c.Sums {
		c.Sums[i] = bits.Reverse32(uint32(i))
	}
	c.Written = []uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	return c
}

func BenchmarkChunkPack(b *testing.B) {
	c, key := fullChunk(), MakeKey(SpaceChunk, 1, 2)
	dst := c.Pack(key)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = c.AppendPack(dst[:0], key)
	}
}

func BenchmarkChunkParse(b *testing.B) {
	c, key := fullChunk(), MakeKey(SpaceChunk, 1, 2)
	src := c.Pack(key)
	b.Run("fresh", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			if _, err := ParseChunk(key, src); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("reused", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			if err := c.Parse(key, src); err != nil {
				b.Fatal(err)
			}
		}
	})
}
