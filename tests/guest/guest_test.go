//go:build torture

package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/tests/harness"
)

// modules that the guest loads, in this order; those that are built in or not there are left out.
var modules = []string{"crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "nbd"}

// tools of this machine that go into the guest with the libraries they need.
var tools = []string{"mke2fs", "e2fsck", "fio", "nbd-client", "sha256sum"}

// TestTortureGuestKernel attaches exports to a kernel's /dev/nbdN, makes a file system there, kills
// the daemon under it, gives the device its new connections, and finds every byte.
func TestTortureGuestKernel(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, append([]string{"qemu-system-x86_64", "busybox", "cpio", "gzip", "ldd", "dpkg-deb", "apt-get"}, tools...)...)
	dir := t.TempDir()
	kernel, mods := debianKernel(t, dir)
	image := initramfs(t, dir, mods)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "3072", "-smp", "2", "-nographic", "-no-reboot", "-nodefaults",
		"-serial", "stdio", "-kernel", kernel, "-initrd", image, "-append", "console=ttyS0 panic=-1 quiet")
	out, err := qemu.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, qemu.Start())
	verdict := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		t.Log(line)
		verdict = verdict || strings.HasPrefix(line, "GUEST OK")
	}
	require.NoError(t, qemu.Wait())
	require.True(t, verdict, "the guest did not come to its end")
}

// debianKernel unpacks Debian's kernel of the stable release below dir, without installing it.
func debianKernel(t *testing.T, dir string) (kernel string, mods map[string]string) {
	t.Helper()
	depends := run(t, dir, "apt-cache", "depends", "linux-image-amd64")
	_, rest, found := strings.Cut(depends, "Depends: linux-image")
	require.True(t, found, depends)
	name := "linux-image" + strings.Fields(rest)[0]
	run(t, dir, "apt-get", "-q", "download", "-o", "APT::Sandbox::User=root", name)
	debs, err := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 1)
	run(t, dir, "dpkg-deb", "-x", debs[0], filepath.Join(dir, "kernel"))
	kernels, err := filepath.Glob(filepath.Join(dir, "kernel/boot/vmlinuz-*"))
	require.NoError(t, err)
	require.Len(t, kernels, 1)
	mods = map[string]string{}
	err = filepath.WalkDir(filepath.Join(dir, "kernel/lib/modules"), func(path string, _ fs.DirEntry, err error) error {
		if base, _, is := strings.Cut(filepath.Base(path), ".ko"); is {
			mods[base] = path
		}
		return err
	})
	require.NoError(t, err)
	require.Contains(t, mods, "nbd")
	return kernels[0], mods
}

// initramfs packs what the guest runs, and returns the archive's path.
func initramfs(t *testing.T, dir string, mods map[string]string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "mnt", "modules"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	put := func(from, to string, mode fs.FileMode) {
		in, err := os.ReadFile(from)
		require.NoError(t, err)
		to = filepath.Join(root, to)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.WriteFile(to, in, mode))
	}
	put("testdata/init.sh", "init", 0o755)
	put(harness.Binary(t), "bin/ballast", 0o755)
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err)
	put(busybox, "bin/busybox", 0o755)
	for _, tool := range tools {
		path, err := exec.LookPath(tool)
		require.NoError(t, err)
		put(path, "tools/"+tool, 0o755)
		for _, word := range strings.Fields(run(t, dir, "ldd", path)) {
			if strings.HasPrefix(word, "/") {
				put(word, word, 0o755)
			}
		}
	}
	var load strings.Builder
	for _, m := range modules {
		if path := mods[m]; path != "" {
			put(path, "modules/"+filepath.Base(path), 0o644)
			fmt.Fprintf(&load, "/modules/%s\n", filepath.Base(path))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "modules/list"), []byte(load.String()), 0o644))
	image := filepath.Join(dir, "initramfs.gz")
	pack := exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet | gzip -1")
	pack.Dir = root
	f, err := os.Create(image)
	require.NoError(t, err)
	pack.Stdout, pack.Stderr = f, io.Discard
	require.NoError(t, pack.Run())
	require.NoError(t, f.Close())
	return image
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
