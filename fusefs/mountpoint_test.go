package fusefs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMountInfoLines(t *testing.T) {
	m, ok := parseMountInfo(`98 28 0:53 / /mnt/with\040space\134x rw,nosuid,nodev,relatime shared:52 - fuse.ballast vault rw,user_id=0,group_id=0`)
	require.True(t, ok)
	require.Equal(t, MountInfo{Dir: `/mnt/with space\x`, Type: "fuse.ballast", Source: "vault", Device: "0:53", ID: 98}, m)
	m, ok = parseMountInfo(`28 1 8:1 / / rw - ext4 /dev/root rw`)
	require.True(t, ok)
	require.Equal(t, "/", m.Dir)
	for _, bad := range []string{"", "x", "1 2 3 - ", "98 28 0:53 / /mnt rw - fuse"} {
		_, ok = parseMountInfo(bad)
		require.False(t, ok, bad)
	}
}

func TestPrepareWantsADirectory(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	got, err := Prepare(dir, "v")
	require.NoError(t, err)
	require.Equal(t, dir, got)
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	got, err = Prepare(filepath.Join(dir, "link"), "v")
	require.NoError(t, err)
	require.Equal(t, dir, got)
	_, err = Prepare(filepath.Join(dir, "no"), "v")
	require.ErrorIs(t, err, ErrNotDirectory)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	_, err = Prepare(filepath.Join(dir, "f"), "v")
	require.ErrorIs(t, err, ErrNotDirectory)
}
