package devices_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ballast/devices"
	"ballast/devices/devicetest"
)

func inspect(t *testing.T, path string) *devices.Inspection {
	t.Helper()
	in, err := devices.Inspect(path)
	require.NoError(t, err)
	return in
}

func texts(problems []devices.Problem) (all []string) {
	for _, p := range problems {
		all = append(all, fmt.Sprint(p.Text, " ", p.Forced))
	}
	return all
}

func TestInspectBlankFile(t *testing.T) {
	path := sparse(t, t.TempDir(), diskSize)
	in := inspect(t, path)
	require.Equal(t, path, in.Path)
	require.EqualValues(t, diskSize, in.Size)
	require.False(t, in.Block)
	require.False(t, in.ReadOnly)
	require.True(t, in.Blank)
	require.Nil(t, in.Label)
	require.ErrorIs(t, in.LabelErr, devices.ErrNoLabel)
	require.Empty(t, in.Problems(1<<20))
	require.Equal(t, []string{"is too small: 16777216 bytes, at least 17833984 are needed false"}, texts(in.Problems(16<<20)))

	for _, off := range []int64{0, 1<<20 - 1, diskSize - 1} {
		path := sparse(t, t.TempDir(), diskSize)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{1}, off)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.False(t, inspect(t, path).Blank)
	}
}

func TestInspectFindsALabel(t *testing.T) {
	path := sparse(t, t.TempDir(), diskSize)
	f := openFile(t, path, devices.FileOptions{})
	l := sample(t, diskSize)
	require.NoError(t, devices.WriteLabel(f, l))
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("locked by process %d (%s)", os.Getpid(), strings.TrimSpace(string(comm)))}, inspect(t, path).Uses)
	require.NoError(t, f.Close())

	in := inspect(t, path)
	require.Equal(t, l, in.Label)
	require.Equal(t, []string{`is device d2 of the Ballast volume "Sicherung-ü" (10111213-1415-1617-1819-1a1b1c1d1e1f) true`}, texts(in.Problems(1<<20)))

	require.NoError(t, os.Truncate(path, diskSize/2))
	in = inspect(t, path)
	require.ErrorIs(t, in.LabelErr, devices.ErrShrunk)
	require.NotNil(t, in.Label)

	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[50]++
	b[4096+50]++
	require.NoError(t, os.WriteFile(path, b, 0o600))
	in = inspect(t, path)
	require.ErrorIs(t, in.LabelErr, devices.ErrCorrupt)
	require.Nil(t, in.Label)
	require.Contains(t, texts(in.Problems(1 << 20))[0], "has a Ballast label that cannot be used: label at 0x0: corrupt")
}

func TestInspectRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, path := range []string{dir, fifo, "/dev/null", "/dev/tty"} {
		_, err := devices.Inspect(path)
		require.ErrorIs(t, err, devices.ErrNotDisk, path)
		require.ErrorContains(t, err, "inspect "+path)
	}
	_, err := devices.Inspect(filepath.Join(dir, "no\nsuch"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestInspectTinyFiles(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 4096, 8192, 65536} {
		path := filepath.Join(t.TempDir(), "disk")
		require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
		in := inspect(t, path)
		require.Len(t, in.Problems(1<<20), 1)
		require.Contains(t, in.Problems(1 << 20)[0].Text, "too small")
	}
}

func TestInspectUses(t *testing.T) {
	path := sparse(t, t.TempDir(), diskSize)
	dev := devicetest.Loop(t, path, "--read-only")
	in := inspect(t, dev)
	require.True(t, in.Block)
	require.Equal(t, 512, in.SectorSize)
	require.True(t, in.ReadOnly)
	require.Empty(t, in.Uses)
	require.Equal(t, []string{"is read-only false"}, texts(in.Problems(1<<20)))
	require.Equal(t, []string{"attached as " + dev}, inspect(t, path).Uses)

	f := openFile(t, dev, devices.FileOptions{ReadOnly: true})
	require.Equal(t, []string{"claimed by the kernel or by another process"}, inspect(t, dev).Uses)
	require.NoError(t, f.Close())
}

func TestInspectSwap(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to use swap")
	}
	path := filepath.Join(t.TempDir(), "swap")
	b := make([]byte, 1<<20)
	copy(b[1024:], "\x01\x00\x00\x00\xff\x00\x00\x00") // version 1, last page 255
	copy(b[4086:], "SWAPSPACE2")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	dev := devicetest.Loop(t, path)
	swap := func(call uintptr) error {
		p, err := unix.BytePtrFromString(dev)
		require.NoError(t, err)
		return swapCall(call, p)
	}
	if err := swap(unix.SYS_SWAPON); err != nil {
		t.Skipf("needs a kernel that may swap: %v", err)
	}
	in, err := devices.Inspect(dev)
	require.NoError(t, swap(unix.SYS_SWAPOFF))
	require.NoError(t, err)
	require.Equal(t, []string{"used as swap"}, in.Uses)
	require.Equal(t, "swap", in.Signatures[0].Name)
}

// TestInspectRealFormats has the format's own tools, where installed, check our tables.
func TestInspectRealFormats(t *testing.T) {
	tools := []struct {
		want string
		args []string
	}{
		{"ext2", []string{"mkfs.ext2", "-qF", "-L", "name"}},
		{"ext3", []string{"mkfs.ext3", "-qF", "-L", "name"}},
		{"ext4", []string{"mkfs.ext4", "-qF", "-L", "name"}},
		{"XFS", []string{"mkfs.xfs", "-q", "-L", "name"}},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-L", "name"}},
		{"FAT32 (vfat)", []string{"mkfs.vfat", "-F", "32", "-n", "NAME"}},
		{"NTFS", []string{"mkfs.ntfs", "-qF"}},
		{"swap", []string{"mkswap", "-L", "name"}},
		{"SquashFS", []string{"mksquashfs", "/etc/hostname"}},
		{"LUKS", []string{"cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/hostname"}},
		{"GPT partition table", []string{"sgdisk", "-o"}},
		{"bcachefs", []string{"mkfs.bcachefs", "-q"}},
	}
	for _, tool := range tools {
		program, err := exec.LookPath(tool.args[0])
		if err != nil {
			if program = filepath.Join("/sbin", tool.args[0]); !isFile(program) {
				t.Logf("%s is not installed", tool.args[0])
				continue
			}
		}
		t.Run(tool.want, func(t *testing.T) {
			path := sparse(t, t.TempDir(), 320<<20)
			out, err := exec.Command(program, append(tool.args[1:], path)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			in := inspect(t, path)
			require.NotEmpty(t, in.Signatures)
			require.Equal(t, tool.want, in.Signatures[0].Name)
			require.Contains(t, []string{"", "name"}, strings.ToLower(in.Signatures[0].Label))
			require.False(t, in.Blank)
			require.True(t, in.Problems(1 << 20)[0].Forced)
		})
	}
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

func TestSameDisk(t *testing.T) {
	dir := t.TempDir()
	path := sparse(t, dir, 1<<20)
	other, link, hard := filepath.Join(dir, "other"), filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	require.NoError(t, devices.CreateFile(other, 1<<20))
	require.NoError(t, os.Symlink(path, link))
	require.NoError(t, os.Link(path, hard))
	same := func(a, b string) bool {
		t.Helper()
		x, err := devices.SameDisk(a, b)
		require.NoError(t, err)
		y, err := devices.SameDisk(b, a)
		require.NoError(t, err)
		require.Equal(t, x, y)
		return x
	}
	require.True(t, same(path, path))
	require.True(t, same(path, link))
	require.True(t, same(path, hard))
	require.True(t, same(path, dir+"/./../"+filepath.Base(dir)+"/disk"))
	require.False(t, same(path, other))
	t.Chdir(dir)
	require.True(t, same("disk", path))
	_, err := devices.SameDisk(path, filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSameDiskForBlockDevices(t *testing.T) {
	dir := t.TempDir()
	path := sparse(t, dir, 1<<20)
	other := filepath.Join(dir, "other")
	require.NoError(t, devices.CreateFile(other, 1<<20))
	dev, dev2 := devicetest.Loop(t, path), devicetest.Loop(t, other)
	node := filepath.Join(dir, "node")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dev, &st))
	require.NoError(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)))
	for _, pair := range []struct {
		a, b string
		want bool
	}{{dev, node, true}, {dev, path, true}, {node, path, true}, {dev, dev2, false}, {dev, other, false}, {path, dev2, false}} {
		got, err := devices.SameDisk(pair.a, pair.b)
		require.NoError(t, err)
		require.Equal(t, pair.want, got, "%s %s", pair.a, pair.b)
		got, err = devices.SameDisk(pair.b, pair.a)
		require.NoError(t, err)
		require.Equal(t, pair.want, got, "%s %s", pair.b, pair.a)
	}
}

func TestInspectPartitions(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("needs mkfs.ext4 (package e2fsprogs)")
	}
	path := sparse(t, t.TempDir(), 24<<20)
	b := make([]byte, 512)
	copy(b[446:], "\x00\x20\x21\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x80\x00\x00") // at 1 MiB, 16 MiB long
	copy(b[510:], "\x55\xaa")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(b, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	addpart, err := exec.LookPath("addpart")
	if err != nil {
		t.Skip("needs addpart (package util-linux)")
	}
	dev := devicetest.Loop(t, path, "--partscan")
	sysDir := filepath.Join("/sys/block", filepath.Base(dev), filepath.Base(dev)+"p1")
	if _, err := os.Stat(sysDir); err != nil { // this kernel does not read such tables
		out, err := exec.Command(addpart, dev, "1", "2048", "32768").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	number, err := os.ReadFile(filepath.Join(sysDir, "dev"))
	require.NoError(t, err)
	var major, minor uint32
	_, err = fmt.Sscanf(string(number), "%d:%d", &major, &minor)
	require.NoError(t, err)
	part := filepath.Join(t.TempDir(), "part") // not every /dev has a node for it
	require.NoError(t, unix.Mknod(part, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))))
	out, err := exec.Command(mkfs, "-q", part).CombinedOutput()
	require.NoError(t, err, "%s", out)

	same, err := devices.SameDisk(dev, part)
	require.NoError(t, err)
	require.True(t, same)
	require.Equal(t, "DOS partition table", inspect(t, dev).Signatures[0].Name)

	dir := t.TempDir()
	require.NoError(t, unix.Mount(part, dir, "ext4", 0, ""))
	found, err := devices.Inspect(dev)
	again, errAgain := devices.Inspect(part)
	require.NoError(t, unix.Unmount(dir, 0))
	require.NoError(t, err)
	require.NoError(t, errAgain)
	require.Equal(t, []string{"partitioned, with " + filepath.Base(dev) + "p1 mounted at " + dir}, found.Uses)
	require.Equal(t, []string{"mounted at " + dir}, again.Uses)

	p := openFile(t, part, devices.FileOptions{})
	require.Equal(t, filepath.Base(dev), p.DiskName(), "the whole disk")
	require.NoError(t, p.Close())
}
