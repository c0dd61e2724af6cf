package journal_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

var copyDamages = flag.Int("copy-damages", 0, "how many damages TestTortureCopies does; 0: 100, or 10,000 with $BALLAST_TORTURE")

// scene is a journal with two copies in the moment of a crash, and as it was some time before.
type scene struct {
	dir        fileTree
	older      fileTree
	olderDir   string
	rings      [2][]byte
	olderRings [2][]byte
	state      journal.State
	model      map[journal.Key]string
}

func newScene(t *testing.T) *scene {
	c := &scene{olderDir: t.TempDir() + "/older"}
	dir := create(t)
	areas := newAreas(2, 256<<10)
	rng := rand.New(rand.NewPCG(11, *seed))
	for range 3 { // several tables
		s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
		for range 60 {
			require.NoError(t, s.Commit(t.Context(), randomBatch(rng, 100, 400)))
		}
		require.NoError(t, s.Close())
	}
	copyTree(t, dir, c.olderDir)
	c.olderRings = [2][]byte{areas[0].Bytes(), areas[1].Bytes()}
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	for range 60 {
		require.NoError(t, s.Commit(t.Context(), randomBatch(rng, 100, 400)))
	}
	requireWholeNow(t, s, areas)
	c.state, c.model = s.State(), journaltest.Contents(t, s)
	live := t.TempDir() + "/live"
	copyLive(t, dir, live)
	var err error
	c.dir, err = readTree(live)
	require.NoError(t, err)
	c.older, err = readTree(c.olderDir)
	require.NoError(t, err)
	c.rings = [2][]byte{areas[0].Bytes(), areas[1].Bytes()}
	require.NoError(t, s.Close())
	return c
}

func requireWholeNow(t *testing.T, s *journal.Store, areas []*journaltest.Area) {
	for _, v := range journal.SurveyAll(places(areas...), volume) {
		require.NoError(t, v.Err)
		require.Equal(t, s.State(), v.State)
	}
}

// spoilStore does something to a store, or nothing.
func (c *scene) spoilStore(rng *rand.Rand, dir string) (string, error) {
	switch rng.IntN(8) {
	case 0:
		return "store as it was", nil
	case 1:
		return "store deleted", os.RemoveAll(dir)
	case 2:
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		return "store rolled back", c.older.write(dir)
	case 3:
		return "store emptied", os.RemoveAll(dir + "/badger")
	}
	paths, err := filepath.Glob(dir + "/badger/*")
	if err != nil {
		return "", err
	}
	path := paths[rng.IntN(len(paths))]
	kinds := slices.Sorted(maps.Keys(damageKinds))
	kind := kinds[rng.IntN(len(kinds))]
	what, err := damageKinds[kind](rng, path, c.olderDir+strings.TrimPrefix(path, dir))
	return fmt.Sprintf("%s %s %s", kind, filepath.Base(path), what), err
}

// spoilRing does something to a copy; nil is a device that is gone.
func spoilRing(rng *rand.Rand, ring, older []byte) ([]byte, string) {
	b := slices.Clone(ring)
	at := rng.IntN(len(b)/4096) * 4096
	switch rng.IntN(7) {
	case 0:
		return nil, "gone"
	case 1:
		return slices.Clone(older), "as it was before"
	case 2:
		clear(b)
		return b, "discarded"
	case 3:
		at += rng.IntN(4096)
		b[at] ^= 1 << rng.IntN(8)
		return b, fmt.Sprintf("bit of byte %d", at)
	case 4:
		n := 4096 << rng.IntN(4)
		clear(b[at:min(at+n, len(b))])
		return b, fmt.Sprintf("zeros at %d +%d", at, n)
	case 5:
		copy(b[at:min(at+8192, len(b))], older[at:])
		return b, fmt.Sprintf("lost writes at %d", at)
	default:
		from := rng.IntN(len(b)/4096) * 4096
		copy(b[at:at+4096], ring[from:from+4096])
		return b, fmt.Sprintf("block of %d at %d", from, at)
	}
}

// TestTortureCopies damages store and copies at random. As long as one copy is left, everything
// acknowledged comes back, whatever became of the store and of the other copy. Beyond that the
// damage is told, or did no harm.
func TestTortureCopies(t *testing.T) {
	n := often(*copyDamages, 100, 10_000)
	smallMemTable(t)
	t.Logf("repeat with -run TestTortureCopies -seed %d", *seed)
	c := newScene(t)
	var mu sync.Mutex
	var wg sync.WaitGroup
	count := map[string]int{}
	for worker := range 2 {
		wg.Go(func() {
			for i := worker; i < n && !t.Failed(); i += 2 {
				verdict := c.one(t, i)
				mu.Lock()
				count[verdict]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Printf("damages of a journal and its copies: %d; detected and made good %d, detected and refused %d (no copy was left), harmless %d, silent %d\n",
		n, count["recovered"], count["refused"], count["harmless"], count["silent"])
	require.Positive(t, count["recovered"])
	require.Positive(t, count["refused"])
	require.Zero(t, count["silent"])
}

// one does damage i and says what came of it.
func (c *scene) one(t *testing.T, i int) string {
	rng := rand.New(rand.NewPCG(*seed+12, uint64(i)))
	dir, err := os.MkdirTemp("", "copies")
	if !noError(t, err) {
		return "error"
	}
	defer os.RemoveAll(dir)
	dir += "/journal"
	if !noError(t, c.dir.write(dir)) {
		return "error"
	}
	what, err := c.spoilStore(rng, dir)
	if !noError(t, err) {
		return "error"
	}
	good := 2
	var at []journal.Place
	for n, p := range places(newAreas(2, 0)...) {
		ring := c.rings[n]
		if rng.IntN(2) == 0 && (n == 0 || good == 2 || rng.IntN(3) == 0) {
			var how string
			ring, how = spoilRing(rng, ring, c.olderRings[n])
			what += fmt.Sprintf("; copy %d %s", n+1, how)
			good--
		}
		if ring != nil {
			p.Area = journaltest.AreaOf(ring)
			at = append(at, p)
		}
	}
	s, err := journal.Open(dir, journal.Options{UUID: volume, Places: at, Anchors: []journal.State{c.state}, Preflight: preflight(t)})
	if err != nil {
		if good > 0 {
			t.Errorf("damage %d: %s: not recovered: %v", i, what, err)
			return "lost"
		}
		return "refused"
	}
	defer s.Close()
	if s.State() != c.state || !equalContents(t, s, c.model) {
		t.Errorf("damage %d: SILENT: %s: %v, want %v", i, what, s.State(), c.state)
		return "silent"
	}
	if s.Recovery().Why == "" {
		return "harmless"
	}
	return "recovered"
}
