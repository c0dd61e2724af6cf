package daemon

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"ballast/striping"
)

// ownMemory sets up the memory of a process that is the daemon's alone, until ctx ends.
func ownMemory(ctx context.Context) {
	striping.MapBuffers()
	if os.Getenv("GOGC") == "" {
		go tuneCollector(ctx)
	}
}

// ownThreads lets more threads run Go code than there are processors, if those are few: one that waits for
// the next request of the kernel, or for a disk, counts as running for some time, and others would
// wait for it. What opening a volume does at once for each of them it has done before.
func ownThreads() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(threadsFor(runtime.GOMAXPROCS(0)))
	}
}

func threadsFor(processors int) int {
	const enough = 8
	return max(processors, min(2*processors, enough))
}

// The heap of the daemon is small, for buffers are no part of it, and what it allocates for each
// request is garbage soon after. By the collector's own measure, which lets the heap grow to twice of what
// is in use, it would run many times a second. So it may always grow by collectorRoom, and by no more than that or
// a quarter: what compactions of the journal use for a moment is large, and has no pointers to follow.
const (
	collectorRoom = 64 << 20 // bytes
	collectorLook = time.Second
)

// collectorPercent is how much the heap may grow, in percent of what is in use.
func collectorPercent(used int64) int {
	const least = 25
	return int(max(least, 100*collectorRoom/max(used, 4<<20)))
}

// tuneCollector follows how much of the heap is in use until ctx ends.
func tuneCollector(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	was := 0
	t := time.NewTicker(collectorLook)
	defer t.Stop()
	for {
		metrics.Read(sample)
		if percent := collectorPercent(int64(sample[0].Value.Uint64())); percent != was {
			debug.SetGCPercent(percent)
			was = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
