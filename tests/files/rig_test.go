package files

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rig is a mounted volume.
type rig struct {
	*testing.T
	env *harness.Env
	d   *harness.Daemon
	dir string   // where it is mounted
	tmp string   // beside it, on another file system
	sys []string // more of the environment of programs

	finished bool
}

// mount serves a new volume of three unequal disks and mounts it. The daemon must stop well and
// check find nothing at the end.
func mount(t *testing.T, copies int, args ...string) *rig {
	t.Helper()
	harness.NeedRoot(t)
	return mountOn(t, harness.New(t), []string{harness.SparseRAM(t, 2<<30), harness.SparseRAM(t, 3<<30), harness.SparseRAM(t, 2<<30)}, copies, args...)
}

// mountOn is mount on disks that there are.
func mountOn(t *testing.T, env *harness.Env, disks []string, copies int, args ...string) *rig {
	t.Helper()
	r := &rig{T: t, env: env, dir: harness.MountPoint(t)}
	r.tmp = filepath.Dir(harness.MountPoint(t))
	r.env.Must(append([]string{"create", "v", "--copies", fmt.Sprint(copies)}, disks...)...)
	r.d = r.env.Serve("v", append([]string{"--mount", r.dir}, args...)...)
	t.Cleanup(r.finish)
	return r
}

// finish is called before the daemon that runs last is killed.
func (r *rig) finish() {
	if !r.finished && !r.Failed() {
		r.finished = true
		require.Zero(r, r.d.Stop())
		r.check()
	}
}

// again starts the daemon, which has ended, anew.
func (r *rig) again() {
	r.Helper()
	r.d = r.d.Again()
	r.Cleanup(r.finish)
}

// check verifies the volume, which is not being served.
func (r *rig) check() {
	r.Helper()
	res := r.env.Command("check", "v")
	require.Zero(r, res.Code, res.Stdout+res.Stderr)
}

// crash kills the daemon and starts it again.
func (r *rig) crash() {
	r.Helper()
	r.d.Kill()
	r.again()
}

// patience is how long one run of a program may take.
const patience = 90 * time.Second

// run runs a program in the rig's directory beside the mount; it must succeed.
func (r *rig) run(name string, args ...string) string {
	r.Helper()
	out, err := r.try(name, args...)
	require.NoError(r, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return out
}

// try is run for what may fail.
func (r *rig) try(name string, args ...string) (string, error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := r.command(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	require.NoError(r, ctx.Err(), "%s does not end: %s", name, out)
	return string(out), err
}

func (r *rig) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.tmp
	cmd.Env = append(append(os.Environ(), "HOME="+r.tmp, "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1"), r.sys...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// same checks that two trees are the same in content, modes, owners, times, links, ACLs and
// attributes, as rsync sees it.
func (r *rig) same(a, b string) {
	r.Helper()
	out := r.run("rsync", "-aHAXSn", "--checksum", "--delete", "--itemize-changes", a+"/", b+"/")
	require.Empty(r, out, "what rsync would have to change in %s to make it %s", b, a)
}

// bytes returns n bytes made from the seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// tree makes a tree of files as backups meet them and returns where.
func (r *rig) tree(scale int) string {
	r.Helper()
	root := filepath.Join(r.tmp, "source")
	rnd := rand.New(rand.NewPCG(1, 2))
	require.NoError(r, os.MkdirAll(root, 0o755))
	for d := range 8 {
		dir := filepath.Join(root, fmt.Sprintf("dir %d", d))
		require.NoError(r, os.MkdirAll(filepath.Join(dir, "empty", "deeper"), 0o750))
		for f := range 12 * scale {
			name := filepath.Join(dir, fmt.Sprintf("file-%d.%s", f, []string{"txt", "bin", "ü", "with space", "\x01\xff"}[f%5]))
			size := rnd.IntN(1 << uint(4+rnd.IntN(15)))
			require.NoError(r, os.WriteFile(name, noise(rnd.Uint64(), size), os.FileMode(0o400+rnd.IntN(0o400))))
			when := time.Unix(1_600_000_000+int64(rnd.IntN(1e8)), int64(rnd.IntN(1e9)))
			require.NoError(r, os.Chtimes(name, when, when))
			switch f % 7 {
			case 1:
				require.NoError(r, os.Link(name, name+".link"))
			case 2:
				require.NoError(r, os.Symlink(fmt.Sprintf("file-%d ü", f), name+".symlink"))
			case 3:
				require.NoError(r, unix.Setxattr(name, "user.origin", noise(1, 40), 0))
			case 4:
				require.NoError(r, os.Chown(name, 1000+rnd.IntN(3), 1000+rnd.IntN(3)))
			}
		}
	}
	require.NoError(r, os.WriteFile(filepath.Join(root, "large"), noise(7, 8<<20), 0o644))
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	require.NoError(r, err)
	for _, off := range []int64{0, 5 << 20, 63 << 20} {
		_, err = sparse.WriteAt(noise(9, 10000), off)
		require.NoError(r, err)
	}
	require.NoError(r, sparse.Truncate(64<<20))
	require.NoError(r, sparse.Close())
	require.NoError(r, unix.Mkfifo(filepath.Join(root, "fifo"), 0o640))
	harness.Need(r, "setfacl", "getfacl", "rsync")
	r.run("setfacl", "-m", "u:1001:rwx,g:1002:r", filepath.Join(root, "large"))
	r.run("setfacl", "-d", "-m", "u:1001:rwx", filepath.Join(root, "dir 1"))
	return root
}
