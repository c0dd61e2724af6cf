package journal

import "fmt"

// ObjectKey is the key of the record of object number.
func ObjectKey(number uint64) Key { return MakeKey(SpaceObject, number, 0) }

const objectFlags = FlagReadOnly | FlagDeleted

// Object record, part of the format; the number stands in the key:
//
//	0   version of the format (1)
//	1   kind
//	2   flags (4 bytes)
//	6   size (8)
//	14  created (12)
//	26  length of the name (1), name
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if the number is not that of the key, kind
// or flags are not known, the size is negative, or the name is too long.
func (o *Object) Pack(key Key) []byte { return o.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (o *Object) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceObject)
	if _, number, _ := key.Parts(); number != o.Number || !o.valid() {
		panic(fmt.Sprintf("journal: object %d for key %v: kind %d, size %d, flags %#x",
			o.Number, key, o.Kind, o.Size, o.Flags))
	}
	start := len(dst)
	dst = append(dst, recordVersion, byte(o.Kind))
	dst = le.AppendUint32(dst, o.Flags)
	dst = le.AppendUint64(dst, uint64(o.Size))
	dst = appendTime(dst, o.Created)
	dst = appendText8(dst, "name of an object", o.Name, MaxName)
	return appendCRC(dst, start, &key)
}

func (o *Object) valid() bool {
	return (o.Kind == Export || o.Kind == File) && o.Flags&^objectFlags == 0 && o.Size >= 0
}

// ParseObject is the reverse of Pack. Times come back in UTC.
func ParseObject(key Key, b []byte) (Object, error) {
	f, err := openRecord(&key, SpaceObject, b)
	if err != nil {
		return Object{}, err
	}
	_, number, rest := key.Parts()
	r := reader{b: f}
	o := Object{Number: number}
	o.Kind = ObjectKind(r.u8())
	o.Flags = r.u32()
	o.Size = int64(r.u64())
	o.Created = r.time()
	o.Name = r.text8(MaxName)
	if !r.done() || !o.valid() || rest != 0 {
		return Object{}, corrupt(key, "fields of an object, %d bytes", len(b))
	}
	return o, nil
}
