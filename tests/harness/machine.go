package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Machine is what loses its power all at once: disks with volatile caches, and another one with a file
// system for the state directory of its Env.
type Machine struct {
	Env   *Env
	Disks []*Sick

	t      testing.TB
	fs     string
	system *Sick
	dir    string // where it is mounted
}

// systemSize is that of the disk with the state directory.
const systemSize = 1 << 30

// NewMachine makes one with disks of such sizes; fs is the file system, ext4 or xfs.
func NewMachine(t testing.TB, fs string, sizes ...int64) *Machine {
	t.Helper()
	Need(t, "mkfs."+fs)
	if !knows(fs) && exec.Command("modprobe", fs).Run() != nil && !knows(fs) {
		t.Skipf("the kernel has no %s", fs)
	}
	m := &Machine{Env: New(t), t: t, fs: fs, dir: MountPoint(t)}
	for _, size := range sizes {
		m.Disks = append(m.Disks, NewSick(t, size))
	}
	m.system = NewSick(t, systemSize)
	Tool(t, m.system.mkfs(fs)[0], m.system.mkfs(fs)[1:]...)
	m.start()
	m.Env.State = filepath.Join(m.dir, "state")
	return m
}

// knows tells whether the kernel knows a file system.
func knows(fs string) bool {
	list, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(list), "\t"+fs+"\n")
}

func (s *Sick) mkfs(fs string) []string {
	if fs == "xfs" {
		return []string{"mkfs.xfs", "-q", "-K", s.Path}
	}
	return []string{"mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", s.Path}
}

func (m *Machine) all() []*Sick { return append([]*Sick{m.system}, m.Disks...) }

// start mounts the file system.
func (m *Machine) start() {
	m.t.Helper()
	for _, s := range m.all() {
		s.Set(Illness{Cache: true})
	}
	Tool(m.t, "mount", "-t", m.fs, m.system.Path, m.dir)
}

// PowerFails stops all disks where they are, and the daemon, which does not see it. Cut goes on.
func (m *Machine) PowerFails(d *Daemon) error {
	var errs []error
	for _, i := range []Illness{{Cache: true, Hang: true}, {Cache: true, Fail: true}} {
		for _, s := range m.all() {
			errs = append(errs, s.tell(order{Illness: i}))
		}
		if i.Hang {
			d.Signal(syscall.SIGKILL) // whoever waits for a disk never runs again
		}
	}
	<-d.Ended()
	return errors.Join(errs...)
}

// Cut has each disk lose what chance wants of what it had not flushed, and starts the machine again.
func (m *Machine) Cut(rng *rand.Rand) {
	m.t.Helper()
	if err := unix.Unmount(m.dir, 0); err != nil {
		m.t.Fatalf("unmounting the state directory: %v", err)
	}
	for _, s := range m.all() {
		if err := s.forget(); err != nil {
			m.t.Fatal(err)
		}
		seed := rng.Uint64()
		if err := s.tell(order{Cut: &seed}); err != nil {
			m.t.Fatal(err)
		}
	}
	m.start()
}

// forget drops what the kernel has cached of a device.
func (s *Sick) forget() error {
	dev, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	unix.Fsync(int(dev.Fd())) // the dead disk takes none of it
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("%s: dropping what is cached: %w", s.Path, err)
	}
	return nil
}
