package devicetest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Loop makes a loop device over the file at path, for the time of the test, and returns its
// path. It skips the test where that is not possible.
func Loop(t testing.TB, path string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a loop device")
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skip("needs losetup (package mount or util-linux)")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs a kernel with loop devices")
	}
	out, err := exec.Command(losetup, append(args, "--find", "--show", path)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}
