package journal

import "time"

// Tree is the one record of SpaceTree: a name space is there.
type Tree struct {
	// Seed goes into the hashes of names, so that nobody can make names that share one.
	Seed    [16]byte
	Created time.Time
}

// TreeKey is the key of the one Tree record.
func TreeKey() Key { return MakeKey(SpaceTree, 0, 0) }

// Tree record, part of the format:
//
//	0   version of the format (1)
//	1   seed (16 bytes)
//	17  created (12)
//	29  CRC32C (4)

// Pack returns the record's bytes at key.
func (t *Tree) Pack(key Key) []byte { return t.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (t *Tree) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceTree)
	start := len(dst)
	dst = append(dst, recordVersion)
	dst = append(dst, t.Seed[:]...)
	dst = appendTime(dst, t.Created)
	return appendCRC(dst, start, &key)
}

// ParseTree is the reverse of Pack. Times come back in UTC.
func ParseTree(key Key, b []byte) (Tree, error) {
	f, err := openRecord(&key, SpaceTree, b)
	if err != nil {
		return Tree{}, err
	}
	r := reader{b: f}
	var t Tree
	copy(t.Seed[:], r.take(16))
	t.Created = r.time()
	if !r.done() {
		return Tree{}, corrupt(key, "fields of a tree, %d bytes", len(b))
	}
	return t, nil
}
