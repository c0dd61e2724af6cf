package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

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
	cmd := exec.Command("sh", "-c", "echo; read line")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1)) // from then on it has its name
	require.NoError(t, err)
	require.Contains(t, strings.Join(leftBehind(), "\n"), "(sh)")
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	require.Empty(t, leftBehind())
}

func TestALoopDeviceLeftBehindIsSeen(t *testing.T) {
	file := Sparse(t, 1<<20)
	l := NewLoop(t, file)
	require.Contains(t, strings.Join(leftBehind(), "\n"), l.Path)
}

func TestSickDisk(t *testing.T) {
	t.Run("inside", func(t *testing.T) {
		s := NewSick(t, 8<<20)
		dev, err := os.OpenFile(s.Path, os.O_RDWR|syscall.O_DIRECT, 0)
		require.NoError(t, err)
		defer dev.Close()
		p := aligned(4096)
		copy(p, "ballast")
		_, err = dev.WriteAt(p, 1<<20)
		require.NoError(t, err)
		require.NoError(t, dev.Sync())

		s.Set(Illness{Fail: true})
		_, err = dev.ReadAt(p, 1<<20)
		require.ErrorIs(t, err, syscall.EIO)
		s.Set(Illness{FailReads: []int64{1 << 20}})
		_, err = dev.ReadAt(p, 1<<20)
		require.ErrorIs(t, err, syscall.EIO)
		_, err = dev.ReadAt(p, 0)
		require.NoError(t, err)

		s.Set(Illness{Hang: true})
		done := make(chan error, 1)
		go func() {
			_, err := dev.ReadAt(p, 1<<20)
			done <- err
		}()
		select {
		case err := <-done:
			require.Fail(t, "it answers", "%v", err)
		case <-time.After(100 * time.Millisecond):
		}
		s.Set(Illness{})
		require.NoError(t, <-done)
		require.Equal(t, "ballast", string(p[:7]))

		began := time.Now()
		s.Set(Illness{Rate: 1 << 20, Slow: 2})
		_, err = dev.ReadAt(aligned(256<<10), 0)
		require.NoError(t, err)
		require.Greater(t, time.Since(began), 400*time.Millisecond)

		s.Vanish()
		_, err = dev.ReadAt(p, 1<<20)
		require.Error(t, err)
		s.Return()
		again, err := os.OpenFile(s.Path, os.O_RDWR|syscall.O_DIRECT, 0)
		require.NoError(t, err)
		defer again.Close()
		clear(p)
		_, err = again.ReadAt(p, 1<<20)
		require.NoError(t, err)
		require.Equal(t, "ballast", string(p[:7]))
	})
	require.Empty(t, leftBehind())
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	p := make([]byte, n+4096)
	at := -uintptr(unsafe.Pointer(&p[0])) & 4095
	return p[at : at+uintptr(n)]
}

// TestThrottlesEndWithTheirTest, also those of a device that an earlier test had limited.
func TestThrottlesEndWithTheirTest(t *testing.T) {
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			l := NewLoop(t, SparseRAM(t, 1<<20))
			l.Throttle(t, 50<<20, 50<<20)
			l.Throttle(t, 10<<20, 10<<20)
		})
		require.Empty(t, throttlesLeft(), name)
	}
}
