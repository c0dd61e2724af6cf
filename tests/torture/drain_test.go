package torture

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// TestTortureDrain empties two of six disks under load while the daemon is killed again and again. At
// no kill has any chunk fewer copies than asked for, and little is moved twice.
func TestTortureDrain(t *testing.T) {
	kills := *killsFlag
	if kills == 0 {
		kills = 3
		if long() {
			kills = 100
		}
	}
	rng := newRand(t)
	r := newRig(t, shape{copies: 2, size: 64 << 20, serve: []string{"--dirty-limit", "8MiB"}})
	r.start()
	dir := filepath.Dir(harness.Sparse(t, 0))
	for _, name := range []string{"a", "b", "c"} {
		r.env.Must("device", "add", "v", filepath.Join(dir, name)+":200MiB")
	}
	r.env.Must("export", "create", "v/still", "120MiB") // nobody writes to it while it moves
	harness.Need(t, "fio")
	still := []string{"--name=still", "--ioengine=nbd", "--size=120M", "--rw=write", "--bs=1M", "--verify=crc32c", "--verify_state_save=0"}
	harness.Tool(t, "fio", append(still, "--uri="+r.d.URI("still"), "--do_verify=0", "--end_fsync=1")...)
	var plan struct{ Bytes int64 }
	require.NoError(t, json.Unmarshal([]byte(r.env.Must("device", "drain", "v", "d1", "d2", "--dry-run", "--json")), &plan))
	require.NotZero(t, plan.Bytes)
	// Slow enough that every kill comes within the drain, on a slow machine too.
	pace := max(plan.Bytes/int64(max(20*kills, 1)), 1<<20)
	r.env.Must("device", "drain", "v", "d1", "d2", "--pace", strconv.FormatInt(pace, 10))

	within := 0
	for range kills {
		r.underLoad(rng, func() {
			<-r.killAfter(time.Duration(100+rng.IntN(700)) * time.Millisecond)
			r.d = nil
		})
		c := r.check()
		require.Equal(t, "sound", c.Verdict, "%+v", c)
		r.start()
		require.True(t, r.verify())
		if j := r.drain(); j.State == "running" {
			within++
		}
		require.False(t, t.Failed())
	}
	require.NotZero(t, within, "no kill came within the drain")
	done := r.drain().Done
	r.env.Must("device", "drain", "v", "d1", "d2", "--cancel")
	r.env.Must("device", "drain", "v", "d1", "d2") // the rest as fast as it can
	require.Eventually(t, func() bool { return r.drain().State == "done" }, 3*time.Minute, 50*time.Millisecond)
	done += r.drain().Done
	t.Logf("%d kills within the drain; %d bytes moved, forecast %d (what clients write meanwhile moves too)", within, done, plan.Bytes)
	r.env.Must("device", "remove", "v", "d1")
	r.env.Must("device", "remove", "v", "d2")
	out := harness.Tool(t, "fio", append(still, "--uri="+r.d.URI("still"), "--verify_only")...)
	require.Contains(t, out, "err= 0")
	require.True(t, r.verify())
	r.stop()
	require.Equal(t, "sound", r.check().Verdict)
}

// drainJob is a job, as job ls says.
type drainJob struct {
	ID, State string
	Done      int64 `json:"bytes_done"`
}

// drain is the newest drain.
func (r *rig) drain() drainJob {
	r.t.Helper()
	var doc struct{ Jobs []drainJob }
	require.NoError(r.t, json.Unmarshal([]byte(r.env.Must("job", "ls", "v", "--json")), &doc))
	for _, j := range doc.Jobs {
		if strings.HasPrefix(j.ID, "drain-") {
			return j
		}
	}
	r.t.Fatal("the drain is gone")
	return drainJob{}
}
