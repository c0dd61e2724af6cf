package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// unmount unmounts dir, EBUSY if somebody uses it. Users other than root need fusermount for it.
func unmount(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	}
	return fusermount("-u", dir)
}

// detach takes what is mounted at dir out of the tree of directories, whoever uses it.
func detach(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return fusermount("-u", "-z", dir)
}

// cutOff detaches dir and ends all requests to it, those under way too. device is that of the
// mount, from before.
func cutOff(dir, device string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	err := fusermount("-u", "-z", dir)
	_, minor, _ := strings.Cut(device, ":")
	return errors.Join(err, os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0))
}

func fusermount(args ...string) error {
	program, err := exec.LookPath("fusermount3")
	if err != nil {
		if program, err = exec.LookPath("fusermount"); err != nil {
			return err
		}
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if strings.Contains(text, "busy") {
		return fmt.Errorf("%s: %w", text, unix.EBUSY)
	}
	return fmt.Errorf("%s: %w", text, err)
}
