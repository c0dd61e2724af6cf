package posix

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Case is one thing that is checked. It has a directory of its own.
type Case struct {
	Name string
	Run  func(e *env)
}

// Cases are all that Run runs.
func Cases() []Case {
	var all []Case
	for _, list := range [][]Case{nameCases, renameCases, directoryCases, attributeCases, permissionCases, dataCases,
		spaceCases, mappingCases, xattrCases, aclCases, flagCases, lockCases} {
		all = append(all, list...)
	}
	return all
}

// Run runs all cases in a directory, which has to belong to root and be reachable for everybody.
func Run(t *testing.T, dir string) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			own := filepath.Join(dir, c.Name)
			require.NoError(t, os.Mkdir(own, 0o755))
			c.Run(&env{T: t, dir: own})
			if !t.Failed() {
				require.NoError(t, os.RemoveAll(own))
			}
		})
	}
}

// env is where a case runs.
type env struct {
	*testing.T
	dir string
}

// Two users who are not root, and a group that only the first may be in.
const (
	alice = 1001
	bob   = 1002
	staff = 1500
)

func (e *env) p(name string) string { return filepath.Join(e.dir, name) }

func (e *env) ok(err error, what ...any) {
	e.Helper()
	require.NoError(e.T, err, what...)
}

// is checks that err is this errno and no other.
func (e *env) is(want unix.Errno, err error, what ...any) {
	e.Helper()
	require.ErrorIs(e.T, err, want, what...)
}

func (e *env) equal(want, got any, what ...any) {
	e.Helper()
	require.Equal(e.T, want, got, what...)
}

func (e *env) true(v bool, what ...any) {
	e.Helper()
	require.True(e.T, v, what...)
}

// open opens a file that is closed with the case.
func (e *env) open(name string, flags int, mode uint32) int {
	e.Helper()
	fd, err := unix.Open(e.p(name), flags|unix.O_CLOEXEC, mode)
	e.ok(err, "open "+name)
	e.Cleanup(func() { unix.Close(fd) })
	return fd
}

// create makes a file with this content, closed again.
func (e *env) create(name string, content string) {
	e.Helper()
	e.ok(os.WriteFile(e.p(name), []byte(content), 0o644))
}

func (e *env) mkdir(names ...string) {
	e.Helper()
	for _, name := range names {
		e.ok(unix.Mkdir(e.p(name), 0o755))
	}
}

func (e *env) content(name string) string {
	e.Helper()
	b, err := os.ReadFile(e.p(name))
	e.ok(err)
	return string(b)
}

func (e *env) stat(name string) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	e.ok(unix.Lstat(e.p(name), &st), "lstat "+name)
	return st
}

func (e *env) fstat(fd int) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	e.ok(unix.Fstat(fd, &st))
	return st
}

func (e *env) absent(name string) {
	e.Helper()
	var st unix.Stat_t
	e.is(unix.ENOENT, unix.Lstat(e.p(name), &st))
}

func (e *env) pwrite(fd int, s string, off int64) {
	e.Helper()
	n, err := unix.Pwrite(fd, []byte(s), off)
	e.ok(err)
	e.equal(len(s), n)
}

func (e *env) pread(fd int, n int, off int64) string {
	e.Helper()
	b := make([]byte, n)
	n, err := unix.Pread(fd, b, off)
	e.ok(err)
	return string(b[:n])
}

// names returns what is in a directory, without . and .., in order.
func (e *env) names(name string) []string {
	e.Helper()
	list, err := os.ReadDir(e.p(name))
	e.ok(err)
	names := []string{}
	for _, d := range list {
		names = append(names, d.Name())
	}
	return names
}

// as runs f on a thread with the rights of this user, and the groups.
func (e *env) as(uid int, f func(), groups ...int) {
	e.Helper()
	e.thread(func() {
		list := make([]uint32, len(groups)+1)
		list[0] = uint32(uid)
		for i, g := range groups {
			list[i+1] = uint32(g)
		}
		e.ok(rawSetgroups(list))
		e.ok(rawID(unix.SYS_SETRESGID, uid))
		e.ok(rawID(unix.SYS_SETRESUID, uid))
		f()
	})
}

// umask runs f on a thread with this umask.
func (e *env) umask(mask int, f func()) {
	e.Helper()
	e.thread(func() {
		e.ok(unix.Unshare(unix.CLONE_FS))
		unix.Umask(mask)
		f()
	})
}

// thread runs f on a thread that ends with it.
func (e *env) thread(f func()) {
	e.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocks it
		f()
	}()
	<-done
	if e.Failed() {
		e.FailNow()
	}
}

// tick waits until the coarse clock that the kernel stamps with has passed the exact one that a
// server may stamp with.
func tick() {
	began := time.Now().UnixNano()
	for now := (unix.Timespec{}); now.Nano() <= began; time.Sleep(time.Millisecond) {
		unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now)
	}
}

func ns(t unix.Timespec) int64 { return t.Nano() }

// changed runs f and tells which times of each name it moved, such as "mc" for mtime and ctime.
func (e *env) changed(f func(), names ...string) map[string]string {
	e.Helper()
	before := map[string]unix.Stat_t{}
	for _, n := range names {
		before[n] = e.stat(n)
	}
	tick()
	f()
	moved := map[string]string{}
	for _, n := range names {
		was, is := before[n], e.stat(n)
		if ns(is.Mtim) > ns(was.Mtim) {
			moved[n] += "m"
		}
		if ns(is.Ctim) > ns(was.Ctim) {
			moved[n] += "c"
		}
	}
	return moved
}

func perm(st unix.Stat_t) string { return fmt.Sprintf("%04o", st.Mode&0o7777) }
