package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ballast/tests/harness"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
)

// badFS is a file system on a disk that goes bad when it is told to.
type badFS struct {
	noWrites   atomic.Bool     // writes and syncs end with EIO
	noReads    map[uint64]bool // and reads of these inodes; set before mounting
	noNewReads string          // and of files made from now on that end so; set before mounting
	made       sync.Map        // inodes of these
	refused    atomic.Int64    // operations that ended so
}

func (b *badFS) fails(bad bool) bool {
	if bad {
		b.refused.Add(1)
	}
	return bad
}

// badNode passes everything on to a real file system but what is read and written.
type badNode struct {
	*fs.LoopbackNode
	bad *badFS
}

var (
	_ fs.NodeOpener      = (*badNode)(nil)
	_ fs.NodeCreater     = (*badNode)(nil)
	_ fs.NodeWrapChilder = (*badNode)(nil)
)

func (n *badNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &badNode{child.(*fs.LoopbackNode), n.bad}
}

func (n *badNode) wrap(ctx context.Context, h fs.FileHandle) (fs.FileHandle, syscall.Errno) {
	file := h.(*fs.LoopbackFile)
	var a fuse.AttrOut
	errno := file.Getattr(ctx, &a)
	_, made := n.bad.made.Load(a.Ino)
	return &badFile{file, n.bad.noReads[a.Ino] || made, n.bad}, errno
}

func (n *badNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, flags, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	h, errno = n.wrap(ctx, h)
	return h, flags, errno
}

func (n *badNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, flags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	if end := n.bad.noNewReads; end != "" && strings.HasSuffix(name, end) {
		n.bad.made.Store(inode.StableAttr().Ino, true)
	}
	h, errno = n.wrap(ctx, h)
	return inode, h, flags, errno
}

// badFile is an open file; it names the operations it has, so that none gets around it.
type badFile struct {
	file       *fs.LoopbackFile
	unreadable bool
	bad        *badFS
}

func (f *badFile) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if f.bad.fails(f.unreadable) {
		return nil, syscall.EIO
	}
	return f.file.Read(ctx, p, off)
}

func (f *badFile) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if f.bad.fails(f.bad.noWrites.Load()) {
		return 0, syscall.EIO
	}
	return f.file.Write(ctx, p, off)
}

func (f *badFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if f.bad.fails(f.bad.noWrites.Load()) {
		return syscall.EIO
	}
	return f.file.Fsync(ctx, flags)
}

func (f *badFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if f.bad.fails(f.bad.noWrites.Load()) {
		return syscall.EIO
	}
	return f.file.Allocate(ctx, off, size, mode)
}

func (f *badFile) Flush(ctx context.Context) syscall.Errno   { return f.file.Flush(ctx) }
func (f *badFile) Release(ctx context.Context) syscall.Errno { return f.file.Release(ctx) }

func (f *badFile) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return f.file.Getattr(ctx, out)
}

func (f *badFile) Setattr(ctx context.Context, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return f.file.Setattr(ctx, in, out)
}

// mount mounts the file system, with nothing of it in memory, over a directory, until unmount.
func (b *badFS) mount(t *testing.T, dir, at string) (unmount func()) {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(dir, &st))
	root := &badNode{&fs.LoopbackNode{}, b}
	root.RootData = &fs.LoopbackRoot{Path: dir, Dev: uint64(st.Dev), RootNode: root}
	server, err := fs.Mount(at, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "bad"}})
	require.NoError(t, err)
	return func() { require.NoError(t, server.Unmount()) }
}

// The disk of the state directory ends in I/O errors under a daemon that serves, then at its start.
// Nothing that was acknowledged is lost: it is told, the journal comes back from its copies on the
// devices as soon as the disk takes it, and the devices alone have it all before that.
func TestStoreOnABadDisk(t *testing.T) {
	harness.NeedRoot(t)
	env := harness.New(t)
	disk, mnt := t.TempDir(), harness.MountPoint(t)
	env.State = filepath.Join(mnt, "state")
	bad := &badFS{}
	unmount := bad.mount(t, disk, mnt)
	disks := volume(t, env, 2)
	env.Must("export", "create", "v/x", "32MiB")
	d := env.Serve("v")
	s := newStamper("x", 32<<20, 7)
	s.some(t, d)
	stamped := make(chan struct{})
	go func() { // ends with the first error
		defer close(stamped)
		s.run(d.NBD)
	}()
	for range 10 { // while it goes on, the journal does
		env.Must("status", "v")
	}
	bad.noWrites.Store(true)
	<-stamped
	require.Positive(t, s.flushes)
	require.Positive(t, bad.refused.Load())
	if status := env.Command("status", "v").Stdout; !strings.Contains(status, "JOURNAL_FAILED") {
		<-d.Ended() // the kernel ended it: that is what an error in mapped memory may come to
	}
	d.Kill()

	// The disk stays so: a start says it, and the devices can be taken in elsewhere.
	_, err := env.TryServe("v")
	require.ErrorContains(t, err, "code: E_")
	require.ErrorContains(t, err, "try: ")
	require.ErrorContains(t, err, "ballast import")
	require.ErrorContains(t, err, "input/output error")
	require.NotContains(t, err.Error(), "goroutine ")
	elsewhere := harness.New(t)
	elsewhere.Must("import", disks[0], disks[1], disks[2])
	d = elsewhere.Serve("v")
	require.NoError(t, s.check(d.NBD))
	s.some(t, d)
	require.Zero(t, d.Stop())

	// It takes writes again; what it has is older than the copies, and lost what was in memory.
	bad.noWrites.Store(false)
	unmount()
	unmount = bad.mount(t, disk, mnt)
	d = env.Serve("v")
	require.NoError(t, s.check(d.NBD))
	s.some(t, d)
	require.Zero(t, d.Stop())

	// Its tables cannot be read, nor anything that is written in their place.
	unmount()
	bad.noReads = tables(t, disk)
	require.NotEmpty(t, bad.noReads)
	for _, kind := range []string{"KEYREGISTRY", ".mem", ".sst"} {
		bad.noNewReads = kind
		unmount = bad.mount(t, disk, mnt)
		_, err = env.TryServe("v")
		require.ErrorContains(t, err, "code: E_JOURNAL", kind)
		require.ErrorContains(t, err, "no store can be made there", kind)
		require.ErrorContains(t, err, "ballast import", kind)
		require.ErrorContains(t, err, "ended with 1 ", kind)
		if kind == ".mem" {
			refused(t, env.Command("journal", "rebuild", "v"), 1, "E_JOURNAL")
			refused(t, env.Command("create", "w", filepath.Join(t.TempDir(), "a.img")+":256MiB"), 1, "E_STATE")
		}
		unmount()
	}
	bad.noNewReads = ""
	bad.made.Clear()

	// The tables alone cannot: it is made anew beside them.
	unmount = bad.mount(t, disk, mnt)
	d = env.Serve("v")
	require.Contains(t, env.Must("status", "v"), "made anew from the copy on device d")
	require.NoError(t, s.check(d.NBD))
	s.some(t, d)
	require.Zero(t, d.Stop())
	unmount()
}

// tables are the inodes of all tables of a store below a directory.
func tables(t *testing.T, dir string) map[uint64]bool {
	t.Helper()
	found := map[uint64]bool{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".sst" {
			var st syscall.Stat_t
			err = syscall.Stat(path, &st)
			found[st.Ino] = true
		}
		return err
	}))
	return found
}

// some writes and flushes a little.
func (s *stamper) some(t *testing.T, d *harness.Daemon) {
	t.Helper()
	c, _, err := dial(d.NBD, s.export)
	require.NoError(t, err)
	defer c.conn.Close()
	for range 20 {
		require.NoError(t, s.round(c))
	}
}
