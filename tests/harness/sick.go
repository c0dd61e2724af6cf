package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// sickVariable has this test binary serve a disk: the value is "MOUNTPOINT:FILE".
const sickVariable = "BALLAST_SICK_DISK"

// Illness is what is wrong with a [Sick] disk. The zero value is a disk that is well and as fast as
// the machine.
type Illness struct {
	Rate  float64 // bytes per second; 0: no limit
	Slow  float64 // times slower than that; 0: 1
	Stall time.Duration
	Every time.Duration // begins a Stall
	Hang  bool          // nothing is answered until another Illness is set
	Fail  bool          // everything is an I/O error
	Flush time.Duration // what a flush takes besides
	// FailReads are ranges of 4 KiB that cannot be read.
	FailReads []int64
	// Cache keeps what is written until the next flush, so that [Sick.Cut] may lose it.
	Cache bool
}

// order is what a disk is told: what is wrong with it from now on, or that its power fails.
type order struct {
	Illness
	Cut *uint64 // the seed of what is lost
}

// Sick is a block device that falls ill when told to: a loop device over the only file of a FUSE file
// system, which a process of its own serves from a sparse file.
type Sick struct {
	*Loop
	t     testing.TB
	store string // what its content is in
	dir   string
	cmd   *exec.Cmd
	say   io.WriteCloser
	hear  *bufio.Scanner
}

// NewSick makes such a disk, or skips the test where that is not possible.
func NewSick(t testing.TB, size int64) *Sick {
	t.Helper()
	NeedRoot(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		Missing(t, "/dev/fuse")
	}
	s := &Sick{t: t, store: SparseRAM(t, size), dir: MountPoint(t)}
	s.serve()
	s.attach()
	return s
}

// serve starts the process.
func (s *Sick) serve() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(self)
	s.cmd.Env = append(os.Environ(), sickVariable+"="+s.dir+":"+s.store)
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it ends with its pipe, whichever thread of ours does
	say, err := s.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	hear, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.say, s.hear = say, bufio.NewScanner(hear)
	if err := s.answer(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Sick) answer() error {
	if !s.hear.Scan() || s.hear.Text() != "ok" {
		return fmt.Errorf("the sick disk's process says %q: %w", s.hear.Text(), s.hear.Err())
	}
	return nil
}

// Set changes what is wrong with the disk, from the next operation on; what hangs goes on.
func (s *Sick) Set(i Illness) {
	s.t.Helper()
	if err := s.tell(order{Illness: i}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Sick) tell(o order) error {
	text, err := json.Marshal(o)
	if err == nil {
		_, err = s.say.Write(append(text, '\n'))
	}
	if err != nil {
		return err
	}
	return s.answer()
}

// Vanish takes the disk away: everything on it is an error from now on.
func (s *Sick) Vanish() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.say.Close()
	s.cmd = nil
	unix.Unmount(s.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// Return brings a disk that vanished back, as another block device with the same content.
func (s *Sick) Return() {
	s.t.Helper()
	s.serve()
	s.attach()
}

// attach makes the block device. What hangs is an error when the test ends, before anybody waits for it.
func (s *Sick) attach() {
	s.t.Helper()
	s.t.Cleanup(s.Vanish) // before what it mounted is taken away
	s.Loop = NewLoop(s.t, filepath.Join(s.dir, "disk"))
	s.t.Cleanup(s.Vanish)
}

// serveSick is the process of a sick disk.
func serveSick(dir, store string) error {
	f, err := os.OpenFile(store, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	d := &sickDisk{f: f, size: st.Size(), changed: make(chan struct{})}
	root := &fs.Inode{}
	_, err = fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "sickdisk", MaxWrite: 512 << 10, AllowOther: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFREG, Ino: 2}), true)
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("ok")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		if err == nil && o.Cut != nil {
			err = d.cache.cut(d.f, *o.Cut)
		} else if err == nil {
			d.set(o.Illness)
		}
		if err != nil {
			return err
		}
		fmt.Println("ok")
	}
	d.set(Illness{Fail: true})
	return unix.Unmount(dir, unix.MNT_DETACH)
}

// sickDisk is the file.
type sickDisk struct {
	fs.Inode
	f     *os.File
	size  int64
	cache cache

	mu      sync.Mutex
	i       Illness
	changed chan struct{} // closed when i is replaced
	free    time.Time     // when the disk is through with what it got
}

var (
	_ fs.NodeGetattrer = (*sickDisk)(nil)
	_ fs.NodeOpener    = (*sickDisk)(nil)
	_ fs.NodeReader    = (*sickDisk)(nil)
	_ fs.NodeWriter    = (*sickDisk)(nil)
	_ fs.NodeFsyncer   = (*sickDisk)(nil)
)

func (d *sickDisk) set(i Illness) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.i, d.free = i, time.Time{}
	close(d.changed)
	d.changed = make(chan struct{})
}

// suffer takes the time that an operation takes and returns whether it fails.
func (d *sickDisk) suffer(size int64) syscall.Errno {
	for {
		d.mu.Lock()
		i, changed := d.i, d.changed
		now := time.Now()
		var wait time.Duration
		if i.Every > 0 {
			if at := time.Duration(now.UnixNano()) % i.Every; at < i.Stall {
				wait = i.Stall - at
			}
		}
		if wait == 0 && i.Rate > 0 && !i.Hang && !i.Fail {
			took := time.Duration(float64(size) / i.Rate * max(1, i.Slow) * float64(time.Second))
			// What a sleep took too long is made up for: it would add up to a slower disk.
			if late := now.Add(-sleepSlack); d.free.Before(late) {
				d.free = late
			}
			d.free = d.free.Add(took)
			end := d.free
			d.mu.Unlock()
			sleepUntil(end)
			return 0
		}
		d.mu.Unlock()
		switch {
		case i.Fail:
			return syscall.EIO
		case i.Hang:
			<-changed
		case wait > 0:
			time.Sleep(wait)
		default:
			return 0
		}
	}
}

// sleepSlack is how late sleepUntil may return, but for a busy machine.
const sleepSlack = 200 * time.Microsecond

// sleepUntil is time.Sleep for fractions of a millisecond, which that one rounds up where nothing else runs.
func sleepUntil(end time.Time) {
	for {
		left := time.Until(end)
		if left < sleepSlack/4 {
			return
		}
		wait := unix.NsecToTimespec(int64(left))
		_ = unix.Nanosleep(&wait, nil) // a signal ends it too soon
	}
}

func (d *sickDisk) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blocks, out.Ino = syscall.S_IFREG|0o600, uint64(d.size), uint64(d.size/512), 2
	return 0
}

func (d *sickDisk) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (d *sickDisk) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := d.suffer(int64(len(p))); errno != 0 {
		return nil, errno
	}
	for _, b := range d.illness().FailReads {
		if b < off+int64(len(p)) && off < b+4096 {
			return nil, syscall.EIO
		}
	}
	n, err := d.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(p[:n]), 0
}

func (d *sickDisk) Write(_ context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	i := d.illness()
	if errno := d.suffer(int64(len(p))); errno != 0 {
		if i.Cache && i.Hang { // it was on its way when the power failed
			d.cache.float(p, off)
		}
		return 0, errno
	}
	write := d.f.WriteAt
	if i.Cache {
		write = func(p []byte, off int64) (int, error) { return d.cache.write(d.f, p, off) }
	}
	n, err := write(p, off)
	if err != nil {
		return 0, syscall.EIO
	}
	return uint32(n), 0
}

func (d *sickDisk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	written := d.cache.written()
	time.Sleep(d.illness().Flush)
	errno := d.suffer(0)
	if errno == 0 {
		d.cache.flushed(written)
	}
	return errno
}

func (d *sickDisk) illness() Illness {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.i
}
