package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestSocketForOtherUsers: the users of --nbd-user get in, others do not; and a socket that they
// could not reach is refused at once.
func TestSocketForOtherUsers(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "nbdinfo")
	env := harness.New(t)
	volume(t, env, 1)
	dir, err := os.MkdirTemp("", "bt")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	_, err = env.TryServe("v", "--nbd-user", "nobody", "--nbd", "unix:"+filepath.Join(dir, "s"))
	require.ErrorContains(t, err, "cannot get through "+dir+" (mode 0700)")
	require.NoError(t, os.Chmod(dir, 0o711))
	env.Serve("v", "--nbd-user", "nobody", "--nbd-user", "4711", "--nbd", "unix:"+filepath.Join(dir, "s"))
	for uid, allowed := range map[uint32]bool{0: true, 65534: true, 4711: true, 4712: false} {
		info := exec.Command("nbdinfo", "--size", "nbd+unix:///e?socket="+filepath.Join(dir, "s"))
		info.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
		out, err := info.CombinedOutput()
		require.Equal(t, allowed, err == nil, "uid %d: %s", uid, out)
	}
	r := env.Command("serve", "v", "--nbd-user", "no such user")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "E_USAGE")
}
