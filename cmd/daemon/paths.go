package daemon

import (
	"context"
	"sync"
	"time"

	"ballast/striping"
)

// pathFinder tells where files are of which only the number of the data is known. That takes a pass
// over the name space, on a goroutine of its own, so that nobody has to wait for its end; what it found
// is good for a while.
type pathFinder struct {
	search func(ctx context.Context, objects []uint64) (map[uint64]string, error)
	ctx    context.Context // of searches: ends when the daemon begins to end
	start  func(func())    // runs a goroutine that the daemon waits for

	mu    sync.Mutex
	under chan struct{} // closed at the end of the search under way; nil: there is none
	paths map[uint64]string
	asked map[uint64]bool // objects that paths tells of; nil: the search failed
	at    time.Time
}

const (
	pathsGood = time.Minute
	// pathsWait bounds how long status waits for paths.
	pathsWait = 2 * time.Second
)

// find returns paths of files by their objects. When ctx ends first it returns what is known.
func (f *pathFinder) find(ctx context.Context, objects []uint64) map[uint64]string {
	if f == nil || len(objects) == 0 {
		return nil
	}
	for own := false; ; {
		f.mu.Lock()
		if own || f.goodLocked(objects) {
			defer f.mu.Unlock()
			return f.paths
		}
		if f.under == nil {
			own = true
			f.beginLocked(objects)
		}
		under := f.under
		f.mu.Unlock()
		select {
		case <-under:
		case <-ctx.Done():
			own = true
		}
	}
}

// goodLocked tells whether the last search was for these objects too, and not long ago.
func (f *pathFinder) goodLocked(objects []uint64) bool {
	for _, o := range objects {
		if !f.asked[o] {
			return false
		}
	}
	return time.Since(f.at) < pathsGood
}

func (f *pathFinder) beginLocked(objects []uint64) {
	under := make(chan struct{})
	f.under = under
	f.start(func() {
		paths, err := f.search(f.ctx, objects)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.paths, f.asked, f.at = paths, nil, time.Now()
		if err == nil {
			f.asked = map[uint64]bool{}
			for _, o := range objects {
				f.asked[o] = true
			}
		}
		f.under = nil
		close(under)
	})
}

// fillBad gives unreadable ranges of files the paths of these.
func (f *pathFinder) fillBad(ctx context.Context, bad []striping.BadRange) {
	var objects []uint64
	for _, b := range bad {
		if b.File != 0 {
			objects = append(objects, b.File)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, pathsWait)
	defer cancel()
	paths := f.find(ctx, objects)
	for i := range bad {
		bad[i].Path = paths[bad[i].File]
	}
}

// fillLoss does so for what would be lost.
func (f *pathFinder) fillLoss(ctx context.Context, l *striping.Loss) {
	var objects []uint64
	for _, o := range l.Objects {
		if o.File != 0 {
			objects = append(objects, o.File)
		}
	}
	paths := f.find(ctx, objects)
	for i := range l.Objects {
		l.Objects[i].Path = paths[l.Objects[i].File]
	}
}
