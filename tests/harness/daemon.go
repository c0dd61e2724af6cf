package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a daemon may take to get ready or to end before a test gives up.
const Patience = time.Minute

// Daemon is a running ballast serve.
type Daemon struct {
	Volume  string
	Control string // its control socket
	NBD     string // its default NBD socket
	Pid     int

	env  *Env
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
	log  *logBuffer
	ends sync.Once
}

// Serve starts a daemon for the volume and returns when it is ready. It is ended with the test.
func (e *Env) Serve(volume string, args ...string) *Daemon {
	e.t.Helper()
	d, err := e.TryServe(volume, args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return d
}

// TryServe is Serve for a daemon that may refuse.
func (e *Env) TryServe(volume string, args ...string) (*Daemon, error) {
	e.t.Helper()
	notify, path, err := listenNotify(e.t)
	if err != nil {
		return nil, err
	}
	defer notify.Close()
	d := &Daemon{
		Volume: volume, env: e, args: args, done: make(chan struct{}), log: &logBuffer{},
		Control: filepath.Join(e.Run, volume+".sock"),
		NBD:     filepath.Join(e.Run, volume+"-nbd.sock"),
	}
	d.cmd = exec.Command(e.Bin, append([]string{"serve", volume}, args...)...)
	d.cmd.Env = append(e.environ(), "NOTIFY_SOCKET="+path, "GORACE=halt_on_error=1 exitcode=66")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	throttled.mu.Lock()
	group := throttled.group
	throttled.mu.Unlock()
	if group != "" {
		dir, err := os.Open(group)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		d.cmd.SysProcAttr.UseCgroupFD, d.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	started := make(chan error, 1)
	go func() {
		// The signal of Pdeathsig comes when the thread that starts the process ends, and tests
		// that change a thread's user end theirs; so this one is kept until the daemon is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			d.cmd.Wait()
			close(d.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	d.Pid = d.cmd.Process.Pid
	e.t.Cleanup(d.cleanup)
	if err := d.waitReady(notify); err != nil {
		d.Kill()
		return nil, fmt.Errorf("ballast serve %s: %w\n%s", volume, err, d.Log())
	}
	return d, nil
}

func listenNotify(t testing.TB) (*net.UnixConn, string, error) {
	path := filepath.Join(tempDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	return conn, path, err
}

// waitReady waits for READY=1 and then asks the control socket.
func (d *Daemon) waitReady(notify *net.UnixConn) error {
	ready := make(chan error, 1)
	notify.SetReadDeadline(time.Now().Add(Patience))
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				ready <- fmt.Errorf("no word of being ready: %w", err)
				return
			}
			for line := range strings.Lines(string(buf[:n])) {
				if strings.TrimSpace(line) == "READY=1" {
					ready <- nil
					return
				}
			}
		}
	}()
	select {
	case <-d.done:
		return fmt.Errorf("ended with %d before it was ready", d.cmd.ProcessState.ExitCode())
	case err := <-ready:
		if err != nil {
			return err
		}
	}
	code, body, err := d.Get("/readyz")
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("/readyz answers %d: %s", code, body)
	}
	return nil
}

// Get asks the control socket.
func (d *Daemon) Get(path string) (int, string, error) {
	client := http.Client{Timeout: Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.Control)
		},
	}}
	reply, err := client.Get("http://ballast" + path)
	if err != nil {
		return 0, "", err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	return reply.StatusCode, string(body), err
}

// URI is where clients find the export.
func (d *Daemon) URI(export string) string { return "nbd+unix:///" + export + "?socket=" + d.NBD }

// Kill ends the daemon as a crash does, with SIGKILL, and waits until it is gone.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	<-d.done
}

// Stop asks the daemon to end, with SIGTERM, and returns its exit code.
func (d *Daemon) Stop() int {
	d.env.t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	return d.Wait()
}

// Wait waits for the daemon to end and returns its exit code, -1 for a signal.
func (d *Daemon) Wait() int {
	d.env.t.Helper()
	select {
	case <-d.done:
	case <-time.After(Patience):
		d.cmd.Process.Signal(syscall.SIGQUIT) // shows what its goroutines wait for
		select {
		case <-d.done:
		case <-time.After(10 * time.Second):
			d.Kill()
		}
		d.env.t.Fatalf("the daemon did not end within %v\n%s", Patience, d.Log())
	}
	return d.cmd.ProcessState.ExitCode()
}

// Ended is closed when the process is gone.
func (d *Daemon) Ended() <-chan struct{} { return d.done }

// Signal sends the daemon a signal.
func (d *Daemon) Signal(s os.Signal) { d.cmd.Process.Signal(s) }

// Again starts the daemon anew after Kill or Stop, with the same arguments.
func (d *Daemon) Again() *Daemon {
	d.env.t.Helper()
	return d.env.Serve(d.Volume, d.args...)
}

// Log is what the daemon has written so far.
func (d *Daemon) Log() string { return d.log.String() }

// cleanup ends the daemon, however the test ended, and fails the test for what its log must never
// hold.
func (d *Daemon) cleanup() {
	d.ends.Do(func() {
		d.Kill()
		log := d.Log()
		// A refused journal quotes what the process that looked at it died of.
		own := regexp.MustCompile(`.*the store kills its reader.*`).ReplaceAllString(log, "")
		for _, bad := range []string{"panic:", "DATA RACE", "fatal error:"} {
			if strings.Contains(own, bad) {
				d.env.t.Errorf("the log of the daemon holds %q", bad)
			}
		}
		if d.env.t.Failed() {
			d.env.t.Logf("log of ballast serve %s, pid %d:\n%s", d.Volume, d.Pid, tail(log, 8000))
		}
	})
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// logBuffer keeps the log; its lines may be waited for.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() < 1<<20 {
		b.buf.Write(p)
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
