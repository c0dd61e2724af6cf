package daemon

import (
	"context"
	"sync"
	"time"

	"ballast/fusefs/names"
	"ballast/striping"
)

// pathFinder tells where files are of which only the number of the data is known. That takes a pass
// over the name space, so what it found is good for a while.
type pathFinder struct {
	tree *names.Tree // nil: it knows none

	mu    sync.Mutex
	paths map[uint64]string
	asked map[uint64]bool
	at    time.Time
}

const (
	pathsGood = time.Minute
	// pathsWait bounds how long status waits for paths.
	pathsWait = 2 * time.Second
)

// find returns paths of files by their objects, as many as it finds before ctx ends.
func (f *pathFinder) find(ctx context.Context, objects []uint64) map[uint64]string {
	if f == nil || f.tree == nil || len(objects) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	good := time.Since(f.at) < pathsGood
	for _, o := range objects {
		good = good && f.asked[o]
	}
	if good {
		return f.paths
	}
	paths, err := f.tree.Paths(ctx, objects)
	if err != nil {
		return paths
	}
	f.paths, f.asked, f.at = paths, map[uint64]bool{}, time.Now()
	for _, o := range objects {
		f.asked[o] = true
	}
	return paths
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
