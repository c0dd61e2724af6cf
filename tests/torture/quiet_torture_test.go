//go:build torture

package torture

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestTortureQuietVolume: a disk that is added gets its share by itself once clients are quiet, unless the
// daemon was told otherwise.
func TestTortureQuietVolume(t *testing.T) {
	for _, args := range [][]string{nil, {"--no-rebalance"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			harness.Need(t, "fio")
			r := newRig(t, shape{copies: 1, serve: args})
			r.start()
			r.env.Must("export", "create", "v/still", "240MiB")
			harness.Tool(t, "fio", "--name=still", "--ioengine=nbd", "--size=240M", "--rw=write", "--bs=1M", "--uri="+r.d.URI("still"), "--end_fsync=1")
			dir := filepath.Dir(harness.Sparse(t, 0))
			r.env.Must("device", "add", "v", filepath.Join(dir, "added")+":600MiB")
			jobs := func() (list []struct{ Kind, State, Reason string }) {
				doc := struct{ Jobs any }{&list}
				require.NoError(t, json.Unmarshal([]byte(r.env.Must("job", "ls", "v", "--json")), &doc))
				return list
			}
			if args == nil {
				require.Eventually(t, func() bool { l := jobs(); return len(l) == 1 && l[0].State == "done" }, 5*time.Minute, time.Second)
				require.Contains(t, jobs()[0].Reason, "by itself")
				least, most := 1.0, 0.0
				for _, d := range r.status().Devices {
					used := float64(d.Used) / float64(d.Size)
					least, most = min(least, used), max(most, used)
				}
				t.Logf("used from %.3f to %.3f", least, most)
				require.LessOrEqual(t, most-least, 0.02)
			} else {
				require.Never(t, func() bool { return len(jobs()) > 0 }, 150*time.Second, time.Second)
			}
			r.stop()
			require.Equal(t, "sound", r.check().Verdict)
		})
	}
}
