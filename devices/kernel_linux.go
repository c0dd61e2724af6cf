package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs/blockdevice"
)

// SampleInterval is how often a Sampler looks, unless told otherwise.
const SampleInterval = 100 * time.Millisecond

// ErrNoStats is returned by NewSampler for disks of which the kernel keeps no statistics.
var ErrNoStats = errors.New("kernel keeps no statistics of this disk")

// KernelLoad is what the kernel saw a whole disk do in an interval, by whomever.
type KernelLoad struct {
	At       time.Time     // end of the interval
	Interval time.Duration // 0: nothing is known yet
	InFlight int           // requests at its end
	// Queue is the mean number of requests in flight, by Little's law: the time that all
	// requests together have spent in the queue, over the interval. The kernel's own busy time
	// (io_ticks) is not used: many kernels sample it once per tick and are far off.
	Queue                  float64
	Reads, Writes, Others  int64 // completed requests; others are discards and flushes
	ReadBytes, WriteBytes  int64
	ReadTime, WriteTime    time.Duration // sums over these requests, queueing included
	DiscardBytes, Unmerged int64         // Unmerged: requests as they were handed in, before merging
}

// IOs is the number of completed requests.
func (k *KernelLoad) IOs() int64 { return k.Reads + k.Writes + k.Others }

// Bytes is what was read and written.
func (k *KernelLoad) Bytes() int64 { return k.ReadBytes + k.WriteBytes }

// kernelLoad is the difference of two readings. Counters that have gone back, as those of a
// disk that was taken away and has returned, give a load with Interval 0.
func kernelLoad(before, after blockdevice.IOStats, at time.Time, interval time.Duration) KernelLoad {
	k := KernelLoad{At: at, InFlight: int(after.IOsInProgress)}
	const sector = 512 // whatever the disk's own is
	if interval <= 0 || after.ReadIOs < before.ReadIOs || after.WriteIOs < before.WriteIOs ||
		after.ReadSectors < before.ReadSectors || after.WriteSectors < before.WriteSectors {
		return k
	}
	k.Interval = interval
	k.Queue = float64(tickDelta(before.WeightedIOTicks, after.WeightedIOTicks)) / float64(interval)
	k.Reads = int64(after.ReadIOs - before.ReadIOs)
	k.Writes = int64(after.WriteIOs - before.WriteIOs)
	k.Others = max(0, int64(after.DiscardIOs-before.DiscardIOs)) + max(0, int64(after.FlushRequestsCompleted-before.FlushRequestsCompleted))
	k.ReadBytes = int64(after.ReadSectors-before.ReadSectors) * sector
	k.WriteBytes = int64(after.WriteSectors-before.WriteSectors) * sector
	k.DiscardBytes = max(0, int64(after.DiscardSectors-before.DiscardSectors)) * sector
	k.ReadTime = tickDelta(before.ReadTicks, after.ReadTicks)
	k.WriteTime = tickDelta(before.WriteTicks, after.WriteTicks)
	k.Unmerged = k.IOs() + max(0, int64(after.ReadMerges-before.ReadMerges)) +
		max(0, int64(after.WriteMerges-before.WriteMerges)) + max(0, int64(after.DiscardMerges-before.DiscardMerges))
	return k
}

// tickDelta is the time between two readings of a millisecond counter, which the kernel prints
// with 32 bits: it turns over every 49 days.
func tickDelta(before, after uint64) time.Duration {
	if after >= before {
		return time.Duration(after-before) * time.Millisecond
	}
	return time.Duration(uint32(after)-uint32(before)) * time.Millisecond
}

// OwnLoad is what a device has done itself in the interval of a KernelLoad.
type OwnLoad struct {
	IOs, Bytes int64 // completed
	InFlight   int   // handed to the disk and not returned, at the end of the interval
}

// Foreign is what others have done to a disk in an interval.
type Foreign struct {
	IOs, Bytes int64
	InFlight   int
	// Share is the part of the interval for which others kept the disk busy: the time it had
	// something to do, as far as Queue tells, in proportion to their part of the bytes.
	Share float64
}

// ForeignLoad is the kernel's view less one's own. Its figures are off by up to what was in
// flight at either end, as the kernel and the device do not count at the same moment: look at
// several intervals before believing in a small one. Requests are compared unmerged, and may
// still differ from the device's where large ones are split; bytes do not.
func ForeignLoad(k KernelLoad, own OwnLoad) Foreign {
	f := Foreign{
		Bytes:    max(0, k.Bytes()-own.Bytes),
		InFlight: max(0, k.InFlight-own.InFlight),
	}
	if k.Interval <= 0 {
		return Foreign{InFlight: f.InFlight}
	}
	f.IOs = max(0, k.Unmerged-own.IOs)
	if total := k.Bytes(); total > 0 {
		f.Share = min(1, k.Queue) * float64(f.Bytes) / float64(total)
	}
	return f
}

// Sampler reads the kernel's statistics of one whole disk at intervals. It is safe for
// concurrent use; one goroutine belongs to it until Close.
type Sampler struct {
	read func() (blockdevice.IOStats, error)
	own  func() OwnLoad // may be nil
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex // never held while reading
	last    KernelLoad
	foreign Foreign
	err     error
}

// NewSampler starts to sample a disk, named as in File.DiskName. every 0 means SampleInterval. own,
// if not nil, tells what all users of the disk that are not foreign have done until now, and have
// in flight; it must not wait.
func NewSampler(disk string, every time.Duration, own func() OwnLoad) (*Sampler, error) {
	read, err := kernelStats(disk)
	if err != nil {
		return nil, fmt.Errorf("disk %q: %w", disk, err)
	}
	return startSampler(read, every, own)
}

// kernelStats returns a function that reads the counters of a whole disk.
func kernelStats(disk string) (func() (blockdevice.IOStats, error), error) {
	if disk == "" || disk != filepath.Base(disk) || disk == ".." || disk == "." {
		return nil, ErrNoStats
	}
	if on, err := os.ReadFile(filepath.Join("/sys/block", disk, "queue/iostats")); err == nil && strings.TrimSpace(string(on)) == "0" {
		return nil, fmt.Errorf("%w: queue/iostats is 0", ErrNoStats)
	}
	fs, err := blockdevice.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	return func() (blockdevice.IOStats, error) {
		stats, _, err := fs.SysBlockDeviceStat(disk)
		return stats, err
	}, nil
}

func startSampler(read func() (blockdevice.IOStats, error), every time.Duration, own func() OwnLoad) (*Sampler, error) {
	if every <= 0 {
		every = SampleInterval
	}
	before, err := read()
	if err != nil {
		return nil, err
	}
	s := &Sampler{read: read, own: own, stop: make(chan struct{})}
	s.last.InFlight, s.last.At = int(before.IOsInProgress), time.Now()
	s.wg.Go(func() { s.run(before, s.last.At, every) }) // until Close
	return s, nil
}

func (s *Sampler) run(before blockdevice.IOStats, at time.Time, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var did OwnLoad
	if s.own != nil {
		did = s.own()
	}
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		after, err := s.read()
		now := time.Now()
		own := did
		if s.own != nil {
			own = s.own()
		}
		s.mu.Lock()
		if s.err = err; err == nil {
			s.last = kernelLoad(before, after, now, now.Sub(at))
			s.foreign = ForeignLoad(s.last, OwnLoad{own.IOs - did.IOs, own.Bytes - did.Bytes, own.InFlight})
			before, at, did = after, now, own
		}
		s.mu.Unlock()
	}
}

// Last returns the newest interval. An error says why the newest reading did not succeed; the
// load is then the one before, and the next covers the gap.
func (s *Sampler) Last() (KernelLoad, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.err
}

// Foreign returns what others did in the newest interval.
func (s *Sampler) Foreign() Foreign {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.foreign
}

// Close ends the sampling and waits until it has ended.
func (s *Sampler) Close() error {
	s.once.Do(func() { close(s.stop) })
	s.wg.Wait()
	return nil
}
