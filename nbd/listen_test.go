package nbd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"
	"ballast/nbd/wire"

	"github.com/stretchr/testify/require"
)

func TestListenUnix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "ballast")
	path := filepath.Join(dir, "v.sock")
	l, err := nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.NoError(t, err)
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, fi.Mode())
	fi, err = os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o700, fi.Mode())

	_, err = nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.ErrorIs(t, err, nbd.ErrInUse)

	l.(*nbd.PeerListener).SetUnlinkOnClose(false) // as after a crash
	require.NoError(t, l.Close())
	_, err = os.Lstat(path)
	require.NoError(t, err)
	l, err = nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.NoError(t, err)
	require.Equal(t, "nbd+unix:///vol/a%20b?socket="+path, nbd.URI(l, "vol/a b"))
	require.NoError(t, l.Close())

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.ErrorContains(t, err, "not a socket")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
	target := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(path, target))
	_, err = nbd.Listen("unix:"+target, nbd.ListenOptions{})
	require.ErrorContains(t, err, "not a socket")
}

func TestListenRefuses(t *testing.T) {
	for spec, want := range map[string]string{
		"":                                  "want unix:PATH",
		"unix:":                             "want unix:PATH",
		"tcp:":                              "want unix:PATH",
		"vsock:2:10809":                     "want unix:PATH",
		"unix:@abstract":                    "abstract",
		"unix:/" + strings.Repeat("x", 107): "108 bytes",
		"tcp::10809":                        nbd.ErrInsecure.Error(),
		"tcp:0.0.0.0:0":                     nbd.ErrInsecure.Error(),
		"tcp:[::]:0":                        nbd.ErrInsecure.Error(),
		"tcp:192.0.2.1:10809":               nbd.ErrInsecure.Error(),
		"tcp:127.0.0.1":                     "missing port",
	} {
		_, err := nbd.Listen(spec, nbd.ListenOptions{})
		require.ErrorContains(t, err, want, spec)
	}
	l, err := nbd.Listen("tcp:0.0.0.0:0", nbd.ListenOptions{Insecure: true})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	l, err = nbd.Listen("tcp:127.0.0.1:0", nbd.ListenOptions{})
	require.NoError(t, err)
	require.Equal(t, "nbd://"+l.Addr().String()+"/e", nbd.URI(l, "e"))
	require.NoError(t, l.Close())
}

func TestTCP(t *testing.T) {
	need(t, "nbdinfo")
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	l, err := nbd.Listen("tcp:127.0.0.1:0", nbd.ListenOptions{})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	require.Equal(t, "1048576\n", run(t, "nbdinfo", "--size", nbd.URI(l, "e")))
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-served, nbd.ErrServerClosed)
}

// TestAsServer is what TestInherited and TestStdio start: this test program as a server.
func TestAsServer(t *testing.T) {
	set := &memexport.Set{}
	set.Add(memexport.New(1<<20), nbd.Info{Name: "e"})
	switch os.Getenv("BALLAST_TEST_SERVE") {
	case "stdio":
		nc, err := nbd.Stdio(os.Stdin, os.Stdout)
		require.NoError(t, err)
		s := nbd.NewServer(set, nbd.Options{})
		require.NoError(t, s.ServeConn(t.Context(), nc))
		require.NoError(t, s.Close())
		os.Exit(0) // nothing else may go to stdout
	case "inherited":
		ls, err := nbd.Inherited()
		require.NoError(t, err)
		require.Len(t, ls, 1)
		s := nbd.NewServer(set, nbd.Options{})
		require.ErrorIs(t, s.Serve(ls[0]), nbd.ErrServerClosed)
	}
}

// TestStdio serves one client over the standard streams: over pipes and over a socket, which is
// what libnbd and qemu give their children.
func TestStdio(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, how := range []string{"pipes", "socket"} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(self, "-test.run=^TestAsServer$")
			cmd.Env = append(os.Environ(), "BALLAST_TEST_SERVE=stdio")
			var in, out *os.File
			if how == "socket" {
				fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
				require.NoError(t, err)
				in = os.NewFile(uintptr(fds[0]), "here")
				out = in
				there := os.NewFile(uintptr(fds[1]), "there")
				defer there.Close()
				cmd.Stdin, cmd.Stdout = there, there
			} else {
				r1, w1, err := os.Pipe()
				require.NoError(t, err)
				r2, w2, err := os.Pipe()
				require.NoError(t, err)
				defer r1.Close()
				defer w2.Close()
				cmd.Stdin, cmd.Stdout, in, out = r1, w2, r2, w1
			}
			require.NoError(t, cmd.Start())
			nc, err := nbd.Stdio(in, out)
			require.NoError(t, err)
			in.Close()
			if out != in {
				out.Close()
			}
			defer nc.Close()
			require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
			c := &client{Conn: nc, t: t}
			c.pipeGo()
			c.mustWrite(5, pattern(100_000, 1))
			require.Equal(t, pattern(100_000, 1), c.mustRead(5, 100_000))
			c.send(requestBytes(wire.CmdDisc, 0, 0, 0, 0))
			require.NoError(t, cmd.Wait())
		})
	}
}

// TestInherited passes a listener on as a service manager does.
func TestInherited(t *testing.T) {
	need(t, "nbdinfo")
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "s")
	l, err := nbd.Listen("unix:"+path, nbd.ListenOptions{})
	require.NoError(t, err)
	defer l.Close()
	f, err := l.(*nbd.PeerListener).File()
	require.NoError(t, err)
	defer f.Close()
	cmd := exec.Command("sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec "+self+" -test.run='^TestAsServer$'")
	cmd.Env = append(os.Environ(), "BALLAST_TEST_SERVE=inherited")
	cmd.ExtraFiles = []*os.File{f}
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	require.Equal(t, "1048576\n", run(t, "nbdinfo", "--size", nbd.URI(l, "e")))
}
