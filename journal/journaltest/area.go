package journaltest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"ballast/journal"
)

// Area is a journal area in memory with a volatile cache: what was written since the last Sync may
// be lost, torn or kept when the power fails.
type Area struct {
	// Hook, if set, is called before each operation with its name (read, write, sync) and with no
	// lock held; an error is the operation's. Set it before the area is used, or by SetHook.
	Hook func(op string, off int64) error
	// Thick makes it one that is not journal.Thin.
	Thick bool

	mu      sync.Mutex
	durable []byte
	now     []byte
	pending []pendingWrite
	written int64
}

type pendingWrite struct {
	off int64
	b   []byte
}

var (
	_ journal.Area = (*Area)(nil)
	_ journal.Thin = (*Area)(nil)
)

// Thin makes the journal write ahead of itself in every test but those that count what it writes.
func (a *Area) Thin() bool { return !a.Thick }

// NewArea returns an area of size zero bytes.
func NewArea(size int64) *Area { return AreaOf(make([]byte, size)) }

// AreaOf returns an area that holds b, durably.
func AreaOf(b []byte) *Area { return &Area{durable: slices.Clone(b), now: slices.Clone(b)} }

// SetHook sets Hook while the area is in use.
func (a *Area) SetHook(hook func(op string, off int64) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Hook = hook
}

func (a *Area) begin(op string, off int64, p []byte) error {
	if off%4096 != 0 || len(p)%4096 != 0 || off < 0 || off+int64(len(p)) > a.Size() {
		return fmt.Errorf("%s of %d bytes at %d", op, len(p), off)
	}
	a.mu.Lock()
	hook := a.Hook
	a.mu.Unlock()
	if hook != nil {
		return hook(op, off)
	}
	return nil
}

// ReadAt implements journal.Area.
func (a *Area) ReadAt(p []byte, off int64) (int, error) {
	if err := a.begin("read", off, p); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return copy(p, a.now[off:]), nil
}

// WriteAt implements journal.Area.
func (a *Area) WriteAt(p []byte, off int64) (int, error) {
	if err := a.begin("write", off, p); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = append(a.pending, pendingWrite{off, slices.Clone(p)})
	a.written += int64(len(p))
	return copy(a.now[off:], p), nil
}

// Sync implements journal.Area.
func (a *Area) Sync() error {
	a.mu.Lock()
	n := len(a.pending)
	a.mu.Unlock()
	if err := a.begin("sync", 0, nil); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.pending[:n] {
		copy(a.durable[w.off:], w.b)
	}
	a.pending = slices.Clone(a.pending[n:])
	return nil
}

// Size implements journal.Area.
func (a *Area) Size() int64 { return int64(len(a.now)) }

// Written is how many bytes were written.
func (a *Area) Written() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.written
}

// Bytes returns what the area holds while the power is on.
func (a *Area) Bytes() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.now)
}

// PowerCut returns what is left if the power fails now: of each write since the last Sync all, none
// or some of its sectors.
func (a *Area) PowerCut(rng *rand.Rand) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := slices.Clone(a.durable)
	for _, w := range a.pending {
		switch rng.IntN(3) {
		case 0:
		case 1:
			copy(left[w.off:], w.b)
		default:
			for at := 0; at < len(w.b); at += 512 {
				if rng.IntN(2) == 0 {
					copy(left[w.off+int64(at):], w.b[at:at+512])
				}
			}
		}
	}
	return left
}

// ErrDisk is an error of a disk, for hooks.
var ErrDisk = errors.New("input/output error")
