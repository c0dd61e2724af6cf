package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/mounting"
	"ballast/cmd/volumes"
	"ballast/journal"
	"ballast/nbd"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Options of Run.
type Options struct {
	Dirs   volumes.Dirs
	Volume string
	Logger *slog.Logger

	Listen bool      // serve NBD at all, and HTTP
	NBD    []Address // default: the socket in the run directory
	Users  []uint32  // may use unix sockets of NBD besides root and the daemon's own user
	HTTP   string    // HOST:PORT of /metrics; "": none
	// Stdio is an export to serve to one client on Stdin and Stdout; Run returns when it is gone.
	Stdio         string
	Stdin, Stdout *os.File

	// Mount is a directory to mount the volume on; "": none.
	Mount        string
	MountOptions mounting.Options
	// UntilUnmounted ends the daemon when the volume is mounted no longer.
	UntilUnmounted bool

	Look            []string      // more paths to look for devices at
	Degraded        bool          // serve a volume of one copy with devices missing
	AcceptStale     bool          // serve with older images of devices
	ReadOnly        bool          // of all exports
	NoRebalance     bool          // the volume does not even out by itself what its devices hold
	BackgroundFloor float64       // share of a busy disk's time that jobs get in any case; 0: default
	DirtyLimit      int64         // bytes; 0: default
	CacheBytes      int64         // bytes; 0: default
	FlushInterval   time.Duration // 0: default
	JournalSync     bool          // wait for the journal's copies with one copy of data too
	Preflight       []string      // command line of the journal's check; nil: in this process
	OwnProcess      bool          // the process is the daemon's alone, and ends with it: its memory and threads are set up so

	// Ready is called once everything listens, and During too; Run waits for both. When During
	// returns, the daemon ends.
	Ready, During func(ctx context.Context)
}

// Times that ending may take before it is forced.
const (
	drainTimeout = 30 * time.Second // for requests of clients
	closeTimeout = 60 * time.Second // for the last flush
)

// server is a running daemon.
type server struct {
	o       Options
	lock    *os.File
	core    *core
	exports *exportSet
	nbd     *nbd.Server
	mounter *mounter
	api     *api
	control *http.Server
	public  *http.Server

	started time.Time
	stopped chan struct{} // closed when everything but the control socket has ended
	wg      sync.WaitGroup
	failed  atomic.Pointer[error] // of a listener
}

// Run serves a volume until ctx ends or it is told to stop.
func Run(ctx context.Context, o Options) error {
	s := &server{o: o, started: time.Now(), stopped: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.OwnProcess {
		ownMemory(ctx)
	}
	if err := s.prepare(); err != nil {
		return err
	}
	defer s.lock.Close()
	listeners, addresses, err := s.listeners()
	if err != nil {
		return err
	}
	if s.core, err = openCore(ctx, &s.o); err != nil {
		closeAll(listeners.all())
		return err
	}
	if o.OwnProcess {
		ownThreads()
	}
	if err := s.checkStdio(); err != nil {
		closeAll(listeners.all())
		return errors.Join(err, s.core.close(context.WithoutCancel(ctx)))
	}
	if err := s.mount(); err != nil {
		closeAll(listeners.all())
		return errors.Join(err, s.core.close(context.WithoutCancel(ctx)))
	}
	s.serve(ctx, cancel, listeners, addresses)
	if o.UntilUnmounted {
		s.wg.Go(func() {
			defer cancel()
			s.mounter.wait(ctx)
		})
	}
	s.notify(daemon.SdNotifyReady)
	s.o.Logger.Info("serving", "volume", o.Volume, "pid", os.Getpid(), "version", control.Version)
	if o.Ready != nil {
		s.wg.Go(func() { o.Ready(ctx) })
	}
	if o.During != nil {
		s.wg.Go(func() {
			defer cancel()
			o.During(ctx)
		})
	}
	if o.Stdio != "" {
		s.exports.only = o.Stdio
		s.wg.Go(func() {
			defer cancel()
			s.serveStdio(ctx)
		})
	}
	<-ctx.Done()
	return s.end()
}

// prepare makes the directories and takes the volume's lock.
func (s *server) prepare() error {
	if _, err := volumes.ReadConfig(s.o.Dirs, s.o.Volume); err != nil {
		return err
	}
	if err := os.MkdirAll(s.o.Dirs.Run, 0o700); err != nil {
		return control.Refuse("E_STATE", "cannot make the run directory: %v", err).WithTry("--run-dir DIR")
	}
	path := filepath.Join(s.o.Dirs.Volume(s.o.Volume), "lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrPermission) {
		return control.Refuse("E_NOT_PERMITTED", "%s: permission denied", path).WithTry("the same as root")
	}
	if err != nil {
		return control.Refuse("E_STATE", "%v", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return control.Refuse("E_BUSY", "volume %s is being served by another process", s.o.Volume).
				WithTry("ballast status %s", s.o.Volume).WithTry("ballast stop %s", s.o.Volume)
		}
		return control.Refuse("E_STATE", "locking %s: %v", path, err)
	}
	s.lock = lock
	return nil
}

// listenerSet is what the daemon listens on.
type listenerSet struct {
	control net.Listener
	http    net.Listener
	nbd     []net.Listener
}

func (l *listenerSet) all() []net.Listener {
	all := append([]net.Listener{}, l.nbd...)
	if l.control != nil {
		all = append(all, l.control)
	}
	if l.http != nil {
		all = append(all, l.http)
	}
	return all
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

// listeners begins to listen everywhere, so that a bad address is told before any disk is
// touched. Nobody is answered until the volume is open.
func (s *server) listeners() (set *listenerSet, addresses []Address, err error) {
	set = &listenerSet{}
	defer func() {
		if err != nil {
			closeAll(set.all())
		}
	}()
	if set.control, err = (Address{"unix", s.o.Dirs.Control(s.o.Volume)}).listen(); err != nil || !s.o.Listen {
		return
	}
	if s.o.HTTP != "" {
		if set.http, err = net.Listen("tcp", s.o.HTTP); err != nil {
			err = control.Refuse("E_ADDRESS", "--http %s: %v", s.o.HTTP, err).WithTry("--http 127.0.0.1:7710")
			return
		}
	}
	if s.o.Stdio != "" {
		return
	}
	inherited, err := nbd.Inherited()
	if err != nil {
		return set, nil, control.Refuse("E_ADDRESS", "sockets of the service manager: %v", err)
	}
	for _, l := range inherited {
		if u, ok := l.(*net.UnixListener); ok && len(s.o.Users) > 0 {
			l = &nbd.PeerListener{UnixListener: u, Users: s.o.Users}
		}
		set.nbd = append(set.nbd, l)
		addresses = append(addresses, Address{l.Addr().Network(), l.Addr().String()})
	}
	wanted := s.o.NBD
	if len(wanted) == 0 && len(inherited) == 0 {
		wanted = []Address{{"unix", s.o.Dirs.NBD(s.o.Volume)}}
	}
	for _, a := range wanted {
		l, err := a.listen(s.o.Users...)
		if err != nil {
			return set, nil, err
		}
		if a.Network == "tcp" {
			a.Addr = l.Addr().String() // port 0 has become one
		}
		set.nbd = append(set.nbd, l)
		addresses = append(addresses, a)
	}
	return set, addresses, nil
}

// serve starts to answer everywhere.
func (s *server) serve(ctx context.Context, stop func(), l *listenerSet, addresses []Address) {
	engine := s.core.engine()
	cache := newStatusCache(engine.Status())
	s.wg.Go(func() { cache.run(ctx, engine.Status) })
	store := s.core.journal // which is nil once the volume is closed
	s.wg.Go(func() { s.recheck(ctx, stop, store) })
	s.exports = &exportSet{volume: s.core.volume, readOnly: s.o.ReadOnly || s.core.config.ReadOnly, rotates: s.core.rotates}
	s.nbd = nbd.NewServer(s.exports, nbd.Options{Logger: s.o.Logger})
	var paths *pathFinder
	if s.core.tree != nil {
		paths = &pathFinder{search: s.core.tree.Paths, ctx: ctx, start: s.wg.Go}
	}
	s.api = &api{engine: engine, cache: cache, paths: paths, tree: s.core.tree, self: func() control.Daemon { return s.self(addresses) }, ctx: ctx, nbd: addresses,
		clients: s.nbd.Stats, mounter: s.mounter, stop: stop, stopped: s.stopped, audit: s.o.Logger.Info}
	if l.http != nil {
		s.o.HTTP = l.http.Addr().String() // port 0 has become one
	}
	for _, nl := range l.nbd {
		s.wg.Go(func() {
			if err := s.nbd.Serve(nl); !errors.Is(err, nbd.ErrServerClosed) {
				s.fail(stop, err)
			}
		})
	}
	s.control = httpServer(s.api.handler())
	s.wg.Go(func() {
		s.serveHTTP(s.control, l.control, stop)
	})
	if l.http != nil {
		s.public = httpServer(s.api.public())
		s.wg.Go(func() { s.serveHTTP(s.public, l.http, stop) })
	}
}

// recheckEvery is how often all of the journal is read and compared with its digest, beside each scrub.
const recheckEvery = 24 * time.Hour

// recheck ends the daemon if the journal's store is damaged: the next start makes it anew.
func (s *server) recheck(ctx context.Context, stop func(), store *journal.Store) {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-store.Damaged():
			err := fmt.Errorf("the journal's store is damaged, start again to have it made anew: %w", store.Stats().Failed)
			s.failed.CompareAndSwap(nil, &err)
			stop()
			return
		case <-tick.C:
		}
		if err := store.Recheck(); err != nil && !errors.Is(err, journal.ErrClosed) {
			s.o.Logger.Error("reading all of the journal", "error", err)
		}
	}
}

func httpServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
}

func (s *server) serveHTTP(h *http.Server, l net.Listener, stop func()) {
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.fail(stop, err)
	}
}

// fail ends the daemon because a listener cannot go on.
func (s *server) fail(stop func(), err error) {
	s.failed.CompareAndSwap(nil, &err)
	s.o.Logger.Error("cannot go on listening", "error", err)
	stop()
}

// self is this process, as status shows it.
func (s *server) self(addresses []Address) control.Daemon {
	d := control.Daemon{PID: os.Getpid(), Version: control.Version, Started: s.started, HTTP: s.o.HTTP, NBD: []string{}}
	for _, a := range addresses {
		d.NBD = append(d.NBD, a.String())
	}
	d.Mounts = s.mounter.mounts()
	stats := s.nbd.Stats()
	d.Clients = len(stats.Clients)
	for _, e := range stats.Exports {
		for _, c := range e.Commands {
			switch c.Command {
			case "read":
				d.ReadBytes += int64(c.Bytes)
			case "write":
				d.Written += int64(c.Bytes)
			}
		}
	}
	return d
}

// checkStdio refuses to serve an export that does not exist.
func (s *server) checkStdio() error {
	if s.o.Stdio == "" {
		return nil
	}
	e, err := s.core.volume.OpenExport(s.o.Stdio)
	if err != nil {
		return exportError(s.o.Stdio, err)
	}
	e.Close()
	return nil
}

// serveStdio serves one client on standard input and output.
func (s *server) serveStdio(ctx context.Context) {
	conn := newStdio(s.o.Stdin, s.o.Stdout)
	if err := s.nbd.ServeConn(ctx, conn); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		s.o.Logger.Warn("client on standard input", "error", err)
	}
}

// end ends everything, from the front to the back, and returns what went wrong.
func (s *server) end() error {
	s.notify(daemon.SdNotifyStopping)
	var errs []error
	unmount, cancelUnmount := context.WithTimeout(context.Background(), drainTimeout)
	defer cancelUnmount()
	unmounted := s.mounter.end(unmount)
	errs = append(errs, unmounted)
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.nbd.Shutdown(drain); err != nil {
		s.o.Logger.Warn("clients did not drain in time", "error", err)
		s.nbd.Close()
	}
	if s.public != nil {
		s.public.Close()
	}
	s.api.changes.close()
	flush, cancelFlush := context.WithTimeout(context.Background(), closeTimeout)
	defer cancelFlush()
	if unmounted == nil {
		errs = append(errs, s.core.close(flush))
	} // else requests may still use it, and the end is a crash
	if err := s.failed.Load(); err != nil {
		errs = append(errs, *err)
	}
	s.lock.Close() // before those who wait for the end hear of it
	close(s.stopped)
	quiet, cancelQuiet := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelQuiet()
	if s.control.Shutdown(quiet) != nil {
		s.control.Close()
	}
	s.wg.Wait()
	err := errors.Join(errs...)
	s.o.Logger.Info("stopped", "volume", s.o.Volume, "error", err)
	return err
}

// notify tells a service manager; without one it does nothing.
func (s *server) notify(state string) {
	if !s.o.Listen {
		return
	}
	if _, err := daemon.SdNotify(false, state); err != nil && !errors.Is(err, syscall.ENOENT) {
		s.o.Logger.Warn("telling the service manager", "error", err)
	}
}
