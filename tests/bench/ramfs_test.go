//go:build bench

package bench

import (
	"bufio"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ramVariable holds where a process of this test binary is to mount a file system in RAM; checkedVariable is set
// for one with permissions, see checkedFS.
const (
	ramVariable     = "BALLAST_BENCH_RAMFS"
	checkedVariable = "BALLAST_BENCH_RAMFS_CHECKED"
)

// ramFS is as little of a file system as go-fuse can serve: files and directories in RAM, no
// permissions, times or journal. What it does is the ceiling for everything that has to see the
// bytes.
type ramFS struct {
	fuse.RawFileSystem
	seed maphash.Seed

	mu    sync.RWMutex
	nodes map[uint64]*ramNode
	next  uint64
}

// checkedFS is a ramFS that the kernel asks what it asks of any file system with permissions and extended
// attributes: for the attributes of a directory again after each change of a name, as it checks permissions by
// them (default_permissions), and for security.capability at the first write to a file and with each chown.
type checkedFS struct{ *ramFS }

func (checkedFS) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOATTR
}

type ramNode struct {
	ino, mode uint64
	links     uint32
	kids      map[string]*ramNode
	order     []ramEntry // of kids, by cookie, while it is valid
	data      []byte
	mtime     uint64
}

type ramEntry struct {
	name   string
	node   *ramNode
	cookie uint64
}

func newRAMFS() *ramFS {
	f := &ramFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), seed: maphash.MakeSeed(), nodes: map[uint64]*ramNode{}, next: 1}
	f.add(syscall.S_IFDIR | 0o755)
	return f
}

func (f *ramFS) add(mode uint32) *ramNode {
	n := &ramNode{ino: f.next, mode: uint64(mode), links: 1}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.kids, n.links = map[string]*ramNode{}, 2
	}
	f.next++
	f.nodes[n.ino] = n
	return n
}

func (n *ramNode) fill(a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink, a.Size, a.Blksize, a.Mtime = n.ino, uint32(n.mode), n.links, uint64(len(n.data)), 4096, n.mtime
	a.Blocks = (a.Size + 511) / 512
}

func (n *ramNode) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.ino, 1
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	n.fill(&out.Attr)
}

func (f *ramFS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if n := f.nodes[in.NodeId].kids[name]; n != nil {
		n.entry(out)
	} else {
		out.SetEntryTimeout(time.Hour)
	}
	return fuse.OK
}

func (f *ramFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out.SetTimeout(time.Hour)
	f.nodes[in.NodeId].fill(&out.Attr)
	return fuse.OK
}

func (f *ramFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if size, ok := in.GetSize(); ok {
		n.resize(int(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | uint64(mode)
	}
	out.SetTimeout(time.Hour)
	n.fill(&out.Attr)
	return fuse.OK
}

func (n *ramNode) resize(size int) {
	if size > cap(n.data) {
		n.data = slices.Grow(n.data, size-len(n.data))
	}
	was := len(n.data)
	n.data = n.data[:size]
	if size > was {
		clear(n.data[was:])
	}
}

func (f *ramFS) make(parent uint64, name string, mode uint32, out *fuse.EntryOut) *ramNode {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, p := f.add(mode), f.nodes[parent]
	p.kids[name], p.order = n, nil
	n.entry(out)
	return n
}

func (f *ramFS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f.make(in.NodeId, name, in.Mode|syscall.S_IFDIR, out)
	return fuse.OK
}

func (f *ramFS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	f.make(in.NodeId, name, in.Mode, out)
	return fuse.OK
}

func (f *ramFS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	f.make(in.NodeId, name, syscall.S_IFLNK|0o777, out).data = []byte(target)
	return fuse.OK
}

func (f *ramFS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.nodes[in.NodeId].data, fuse.OK
}

func (f *ramFS) remove(parent uint64, name string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.nodes[parent]
	n := p.kids[name]
	if n == nil {
		return fuse.ENOENT
	}
	if len(n.kids) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	delete(p.kids, name)
	p.order = nil
	n.links = 0
	return fuse.OK
}

func (f *ramFS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in.NodeId, name)
}

func (f *ramFS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in.NodeId, name)
}

func (f *ramFS) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, b := f.nodes[in.NodeId], f.nodes[in.Newdir]
	b.kids[to] = a.kids[from]
	delete(a.kids, from)
	a.order, b.order = nil, nil
	return fuse.OK
}

func (f *ramFS) Forget(ino, _ uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[ino]; n != nil && n.links == 0 {
		delete(f.nodes, ino)
	}
}

func (f *ramFS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (f *ramFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.nodes[in.NodeId]
	if d.order == nil {
		for name, n := range d.kids {
			d.order = append(d.order, ramEntry{name, n, maphash.String(f.seed, name)>>1 | 1})
		}
		slices.SortFunc(d.order, func(a, b ramEntry) int {
			if a.cookie < b.cookie {
				return -1
			}
			return 1
		})
	}
	i, _ := slices.BinarySearchFunc(d.order, in.Offset+1, func(e ramEntry, c uint64) int {
		if e.cookie < c {
			return -1
		}
		return 1
	})
	for _, e := range d.order[i:] {
		plus := out.AddDirLookupEntry(fuse.DirEntry{Name: e.name, Ino: e.node.ino, Mode: uint32(e.node.mode), Off: e.cookie})
		if plus == nil {
			break
		}
		e.node.entry(plus)
	}
	return fuse.OK
}

func (f *ramFS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	f.make(in.NodeId, name, in.Mode|syscall.S_IFREG, &out.EntryOut)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *ramFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&unix.O_TRUNC != 0 {
		f.mu.Lock()
		f.nodes[in.NodeId].resize(0)
		f.mu.Unlock()
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *ramFS) Release(<-chan struct{}, *fuse.ReleaseIn)                 {}
func (f *ramFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status         { return fuse.ENOSYS }
func (f *ramFS) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status         { return fuse.OK }
func (f *ramFS) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status      { return fuse.OK }
func (f *ramFS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status       { return fuse.ENOSYS }
func (f *ramFS) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return fuse.OK }

func (f *ramFS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree, out.NameLen = 4096, 1<<24, 1<<23, 1<<23, 1<<24, 1<<23, 255
	return fuse.OK
}

func (f *ramFS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	d := f.nodes[in.NodeId].data
	from := min(in.Offset, uint64(len(d)))
	return fuse.ReadResultVector([][]byte{d[from:min(from+uint64(in.Size), uint64(len(d)))]}), fuse.OK
}

func (f *ramFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[in.NodeId]
	if end := int(in.Offset) + len(data); end > len(n.data) {
		n.resize(end)
	}
	copy(n.data[in.Offset:], data)
	return uint32(len(data)), fuse.OK
}

// serveRAM mounts a ramFS until SIGTERM; the options are those of Ballast's own mounts, but that nothing is asked
// for the sake of permissions, unless they are checked.
func serveRAM(dir string, checked bool) error {
	options := &fuse.MountOptions{
		AllowOther: true, MaxBackground: 128, MaxWrite: mib, MaxReadAhead: mib, DirectMountStrict: true, FsName: "ram", Name: "ballast-bench",
		ExplicitDataCacheControl: true, DisableXAttrs: true,
		ExtraCapabilities: fuse.CAP_WRITEBACK_CACHE | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_ASYNC_DIO | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_HANDLE_KILLPRIV_V2,
	}
	var ram fuse.RawFileSystem = newRAMFS()
	if checked {
		ram = checkedFS{newRAMFS()}
		options.DisableXAttrs, options.EnableAcl, options.Options = false, true, []string{"default_permissions"}
	}
	server, err := fuse.NewServer(ram, dir, options)
	if err != nil {
		return err
	}
	go server.Serve()
	fmt.Println("ready")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return server.Unmount()
}

// mountRAM has another process serve a ramFS on dir until the test ends, and returns its pid.
func mountRAM(t *testing.T, dir string, checked bool) int {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), ramVariable+"="+dir)
	if checked {
		cmd.Env = append(cmd.Env, checkedVariable+"=1")
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return cmd.Process.Pid
}
