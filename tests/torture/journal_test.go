package torture

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ballast/cmd/volumes"
	"ballast/tests/harness"

	"github.com/stretchr/testify/require"
)

// refuses requires that the daemon does not start, says why and what to do, and leaves the disks
// alone.
func (r *rig) refuses(why string) {
	r.t.Helper()
	var before [][]byte
	for _, d := range r.disks {
		data, err := os.ReadFile(d)
		require.NoError(r.t, err)
		before = append(before, data)
	}
	_, err := r.env.TryServe("v")
	require.ErrorContains(r.t, err, "ended with 1 ", why)
	require.ErrorContains(r.t, err, "code: E_JOURNAL", why)
	require.ErrorContains(r.t, err, "try: ", why)
	require.NotContains(r.t, err.Error(), "goroutine ", why)
	for i, d := range r.disks {
		data, err := os.ReadFile(d)
		require.NoError(r.t, err)
		require.True(r.t, string(before[i]) == string(data), "%s: disk %d was written to", why, i+1)
	}
}

// files are those of the journal whose names end so, and that hold something.
func (r *rig) files(suffix string) (list []string) {
	r.t.Helper()
	require.NoError(r.t, filepath.WalkDir(r.journal(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, suffix) {
			list = append(list, path)
		}
		return err
	}))
	return list
}

// recovers requires that the daemon starts, and that everything is there; if the store was lost, that
// the status says from where it came back.
func (r *rig) recovers(what string, anew bool) {
	r.t.Helper()
	r.start()
	require.True(r.t, r.verify(), what)
	s := r.status()
	if anew {
		require.Contains(r.t, s.Journal.Recovered, "made anew from the copy on device d", what)
	}
	require.Eventually(r.t, func() bool { return r.status().Journal.CopiesGood == 3 }, harness.Patience, 20*time.Millisecond, what)
	r.stop()
}

// eraseCopies makes the journal areas of all disks empty.
func (r *rig) eraseCopies() {
	r.t.Helper()
	for _, d := range r.disks {
		l, err := volumes.PeekLabel(d)
		require.NoError(r.t, err)
		edit(r.t, d, l.JournalOff, int(l.JournalSize), func(p []byte) { clear(p) })
	}
}

// damages are what may become of a store, with whether it is worth nothing then.
func (r *rig) damages(restoreOld func()) map[string]func() bool {
	remove := func(path ...string) {
		require.NoError(r.t, os.RemoveAll(filepath.Join(append([]string{r.journal()}, path...)...)))
	}
	return map[string]func() bool{
		"deleted": func() bool { remove(); return true },
		"emptied": func() bool { remove("badger"); return true },
		"an empty directory": func() bool {
			remove()
			require.NoError(r.t, os.MkdirAll(filepath.Join(r.journal(), "badger"), 0o700))
			return true
		},
		"rolled back":        func() bool { restoreOld(); return false },
		"without a MANIFEST": func() bool { remove("badger", "MANIFEST"); return true },
		"without its mark":   func() bool { remove("store"); return true },
	}
}

// TestDamagedJournal: a journal that is gone, empty, older than the disks know, cut or changed is
// made anew from its copies on the disks, and everything flushed is there.
func TestDamagedJournal(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.fill(rng, 300)
	restoreOld := keep(t, r.journal())
	r.fill(rng, 300)
	restore := keep(t, append([]string{r.journal()}, r.disks...)...)
	for what, do := range r.damages(restoreOld) {
		r.recovers(what, do())
		restore()
	}
	restoreJournal := keep(t, r.journal())
	r.fill(rng, 50)
	restoreJournal() // the daemon has gone on since
	r.recovers("from before the last start", false)

	// That of another volume is not touched.
	other := harness.Sparse(t, 64<<20)
	r.env.Must("create", "w", other)
	restore = keep(t, r.journal())
	require.NoError(t, os.RemoveAll(r.journal()))
	harness.Tool(t, "cp", "-a", filepath.Join(r.env.State, "w", "journal"), r.journal())
	r.refuses("of another volume")
	restore()
	r.recovers("the right one again", false)
}

// TestDamagedJournalWithoutCopies: without any copy all of that is refused, with the reason and a
// way out, and never taken for the journal of an empty or older volume; and with the right one back
// everything is there.
func TestDamagedJournalWithoutCopies(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.fill(rng, 300)
	restoreOld := keep(t, r.journal())
	r.fill(rng, 300)
	r.eraseCopies()
	restore := keep(t, r.journal())
	for what, do := range r.damages(restoreOld) {
		do()
		r.refuses(what)
		restore()
	}
	r.recovers("the right one", false) // which makes new copies
}

// TestTortureJournal cuts and changes the files of a journal after a clean stop. Whatever it
// is, everything is there.
func TestTortureJournal(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.fill(rng, 300)
	n := 12
	if long() {
		n = 120
	}
	recovered := 0
	for range n {
		restore := keep(t, append([]string{r.journal()}, r.disks...)...)
		var list []string
		for _, f := range append(r.files(".sst"), append(r.files(".mem"), append(r.files("MANIFEST"), append(r.files(".vlog"), r.files("store")...)...)...)...) {
			if st, err := os.Stat(f); err == nil && st.Size() > 0 {
				list = append(list, f)
			}
		}
		file := list[rng.IntN(len(list))]
		what := r.spoil(rng, file)
		r.start()
		require.True(t, r.verify(), what)
		require.False(t, t.Failed(), what)
		if r.status().Journal.Recovered != "" {
			recovered++
		}
		r.stop()
		restore()
	}
	require.Positive(t, recovered)
	r.start()
	require.True(t, r.verify())
	r.stop()
	fmt.Printf("spoiled journals: %d tried, %d made anew from a copy, nothing lost\n", n, recovered)
}

// used is how much of a file holds something: Badger makes its logs larger than what is in them.
func used(t *testing.T, file string) int {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for len(data) > 0 && data[len(data)-1] == 0 {
		data = data[:len(data)-1]
	}
	return len(data)
}

// spoil cuts a file or changes some of its bytes, and says what it did.
func (r *rig) spoil(rng *rand.Rand, file string) string {
	n := used(r.t, file)
	if n == 0 || rng.IntN(3) == 0 {
		require.NoError(r.t, os.Truncate(file, int64(rng.IntN(n+1))))
		return file + " was cut"
	}
	off := rng.IntN(n)
	edit(r.t, file, int64(off), min(1+rng.IntN(64), n-off), func(p []byte) {
		for i := range p {
			p[i] ^= byte(1 + rng.IntN(255))
		}
	})
	return file + " was changed"
}

// TestJournalRolledBackAfterAKill: what was flushed before a kill is not forgotten because the
// journal is from before the daemon that was killed.
func TestJournalRolledBackAfterAKill(t *testing.T) {
	rng := newRand(t)
	r := newRig(t, shape{copies: 2})
	r.start()
	r.work(rng, 200)
	r.kill()
	restoreOld := keep(t, r.journal())
	r.start()
	r.work(rng, 200)
	r.kill()
	restore := keep(t, append([]string{r.journal()}, r.disks...)...)
	withoutLog := func() {
		for _, log := range r.files(".mem") { // what the last daemon wrote stands there
			require.NoError(t, os.Truncate(log, 0))
		}
	}
	restoreOld()
	r.recovers("rolled back", false)
	restore()
	withoutLog()
	r.recovers("without its log", false)
	restore()
	r.eraseCopies()
	restoreOld()
	r.refuses("rolled back")
	restore()
	r.eraseCopies()
	withoutLog()
	r.refuses("without its log")
	restore()
	r.recovers("the right one", false)
}
