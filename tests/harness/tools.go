package harness

import (
	"os"
	"os/exec"
	"testing"
)

// Need skips the test unless all programs are installed. With $BALLAST_REQUIRE_TOOLS, which make
// test sets after installing them, it fails instead.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Missing(t, "program "+p)
		}
	}
}

// Missing skips the test for lack of something that make test would have installed.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("BALLAST_REQUIRE_TOOLS") != "" {
		t.Fatalf("%s is missing (tests/install-tools.sh installs it)", what)
	}
	t.Skipf("%s is missing", what)
}

// NeedRoot skips the test unless root runs it.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}
