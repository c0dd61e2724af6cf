package journal

import "fmt"

// Limits of one batch, which must fit into one transaction. A caller with more divides it, at a
// place where the parts make sense alone.
const (
	MaxBatchOps   = 20_000
	MaxBatchBytes = 2 << 20 // by Batch.Bytes
	MaxValueBytes = 512 << 10
)

// Bytes returns the size of the batch's keys and values.
func (b *Batch) Bytes() int {
	n := 0
	for i := range b.Ops {
		n += b.Ops[i].Bytes()
	}
	return n
}

// Bytes returns the size of key and value.
func (o *Op) Bytes() int { return len(o.Key) + len(o.Value) }

// Check returns ErrTooBig for a batch or a value beyond the limits. It panics if the batch touches the
// journal's own record or has a key that MakeKey does not make.
func (b *Batch) Check() error {
	size := 0
	for i := range b.Ops {
		if k := b.Ops[i].Key; k.Space() == SpaceReserve || k[0] == 0 || k[1] != 0 {
			panic(fmt.Sprintf("journal: batch changes key %v", k))
		}
		if n := len(b.Ops[i].Value); n > MaxValueBytes {
			return fmt.Errorf("%w: a value of %d bytes, limit %d", ErrTooBig, n, MaxValueBytes)
		}
		size += b.Ops[i].Bytes()
	}
	if len(b.Ops) > MaxBatchOps || size > MaxBatchBytes {
		return fmt.Errorf("%w: %d changes of %d bytes, limits %d and %d", ErrTooBig, len(b.Ops), size, MaxBatchOps, MaxBatchBytes)
	}
	return nil
}
