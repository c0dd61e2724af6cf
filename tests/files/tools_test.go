package files

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

func TestRestic(t *testing.T) {
	harness.Need(t, "restic")
	r := mount(t, 2)
	source, repo := r.tree(2), filepath.Join(r.dir, "repo")
	r.sys = []string{"RESTIC_REPOSITORY=" + repo, "RESTIC_PASSWORD=secret", "RESTIC_CACHE_DIR=" + filepath.Join(r.tmp, "cache"), "RESTIC_PROGRESS_FPS=0.1"}
	r.run("restic", "init")
	r.run("restic", "backup", source)
	require.NoError(t, os.WriteFile(filepath.Join(source, "large"), noise(8, 9<<20), 0o644))
	require.NoError(t, os.RemoveAll(filepath.Join(source, "dir 3")))
	r.run("restic", "backup", source)
	r.run("restic", "check", "--read-data")
	restored := filepath.Join(r.dir, "restored") // from the volume to the volume
	r.run("restic", "restore", "latest", "--target", restored)
	r.run("diff", "-r", "--no-dereference", "--exclude=fifo", source, restored+source)
	r.run("restic", "forget", "--keep-last", "1", "--prune")
	r.run("restic", "check", "--read-data")
}

func TestBorg(t *testing.T) {
	harness.Need(t, "borg")
	r := mount(t, 1)
	source, repo := r.tree(1), filepath.Join(r.dir, "repo")
	r.sys = []string{"BORG_REPO=" + repo, "BORG_BASE_DIR=" + filepath.Join(r.tmp, "borg"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes"}
	r.run("borg", "init", "-e", "none")
	r.run("borg", "create", "::one", source)
	require.NoError(t, os.WriteFile(filepath.Join(source, "large"), noise(8, 9<<20), 0o644))
	r.run("borg", "create", "::two", source)
	r.run("borg", "check", "--verify-data")
	restored := filepath.Join(r.dir, "restored")
	require.NoError(t, os.Mkdir(restored, 0o755))
	r.run("sh", "-c", "cd "+restored+" && borg extract --sparse ::two")
	r.run("diff", "-r", "--no-dereference", "--exclude=fifo", source, restored+source)
	r.run("borg", "delete", "::one")
	r.run("borg", "compact")
	r.run("borg", "check", "--verify-data")
}

func TestRsync(t *testing.T) {
	r := mount(t, 2)
	source, copied := r.tree(2), filepath.Join(r.dir, "copied")
	args := []string{"-aHAXS", "--itemize-changes", source + "/", copied + "/"}
	require.NotEmpty(t, r.run("rsync", args...))
	require.Empty(t, r.run("rsync", args...), "the second time there is nothing to do")
	r.same(source, copied)
	r.same(copied, source)
	blocks := strings.Fields(r.run("stat", "-c", "%b", filepath.Join(copied, "sparse")))
	require.Less(t, len(blocks[0]), 5, "the sparse file takes %s blocks", blocks[0])
	// What a new mount finds is the same.
	require.Zero(t, r.d.Stop())
	r.again()
	r.same(source, copied)
	require.Empty(t, r.run("rsync", args...))
}

func TestTar(t *testing.T) {
	r := mount(t, 1)
	source := r.tree(2)
	options := []string{"--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "--format=posix"}
	archive, out := filepath.Join(r.dir, "archive.tar"), filepath.Join(r.dir, "out")
	require.NoError(t, os.Mkdir(out, 0o755))
	r.run("tar", append(options, "-C", source, "-cf", archive, ".")...)
	r.run("tar", append(options, "-C", source, "-df", archive)...)
	r.run("tar", append(options, "-C", out, "-xpf", archive)...)
	r.same(source, out)
	back := filepath.Join(r.tmp, "back")
	require.NoError(t, os.Mkdir(back, 0o755))
	r.run("sh", "-c", fmt.Sprintf("tar %s -C %s -cf - . | tar %s -C %s -xpf -", strings.Join(options, " "), out, strings.Join(options, " "), back))
	r.same(source, back)
}

func TestGit(t *testing.T) {
	harness.Need(t, "git")
	r := mount(t, 1)
	work, bare, clone := filepath.Join(r.dir, "work"), filepath.Join(r.dir, "bare.git"), filepath.Join(r.dir, "clone")
	git := func(dir string, args ...string) string {
		return r.run("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"}, args...)...)
	}
	require.NoError(t, os.Mkdir(work, 0o755))
	git(work, "init", "-q")
	for c := range 5 {
		for f := range 60 {
			require.NoError(t, os.WriteFile(filepath.Join(work, fmt.Sprintf("f%d", f)), noise(uint64(c*100+f), 2000), 0o644))
		}
		git(work, "add", "-A")
		git(work, "commit", "-qm", fmt.Sprint(c))
	}
	git(r.dir, "clone", "-q", "--bare", work, bare)
	git(r.dir, "clone", "-q", "file://"+bare, clone)
	for _, repo := range []string{work, bare, clone} {
		git(repo, "fsck", "--full", "--strict")
	}
	git(work, "gc", "-q", "--prune=now")
	git(work, "fsck", "--full", "--strict")
	require.Empty(t, git(work, "status", "--porcelain"))
	r.run("diff", "-r", "--exclude=.git", work, clone)
}

func TestFioOnFiles(t *testing.T) {
	harness.Need(t, "fio")
	r := mount(t, 2)
	for _, job := range [][]string{
		{"--name=buffered", "--ioengine=psync", "--rw=randwrite", "--bsrange=512-128k", "--size=48M", "--fsync=64"},
		{"--name=direct", "--ioengine=libaio", "--iodepth=16", "--direct=1", "--rw=randwrite", "--bs=4k", "--size=32M"},
		{"--name=mapped", "--ioengine=mmap", "--rw=randwrite", "--bs=4k", "--size=32M"},
		{"--name=rw", "--ioengine=psync", "--rw=randrw", "--bsrange=4k-64k", "--size=32M", "--direct=1"},
	} {
		r.run("fio", append([]string{"--directory=" + r.dir, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7", "--numjobs=2", "--thread", "--group_reporting"}, job...)...)
	}
}

// TestStressNG runs its stressors of file systems, all at a time, with their own checks.
func TestStressNG(t *testing.T) {
	harness.Need(t, "stress-ng")
	r := mount(t, 1)
	args := []string{"--temp-path", r.dir, "--timeout", "8", "--verify", "--hdd-bytes", "16M", "--iomix-bytes", "16M", "--fallocate-bytes", "64M",
		"--copy-file-bytes", "128M", "--seek-size", "16M", "--sync-file-bytes", "16M", "--readahead-bytes", "16M"}
	for _, stressor := range []string{"access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "fallocate",
		"fcntl", "file-ioctl", "filename", "flock", "fpunch", "fstat", "getdent", "hdd", "io", "iomix", "lease", "link", "locka", "lockf", "lockofd", "mknod",
		"open", "readahead", "rename", "seek", "sendfile", "symlink", "sync-file", "touch", "utime", "xattr"} {
		args = append(args, "--"+stressor, "1")
	}
	out, err := r.try("stress-ng", args...)
	require.NoError(t, err, out)
	require.NotContains(t, out, "fail:")
	require.NotContains(t, out, "stress-ng: error")
}

func TestSparse20GiB(t *testing.T) {
	r := mount(t, 2)
	path, copied := filepath.Join(r.dir, "sparse"), filepath.Join(r.dir, "copied")
	f, err := os.Create(path)
	require.NoError(t, err)
	const size = 20 << 30
	require.NoError(t, f.Truncate(size))
	offs := []int64{0, 1<<30 - 5000, 7<<30 + 123, 19 << 30, size - 4096}
	for i, off := range offs {
		_, err := f.WriteAt(noise(uint64(i), 4096), off)
		require.NoError(t, err)
	}
	r.run("cp", "--sparse=always", path, copied) // before anything is written back
	require.NoError(t, f.Close())
	for _, name := range []string{path, copied} {
		g, err := os.Open(name)
		require.NoError(t, err)
		st, err := g.Stat()
		require.NoError(t, err)
		require.EqualValues(t, size, st.Size())
		for i, off := range offs {
			b := make([]byte, 4096)
			_, err := g.ReadAt(b, off)
			require.NoError(t, err)
			require.Equal(t, noise(uint64(i), 4096), b, "%s at %d", name, off)
		}
		require.NoError(t, g.Close())
		require.Less(t, strings.TrimSpace(r.run("du", "-m", name))[:1], "9")
	}
	r.run("cmp", "-n", "2147483648", path, copied)
}

// TestRaces has two copiers at a time on a daemon built with the race detector.
func TestRaces(t *testing.T) {
	harness.NeedRoot(t)
	t.Setenv("BALLAST_BINARY", harness.RaceBinary(t))
	r := mount(t, 2)
	source := r.tree(1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	copies := make(chan error, 2)
	for i := range cap(copies) {
		go func() {
			copied := filepath.Join(r.dir, fmt.Sprint("copied", i))
			copies <- r.command(ctx, "cp", "-a", source, copied).Run()
		}()
	}
	for range cap(copies) {
		require.NoError(t, <-copies)
	}
	for i := range cap(copies) {
		r.same(source, filepath.Join(r.dir, fmt.Sprint("copied", i)))
	}
	r.run("rm", "-rf", filepath.Join(r.dir, "copied0"))
}
