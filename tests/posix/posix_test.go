package posix

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if Helper() {
		return
	}
	os.Exit(harness.Main(m))
}

// TestExt4 shows that the cases ask for nothing that a file system in daily use does not do.
func TestExt4(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "mkfs.ext4", "setfacl", "getfacl")
	loop := harness.NewLoop(t, harness.SparseRAM(t, 512<<20))
	harness.Tool(t, "mkfs.ext4", "-q", "-I", "256", loop.Path)
	dir := harness.MountPoint(t)
	harness.Tool(t, "mount", "-t", "ext4", "-o", "relatime", loop.Path, dir)
	own := filepath.Join(dir, "cases")
	require.NoError(t, os.Mkdir(own, 0o755))
	Run(t, own)
}

// mounted serves a new volume of two copies and returns where it is mounted.
func mounted(t *testing.T) (*harness.Daemon, string) {
	t.Helper()
	harness.NeedRoot(t)
	e := harness.New(t)
	e.Must("create", "v", harness.SparseRAM(t, 1<<30), harness.SparseRAM(t, 2<<30), harness.SparseRAM(t, 1<<30), "--copies", "2")
	dir := harness.MountPoint(t)
	d := e.Serve("v", "--mount", dir)
	t.Cleanup(func() {
		if !t.Failed() {
			require.Zero(t, d.Stop())
		}
	})
	return d, dir
}

// TestBallast is the same on a mounted volume.
func TestBallast(t *testing.T) {
	harness.Need(t, "setfacl", "getfacl")
	_, dir := mounted(t)
	own := filepath.Join(dir, "cases")
	require.NoError(t, os.Mkdir(own, 0o755))
	Run(t, own)
}

// TestPosixtest runs go-fuse's suite for file systems, but for one test that fails on every file
// system of the kernel's own, for which go-fuse leaves it out too: it wants locks of one process to exclude each other.
func TestPosixtest(t *testing.T) {
	_, dir := mounted(t)
	for name, run := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			own := filepath.Join(dir, name)
			require.NoError(t, os.Mkdir(own, 0o755))
			run(t, own)
		})
	}
}
