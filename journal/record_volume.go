package journal

import "fmt"

// VolumeKey is the key of the one Volume record.
func VolumeKey() Key { return MakeKey(SpaceVolume, 0, 0) }

// Volume record, part of the format:
//
//	0   version of the format (1)
//	1   copies
//	2   next device (2 bytes)
//	4   chunk size (4)
//	8   UUID (16)
//	24  next object (8)
//	32  next event (8)
//	40  generation (8)
//	48  created (12)
//	60  length of the name (1), name
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if the chunk size, the copies or the name
// break a limit.
func (v *Volume) Pack(key Key) []byte { return v.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (v *Volume) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceVolume)
	if !v.valid() {
		panic(fmt.Sprintf("journal: volume with chunks of %d bytes, %d copies", v.ChunkSize, v.Copies))
	}
	start := len(dst)
	dst = append(dst, recordVersion, v.Copies)
	dst = le.AppendUint16(dst, v.NextDevice)
	dst = le.AppendUint32(dst, v.ChunkSize)
	dst = append(dst, v.UUID[:]...)
	dst = le.AppendUint64(dst, v.NextObject)
	dst = le.AppendUint64(dst, v.NextEvent)
	dst = le.AppendUint64(dst, v.Generation)
	dst = appendTime(dst, v.Created)
	dst = appendText8(dst, "name of a volume", v.Name, MaxName)
	return appendCRC(dst, start, &key)
}

func (v *Volume) valid() bool {
	return v.ChunkSize >= MinChunkSize && v.ChunkSize <= MaxChunkSize && v.ChunkSize&(v.ChunkSize-1) == 0 &&
		v.Copies >= 1 && v.Copies <= MaxCopies
}

// ParseVolume is the reverse of Pack. Times come back in UTC.
func ParseVolume(key Key, b []byte) (Volume, error) {
	f, err := openRecord(&key, SpaceVolume, b)
	if err != nil {
		return Volume{}, err
	}
	r := reader{b: f}
	var v Volume
	v.Copies, v.NextDevice, v.ChunkSize = r.u8(), r.u16(), r.u32()
	copy(v.UUID[:], r.take(16))
	v.NextObject, v.NextEvent, v.Generation = r.u64(), r.u64(), r.u64()
	v.Created = r.time()
	v.Name = r.text8(MaxName)
	if !r.done() || !v.valid() {
		return Volume{}, corrupt(key, "fields of a volume, %d bytes", len(b))
	}
	return v, nil
}
