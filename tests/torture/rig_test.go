package torture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ballast/nbd/wire"
	"ballast/tests/harness"
	"ballast/tests/nbdclient"

	"github.com/stretchr/testify/require"
)

// shape is how a volume is made.
type shape struct {
	copies int
	chunk  string
	loop   bool  // on loop devices
	size   int64 // of the export; 0: 64 MiB
	disks  int   // 0: three
	serve  []string
	tears  bool // a disk may tear a block that it was writing when its power failed
}

// rig is a volume v on two or three unequal disks, with an export e that a model knows, and its daemon.
type rig struct {
	t     *testing.T
	env   *harness.Env
	disks []string // files, whatever stands on them
	shape shape
	m     *model
	d     *harness.Daemon // nil while none runs

	starts []time.Duration
	helped int   // starts that failed
	lost   int64 // bytes that were flushed and are not there, or differ from read to read
	torn   atomic.Int64
}

var diskSizes = []int64{100 << 20, 200 << 20, 300 << 20}

func newRig(t *testing.T, s shape) *rig {
	t.Helper()
	return newRigIn(t, harness.New(t), s)
}

func newRigIn(t *testing.T, env *harness.Env, s shape) *rig {
	t.Helper()
	if s.size == 0 {
		s.size = 64 << 20
	}
	r := &rig{t: t, env: env, shape: s, m: newModel(s.size)}
	args := []string{"create", "v", "--copies", fmt.Sprint(s.copies)}
	if s.chunk != "" {
		args = append(args, "--chunk", s.chunk)
	}
	for i, size := range diskSizes {
		if s.disks != 0 && i == s.disks {
			break
		}
		file := harness.Sparse(t, size)
		r.disks = append(r.disks, file)
		if s.loop {
			file = harness.NewLoop(t, file).Path
		}
		args = append(args, file)
	}
	r.env.Must(args...)
	r.env.Must("export", "create", "v/e", fmt.Sprint(s.size))
	return r
}

// start starts the daemon, which must need no help.
func (r *rig) start(args ...string) {
	r.t.Helper()
	began := time.Now()
	d, err := r.env.TryServe("v", append(slices.Clone(r.shape.serve), args...)...)
	if err != nil {
		r.helped++
		r.t.Fatalf("a start that needs help: %v", err)
	}
	r.starts = append(r.starts, time.Since(began))
	r.d = d
}

// startAndKill starts a daemon and kills it after a while, ready or not.
func (r *rig) startAndKill(after time.Duration) {
	r.t.Helper()
	cmd := exec.Command(r.env.Bin, append([]string{"serve", "v", "--state-dir", r.env.State, "--run-dir", r.env.Run}, r.shape.serve...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(r.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	select {
	case <-time.After(after):
		cmd.Process.Kill()
		<-ended
	case <-ended:
		r.helped++
		r.t.Fatalf("the daemon ended by itself within %v: %s", after, out.String())
	}
}

// connect opens n connections to the export.
func (r *rig) connect(n int) []client {
	r.t.Helper()
	list, err := r.tryConnect(n)
	require.NoError(r.t, err)
	return list
}

func (r *rig) tryConnect(n int) (list []client, err error) {
	r.t.Helper()
	for range n {
		c, err := nbdclient.Dial("unix", r.d.NBD, "e")
		if err != nil {
			return nil, err
		}
		require.NotZero(r.t, c.Flags&wire.CanMultiConn, "flushes must cover all connections")
		r.t.Cleanup(c.Close)
		list = append(list, c)
	}
	return list, nil
}

// kill kills the daemon.
func (r *rig) kill() {
	r.d.Kill()
	r.d = nil
}

// stop ends the daemon, which must find nothing to complain of.
func (r *rig) stop() {
	r.t.Helper()
	require.Zero(r.t, r.d.Stop())
	r.d = nil
}

// verify reads every block twice over different connections and compares it with the model, which
// takes what is there for durable from then on. It returns whether all was read; the connections
// may be lost meanwhile.
func (r *rig) verify() bool {
	r.t.Helper()
	c, err := r.tryConnect(2)
	if errors.Is(err, nbdclient.ErrLost) {
		return false
	}
	require.NoError(r.t, err)
	const piece = 1 << 20
	todo := make(chan int64, r.shape.size/piece+1)
	for off := int64(0); off < r.shape.size; off += piece {
		todo <- off
	}
	close(todo)
	var mu sync.Mutex
	var wg sync.WaitGroup
	complete := true
	for range 3 {
		p, q := make([]byte, piece), make([]byte, piece)
		wg.Go(func() {
			for off := range todo {
				size := min(piece, r.shape.size-off)
				p, q := p[:size], q[:size]
				errs := r.compare(p, q, off, c)
				if len(errs) == 0 {
					continue
				}
				mu.Lock()
				if errors.Is(errs[0], nbdclient.ErrLost) {
					complete = false
				} else {
					r.lost += int64(len(errs)) * blockSize
					r.t.Errorf("after the restart: %v", errors.Join(errs[:min(len(errs), 5)]...))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return complete
}

// compare reads a piece twice.
func (r *rig) compare(p, q []byte, off int64, c []client) (errs []error) {
	err := c[0].Read(p, off)
	if r.shape.tears && nbdclient.ErrnoOf(err) == wire.EIO {
		if err = r.rewriteTorn(c[0], off, len(p)); err == nil {
			err = c[0].Read(p, off)
		}
	}
	if err != nil {
		return []error{err}
	}
	err = c[1].Read(q, off)
	if err != nil && !errors.Is(err, nbdclient.ErrLost) {
		return []error{err}
	}
	for i := 0; i < len(p); i += blockSize {
		block := int((off + int64(i)) / blockSize)
		if e := r.m.collapse(p[i:i+blockSize], block); e != nil {
			errs = append(errs, e)
		}
		if err == nil && !bytes.Equal(p[i:i+blockSize], q[i:i+blockSize]) {
			errs = append(errs, fmt.Errorf("block %d reads as %s, then as %s", block, describe(p[i:i+blockSize]), describe(q[i:i+blockSize])))
		}
	}
	if err != nil && len(errs) == 0 {
		return []error{err}
	}
	return errs
}

// rewriteTorn writes zeros where blocks cannot be read. It must be such that were being written: a flushed
// one is never torn.
func (r *rig) rewriteTorn(c client, off int64, size int) error {
	p := make([]byte, blockSize)
	for end := off + int64(size); off < end; off += blockSize {
		err := c.Read(p, off)
		if err == nil {
			continue
		}
		if nbdclient.ErrnoOf(err) != wire.EIO || !r.m.open(int(off/blockSize)) {
			return err
		}
		r.torn.Add(1)
		clear(p)
		if err := c.Write(p, off, nbdclient.FUA); err != nil {
			return err
		}
		r.m.begin(int(off/blockSize), []content{zeroContent}).durable()
	}
	return nil
}

// checked is what ballast check says.
type checked struct {
	Verdict    string
	FaultCount int64 `json:"fault_count"`
	Faults     []struct {
		Device, Object, What string
		Chunk                int64
	}
}

// check looks at the volume while nobody serves it.
func (r *rig) check() (c checked) {
	r.t.Helper()
	result := r.env.Command("check", "v", "--json")
	require.NoError(r.t, json.Unmarshal([]byte(result.Stdout), &c), result.Stdout+result.Stderr)
	return c
}

// status is what ballast status says.
type status struct {
	State    string
	Healed   int64 `json:"healed_blocks"`
	Degraded int64 `json:"degraded_chunks"`
	Lost     int64 `json:"lost_chunks"`
	Free     int64 `json:"free_bytes"`
	Used     int64 `json:"used_bytes"`
	Size     int64 `json:"size_bytes"`
	Bad      []struct {
		Export string
		Off    int64 `json:"offset"`
		Size   int64
	} `json:"bad_ranges"`
	Devices []deviceStatus
	Health  []struct{ Code, Severity, Message, Action string }
	Journal struct {
		CopiesGood int `json:"copies_good"`
		Recovered  string
	}
}

type deviceStatus struct {
	ID, Path, State, Reason string
	Errors                  int64
	Size                    int64 `json:"size_bytes"`
	Used                    int64 `json:"used_bytes"`
}

func (r *rig) status() (s status) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal([]byte(r.env.Must("status", "--json", "v")), &s))
	return s
}

// journal is the directory of the volume's journal.
func (r *rig) journal() string { return filepath.Join(r.env.State, "v", "journal") }

// keep copies files or directories away and returns what puts them back as they were.
func keep(t *testing.T, paths ...string) (restore func()) {
	t.Helper()
	dir := harness.Sparse(t, 0) + ".kept"
	require.NoError(t, os.Mkdir(dir, 0o700))
	for i, p := range paths {
		harness.Tool(t, "cp", "-a", "--sparse=always", p, filepath.Join(dir, fmt.Sprint(i)))
	}
	return func() {
		t.Helper()
		for i, p := range paths {
			require.NoError(t, os.RemoveAll(p))
			harness.Tool(t, "cp", "-a", "--sparse=always", filepath.Join(dir, fmt.Sprint(i)), p)
		}
	}
}
