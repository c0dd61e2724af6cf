package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/ristretto/v2/z"
)

// Through transactions a store is written three times and more: to a log, to a table made of it, and
// again with every compaction, with a flush of the disk each time. Records that come by ascending
// key need none of this: Badger's StreamWriter makes tables of its last level of them, each on
// stable media before the MANIFEST names it. What is half made is known by its place, badger.new.

// builder makes the files of a store out of records that come by ascending key.
type builder struct {
	db   *badger.DB
	w    *badger.StreamWriter
	buf  *z.Buffer
	last Key
	any  bool
}

// buildBatch is how many bytes are handed to Badger at once.
const buildBatch = 1 << 20

// buildTable is what Badger multiplies by 2^5 for tables of the last level: 16 MiB, up to 16 of which
// are in memory while they wait for the disk.
const buildTable = 512 << 10

// openBuilder makes Badger's files in path, an empty directory.
func openBuilder(path string, wire *tripwire) (*builder, error) {
	o := badgerOptions(filepath.Dir(path), wire)
	o.Dir, o.ValueDir = path, path
	// Tables and MANIFEST are synced nonetheless, and nothing goes through a log. All is read again when it
	// is done, as each table is otherwise when it has been written.
	db, err := badger.Open(o.WithSyncWrites(false).WithBaseTableSize(buildTable).WithChecksumVerificationMode(options.NoVerification))
	if err != nil {
		return nil, err
	}
	b := &builder{db: db, w: db.NewStreamWriter(), buf: z.NewBuffer(buildBatch+buildBatch/4, "journal")}
	if err := b.w.Prepare(); err != nil {
		b.abandon()
		return nil, err
	}
	return b, nil
}

// add takes the next record. It keeps nothing of value.
func (b *builder) add(key Key, value []byte) error {
	if b.any && compareKeys(&key, &b.last) <= 0 { // Badger would end the process
		return fmt.Errorf("journal: record %v is built after %v", key, b.last)
	}
	b.last, b.any = key, true
	appendKV(b.buf, &key, value)
	if b.buf.LenNoPadding() < buildBatch {
		return nil
	}
	return b.send()
}

// appendKV adds a [pb.KV] as badger.KVToBuffer does, which takes seven times as long.
func appendKV(to *z.Buffer, key *Key, value []byte) {
	const keyField, valueField, versionField = 1<<3 | 2, 2<<3 | 2, 4 << 3
	n := 2 + len(key) + 2
	if len(value) > 0 {
		n += 1 + uvarintSize(len(value)) + len(value)
	}
	dst := append(to.SliceAllocate(n)[:0], keyField, byte(len(key)))
	dst = append(dst, key[:]...)
	if len(value) > 0 {
		dst = binary.AppendUvarint(append(dst, valueField), uint64(len(value)))
		dst = append(dst, value...)
	}
	_ = append(dst, versionField, 1)
}

// uvarintSize is the length of a varint.
func uvarintSize(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }

func (b *builder) send() error {
	err := b.w.Write(b.buf)
	b.buf.Reset()
	return err
}

// finish makes all records durable. The store stays open, to be read.
func (b *builder) finish() error {
	err := b.send()
	if err == nil {
		err = b.w.Flush()
	}
	if err != nil {
		b.abandon()
		return err
	}
	return b.buf.Release()
}

// abandon ends it without a store.
func (b *builder) abandon() {
	b.w.Cancel()
	b.buf.Release()
	b.db.Close()
}

// Build makes a journal in dir, as Create does, of records that come by ascending key: millions of them,
// much faster than commits would.
func Build(dir string, uuid [16]byte, records func(add func(Key, []byte) error) error) error {
	if err := Create(dir, uuid); err != nil {
		return err
	}
	// Until all is there, it is no journal.
	mark, path := filepath.Join(dir, storeName), filepath.Join(dir, badgerName)
	if err := errors.Join(os.Remove(mark), os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
		return err
	}
	b, err := openBuilder(path, &tripwire{log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	state := State{Seq: 1}
	if err := records(func(key Key, value []byte) error {
		state.Count++
		state.Digest = state.Digest.Add(RecordDigest(key, value))
		return b.add(key, value)
	}); err != nil {
		b.abandon()
		return err
	}
	if err := b.finish(); err != nil {
		return err
	}
	err = b.db.Update(func(txn *badger.Txn) error {
		return txn.Set(metaKey[:], (&meta{state, uuid}).pack())
	})
	if err = errors.Join(err, b.db.Close(), syncDir(path)); err != nil {
		return err
	}
	return writeDurably(mark, packStoreFile(uuid, time.Now()))
}
