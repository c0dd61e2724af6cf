package posix

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperVariable tells the test binary to be the second process of a case.
const helperVariable = "BALLAST_POSIX_HELPER"

// Helper is called first by a TestMain. In the second process of a case it does what it is told on
// standard input, one command a line, and answers each with a line; it returns true when told no
// more.
func Helper() bool {
	if os.Getenv(helperVariable) == "" {
		return false
	}
	fds := map[string]int{}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var verb, name string
		var kind, start, length int64
		fmt.Sscan(in.Text(), &verb, &name, &kind, &start, &length)
		fmt.Println(answer(fds, verb, name, kind, start, length))
	}
	return true
}

func answer(fds map[string]int, verb, name string, kind, start, length int64) string {
	lock := unix.Flock_t{Type: int16(kind), Start: start, Len: length}
	var err error
	switch verb {
	case "open":
		fds[name], err = unix.Open(name, unix.O_RDWR, 0)
	case "close":
		err = unix.Close(fds[name])
	case "setlk":
		err = unix.FcntlFlock(uintptr(fds[name]), unix.F_SETLK, &lock)
	case "setlkw":
		err = unix.FcntlFlock(uintptr(fds[name]), unix.F_SETLKW, &lock)
	case "getlk":
		if err = unix.FcntlFlock(uintptr(fds[name]), unix.F_GETLK, &lock); err == nil {
			return fmt.Sprintf("%d %d %d %d", lock.Type, lock.Start, lock.Len, lock.Pid)
		}
	case "flock":
		err = unix.Flock(fds[name], int(kind))
	case "count": // adds one to the number in the file, so many times, under a lock
		err = count(fds[name], int(kind))
	}
	if err == nil {
		return "ok"
	}
	return unix.ErrnoName(err.(unix.Errno))
}

// count adds one to the number at the start of a file n times, each under a lock.
func count(fd, n int) error {
	for range n {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Len: 8}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &lock); err != nil {
			return err
		}
		b := make([]byte, 8)
		if _, err := unix.Pread(fd, b, 0); err != nil {
			return err
		}
		var v int
		fmt.Sscan(string(b), &v)
		if _, err := unix.Pwrite(fd, []byte(fmt.Sprintf("%8d", v+1)), 0); err != nil {
			return err
		}
		lock.Type = unix.F_UNLCK
		if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock); err != nil {
			return err
		}
	}
	return nil
}

// other is a second process.
type other struct {
	e   *env
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func (e *env) other() *other {
	e.Helper()
	self, err := os.Executable()
	e.ok(err)
	o := &other{e: e, cmd: exec.Command(self)}
	o.cmd.Env = append(os.Environ(), helperVariable+"=1")
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	o.in, err = o.cmd.StdinPipe()
	e.ok(err)
	out, err := o.cmd.StdoutPipe()
	e.ok(err)
	o.out = bufio.NewScanner(out)
	e.ok(o.cmd.Start())
	e.Cleanup(o.end)
	return o
}

func (o *other) end() {
	o.in.Close()
	o.cmd.Process.Kill()
	o.cmd.Wait()
}

func (o *other) ask(format string, args ...any) {
	o.e.Helper()
	_, err := fmt.Fprintf(o.in, format+"\n", args...)
	o.e.ok(err)
}

func (o *other) answer() string {
	o.e.Helper()
	o.e.true(o.out.Scan(), "the second process is gone")
	return o.out.Text()
}

func (o *other) does(want, format string, args ...any) {
	o.e.Helper()
	o.ask(format, args...)
	o.e.equal(want, o.answer(), fmt.Sprintf(format, args...))
}

func (e *env) setlk(fd int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: kind, Start: start, Len: length})
}

var lockCases = []Case{
	{"posixLocks", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		f := e.p("f")
		o := e.other()
		o.does("ok", "open %s", f)
		e.ok(e.setlk(fd, unix.F_WRLCK, 10, 10))
		o.does("EAGAIN", "setlk %s %d 15 1", f, unix.F_WRLCK)
		o.does("EAGAIN", "setlk %s %d 0 0", f, unix.F_RDLCK)
		o.does("ok", "setlk %s %d 0 10", f, unix.F_WRLCK)
		o.does("ok", "setlk %s %d 20 5", f, unix.F_RDLCK)
		o.does(fmt.Sprintf("%d 10 10 %d", unix.F_WRLCK, os.Getpid()), "getlk %s %d 0 100", f, unix.F_WRLCK)
		e.ok(e.setlk(fd, unix.F_RDLCK, 20, 5), "shared")
		e.is(unix.EAGAIN, e.setlk(fd, unix.F_WRLCK, 20, 5))
		e.ok(e.setlk(fd, unix.F_UNLCK, 12, 3))
		o.does("ok", "setlk %s %d 12 3", f, unix.F_WRLCK)
		o.does("EAGAIN", "setlk %s %d 11 1", f, unix.F_WRLCK)
		e.is(unix.EAGAIN, e.setlk(fd, unix.F_WRLCK, 12, 1))
		again, err := unix.Open(f, unix.O_RDWR, 0)
		e.ok(err)
		e.ok(unix.Close(again), "closing any descriptor of the file drops the process's locks")
		o.does("ok", "setlk %s %d 10 10", f, unix.F_WRLCK)
		o.does("ok", "close %s", f)
		e.ok(e.setlk(fd, unix.F_WRLCK, 0, 0))
	}},
	{"posixLocksAreWaitedFor", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		f := e.p("f")
		o := e.other()
		o.does("ok", "open %s", f)
		e.ok(e.setlk(fd, unix.F_WRLCK, 0, 0))
		o.ask("setlkw %s %d 0 0", f, unix.F_WRLCK)
		time.Sleep(20 * time.Millisecond) // it may wait by now; it may not have the lock
		e.ok(e.setlk(fd, unix.F_UNLCK, 0, 0))
		e.equal("ok", o.answer())
		e.is(unix.EAGAIN, e.setlk(fd, unix.F_WRLCK, 0, 0))
		o.end()
		e.ok(unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK}), "the end of a process drops its locks")
	}},
	{"flock", func(e *env) {
		a, b := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644), e.open("f", unix.O_RDWR, 0)
		o := e.other()
		o.does("ok", "open %s", e.p("f"))
		e.ok(unix.Flock(a, unix.LOCK_EX))
		e.is(unix.EWOULDBLOCK, unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
		o.does("EAGAIN", "flock %s %d", e.p("f"), unix.LOCK_EX|unix.LOCK_NB)
		e.ok(e.setlk(b, unix.F_WRLCK, 0, 0), "the other kind of lock is another matter")
		e.ok(unix.Flock(a, unix.LOCK_SH))
		e.ok(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
		o.does("ok", "flock %s %d", e.p("f"), unix.LOCK_SH|unix.LOCK_NB)
		e.is(unix.EWOULDBLOCK, unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
		e.ok(unix.Flock(a, unix.LOCK_UN))
		e.ok(unix.Flock(b, unix.LOCK_UN))
		o.does("ok", "flock %s %d", e.p("f"), unix.LOCK_EX)
		c, err := unix.Open(e.p("f"), unix.O_RDWR, 0)
		e.ok(err)
		e.is(unix.EWOULDBLOCK, unix.Flock(c, unix.LOCK_SH|unix.LOCK_NB))
		o.end()
		e.ok(unix.Flock(c, unix.LOCK_SH))
		e.ok(unix.Close(c))
		e.ok(unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
	}},
	{"openFileDescriptionLocks", func(e *env) {
		a, b := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644), e.open("f", unix.O_RDWR, 0)
		set := func(fd int, kind int16) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: 5, Len: 5})
		}
		e.ok(set(a, unix.F_WRLCK))
		e.is(unix.EAGAIN, set(b, unix.F_RDLCK))
		e.ok(set(a, unix.F_UNLCK))
		e.ok(set(b, unix.F_RDLCK))
	}},
	{"twoProcessesOneFile", func(e *env) {
		e.create("f", "       0")
		const each = 300
		var others []*other
		for range 2 {
			o := e.other()
			o.does("ok", "open %s", e.p("f"))
			others = append(others, o)
		}
		for _, o := range others {
			o.ask("count %s %d", e.p("f"), each)
		}
		for _, o := range others {
			e.equal("ok", o.answer())
		}
		e.equal(fmt.Sprint(2*each), strings.TrimSpace(e.content("f")))
	}},
}
