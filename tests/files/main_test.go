package files

import (
	"os"
	"testing"

	"ballast/tests/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
