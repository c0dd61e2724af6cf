package files

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/cmd/control"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountsOf asks for the status.
func mountsOf(t *testing.T, e *harness.Env) []control.Mount {
	t.Helper()
	var s control.Status
	require.NoError(t, json.Unmarshal([]byte(e.Must("status", "v", "--json")), &s))
	return s.Daemon.Mounts
}

// fsType is the type and source of what is mounted at dir, "" if nothing is.
func fsType(t *testing.T, dir string) string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	found := ""
	for line := range strings.Lines(string(info)) {
		f := strings.Fields(line)
		if f[4] == dir {
			_, back, _ := strings.Cut(line, " - ")
			found = strings.Join(strings.Fields(back)[:2], " ")
		}
	}
	return found
}

func created(t *testing.T) *harness.Env {
	t.Helper()
	harness.NeedRoot(t)
	e := harness.New(t)
	e.Must("create", "v", harness.SparseRAM(t, 1<<30), harness.SparseRAM(t, 1<<30))
	return e
}

func TestMountCommand(t *testing.T) {
	e := created(t)
	dir := harness.MountPoint(t)
	d := e.Serve("v")
	e.Must("mount", "v", dir, "-o", "noexec,nofail,_netdev,x-systemd.automount")
	require.Equal(t, "fuse.ballast v", fsType(t, dir))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	mounts := mountsOf(t, e)
	require.Len(t, mounts, 1)
	require.Equal(t, dir, mounts[0].Dir)
	require.Eventually(t, func() bool { // the kernel tells of a close when it comes to it
		return strings.Contains(e.Must("status", "v"), "mount:   "+dir+"  (0 open files)")
	}, harness.Patience, 20*time.Millisecond)
	_, metrics, err := d.Get("/metrics")
	require.NoError(t, err)
	require.Contains(t, metrics, "ballast_fuse_written_bytes_total{dir=\""+dir+"\"} 7")
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	require.NotZero(t, st.Flags&unix.ST_NOEXEC)
	require.NotZero(t, st.Flags&unix.ST_NOSUID)

	r := e.Command("mount", "v", harness.MountPoint(t))
	require.Equal(t, control.ExitBusy, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "mounted on "+dir+" already")
	require.NoError(t, unix.Unmount(dir, 0))
	other := harness.MountPoint(t)
	e.Must("mount", "v", other, "-o", "ro")
	text, err := os.ReadFile(filepath.Join(other, "f"))
	require.NoError(t, err)
	require.Equal(t, "content", string(text))
	require.ErrorIs(t, os.WriteFile(filepath.Join(other, "g"), nil, 0o644), unix.EROFS)
	require.Zero(t, d.Stop())
	require.Empty(t, fsType(t, other))
}

// TestMountIsTuned: the kernel reads far ahead on the mount and may hold more for it that is not written.
func TestMountIsTuned(t *testing.T) {
	r := mount(t, 1)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(r.dir, &st))
	for file, want := range map[string]string{"read_ahead_kb": "4096", "max_ratio": "10"} {
		got, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/%d:%d/%s", unix.Major(st.Dev), unix.Minor(st.Dev), file))
		require.NoError(t, err)
		require.Equal(t, want, strings.TrimSpace(string(got)), file)
	}
}

func TestMountRefusals(t *testing.T) {
	e := created(t)
	e.Serve("v")
	dir := harness.MountPoint(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"mount", "v", filepath.Join(dir, "no")}, control.ExitFailed, "no such directory"},
		{[]string{"mount", "v", filepath.Join(dir, "file")}, control.ExitFailed, "not a directory"},
		{[]string{"mount", "v", e.State}, control.ExitFailed, "would hide"},
		{[]string{"mount", "v", "/"}, control.ExitFailed, "would hide"},
		{[]string{"mount", "no", dir}, control.ExitNoVolume, "no volume"},
		{[]string{"mount", "v", dir, "-o", "noexce"}, control.ExitUsage, "-o noexec"},
		{[]string{"v", dir, "-o", "rw,frobnicate"}, control.ExitUsage, "there is no mount option frobnicate"},
	} {
		r := e.Command(c.args...)
		require.Equal(t, c.code, r.Code, "%v: %s", c.args, r.Stderr)
		require.Contains(t, r.Stderr, c.text)
	}
	require.Empty(t, mountsOf(t, e))
}

// TestMountHelper calls ballast as mount(8) and mount.fuse3(8) do, with no daemon there: one is
// started, and ends with the mount.
func TestMountHelper(t *testing.T) {
	e := created(t)
	dir := harness.MountPoint(t)
	helper := filepath.Join(filepath.Dir(harness.MountPoint(t)), "mount.ballast")
	require.NoError(t, os.Symlink(e.Bin, helper))
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "BALLAST_STATE_DIR="+e.State, "BALLAST_RUN_DIR="+e.Run)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	run(helper, "v", dir, "-f", "-o", "rw")
	require.Empty(t, fsType(t, dir))
	for _, args := range [][]string{{helper, "v", dir, "-s", "-o", "rw,sloppy_option,noatime"}, {e.Bin, "v", dir, "-o", "rw,dev,suid"}} {
		require.Empty(t, run(args[0], args[1:]...))
		require.Equal(t, "fuse.ballast v", fsType(t, dir))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o644))
		pid := pidOf(t, e)
		require.NoError(t, unix.Unmount(dir, 0))
		waitEnded(t, pid)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "below"), nil, 0o644))
	run(helper, "v", dir)
	text, err := os.ReadFile(filepath.Join(dir, "f"))
	require.NoError(t, err)
	require.Equal(t, "kept", string(text))
	pid := pidOf(t, e)
	e.Must("stop", "v")
	waitEnded(t, pid)
	require.FileExists(t, filepath.Join(dir, "below"))
}

func pidOf(t *testing.T, e *harness.Env) int {
	t.Helper()
	var s control.Status
	require.NoError(t, json.Unmarshal([]byte(e.Must("status", "v", "--json")), &s))
	t.Cleanup(func() { // should the test fail
		if cmdline, _ := os.ReadFile("/proc/" + itoa(s.Daemon.PID) + "/cmdline"); strings.Contains(string(cmdline), e.State) {
			syscall.Kill(s.Daemon.PID, syscall.SIGKILL)
		}
	})
	return s.Daemon.PID
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// waitEnded waits for a process that is not ours.
func waitEnded(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, harness.Patience, 20*time.Millisecond, "process %d does not end", pid)
}

// TestStaleMount kills the daemon; the next one takes the dead mount away and mounts anew.
func TestStaleMount(t *testing.T) {
	e := created(t)
	dir := harness.MountPoint(t)
	d := e.Serve("v", "--mount", dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_RDWR, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Fsync(fd))
	d.Kill()
	_, err = os.ReadDir(dir)
	require.ErrorIs(t, err, unix.ENOTCONN)
	d = d.Again()
	text, err := os.ReadFile(filepath.Join(dir, "f"))
	require.NoError(t, err)
	require.Equal(t, "content", string(text))
	// Another volume's dead mount is not ours to take away.
	d.Kill()
	e.Must("create", "w", harness.SparseRAM(t, 1<<30))
	_, err = e.TryServe("w", "--mount", dir)
	require.ErrorContains(t, err, "E_MOUNT_BUSY")
	// Nor is one that lives.
	d = d.Again()
	_, err = e.TryServe("w", "--mount", dir)
	require.ErrorContains(t, err, "E_MOUNT_BUSY")
	require.Zero(t, d.Stop())
}

// TestStopWithOpenFiles stops the daemon while a program has a file open whose data only the
// kernel has yet: that is not lost, and the program gets errors.
func TestStopWithOpenFiles(t *testing.T) {
	e := created(t)
	dir := harness.MountPoint(t)
	d := e.Serve("v", "--mount", dir)
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_RDWR, 0o644)
	require.NoError(t, err)
	defer unix.Close(fd)
	want := noise(3, 3<<20)
	_, err = unix.Write(fd, want)
	require.NoError(t, err)
	require.Equal(t, 1, mountsOf(t, e)[0].OpenFiles)
	require.Zero(t, d.Stop())
	require.Empty(t, fsType(t, dir))
	require.Error(t, unix.Fstat(fd, new(unix.Stat_t)))
	d = d.Again()
	text, err := os.ReadFile(filepath.Join(dir, "f"))
	require.NoError(t, err)
	require.True(t, string(want) == string(text))
	require.Zero(t, d.Stop())
}

// TestFilesAndExports has one volume serve both at a time.
func TestFilesAndExports(t *testing.T) {
	harness.Need(t, "qemu-io", "fio")
	r := mount(t, 2)
	r.env.Must("export", "create", "v/e", "64MiB")
	done := make(chan error, 1)
	go func() {
		_, err := r.try("fio", "--name=nbd", "--ioengine=nbd", "--uri="+r.d.URI("e"), "--rw=randwrite", "--bs=64k", "--size=64M", "--verify=crc32c", "--iodepth=8")
		done <- err
	}()
	r.run("fio", "--directory="+r.dir, "--name=file", "--ioengine=psync", "--rw=randwrite", "--bs=64k", "--size=64M", "--verify=crc32c", "--end_fsync=1")
	require.NoError(t, <-done)
	r.crash()
	r.run("fio", "--directory="+r.dir, "--name=file", "--ioengine=psync", "--rw=randwrite", "--bs=64k", "--size=64M", "--verify=crc32c", "--verify_only")
}

// TestLossNamesFiles: what would be lost, and what cannot be read, is told by path.
func TestLossNamesFiles(t *testing.T) {
	harness.NeedRoot(t)
	e, dir, disk := harness.New(t), harness.MountPoint(t), harness.SparseRAM(t, 256<<20)
	e.Must("create", "v", disk)
	d := e.Serve("v", "--mount", dir)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	file := filepath.Join(dir, "a/b/letter")
	content := noise(1, 100_000)
	require.NoError(t, os.WriteFile(file, content, 0o644))
	out := e.Must("map", "v", "--if-lost", "d1")
	require.Contains(t, out, "/a/b/letter  1 chunk")
	require.Zero(t, d.Stop())

	image, err := os.ReadFile(disk)
	require.NoError(t, err)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	require.NoError(t, err)
	found := 0
	for at := 0; at+4096 <= len(image); at += 4096 { // also where the chunk was before it was placed anew
		if bytes.Equal(content[:4096], image[at:at+4096]) {
			_, err = f.WriteAt(make([]byte, 4096), int64(at))
			require.NoError(t, err)
			found++
		}
	}
	require.Positive(t, found)
	require.NoError(t, f.Close())
	d = d.Again()
	_, err = os.ReadFile(file)
	require.ErrorIs(t, err, syscall.EIO)
	require.Contains(t, e.Must("status", "v", "--json"), `"path": "/a/b/letter"`)
	require.Zero(t, d.Stop())
}

// TestWhyOfAFile: where a file stands is asked for by its path, whatever it was called or moved to.
func TestWhyOfAFile(t *testing.T) {
	r := mount(t, 2)
	dir := filepath.Join(r.dir, "a b")
	require.NoError(t, os.Mkdir(dir, 0o755))
	file := filepath.Join(dir, "letter")
	require.NoError(t, os.WriteFile(file, noise(1, 3<<20), 0o644))
	require.NoError(t, os.Truncate(file, 0)) // its data is another object's from now on
	require.NoError(t, os.WriteFile(file, noise(2, 5<<20), 0o644))
	out := r.env.Must("why", file, "--offset", "4MiB")
	require.Contains(t, out, file+": 5.00 MiB written in 5 chunks, 0 with fewer copies than asked for, 0 lost")
	require.Contains(t, out, "chunk 4 at 4194304: 1.00 MiB written")
	link := filepath.Join(r.tmp, "link")
	require.NoError(t, os.Symlink(file, link))
	require.Contains(t, r.env.Must("why", link), "5 chunks")

	refused := func(path, code, text string) {
		res := r.env.Command("why", path)
		require.Contains(t, res.Stderr, code)
		require.Contains(t, res.Stderr, text)
	}
	refused(dir, "E_NO_FILE", "is not a regular file")
	refused(filepath.Join(r.dir, "none"), "E_NO_FILE", "no such file")
	beside := filepath.Join(r.tmp, "beside")
	require.NoError(t, os.WriteFile(beside, nil, 0o644))
	refused(beside, "E_NO_FILE", "is not on a mounted volume")
	refused("v/none", "E_NO_EXPORT", "none")
}

// TestPlainUser has a user who is not root serve and mount a volume. Distributions let all users
// open /dev/fuse; where this machine does not, it does so for this test, in a mount namespace.
func TestPlainUser(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "fusermount3", "setpriv", "unshare")
	const uid = 65534 // nobody: fusermount wants a name
	base := filepath.Dir(harness.MountPoint(t))
	for _, dir := range []string{base, filepath.Join(base, "mnt")} {
		require.NoError(t, os.Chown(dir, uid, uid))
	}
	b, err := os.ReadFile(harness.Binary(t)) // its own directory is closed to others
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(base, "ballast"), b, 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(base, "fuse"), unix.S_IFCHR, int(unix.Mkdev(10, 229))))
	require.NoError(t, os.Chmod(filepath.Join(base, "fuse"), 0o666))
	script := `set -ex
cd "$BASE"
./ballast create v a:600MiB b:600MiB
./ballast mount v mnt
echo content > mnt/f
ln mnt/f mnt/g
chmod 600 mnt/f
if chown 0 mnt/f; then exit 1; fi
test "$(cat mnt/g)" = content
./ballast status v | grep "mount: .*/mnt"
./ballast stop v
test ! -e mnt/f
./ballast mount v mnt -o noexec
test "$(cat mnt/f)" = content
fusermount3 -u mnt
test ! -e mnt/f
`
	cmd := exec.Command("unshare", "-m", "sh", "-ec", `mount --bind "$BASE/fuse" /dev/fuse; exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "$SCRIPT"`)
	cmd.Env = append(os.Environ(), "SCRIPT="+script, "BASE="+base, "BALLAST_STATE_DIR="+base+"/state", "BALLAST_RUN_DIR="+base+"/run")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Eventually(t, func() bool { return processesOf(base) == 0 }, harness.Patience, 20*time.Millisecond, "the last daemon does not end")
}

// processesOf counts the processes whose command line names a path.
func processesOf(path string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, _ := os.ReadFile(f); strings.Contains(string(line), path) {
			n++
		}
	}
	return n
}
