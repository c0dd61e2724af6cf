package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func run(t *testing.T, lines ...string) (string, bool) {
	t.Helper()
	var out strings.Builder
	y := newTally(&out)
	require.NoError(t, y.read(strings.NewReader(strings.Join(lines, "\n")+"\n")))
	ok := y.finish()
	return out.String(), ok
}

func closing(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

func TestCountsLeavesOnly(t *testing.T) {
	out, ok := run(t,
		`{"Action":"pass","Package":"p","Test":"TestA/x"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/y"}`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p","Test":"TestB"}`,
		`{"Action":"pass","Package":"p","Elapsed":1}`)
	require.True(t, ok)
	require.Equal(t, "3 passed, 0 failed, 0 skipped", closing(out))
}

func TestSkipsAreNamedWithReason(t *testing.T) {
	out, ok := run(t,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: no FUSE here\n"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p","Test":"TestB"}`,
		`{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.Contains(t, out, "p TestA: a_test.go:7: no FUSE here")
	require.Equal(t, "1 passed, 0 failed, 1 skipped", closing(out))
}

func TestFailuresAreShown(t *testing.T) {
	out, ok := run(t,
		`{"Action":"output","Package":"p","Test":"TestA/x","Output":"boom\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestA/x"}`,
		`{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "boom")
	require.Equal(t, "0 passed, 1 failed, 0 skipped", closing(out))
}

func TestParentThatFailsByItselfCounts(t *testing.T) {
	out, ok := run(t,
		`{"Action":"pass","Package":"p","Test":"TestA/x"}`,
		`{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Equal(t, "1 passed, 1 failed, 0 skipped", closing(out))
}

func TestPackageThatDoesNotBuildCounts(t *testing.T) {
	out, ok := run(t,
		`{"Action":"build-output","ImportPath":"p","Output":"p.go:1: no\n"}`,
		`{"Action":"build-fail","ImportPath":"p"}`,
		`{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "p.go:1: no")
	require.Equal(t, "0 passed, 1 failed, 0 skipped", closing(out))
}

func TestPackageThatLeaksCounts(t *testing.T) {
	out, ok := run(t,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Output":"left behind: /dev/loop9\n"}`,
		`{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "left behind: /dev/loop9")
	require.Equal(t, "1 passed, 1 failed, 0 skipped", closing(out))
}

func TestNothingRanIsAFailure(t *testing.T) {
	out, ok := run(t, "go: cannot find main module")
	require.False(t, ok)
	require.Contains(t, out, "cannot find main module")
	require.Equal(t, "0 passed, 1 failed, 0 skipped", closing(out))
}

func TestAPackageMayComeTwice(t *testing.T) {
	out, ok := run(t,
		`{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.Equal(t, "2 passed, 0 failed, 0 skipped", closing(out))
}
