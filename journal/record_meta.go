package journal

// metaKey is the key of the journal's own record, written in every transaction.
var metaKey = MakeKey(SpaceReserve, 0, 0)

// meta says what the store must hold, and whose it is.
//
//	0   version of the format (1)
//	1   UUID of the volume (16 bytes)
//	17  sequence number (8)
//	25  number of records, without this one (8)
//	33  digest (16)
//	49  CRC32C (4)
type meta struct {
	State
	UUID [16]byte
}

func (m *meta) pack() []byte {
	b := make([]byte, 0, 53)
	b = append(b, recordVersion)
	b = append(b, m.UUID[:]...)
	b = le.AppendUint64(b, uint64(m.Seq))
	b = le.AppendUint64(b, m.Count)
	b = append(b, m.Digest[:]...)
	return appendCRC(b, 0, &metaKey)
}

func parseMeta(b []byte) (meta, error) {
	f, err := openRecord(&metaKey, SpaceReserve, b)
	if err != nil {
		return meta{}, err
	}
	r := reader{b: f}
	var m meta
	copy(m.UUID[:], r.take(16))
	m.Seq, m.Count = Seq(r.u64()), r.u64()
	copy(m.Digest[:], r.take(16))
	if !r.done() {
		return meta{}, corrupt(metaKey, "%d bytes", len(b))
	}
	return m, nil
}
