package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

type build struct {
	once sync.Once
	dir  string
	path string
	err  error
	out  []byte
}

var plain, race build

// Binary builds bin/ballast's twin once for all tests of the process and returns its path.
// $BALLAST_BINARY names another one to test instead.
func Binary(t testing.TB) string { return plain.get(t, nil) }

// RaceBinary is Binary built with the race detector.
func RaceBinary(t testing.TB) string { return race.get(t, []string{"-race"}) }

func (b *build) get(t testing.TB, flags []string) string {
	t.Helper()
	if given := os.Getenv("BALLAST_BINARY"); given != "" && flags == nil {
		return given
	}
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "ballast-build"); b.err != nil {
			return
		}
		path := filepath.Join(b.dir, "ballast")
		cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "ballast/cmd/ballast")...)
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "CGO_ENABLED=0")
		if flags != nil { // the race detector is C
			cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
		}
		b.out, b.err = cmd.CombinedOutput()
		b.path = path
	})
	if b.err != nil {
		t.Fatalf("building ballast: %v\n%s", b.err, b.out)
	}
	return b.path
}

func removeBinaries() {
	for _, b := range []*build{&plain, &race} {
		if b.dir != "" {
			os.RemoveAll(b.dir)
		}
	}
}
