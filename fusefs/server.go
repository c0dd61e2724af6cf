package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ballast/fusefs/names"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options of Mount. Tree, Dir and Volume are needed.
type Options struct {
	Tree   *names.Tree
	Dir    string // as Prepare returned it
	Volume string // name, shown as the source of the mount
	Flags
	Logger *slog.Logger
}

// What the kernel may send.
const (
	maxRequest = 1 << 20 // bytes of data in one request
	// maxBackground requests of read-ahead and write-back may be under way.
	maxBackground = 128
	// maxInflight bounds the buffers of requests under way, in bytes. A request that waits for another one of
	// the kernel, as SEEK_DATA may, holds one of 1 MiB.
	maxInflight = 1 << 30
	// readAhead is how far the kernel reads ahead of a program, in KiB.
	readAhead = 4096
	// dirtyRatio is the part of the kernel's limit of unwritten data that ours may be, in percent.
	dirtyRatio = 10
)

// capabilities that go-fuse does not ask for by itself.
const capabilities = fuse.CAP_WRITEBACK_CACHE | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_EXPORT_SUPPORT |
	fuse.CAP_ASYNC_DIO | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_IOCTL_DIR | fuse.CAP_CACHE_SYMLINKS

// fileSystem answers the kernel.
type fileSystem struct {
	fuse.RawFileSystem

	tree    *names.Tree
	flags   Flags
	ctx     context.Context // ends when the server gives up
	server  *fuse.Server    // set before the first request but INIT
	handles handles

	readBytes, writtenBytes atomic.Uint64
}

// String implements fuse.RawFileSystem.
func (f *fileSystem) String() string { return "ballast" }

// Init implements fuse.RawFileSystem.
func (f *fileSystem) Init(s *fuse.Server) { f.server = s }

// Access implements fuse.RawFileSystem; the kernel checks permissions itself.
func (f *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Server is a mounted file system.
type Server struct {
	o       Options
	fs      *fileSystem
	cancel  context.CancelFunc
	device  string // MAJOR:MINOR of the mount
	since   time.Time
	done    chan struct{} // closed when the kernel sends no more
	settled chan struct{} // closed when what it sent is durable
}

// Stats are what a mount has done.
type Stats struct {
	Dir          string
	Since        time.Time
	OpenFiles    int
	ReadBytes    uint64
	WrittenBytes uint64
	ReadOnly     bool
}

// Mount mounts a tree and serves it until Unmount, or until somebody else unmounts it. The process
// must never touch what is below the directory meanwhile.
func Mount(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := ownRoot(ctx, o.Tree); err != nil {
		cancel()
		return nil, err
	}
	f := &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), tree: o.Tree, flags: o.Flags, ctx: ctx}
	root := os.Geteuid() == 0
	server, err := fuse.NewServer(f, o.Dir, &fuse.MountOptions{
		AllowOther:               (root || o.AllowOther) && !o.OnlyOwner,
		Options:                  o.mountOptions(root),
		MaxBackground:            maxBackground,
		MaxWrite:                 maxRequest,
		MaxReadAhead:             maxRequest,
		MaxInflightRequestBytes:  maxInflight,
		FsName:                   o.Volume,
		Name:                     strings.TrimPrefix(fsType, "fuse."),
		EnableAcl:                true,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DirectMountStrict:        root, // the fallback to fusermount may deadlock
		DirectMountFlags:         o.mountFlags(),
		ExtraCapabilities:        capabilities,
		Logger:                   log.New(logWriter{o.Logger}, "", 0),
		PanicHandler:             func(v any) fuse.Status { panic(v) },
	})
	if err != nil {
		cancel()
		return nil, mountError(o.Dir, err)
	}
	s := &Server{o: o, fs: f, cancel: cancel, since: time.Now(), done: make(chan struct{}), settled: make(chan struct{})}
	go func() {
		server.Serve()
		cancel()
		s.closeFiles()
		o.Tree.ForgetAll()
		close(s.done)
		s.settle()
		close(s.settled)
	}()
	s.tune()
	o.Logger.Info("mounted", "volume", o.Volume, "dir", o.Dir)
	return s, nil
}

// ownRoot gives the root directory to the user who serves the volume, if that is not root: nobody
// else can use the mount, and nobody can have given it to root on purpose.
func ownRoot(ctx context.Context, tree *names.Tree) error {
	uid, gid := os.Geteuid(), os.Getegid()
	a, err := tree.Attr(ctx, names.Root)
	if err != nil || uid == 0 || a.UID != 0 {
		return err
	}
	_, err = tree.SetAttr(ctx, names.Root, names.Change{Set: names.SetUID | names.SetGID, UID: uint32(uid), GID: uint32(gid)})
	return err
}

// mountOptions are those that the kernel takes as text. fusermount takes the others so too.
func (o *Options) mountOptions(root bool) []string {
	list := []string{"default_permissions"}
	if root {
		return list
	}
	for name, set := range map[string]bool{"ro": o.ReadOnly, "noexec": o.NoExec, "sync": o.Sync} {
		if set {
			list = append(list, name)
		}
	}
	return list
}

// mountFlags are those that the kernel takes as bits, from root.
func (o *Options) mountFlags() uintptr {
	flags := uintptr(unix.MS_MGC_VAL) // never 0, which stands for a default of go-fuse's
	for _, x := range []struct {
		set  bool
		flag uintptr
	}{{o.ReadOnly, unix.MS_RDONLY}, {!o.Suid, unix.MS_NOSUID}, {!o.Dev, unix.MS_NODEV}, {o.NoExec, unix.MS_NOEXEC}, {o.Sync, unix.MS_SYNCHRONOUS},
		{o.NoAtime, unix.MS_NOATIME}, {!o.NoAtime, unix.MS_RELATIME}} {
		if x.set {
			flags |= x.flag
		}
	}
	return flags
}

// mountError says what to do about an error of mounting.
func mountError(dir string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("mounting on %s: %w", dir, os.ErrPermission)
	}
	return fmt.Errorf("mounting on %s: %w", dir, err)
}

// tune tells the kernel to read far ahead, and to hold more that is not written yet: what a mount may ask
// for itself is bounded by 128 KiB, and by 1 % of what all file systems may hold, at which a single
// writer is made to wait again and again. Only root may; without, both are slower.
func (s *Server) tune() {
	m, ok, err := mountedAt(s.o.Dir)
	if err != nil || !ok {
		return
	}
	s.device = m.Device
	for file, value := range map[string]int{"read_ahead_kb": readAhead, "max_ratio": dirtyRatio} {
		if err := os.WriteFile("/sys/class/bdi/"+m.Device+"/"+file, fmt.Append(nil, value), 0); err != nil {
			s.o.Logger.Debug("tuning the mount", "file", file, "error", err)
		}
	}
}

// Done is closed when the file system is no longer mounted.
func (s *Server) Done() <-chan struct{} { return s.done }

// AwaitEnd waits until the kernel sends no more, if the file system is mounted nowhere any more:
// umount(8) returns a moment before. It tells whether that is so.
func (s *Server) AwaitEnd() bool {
	list, err := Mounts()
	if err == nil && !slices.ContainsFunc(list, func(m MountInfo) bool { return m.Device == s.device }) {
		timer := time.NewTimer(abortTimeout)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
		}
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Stats tells what the mount has done.
func (s *Server) Stats() Stats {
	return Stats{Dir: s.o.Dir, Since: s.since, OpenFiles: s.fs.handles.count(), ReadBytes: s.fs.readBytes.Load(),
		WrittenBytes: s.fs.writtenBytes.Load(), ReadOnly: s.o.ReadOnly}
}

// Unmount unmounts. The kernel writes back what it holds first. While programs have files open
// there, what the kernel holds is written back, then the mount is taken out of the tree of
// directories and the programs get errors from then on. When ctx ends, all is cut off at once. An
// error tells that requests may still be under way; then the tree must not be closed.
func (s *Server) Unmount(ctx context.Context) error {
	result := make(chan error, 1)
	go func() { result <- s.unmount() }()
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		err = errors.Join(fmt.Errorf("unmounting %s: %w", s.o.Dir, ctx.Err()), cutOff(s.o.Dir, s.device))
	}
	s.cancel()
	timer := time.NewTimer(abortTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
		<-s.settled
		return nil
	case <-timer.C:
		return errors.Join(err, fmt.Errorf("requests to %s do not end", s.o.Dir))
	}
}

// abortTimeout is how long requests may take to end when nobody waits for their answers.
const abortTimeout = 10 * time.Second

func (s *Server) unmount() error {
	select {
	case <-s.done:
		return nil // somebody else did
	default:
	}
	err := unmount(s.o.Dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	s.o.Logger.Warn("files are in use on the mount; programs will see errors", "dir", s.o.Dir, "files", s.fs.handles.count())
	for _, ino := range s.fs.handles.dirty() {
		s.fs.writeBack(ino)
	}
	return cutOff(s.o.Dir, s.device)
}

// closeFiles gives back what the kernel had, once it is gone.
func (s *Server) closeFiles() {
	for _, h := range s.fs.handles.removeAll() {
		h.file.Close()
	}
}

// settleTimeout is how long what was written may take to become durable after an unmount.
const settleTimeout = time.Minute

// settle makes durable what was done, as unmounting does elsewhere. umount(8) does not wait for it.
func (s *Server) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := s.o.Tree.Sync(ctx); err != nil {
		s.o.Logger.Error("what was written cannot be made durable", "dir", s.o.Dir, "error", err)
	}
	s.o.Logger.Info("unmounted", "volume", s.o.Volume, "dir", s.o.Dir)
}

// logWriter makes lines of go-fuse's log ours.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("fuse: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
