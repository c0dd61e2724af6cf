package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestLoopComesAndGoes(t *testing.T) {
	file := Sparse(t, 8<<20)
	var l *Loop
	t.Run("inside", func(t *testing.T) {
		l = NewLoop(t, file)
		size, err := os.ReadFile("/sys/block/" + filepath.Base(l.Path) + "/size")
		require.NoError(t, err)
		require.Equal(t, "16384", strings.TrimSpace(string(size)))
		dev, err := os.OpenFile(l.Path, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = dev.WriteAt([]byte("ballast"), 1<<20)
		require.NoError(t, err)
		require.NoError(t, dev.Sync())
		require.NoError(t, dev.Close())
	})
	if l == nil {
		t.Skip("no loop devices")
	}
	require.Empty(t, leftBehind())
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "ballast", string(data[1<<20:1<<20+7]))
}

func TestThrottleLimitsAndIsLifted(t *testing.T) {
	t.Run("inside", func(t *testing.T) {
		l := NewLoop(t, SparseRAM(t, 16<<20))
		l.Throttle(t, 20<<20, 20<<20)
		began := time.Now()
		out, err := exec.Command("dd", "if="+l.Path, "of=/dev/null", "bs=1M", "count=10", "iflag=direct").CombinedOutput()
		require.NoError(t, err, string(out))
		// 10 MiB at 20 MiB/s take half a second; a bucket of one slice is free.
		require.Greater(t, time.Since(began), 300*time.Millisecond)
	})
	require.Empty(t, leftBehind())
}

func TestLeaksAreSeen(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	require.Contains(t, strings.Join(leftBehind(), "\n"), "(sleep)")
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.Empty(t, leftBehind())
}

func TestALoopDeviceLeftBehindIsSeen(t *testing.T) {
	file := Sparse(t, 1<<20)
	l := NewLoop(t, file)
	require.Contains(t, strings.Join(leftBehind(), "\n"), l.Path)
}
