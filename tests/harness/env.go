package harness

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Env is a place of its own for ballast: binary, state and run directory.
type Env struct {
	Bin   string
	State string
	Run   string
	Vars  []string // added to the environment

	t testing.TB
}

// New returns an empty place that is removed when the test ends.
func New(t testing.TB) *Env {
	t.Helper()
	dir := tempDir(t)
	e := &Env{Bin: Binary(t), State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), t: t}
	return e
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command runs ballast with args and waits for it, two minutes at most.
func (e *Env) Command(args ...string) Result {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Bin, args...)
	cmd.Env = e.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatalf("ballast %v: %v", args, err)
	}
	if ctx.Err() != nil {
		e.t.Fatalf("ballast %v did not end\n%s%s", args, out.String(), errs.String())
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Must is Command for what has to succeed; it returns what was printed.
func (e *Env) Must(args ...string) string {
	e.t.Helper()
	r := e.Command(args...)
	if r.Code != 0 {
		e.t.Fatalf("ballast %v ended with %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func (e *Env) environ() []string {
	env := append(os.Environ(), "BALLAST_STATE_DIR="+e.State, "BALLAST_RUN_DIR="+e.Run, "NOTIFY_SOCKET=")
	return append(env, e.Vars...)
}

// Tool runs another program, two minutes at most, and returns its output; it must succeed.
func Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// Try is Tool for what may fail.
func Try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %v did not end\n%s", name, args, out)
	}
	return string(out), err
}
