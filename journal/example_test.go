package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"ballast/journal"
)

func ExampleStore() {
	parent, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(parent)
	dir, uuid := filepath.Join(parent, "journal"), [16]byte{1}
	if err := journal.Create(dir, uuid); err != nil {
		panic(err)
	}
	s, err := journal.Open(dir, journal.Options{UUID: uuid})
	if err != nil {
		panic(err)
	}
	defer s.Close()

	key := journal.MakeKey(journal.SpaceChunk, 6, 81)
	chunk := journal.Chunk{
		Generation: 1, Version: 1, Slot: 8, Copies: []journal.Copy{{Device: 2, Off: 1 << 20}},
		Written: []uint64{0b11}, Sums: []uint32{0x1234, 0x5678},
	}
	var b journal.Batch
	b.Put(key, chunk.Pack(key))
	if err := s.Commit(context.Background(), &b); err != nil {
		panic(err) // not durable, and with journal.ErrDead nothing will be
	}

	value, err := s.Get(key)
	if err != nil {
		panic(err)
	}
	again, err := journal.ParseChunk(key, value)
	fmt.Println(key, again.Copies, err)
	fmt.Println(s.State().Seq, s.State().Count)
	// Output:
	// C 6/81 [{2 false 1048576}] <nil>
	// 1 1
}
