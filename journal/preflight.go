package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4/options"
)

// Preflight has the store in dir settled, and reads and checks all of it. A zero uuid takes the journal of
// any volume. Some damages make Badger kill the process, so it belongs into one of its own: see RunPreflight.
func Preflight(dir string, uuid [16]byte) (State, error) {
	uuid, err := readStoreFile(dir, uuid)
	if err != nil {
		return State{}, err
	}
	lock, err := settle(dir)
	if err != nil {
		return State{}, err
	}
	found, err := readTables(filepath.Join(dir, badgerName), uuid)
	if err := errors.Join(err, lock.Close()); err != nil {
		return State{}, err
	}
	return found.State, nil
}

// settle opens Badger and closes it again, and returns the lock of dir. What stood in a log stands in a table
// then. Nothing is compacted: that would give damaged blocks new checksums.
func settle(dir string) (*os.File, error) {
	s := newStore(dir, [16]byte{}, nil)
	if err := s.enterDir(); err != nil {
		return nil, err
	}
	o := badgerOptions(dir, s.wire).WithChecksumVerificationMode(options.NoVerification)
	if err := s.openDB(o.WithNumCompactors(0).WithNumLevelZeroTablesStall(math.MaxInt)); err != nil {
		return nil, err
	}
	if err := s.db.Close(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s.lock, nil
}

// verdict is what the child of RunPreflight prints, as JSON.
type verdict struct {
	Seq    Seq    `json:"seq"`
	Count  uint64 `json:"count"`
	Digest Digest `json:"digest"`
	Error  string `json:"error,omitempty"`
	Kind   string `json:"kind,omitempty"` // which of verdictKinds the error is
}

// verdictStart is the child's first line: a child that dies after it died of the journal.
const verdictStart = `"ballast journal preflight"`

// verdictKinds are the errors that survive the way through the child's output.
var verdictKinds = map[string]error{
	"corrupt": ErrCorrupt, "nostore": ErrNoStore, "version": ErrVersion, "foreign": ErrForeign, "busy": ErrBusy, "full": ErrFull,
}

// PreflightMain is the child's part of RunPreflight: it verifies the journal in dir, prints the
// verdict to stdout, and returns the exit code.
func PreflightMain(dir string, stdout io.Writer) int {
	return judge(stdout, func() (State, error) { return Preflight(dir, [16]byte{}) })
}

// SettleMain is the child's part of RunSettle, as PreflightMain is that of RunPreflight.
func SettleMain(dir string, stdout io.Writer) int {
	return judge(stdout, func() (State, error) {
		lock, err := settle(dir)
		if err != nil {
			return State{}, err
		}
		return State{}, lock.Close()
	})
}

// judge is what a child does: it prints the verdict of fn, and returns the exit code.
func judge(stdout io.Writer, fn func() (State, error)) int {
	if _, err := fmt.Fprintln(stdout, verdictStart); err != nil {
		return 1
	}
	state, err := fn()
	v := verdict{Seq: state.Seq, Count: state.Count, Digest: state.Digest}
	if err != nil {
		v.Error = err.Error()
		for _, kind := range []string{"version", "foreign", "busy", "full", "nostore", "corrupt"} {
			if errors.Is(err, verdictKinds[kind]) {
				v.Kind = kind
				break
			}
		}
	}
	if json.NewEncoder(stdout).Encode(v) != nil || err != nil {
		return 1
	}
	return 0
}

// PreflightError is a verdict of a child process.
type PreflightError struct {
	What string
	Kind error // ErrCorrupt, ErrVersion, ErrForeign, ErrBusy, ErrFull, ErrNoStore, or nil
}

func (e *PreflightError) Error() string { return e.What }
func (e *PreflightError) Unwrap() error { return e.Kind }

// RunPreflight verifies the journal in dir in a child process: argv with dir added, which must
// call PreflightMain, as the hidden command of the binary itself does. A child that dies of a
// fault means a corrupt journal; one that is killed or does not start means nothing about it.
func RunPreflight(ctx context.Context, argv []string, dir string) (State, error) {
	return runPreflight(ctx, argv, dir)
}

func runPreflight(ctx context.Context, argv []string, args ...string) (State, error) {
	child := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], args...)...)
	state, how, err := runJudge(ctx, child)
	if how != "" {
		err = &PreflightError{fmt.Sprintf("%v: the store kills its reader: %s", ErrCorrupt, how), ErrCorrupt}
	}
	return state, err
}

// SettleFlag is what RunSettle adds to the command of RunPreflight.
const SettleFlag = "--settle"

// RunSettle has Badger open the store in dir and close it again in a child process: argv with dir and
// SettleFlag added, which must call SettleMain. A child that dies means the same as that of RunPreflight.
func RunSettle(ctx context.Context, argv []string, dir string) error {
	_, err := runPreflight(ctx, argv, dir, SettleFlag)
	return err
}

// runJudge runs a child that calls judge, and returns its verdict. If it died of a fault, how tells so.
func runJudge(ctx context.Context, child *exec.Cmd) (state State, how string, err error) {
	// The child must not outlive us and keep the lock. That signal is sent when the thread that
	// started the child ends, so this thread stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr tail
	child.Stdout, child.Stderr = &stdout, &stderr
	runErr := child.Run()
	if ctx.Err() != nil {
		return State{}, "", fmt.Errorf("preflight: %w", context.Cause(ctx))
	}
	var v verdict
	out, started := bytes.CutPrefix(stdout.buf, []byte(verdictStart+"\n"))
	jsonErr := json.Unmarshal(out, &v)
	var exit *exec.ExitError
	switch {
	case started && runErr == nil && jsonErr == nil && v.Error == "":
		return State{v.Seq, v.Count, v.Digest}, "", nil
	case runErr != nil && !errors.As(runErr, &exit):
		return State{}, "", fmt.Errorf("preflight: %w", runErr)
	case started && jsonErr == nil && v.Error != "":
		return State{}, "", &PreflightError{v.Error, verdictKinds[v.Kind]}
	}
	if started && exit != nil && isFault(exit.Sys().(syscall.WaitStatus)) {
		how = fmt.Sprintf("%v: %s", runErr, stderr.firstLines())
	}
	return State{}, how, &PreflightError{What: fmt.Sprintf("preflight: %v: %s", runErr, stderr.firstLines())}
}

// isFault tells a crash from an end that says nothing about the store. Go exits with 2 after a
// panic and most faults, and log.Fatal, which Badger calls, with 1.
func isFault(ws syscall.WaitStatus) bool {
	if ws.Signaled() {
		switch ws.Signal() {
		case syscall.SIGBUS, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE:
			return true
		}
		return false
	}
	return ws.ExitStatus() == 2 || ws.ExitStatus() == 1
}

// tail keeps the first bytes of an output and drops the rest.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), 64<<10-len(t.buf))]...)
	return len(p), nil
}

func (t *tail) firstLines() string {
	lines := bytes.SplitN(bytes.TrimSpace(t.buf), []byte("\n"), 3)
	return strings.TrimSpace(string(bytes.Join(lines[:min(len(lines), 2)], []byte(" "))))
}
