package journal

import "fmt"

// Intent record, part of the format:
//
//	0   version of the format (1)
//	1   number of candidates (2 bytes)
//	3   base (8)
//	11  per candidate: block, bit 15: settled (2), sum (4)
//	..  CRC32C (4)
const (
	intentFixed        = 11
	intentPerCandidate = 6
	intentSettled      = 1 << 15
)

// Pack returns the record's bytes at key. It panics beyond MaxCandidates candidates or if a
// block is not below MaxSlot.
func (in *Intent) Pack(key Key) []byte {
	size := intentFixed + intentPerCandidate*len(in.Candidates) + crcSize
	return in.AppendPack(make([]byte, 0, size), key)
}

// AppendPack is Pack into the memory behind dst.
func (in *Intent) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceIntent)
	if len(in.Candidates) > MaxCandidates {
		panic(fmt.Sprintf("journal: intent %v: %d candidates", key, len(in.Candidates)))
	}
	start := len(dst)
	dst = append(dst, recordVersion)
	dst = le.AppendUint16(dst, uint16(len(in.Candidates)))
	dst = le.AppendUint64(dst, in.Base)
	for _, c := range in.Candidates {
		if c.Block >= MaxSlot {
			panic(fmt.Sprintf("journal: intent %v: block %d", key, c.Block))
		}
		block := uint16(c.Block)
		if c.Settled {
			block |= intentSettled
		}
		dst = le.AppendUint16(dst, block)
		dst = le.AppendUint32(dst, c.Sum)
	}
	return appendCRC(dst, start, &key)
}

// ParseIntent is the reverse of Pack.
func ParseIntent(key Key, b []byte) (Intent, error) {
	f, err := openRecord(&key, SpaceIntent, b)
	if err != nil {
		return Intent{}, err
	}
	if len(f) < intentFixed-1 {
		return Intent{}, corrupt(key, "%d bytes are too short", len(b))
	}
	n := int(le.Uint16(f))
	in := Intent{Base: le.Uint64(f[2:])}
	f = f[intentFixed-1:]
	if n > MaxCandidates || len(f) != intentPerCandidate*n {
		return Intent{}, corrupt(key, "%d bytes for %d candidates", len(f), n)
	}
	if n == 0 {
		return in, nil
	}
	in.Candidates = make([]Candidate, n)
	for i := range in.Candidates {
		block := le.Uint16(f)
		c := Candidate{Block: uint32(block &^ intentSettled), Sum: le.Uint32(f[2:]), Settled: block&intentSettled != 0}
		if c.Block >= MaxSlot {
			return Intent{}, corrupt(key, "block %d", c.Block)
		}
		in.Candidates[i] = c
		f = f[intentPerCandidate:]
	}
	return in, nil
}
