package harness

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// TestPowerCut: what was flushed is there after it, and of what was not any part may be missing.
func TestPowerCut(t *testing.T) {
	t.Run("inside", func(t *testing.T) {
		m := NewMachine(t, "ext4", 8<<20)
		disk := m.Disks[0]
		dev, err := os.OpenFile(disk.Path, os.O_RDWR|syscall.O_DIRECT, 0)
		require.NoError(t, err)
		defer dev.Close()
		write := func(off int64, with byte) {
			p := aligned(8192)
			for i := range p {
				p[i] = with
			}
			_, err := dev.WriteAt(p, off)
			require.NoError(t, err)
		}
		found := map[string]bool{} // what stood where nothing was flushed
		for seed := range uint64(60) {
			write(0, 1)
			require.NoError(t, dev.Sync())
			write(0, 2)
			write(1<<20, 2)
			require.NoError(t, os.WriteFile(filepath.Join(m.Env.State+".synced"), []byte("ballast"), 0o600))
			require.NoError(t, exec.Command("sync", "-f", m.Env.State+".synced").Run())
			require.NoError(t, disk.tell(order{Cut: &seed}))
			require.NoError(t, disk.forget())
			p := aligned(8192)
			_, err = dev.ReadAt(p, 0)
			require.NoError(t, err)
			for i := 0; i < len(p); i += 512 {
				require.Contains(t, []byte{1, 2}, p[i], "seed %d", seed)
				require.Equal(t, strings.Repeat(string(p[i]), 512), string(p[i:i+512]), "seed %d", seed)
			}
			mixed := strings.Count(string(p), "\x02") / 512
			switch {
			case mixed%8 > 0:
				found["sectors"] = true
			case mixed == 8:
				found["blocks"] = true
			case mixed == 16:
				found["new"] = true
			default:
				found["old"] = true
			}
		}
		require.Subset(t, slices.Collect(maps.Keys(found)), []string{"old", "new", "sectors", "blocks"})

		seed := uint64(0)
		require.NoError(t, syscall.Unmount(m.dir, 0))
		require.NoError(t, m.system.tell(order{Cut: &seed}))
		m.start()
		content, err := os.ReadFile(m.Env.State + ".synced")
		require.NoError(t, err)
		require.Equal(t, "ballast", string(content))
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
