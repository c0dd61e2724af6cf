package harness

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// MountPoint makes a directory to mount on that every user can reach. What is mounted there when the
// test ends is taken away.
func MountPoint(t testing.TB) string {
	t.Helper()
	base := tempDir(t)
	dir := filepath.Join(base, "mnt")
	if err := errors.Join(os.Chmod(base, 0o711), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
	return dir
}
