package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"ballast/cmd/control"
	"ballast/cmd/mounting"
	"ballast/fusefs"
	"ballast/fusefs/names"

	"golang.org/x/sys/unix"
)

// mounter mounts the volume and unmounts it. It is mounted in one place at a time: the kernel
// caches each mount for itself.
type mounter struct {
	volume string
	tree   *names.Tree
	log    *slog.Logger
	needed []string // paths that a mount must not hide: devices, state, sockets

	mu     sync.Mutex
	server *fusefs.Server // the last one
	ended  bool
}

// mount makes the mounter and mounts where the options say.
func (s *server) mount() error {
	s.mounter = &mounter{volume: s.o.Volume, tree: s.core.tree, log: s.o.Logger, needed: []string{s.o.Dirs.Volume(s.o.Volume), s.o.Dirs.Run}}
	for _, d := range s.core.opened {
		if d.File != nil {
			s.mounter.needed = append(s.mounter.needed, d.Config.Path)
		}
	}
	if s.o.Mount == "" {
		return nil
	}
	return s.mounter.mount(s.o.Mount, s.o.MountOptions.Flags)
}

// mount mounts the volume on dir.
func (m *mounter) mount(dir string, flags fusefs.Flags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return control.Refuse("E_NOT_RUNNING", "the daemon is about to end")
	}
	if m.mountedLocked() && !m.server.AwaitEnd() {
		at := m.server.Stats().Dir
		return control.Refuse("E_MOUNT_BUSY", "volume %s is mounted on %s already", m.volume, at).
			WithTry("umount %s", at).WithTry("mount --bind %s %s", at, dir)
	}
	path, err := fusefs.Prepare(dir, m.volume)
	if err != nil {
		return mountRefusal(dir, err)
	}
	for _, needed := range m.needed {
		if resolved, err := filepath.EvalSymlinks(needed); err == nil && below(path, resolved) {
			return control.Refuse("E_MOUNT", "mounting on %s would hide %s, which the volume needs", path, resolved).WithTry("another directory")
		}
	}
	server, err := fusefs.Mount(fusefs.Options{Tree: m.tree, Dir: path, Volume: m.volume, Flags: flags, Logger: m.log})
	if err != nil {
		return mountRefusal(dir, err)
	}
	m.server = server
	return nil
}

func mountRefusal(dir string, err error) error {
	switch {
	case errors.Is(err, fusefs.ErrBusy):
		return control.Refuse("E_MOUNT_BUSY", "%s: %v", dir, err).WithTry("umount %s", dir)
	case errors.Is(err, fusefs.ErrNotDirectory) && errors.Is(err, os.ErrNotExist):
		return control.Refuse("E_MOUNT", "%s: there is no such directory", dir).WithTry("mkdir -p %s", dir)
	case errors.Is(err, fusefs.ErrNotDirectory):
		return control.Refuse("E_MOUNT", "%s is not a directory", dir)
	case errors.Is(err, os.ErrPermission):
		return control.Refuse("E_NOT_PERMITTED", "%v", err).WithTry("the same as root")
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		return control.Refuse("E_KERNEL", "%v", err).WithTry("modprobe fuse")
	}
	return control.Refuse("E_MOUNT", "%v", err)
}

// below tells whether path is dir or in it.
func below(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

func (m *mounter) mountedLocked() bool {
	if m.server == nil {
		return false
	}
	select {
	case <-m.server.Done():
		return false
	default:
		return true
	}
}

// mounts is where the volume is mounted. A nil mounter has none.
func (m *mounter) mounts() []control.Mount {
	list := []control.Mount{}
	if m == nil {
		return list
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mountedLocked() {
		s := m.server.Stats()
		list = append(list, control.Mount{Dir: s.Dir, Since: s.Since, ReadOnly: s.ReadOnly, OpenFiles: s.OpenFiles, ReadBytes: s.ReadBytes, Written: s.WrittenBytes})
	}
	return list
}

// wait returns when the volume is mounted no longer, or ctx has ended.
func (m *mounter) wait(ctx context.Context) {
	m.mu.Lock()
	server := m.server
	m.mu.Unlock()
	if server == nil {
		return
	}
	select {
	case <-server.Done():
	case <-ctx.Done():
	}
}

// end unmounts for good. After an error the tree is still in use.
func (m *mounter) end(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	if m.server == nil {
		return nil
	}
	return m.server.Unmount(ctx)
}

// mount answers POST on control.PathMounts.
func (a *api) mount(w http.ResponseWriter, r *http.Request) {
	q := &control.MountRequest{}
	if err := decode(w, r, q); err != nil {
		refuse(w, err)
		return
	}
	var o mounting.Options
	err := o.ParseOptions(q.Options, false)
	if err == nil && !filepath.IsAbs(q.Dir) {
		err = control.Refuse("E_USAGE", "%q is not an absolute path", q.Dir)
	}
	if err == nil {
		err = a.mounter.mount(q.Dir, o.Flags)
	}
	a.audit("control", "request", "mount", "dir", q.Dir, "options", q.Options, "error", err)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, &control.Done{Schema: control.SchemaDone, Volume: a.engine.Status().Volume, Done: fmt.Sprintf("mounted on %s", q.Dir)})
}
