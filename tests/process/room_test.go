package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// A volume of many small files outgrows the room that its device has for a copy of the journal. Its owner
// is told at half of that, by an event and by status, and while the copy is whole.
func TestJournalRoomIsToldAhead(t *testing.T) {
	harness.NeedRoot(t)
	env := harness.New(t)
	env.Must("create", "v", filepath.Join(t.TempDir(), "disk")+":64MiB")
	dir := harness.MountPoint(t)
	d := env.Serve("v", "--mount", dir)
	require.NotContains(t, env.Must("status", "v"), "JOURNAL_AREA")
	for i := range 1500 {
		require.NoError(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i, strings.Repeat("n", 240))), 0o755))
	}
	await(t, "it is told", func() bool {
		return strings.Contains(env.Must("status", "v"), "JOURNAL_AREA") && strings.Contains(env.Must("events", "v"), "JOURNAL_AREA")
	})
	var s struct {
		Journal struct {
			Good int   `json:"copies_good"`
			Live int64 `json:"live_bytes"`
		} `json:"journal"`
	}
	decode(t, env.Must("status", "v", "--json"), &s)
	require.Equal(t, 1, s.Journal.Good)
	require.Greater(t, s.Journal.Live, int64(500<<10))
	require.Zero(t, d.Stop())
}
