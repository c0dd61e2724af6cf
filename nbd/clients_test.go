package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/nbd"
	"ballast/nbd/memexport"

	"github.com/stretchr/testify/require"
)

// need skips the test where a program is missing, or fails it if BALLAST_REQUIRE_TOOLS is set.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("BALLAST_REQUIRE_TOOLS") == "1" {
				require.NoError(t, err)
			}
			t.Skipf("%s is not installed", p)
		}
	}
}

// run runs a program and returns its output; it must succeed.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s\n%s%s", program, strings.Join(args, " "), out, stderr.String())
	return string(out)
}

func (s *testServer) uri(name string) string { return nbd.URI(s.l, name) }

func contents(t *testing.T, e nbd.Export) []byte {
	t.Helper()
	var d nbd.Data
	require.NoError(t, e.Read(t.Context(), 0, e.Size(), &d))
	defer d.Release()
	b := make([]byte, 0, e.Size())
	for _, p := range d.Pieces {
		if p.Bytes == nil {
			b = append(b, make([]byte, p.Size)...)
		}
		b = append(b, p.Bytes...)
	}
	return b
}

// fillSparse writes some runs of data with holes between them.
func fillSparse(t *testing.T, e nbd.Export) {
	t.Helper()
	for i, off := 0, int64(0); off < e.Size(); i, off = i+1, off+1<<20+12345 {
		n := min(int64(100<<10+i*777), e.Size()-off)
		require.NoError(t, e.WriteAt(t.Context(), pattern(int(n), byte(i)), off, false))
	}
}

func TestClientNbdinfo(t *testing.T) {
	need(t, "nbdinfo")
	s, e := serveMem(t, nbd.Options{}, 8<<20)
	require.NoError(t, e.WriteAt(t.Context(), pattern(1000, 1), 1<<20, false))
	s.set.Add(memexport.New(1<<20), nbd.Info{Name: "a b/ü?&#%", Description: "odd name", ReadOnly: true, Rotational: true})
	uri := s.uri("e")
	require.Contains(t, run(t, "nbdinfo", uri), "export-size: 8388608")
	require.Equal(t, "8388608\n", run(t, "nbdinfo", "--size", uri))
	var info struct {
		Protocol   string
		Structured bool
		Exports    []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--json", uri)), &info))
	require.True(t, info.Structured)
	require.Equal(t, "newstyle-fixed", info.Protocol)
	require.Equal(t, "the export e", info.Exports[0]["description"])
	require.EqualValues(t, 1, info.Exports[0]["block_size_minimum"])
	require.EqualValues(t, 4096, info.Exports[0]["block_size_preferred"])
	require.EqualValues(t, 32<<20, info.Exports[0]["block_size_maximum"])
	require.NoError(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--list", "--json", uri)), &info))
	require.Len(t, info.Exports, 2)
	require.Contains(t, run(t, "nbdinfo", "--list", uri), "a b/ü?&#%")
	require.Equal(t, []string{"0", "1048576", "3", "hole,zero", "1048576", "65536", "0", "data", "1114112", "7274496", "3", "hole,zero"},
		strings.Fields(run(t, "nbdinfo", "--map", uri)))
	for _, can := range []string{"cache", "connect", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write", "zero", "structured-reply"} {
		run(t, "nbdinfo", "--can", can, uri)
	}
	odd := s.uri("a b/ü?&#%")
	require.Contains(t, run(t, "nbdinfo", odd), "export-size: 1048576")
	run(t, "nbdinfo", "--is", "read-only", odd)
	run(t, "nbdinfo", "--is", "rotational", odd)
	require.Error(t, exec.Command("nbdinfo", s.uri("nope")).Run())
}

func TestClientNbdcopy(t *testing.T) {
	need(t, "nbdcopy")
	dir := t.TempDir()
	for i, args := range [][]string{
		nil, {"--no-extents"}, {"-C", "1"}, {"--request-size=33554432"}, {"--flush"}, {"--synchronous"}, {"--connections=8", "--requests=128"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			size := int64(6<<20 + 1000)
			if strings.Contains(fmt.Sprint(args), "33554432") {
				size = 33<<20 + 1000
			}
			src, dst := memexport.New(size), memexport.New(size)
			fillSparse(t, src)
			s := serve(t, nbd.Options{}, map[string]nbd.Export{"src": src, "dst": dst, "plain": &plain{m: memexport.New(src.Size())}})
			file := filepath.Join(dir, fmt.Sprint("f", i))
			run(t, "nbdcopy", append(args, s.uri("src"), file)...)
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			want := contents(t, src)
			require.True(t, bytes.Equal(want, got), "to a file")
			run(t, "nbdcopy", append(args, file, s.uri("dst"))...)
			require.True(t, bytes.Equal(want, contents(t, dst)), "from a file")
			run(t, "nbdcopy", append(args, file, s.uri("plain"))...)
			run(t, "nbdcopy", append(args, s.uri("plain"), file)...)
			got, err = os.ReadFile(file)
			require.NoError(t, err)
			// Not from server to server: nbdcopy hangs there when the target cannot zero, whatever
			// the servers are.
			require.True(t, bytes.Equal(want, got), "by way of an export that can do little")
		})
	}
}

func TestClientQemu(t *testing.T) {
	need(t, "qemu-img", "qemu-io")
	src, dst := memexport.New(16<<20), memexport.New(16<<20)
	s := serve(t, nbd.Options{}, map[string]nbd.Export{"src": src, "dst": dst})
	fillSparse(t, src)
	from, to := s.uri("src"), s.uri("dst")
	file := filepath.Join(t.TempDir(), "f.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", from, file)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", from, file)
	run(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", file, to)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", from, to)
	require.True(t, bytes.Equal(contents(t, src), contents(t, dst)))
	var extents []struct {
		Start, Length int64
		Data, Zero    bool
	}
	require.NoError(t, json.Unmarshal([]byte(run(t, "qemu-img", "map", "--output=json", "-f", "raw", from)), &extents))
	covered := int64(0)
	for _, x := range extents {
		require.Equal(t, covered, x.Start)
		require.NotEqual(t, x.Data, x.Zero)
		covered += x.Length
	}
	require.EqualValues(t, 16<<20, covered)
	require.Greater(t, len(extents), 10)
	run(t, "qemu-img", "bench", "-c", "2000", "-d", "32", "-s", "4096", "-f", "raw", to)
	run(t, "qemu-img", "bench", "-w", "-c", "2000", "-d", "32", "-s", "4096", "--flush-interval=100", "-f", "raw", to)
	out := run(t, "qemu-io", "-f", "raw", "-t", "writeback",
		"-c", "write -P 0x5a 1000 3000", "-c", "read -P 0x5a 1000 3000",
		"-c", "write -f -P 0x11 0 4M", "-c", "read -P 0x11 0 4M",
		"-c", "write -z 1M 1M", "-c", "read -P 0 1M 1M", "-c", "write -z -u 64k 300k", "-c", "read -P 0 64k 300k",
		"-c", "discard 3M 1M", "-c", "flush",
		"-c", "aio_write -P 1 8M 1M", "-c", "aio_write -P 2 9M 1M", "-c", "aio_read 8M 2M", "-c", "aio_flush",
		"-c", "read -P 1 8M 1M", "-c", "read -P 2 9M 1M", "-c", "read -P 0x11 0 64k", "-c", "length", to)
	require.NotContains(t, out, "verification failed")
	require.Contains(t, out, "16 MiB")
}

func TestClientFio(t *testing.T) {
	need(t, "fio")
	if !strings.Contains(run(t, "fio", "--enghelp"), "nbd") {
		require.NotEqual(t, "1", os.Getenv("BALLAST_REQUIRE_TOOLS"), "fio has no nbd engine")
		t.Skip("fio has no nbd engine")
	}
	for what, args := range map[string][]string{
		"unaligned": {"--rw=randwrite", "--bsrange=512-4m", "--bs_unaligned", "--size=32m", "--numjobs=2", "--offset_increment=32m", "--iodepth=16"},
		"mixed":     {"--rw=randrw", "--bs=4k", "--size=8m", "--numjobs=4", "--offset_increment=8m", "--iodepth=32"},
		"overlap":   {"--rw=randwrite", "--norandommap", "--serialize_overlap=1", "--bs=512", "--size=1m", "--numjobs=2", "--offset_increment=1m", "--io_size=4m", "--iodepth=32"},
		"trim":      {"--rw=trimwrite", "--bs=64k", "--size=8m", "--iodepth=1"}, // deeper, it has trims and writes of one block under way together
		"synced":    {"--rw=randwrite", "--bs=16k", "--size=8m", "--fsync=16", "--iodepth=8", "--numjobs=2", "--offset_increment=8m"},
	} {
		for _, name := range []string{"e", "plain"} {
			if what == "trim" && name == "plain" {
				continue
			}
			t.Run(what+"/"+name, func(t *testing.T) {
				m := memexport.New(64 << 20)
				s := serve(t, nbd.Options{}, map[string]nbd.Export{"e": m, "plain": &plain{m: m}})
				run(t, "fio", append([]string{"--name=v", "--ioengine=nbd", "--uri=" + s.uri(name), "--thread", "--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--minimal"}, args...)...)
			})
		}
	}
}

// TestClientLibnbd sends what libnbd would not let through, with its checks turned off.
func TestClientLibnbd(t *testing.T) {
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "import nbd; nbd.NBD").Run() != nil {
		require.NotEqual(t, "1", os.Getenv("BALLAST_REQUIRE_TOOLS"), "python3-libnbd is missing")
		t.Skip("python3-libnbd is not installed")
	}
	s, _ := serveMem(t, nbd.Options{}, 1<<20)
	s.set.Add(memexport.New(1<<20), nbd.Info{Name: "ro", ReadOnly: true})
	script := filepath.Join(t.TempDir(), "t.py")
	require.NoError(t, os.WriteFile(script, []byte(`
import errno, nbd, sys
def fails(want, f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        assert e.errnum == want, (f, args, e)
    else:
        assert False, (f, args, "worked")
def connect(uri, structured=True):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    return h
size = 1 << 20
for structured in (True, False):
    h = connect(sys.argv[1], structured)
    assert h.get_structured_replies_negotiated() == structured
    fails(errno.EINVAL, h.pread, 512, size)
    fails(errno.EINVAL, h.pread, 512, 1 << 62)
    fails(errno.ENOSPC, h.pwrite, b"x" * 512, size - 1)
    fails(errno.EINVAL, h.trim, 512, size)
    fails(errno.ENOSPC, h.zero, 512, size)
    fails(errno.EINVAL, h.cache, 512, size)
    fails(errno.EINVAL, h.pread, 512, 0, 1 << 9)
    fails(errno.EINVAL, h.pwrite, b"x", 0, nbd.CMD_FLAG_DF)
    fails(errno.EINVAL, h.flush, 1 << 3)
    fails(errno.EINVAL, h.trim, 1, 0, nbd.CMD_FLAG_NO_HOLE)
    fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    h.pwrite(b"abc", 5, nbd.CMD_FLAG_FUA)
    assert h.pread(5, 4) == b"\0abc\0"
    assert h.pread(5, 4, nbd.CMD_FLAG_FUA) == b"\0abc\0"
    if structured:
        assert h.pread(5, 4, nbd.CMD_FLAG_DF) == b"\0abc\0"
        seen = []
        h.block_status(size, 0, lambda ctx, off, e, err: seen.append((ctx, off, e)))
        assert seen == [("base:allocation", 0, [65536, 0, size - 65536, 3])], seen
        fails(errno.EINVAL, h.block_status, 512, size, lambda *a: 0)
    else:
        fails(errno.EINVAL, h.pread, 5, 4, nbd.CMD_FLAG_DF)
    h.flush()
    h.zero(8, 0)
    assert h.pread(8, 0) == bytes(8)
    h.shutdown()
h = connect(sys.argv[2])
assert h.is_read_only()
fails(errno.EPERM, h.pwrite, b"x", 0)
fails(errno.EPERM, h.trim, 1, 0)
fails(errno.EPERM, h.zero, 1, 0)
h.pread(512, 0)
h.shutdown()
`), 0o600))
	run(t, python, script, s.uri("e"), s.uri("ro"))
}
