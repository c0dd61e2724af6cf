package journal

import (
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A ring carries what its tail holds alive to its head: what is alive in f of a ring is written f/(1-f)
// times more for each byte that is added. Up to three quarters that keeps pace with any load; beyond, a
// copy is lost. Whoever keeps the volume is told at half.

// roomEvery is how often the room of the copies is looked at.
const roomEvery = 10 * time.Second

// CopyRoom is how many bytes of records a copy in an area of that size holds under any load.
func CopyRoom(area int64) int64 { return int64(ringSize(area)) / 4 * 3 }

// FullChunkBytes is what the record of a chunk that is written as a whole takes in a copy.
func FullChunkBytes(chunk int64, copies int) int64 {
	return int64(len(Key{})) + 4 + chunkFixed + chunkPerCopy*int64(copies) + chunk/BlockSize*4 + crcSize
}

// watchRoom tells ahead of copies that the journal is about to outgrow.
func (k *keeper) watchRoom() {
	t := time.NewTicker(min(roomEvery, k.opts.Retry))
	defer t.Stop()
	told := map[[16]byte]int64{}
	for next := time.Now(); ; {
		if start := time.Now(); !start.Before(next) {
			k.lookAtRoom(told)
			next = time.Now().Add(20 * time.Since(start)) // a small share of a processor
		}
		select {
		case <-k.quit:
			return
		case <-t.C:
		}
	}
}

// lookAtRoom counts what is alive if the store is so large that it could matter: its tables hold what
// was overwritten as well, and are never smaller.
func (k *keeper) lookAtRoom(told map[[16]byte]int64) {
	k.mu.Lock()
	least := int64(0)
	copies := make([]Place, 0, copiesMost)
	for _, c := range k.copies {
		if n := int64(c.ringSize()); c.state == CopyGood {
			copies = append(copies, c.place)
			if least == 0 || n < least {
				least = n
			}
		}
	}
	k.mu.Unlock()
	live := int64(0)
	if len(copies) > 0 && k.s.atMost() > least/2 {
		var err error
		if live, err = k.s.live(k.quit); err != nil {
			return // it closes, or finds out by itself
		}
	}
	k.mu.Lock()
	k.live = live
	k.mu.Unlock()
	for _, p := range copies {
		size := int64(ringSize(p.Area.Size()))
		if live <= max(size/2, told[p.Device]+told[p.Device]/2) {
			continue
		}
		told[p.Device] = live
		text := fmt.Sprintf("the journal takes %d KiB; a copy there is given up when it takes some %d KiB", live>>10, CopyRoom(p.Area.Size())>>10)
		k.log.Warn("a copy of the journal gets full", "device", p.Name, "what", text)
		if k.opts.Tell != nil {
			k.opts.Tell(p.Name, text)
		}
	}
}

// atMost is more than what is alive takes.
func (s *Store) atMost() int64 {
	n := 2 * memTable
	for _, t := range s.db.Tables() {
		n += int64(t.OnDiskSize)
	}
	return n
}

// live counts the bytes of all records as a copy has them.
func (s *Store) live(quit <-chan struct{}) (n int64, err error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{})
	defer it.Close()
	seen := 0
	for it.Rewind(); it.Valid(); it.Next() {
		seen++
		s.scanned(seen, txn)
		select {
		case <-quit:
			return 0, ErrClosed
		default:
		}
		if item := it.Item(); item.Key()[0] != byte(SpaceReserve) {
			n += item.KeySize() + 4 + item.ValueSize()
		}
	}
	return n, nil
}
