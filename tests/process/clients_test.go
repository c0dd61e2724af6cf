package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNbdinfo(t *testing.T) {
	harness.Need(t, "nbdinfo")
	env := harness.New(t)
	volume(t, env, 2)
	env.Must("export", "create", "v/second", "1GiB")
	d := env.Serve("v")
	info := harness.Tool(t, "nbdinfo", d.URI("e"))
	for _, want := range []string{"export-size: 268435456", "base:allocation", "can_multi_conn: true", "can_flush: true", "can_fua: true", "can_trim: true",
		"can_zero: true", "can_fast_zero: true", "can_df: true", "can_cache: true", "is_read_only: false"} {
		require.Contains(t, info, want)
	}
	require.Contains(t, harness.Tool(t, "nbdinfo", "--list", d.URI("")), `export="second"`)
	for _, can := range []string{"flush", "fua", "multi-conn", "trim", "zero", "fast-zero", "df", "cache", "write"} {
		harness.Tool(t, "nbdinfo", "--can", can, d.URI("e"))
	}
	require.Regexp(t, `0\s+268435456\s+3\s+hole,zero`, harness.Tool(t, "nbdinfo", "--map", d.URI("e")))
	harness.Tool(t, "nbdinfo", "--json", d.URI("e"))
	_, err := harness.Try(t, "nbdinfo", d.URI("none"))
	require.Error(t, err)
	require.Zero(t, d.Stop())
}

func TestNbdcopyBothWays(t *testing.T) {
	harness.Need(t, "nbdcopy")
	env := harness.New(t)
	volume(t, env, 2)
	d := env.Serve("v")
	data := random(t, 48<<20+12345*512, 7)
	for i, flags := range [][]string{{}, {"--no-extents"}, {"-C", "1"}, {"--request-size=33554432"}, {"--synchronous"}, {"--destination-is-zero"}} {
		name := fmt.Sprintf("x%d", i)
		env.Must("export", "create", "v/"+name, "64MiB")
		harness.Tool(t, "nbdcopy", append(append([]string{"--flush"}, flags...), data, d.URI(name))...)
		out := filepath.Join(t.TempDir(), "out")
		back := flags
		if len(flags) > 0 && flags[0] == "--destination-is-zero" {
			back = nil
		}
		harness.Tool(t, "nbdcopy", append(append([]string{}, back...), d.URI(name), out)...)
		requireSame(t, data, out)
		env.Must("export", "rm", "--yes", "v/"+name)
	}
	require.Zero(t, d.Stop())
}

func TestQemu(t *testing.T) {
	harness.Need(t, "qemu-img", "qemu-io")
	env := harness.New(t)
	volume(t, env, 2)
	d := env.Serve("v")
	data := random(t, 256<<20, 8)
	require.NoError(t, os.Truncate(data, 100<<20))
	require.NoError(t, os.Truncate(data, 256<<20)) // the rest is a hole
	harness.Tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", data, d.URI("e"))
	require.Contains(t, harness.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", data, d.URI("e")), "identical")
	require.Contains(t, harness.Tool(t, "qemu-img", "map", "--output=json", "-f", "raw", d.URI("e")), `"zero": true`)
	harness.Tool(t, "qemu-img", "bench", "-f", "raw", "-c", "500", "-d", "16", "-s", "65536", d.URI("e"))
	out := filepath.Join(t.TempDir(), "out.qcow2")
	harness.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", d.URI("e"), out)
	harness.Tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", out, data)

	// Patterns at any alignment, zeroes, discards, FUA, flush; each read back and compared.
	patterns := harness.Tool(t, "qemu-io", "-f", "raw", d.URI("e"),
		"-c", "write -P 0x11 0 1M", "-c", "write -P 0x22 12345 7", "-c", "write -f -P 0x33 4095 4098", "-c", "write -P 0x44 1048000 3M",
		"-c", "read -P 0x11 100 1000", "-c", "read -P 0x22 12345 7", "-c", "read -P 0x33 4095 4098", "-c", "read -P 0x44 1048000 3M",
		"-c", "write -z 65536 65536", "-c", "read -P 0 65536 65536", "-c", "write -z -u 2M 1M", "-c", "read -P 0 2M 1M",
		"-c", "discard 1M 512K", "-c", "flush", "-c", "read -P 0x44 1800000 4096", "-c", "write -P 0x55 268435000 456", "-c", "read -P 0x55 268435000 456")
	require.NotContains(t, patterns, "failed")
	require.NotContains(t, patterns, "error")
	require.Zero(t, d.Stop())
}

func TestFioVerifies(t *testing.T) {
	harness.Need(t, "fio")
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("copies=%d", copies), func(t *testing.T) {
			env := harness.New(t)
			volume(t, env, copies)
			d := env.Serve("v")
			for i, job := range [][]string{
				{"--rw=write", "--bs=1M", "--iodepth=8"},
				{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--io_size=32M"},
				{"--rw=randwrite", "--bsrange=512-4M", "--bs_unaligned=1", "--iodepth=8"},
				{"--rw=randwrite", "--bsrange=512-64k", "--iodepth=16", "--fsync=16", "--io_size=32M"},
			} {
				args := append([]string{"--name=v", "--ioengine=nbd", "--uri=" + d.URI("e"), "--size=48M", "--numjobs=3", "--offset_increment=64M", "--group_reporting",
					"--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1", "--do_verify=1", fmt.Sprintf("--randseed=%d", i+1)}, job...)
				out := harness.Tool(t, "fio", args...)
				require.Contains(t, out, "err= 0")
				require.NotContains(t, out, "verify: bad")
			}
			require.Zero(t, d.Stop())
		})
	}
}

// TestOneClientOnStdio is the mode in which another program starts us for itself and talks to us
// on standard input and output.
func TestOneClientOnStdio(t *testing.T) {
	if _, err := exec.Command("/usr/bin/python3", "-c", "import nbd").CombinedOutput(); err != nil {
		harness.Missing(t, "python3-libnbd")
	}
	env := harness.New(t)
	volume(t, env, 1)
	env.Must("export", "create", "v/other", "1MiB")
	script := `import nbd, sys
def client():
    h = nbd.NBD()
    h.set_export_name("ignored")
    h.connect_command(sys.argv[1:])
    return h
try:
    client()
    sys.exit("served an export that does not exist")
except nbd.Error:
    pass
def client():
    h = nbd.NBD()
    h.set_export_name("e")
    h.connect_command(sys.argv[1:])
    return h
h = client()
assert h.get_size() == 268435456, h.get_size()
h.pwrite(b"ballast" * 1000, 12345)
h.flush()
h.shutdown()
del h
h = client()
assert h.pread(7000, 12345) == b"ballast" * 1000
h.shutdown()
print("fine")
`
	out := harness.Tool(t, "/usr/bin/python3", "-c", script, env.Bin, "serve", "v", "--state-dir", env.State, "--run-dir", env.Run, "--stdio", "e")
	require.Contains(t, out, "fine")
}

// TestStartedByAClient is how libnbd's tools start a server: with a socket that listens.
func TestStartedByAClient(t *testing.T) {
	harness.Need(t, "nbdinfo", "nbdcopy")
	env := harness.New(t)
	volume(t, env, 1)
	data := random(t, 8<<20, 9)
	out := filepath.Join(t.TempDir(), "out")
	command := []string{"[", env.Bin, "serve", "v", "--state-dir", env.State, "--run-dir", env.Run, "]"}
	harness.Tool(t, "nbdcopy", append([]string{"--flush", "--", data}, command...)...)
	harness.Tool(t, "nbdcopy", append(append([]string{"--"}, command...), out)...)
	requireSame(t, data, out)
	require.Contains(t, harness.Tool(t, "nbdinfo", append([]string{"--size", "--"}, command...)...), "268435456")
}

// TestSocketActivation hands a listening socket over as a service manager does.
func TestSocketActivation(t *testing.T) {
	harness.Need(t, "nbdinfo")
	env := harness.New(t)
	volume(t, env, 1)
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 16))
	listener := os.NewFile(uintptr(fd), "listener")
	// LISTEN_PID has to be the daemon's own, which only a shell that becomes it can say.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, env.Bin, "serve", "v", "--state-dir", env.State, "--run-dir", env.Run)
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	require.NoError(t, listener.Close())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	// The socket listens already: the client waits until somebody answers.
	require.Contains(t, harness.Tool(t, "nbdinfo", "--size", "nbd+unix:///e?socket="+path), "268435456")
	require.NoFileExists(t, filepath.Join(env.Run, "v-nbd.sock"))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}

// TestBlockDevices runs a volume on block devices, and refuses those that are taken.
func TestBlockDevices(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "nbdcopy", "mkfs.ext4")
	env := harness.New(t)
	a, b := harness.NewLoop(t, harness.Sparse(t, 100<<20)), harness.NewLoop(t, harness.Sparse(t, 200<<20))
	refused(t, env.Command("create", "w", a.Path, a.File), 11, "E_DEVICE_TWICE")
	refused(t, env.Command("create", "w", a.File), 11, "E_DEVICE_BUSY")
	link := filepath.Join(t.TempDir(), "by-id")
	require.NoError(t, os.Symlink(a.Path, link))
	refused(t, env.Command("create", "w", a.Path, link), 2, "E_DEVICE_TWICE")

	// A mounted one, by any name, forced or not; and once it is not mounted, named for what it holds.
	harness.Tool(t, "mkfs.ext4", "-q", b.Path)
	dir := t.TempDir()
	require.NoError(t, unix.Mount(b.Path, dir, "ext4", 0, ""))
	r := env.Command("create", "w", a.Path, b.Path, "--force")
	unmounted := unix.Unmount(dir, 0)
	require.NoError(t, unmounted)
	refused(t, r, 11, "E_DEVICE_BUSY")
	require.Contains(t, r.Stderr, dir)
	r = env.Command("create", "w", a.Path, b.Path)
	refused(t, r, 1, "E_DEVICE_SIGNATURE")
	require.Contains(t, r.Stderr, "ext4")
	harness.Tool(t, "fsck.ext4", "-fn", b.Path) // nothing was touched
	require.NoDirExists(t, filepath.Join(env.State, "w"))

	env.Must("create", "v", link, b.Path, "--force", "--copies", "2")
	env.Must("export", "create", "v/e", "64MiB")
	d := env.Serve("v")
	data := random(t, 32<<20, 10)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	refused(t, env.Command("create", "w", b.Path, "--force"), 11, "E_DEVICE_BUSY")
	require.Error(t, unix.Mount(b.Path, dir, "ext4", 0, ""))
	d.Kill()
	d = d.Again()
	out := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), out)
	requireSame(t, data, out)
	require.Zero(t, d.Stop())
	refused(t, env.Command("create", "w", b.Path), 1, "E_DEVICE_MEMBER")
}

// TestFullVolume: writes end with ENOSPC, all else goes on, and space returns after a trim.
func TestFullVolume(t *testing.T) {
	harness.Need(t, "qemu-io")
	env := harness.New(t)
	dir := t.TempDir()
	env.Must("create", "v", filepath.Join(dir, "a")+":40MiB", filepath.Join(dir, "b")+":40MiB")
	env.Must("export", "create", "v/e", "1GiB")
	d := env.Serve("v")
	io := func(commands ...string) string {
		args := []string{"-f", "raw", d.URI("e")}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		out, _ := harness.Try(t, "qemu-io", args...)
		return out
	}
	out := io("write -P 1 0 16M", "flush", "write -P 2 16M 32M", "write -P 3 48M 32M", "flush")
	require.Contains(t, out, "No space left on device")
	out = io("read -P 1 0 16M", "write -P 4 1M 1M", "flush", "read -P 4 1M 1M")
	require.NotContains(t, strings.ToLower(out), "failed")
	require.NotContains(t, out, "No space")
	out = io("discard 4M 512M", "flush", "write -P 5 100M 8M", "flush", "read -P 5 100M 8M", "read -P 1 2M 1M")
	require.NotContains(t, strings.ToLower(out), "failed")
	require.NotContains(t, out, "No space")
	require.Zero(t, d.Stop())
}

// TestFullJournalDisk: what needs new records is refused, nothing is lost, and all goes on once
// there is space again.
func TestFullJournalDisk(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "qemu-io", "nbdcopy")
	env := harness.New(t)
	require.NoError(t, os.MkdirAll(env.State, 0o700))
	require.NoError(t, unix.Mount("tmpfs", env.State, "tmpfs", 0, "size=200M"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(env.State, unix.MNT_DETACH)) })
	volume(t, env, 1)
	d := env.Serve("v")
	data := random(t, 16<<20, 12)
	harness.Tool(t, "nbdcopy", "--flush", data, d.URI("e"))
	fill := filepath.Join(env.State, "fill")
	harness.Try(t, "dd", "if=/dev/zero", "of="+fill, "bs=1M")

	refused(t, env.Command("export", "create", "v/f", "1GiB"), 13, "E_NO_SPACE")
	out, _ := harness.Try(t, "qemu-io", "-f", "raw", d.URI("e"), "-c", "write -P 7 64M 64M", "-c", "flush")
	require.Contains(t, out, "failed: No space left on device")
	same := filepath.Join(t.TempDir(), "out")
	harness.Tool(t, "nbdcopy", d.URI("e"), same)
	requireSame(t, data, same)
	d.Kill()
	r := env.Command("serve", "v")
	refused(t, r, 13, "E_NO_SPACE")

	require.NoError(t, os.Remove(fill))
	d = d.Again()
	harness.Tool(t, "nbdcopy", d.URI("e"), same)
	requireSame(t, data, same)
	out = harness.Tool(t, "qemu-io", "-f", "raw", d.URI("e"), "-c", "write -P 7 64M 64M", "-c", "flush", "-c", "read -P 7 64M 64M")
	require.NotContains(t, strings.ToLower(out), "failed")
	require.Zero(t, d.Stop())
}
