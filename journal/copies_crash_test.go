package journal_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

var crashPoints = flag.Int("crash-points", 0, "how many of its points TestTortureCrashPoints crashes at; 0: 12, or all with $BALLAST_TORTURE")

// image is what a crash leaves: the store as a kill leaves it, each area as a power cut does.
type image struct {
	point string
	acked journal.Seq
	dir   string
	areas [][]byte
	good  []bool // which areas had a copy to be counted on
}

// camera takes images at the points of a run.
type camera struct {
	t     testing.TB
	every int // one of so many points

	mu     sync.Mutex
	rng    *rand.Rand
	dir    string
	store  *journal.Store
	areas  []*journaltest.Area
	points int
	images []image

	acked atomic.Uint64
	gate  atomic.Pointer[chan struct{}] // closed when the store has the group under way
}

func (c *camera) point(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.points++
	if c.dir == "" || c.points%c.every != 0 {
		return
	}
	im := image{point: fmt.Sprintf("%d (%s)", c.points, name), acked: journal.Seq(c.acked.Load()), dir: c.t.TempDir() + "/image"}
	im.good = make([]bool, len(c.areas))
	for _, copy := range c.store.Copies().Copies { // a place may be left out for a moment
		im.good[copy.Name[1]-'1'] = copy.State == journal.CopyGood
	}
	// The devices first: in between, the store may get on, as it may after a device was cut off.
	for _, a := range c.areas {
		im.areas = append(im.areas, a.PowerCut(c.rng))
	}
	copyLive(c.t, c.dir, im.dir)
	c.images = append(c.images, im)
}

// watch has a point before each operation of an area.
func (c *camera) watch(a *journaltest.Area, name string) {
	a.Hook = func(op string, _ int64) error {
		if gate := c.gate.Load(); op == "sync" && gate != nil {
			<-*gate // a commit that does not wait for the copies would be ahead of them
		}
		if op != "read" {
			c.point(name + " " + op)
		}
		return nil
	}
}

// At every point of commits, of ring writes and syncs, of header writes, and while copies are made
// and recovered, the process or the power fails. Whatever is left - store and devices, the devices
// alone, the store with one of them, one device alone - has everything acknowledged.
func TestTortureCrashPoints(t *testing.T) {
	smallMemTable(t)
	const commits = 60
	want := often(*crashPoints, 12, 1<<20)
	c := &camera{t: t, every: 1, rng: rand.New(rand.NewPCG(7, 7))}
	history := []model{{}} // by sequence
	run := func(count bool) {
		areas := newAreas(2, 48<<10)
		dir := create(t)
		c.areas = areas
		for i, a := range areas {
			c.watch(a, fmt.Sprint("d", i+1))
		}
		s := openCopied(t, dir, places(areas...), journal.CopyOptions{Retry: time.Millisecond, Timeout: time.Minute})
		requireGood(t, s, 2)
		s.SetCommit(func(real func() error) error {
			c.point("before the store's commit")
			err := real()
			close(*c.gate.Load())
			c.point("after the store's commit")
			return err
		})
		if !count {
			c.mu.Lock()
			c.dir, c.store, c.every, c.points = dir, s, max(1, c.points/want), 0
			c.mu.Unlock()
		}
		rng := rand.New(rand.NewPCG(8, 8))
		for i := range commits {
			b := randomBatch(rng, 12, 600)
			m := model{}
			for k, v := range history[len(history)-1] {
				m[k] = v
			}
			m.apply(b)
			history = append(history, m)
			if i == commits/2 { // one copy is made anew meanwhile
				s.SetPlaces(places(areas...)[1:])
				s.SetPlaces(places(areas...))
			}
			gate := make(chan struct{})
			c.gate.Store(&gate)
			require.NoError(t, s.Commit(context.Background(), b))
			c.acked.Store(uint64(s.State().Seq))
		}
		requireGood(t, s, 2)
		require.NoError(t, s.Close())
	}
	run(true) // counts the points
	c.acked.Store(0)
	c.gate.Store(nil)
	history = history[:1]
	run(false)
	images := c.images
	c.dir = ""
	require.GreaterOrEqual(t, len(images), min(want, c.points)/2)
	for i, im := range images {
		checkImage(t, im, history, i)
	}
	fmt.Printf("crashes in commits and copies of a journal: %d points, %d images, each found in four ways and in a crashed recovery, nothing acknowledged lost: %v\n", c.points, len(images), !t.Failed())
}

// checkImage opens what a crash left in all the ways it may be found.
func checkImage(t *testing.T, im image, history []model, i int) {
	rng := rand.New(rand.NewPCG(9, uint64(i)))
	for _, left := range []struct {
		name  string
		store bool
		of    []int
	}{
		{"store and devices", true, []int{0, 1}}, {"devices", false, []int{0, 1}},
		{"store and one device", true, []int{rng.IntN(2)}}, {"one device", false, []int{rng.IntN(2)}},
	} {
		checkLeft(t, &im, history, left.name, left.store, left.of, rng)
	}
}

// checkLeft opens the store, or none, with some of the areas.
func checkLeft(t *testing.T, im *image, history []model, name string, store bool, of []int, rng *rand.Rand) {
	what := fmt.Sprintf("point %s: %s %v", im.point, name, of)
	base, err := os.MkdirTemp("", "crash") // every store reserves space: it must not stay until the end
	require.NoError(t, err)
	defer os.RemoveAll(base)
	dir := base + "/journal"
	if store {
		copyTree(t, im.dir, dir)
	}
	var at []journal.Place
	for _, n := range of {
		p := places(newAreas(2, 0)...)[n]
		p.Area = journaltest.AreaOf(im.areas[n])
		at = append(at, p)
	}
	again := crashInRecovery(t, base, dir, at, rng)
	s, err := tryOpen(t, dir, at)
	if len(of) == 1 && !store && !im.good[of[0]] {
		if err == nil { // it was being made anew: what it has is from before
			require.NoError(t, s.Close())
		}
		return
	}
	require.NoError(t, err, what)
	requireHistory(t, s, im.acked, history, what)
	require.NoError(t, s.StartCopies(journal.CopyOptions{Places: at, Timeout: time.Minute}))
	require.NoError(t, s.Close())
	for _, a := range again {
		s, err := tryOpen(t, a.dir, a.places)
		require.NoError(t, err, "%s, then in recovery", what)
		requireHistory(t, s, im.acked, history, what)
		require.NoError(t, s.Close())
	}
}

func requireHistory(t *testing.T, s *journal.Store, acked journal.Seq, history []model, what string) {
	seq := s.State().Seq
	require.GreaterOrEqual(t, seq, acked, what)
	require.Less(t, int(seq), len(history), what)
	require.Equal(t, map[journal.Key]string(history[seq]), journaltest.Contents(t, s), what)
}

// leftover is what a crash in recovery leaves.
type leftover struct {
	dir    string
	places []journal.Place
}

// crashInRecovery recovers a copy of what is left, and returns what crashes at some points of that
// leave: on the devices, beside the store as it was found.
func crashInRecovery(t *testing.T, base, dir string, at []journal.Place, rng *rand.Rand) (left []leftover) {
	twin := base + "/twin"
	if _, err := os.Stat(dir); err == nil {
		copyTree(t, dir, twin)
	}
	areas := make([]*journaltest.Area, len(at))
	mine := append([]journal.Place(nil), at...)
	var mu sync.Mutex
	for i := range at {
		areas[i] = journaltest.AreaOf(at[i].Area.(*journaltest.Area).Bytes())
		mine[i].Area = areas[i]
		areas[i].Hook = func(op string, _ int64) error {
			mu.Lock()
			defer mu.Unlock()
			if op != "read" && rng.IntN(4) == 0 && len(left) < 1 {
				cut := append([]journal.Place(nil), mine...)
				for j := range cut {
					cut[j].Area = journaltest.AreaOf(areas[j].PowerCut(rng))
				}
				l := leftover{base + "/left", cut}
				if _, err := os.Stat(dir); err == nil {
					copyTree(t, dir, l.dir)
				}
				left = append(left, l)
			}
			return nil
		}
	}
	s, err := tryOpen(t, twin, mine)
	if err != nil {
		return nil
	}
	require.NoError(t, s.StartCopies(journal.CopyOptions{Places: mine, Timeout: time.Minute}))
	require.NoError(t, s.Close())
	if len(at) == 1 { // a copy in the making needs the store
		return nil
	}
	return left
}

// Every block of a ring is damaged in several ways, with the store gone. Another copy restores
// everything. Without one, either this one does, or it is refused: never is less than what the
// label's anchor tells of taken for the journal.
func TestEveryBlockOfARingDamaged(t *testing.T) {
	smallMemTable(t)
	areas := newAreas(2, 64<<10)
	dir := create(t)
	s := openCopied(t, dir, places(areas...), journal.CopyOptions{})
	rng := rand.New(rand.NewPCG(10, 10))
	m := model{}
	for range 40 {
		m.commit(t, s, randomBatch(rng, 20, 200))
	}
	state := s.State()
	require.NoError(t, s.Close())
	old := areas[0].Bytes()
	s = openCopied(t, dir, places(areas...), journal.CopyOptions{})
	for range 10 {
		m.commit(t, s, randomBatch(rng, 20, 200))
	}
	state = s.State()
	require.NoError(t, s.Close())
	detected, harmless := 0, 0
	for block := range 16 {
		for kind, change := range map[string]func(b []byte){
			"bit":     func(b []byte) { b[rng.IntN(4096)] ^= 1 << rng.IntN(8) },
			"zeros":   func(b []byte) { clear(b) },
			"old":     func(b []byte) { copy(b, old[block*4096:]) },
			"another": func(b []byte) { copy(b, areas[0].Bytes()[(block+3)%16*4096:]) },
			"sector":  func(b []byte) { rng32(rng, b[512*rng.IntN(8):][:512]) },
		} {
			what := fmt.Sprintf("block %d: %s", block, kind)
			bad := areas[0].Bytes()
			change(bad[block*4096:][:4096])
			if kind == "sector" {
				at := places(journaltest.AreaOf(bad), journaltest.AreaOf(areas[1].Bytes()))
				s, err := tryOpen(t, t.TempDir()+"/journal", at, state)
				require.NoError(t, err, what)
				require.Equal(t, state, s.State(), what)
				require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s), what)
				require.NoError(t, s.Close())
			}
			s, err := tryOpen(t, t.TempDir()+"/journal", places(journaltest.AreaOf(bad)), state)
			if err != nil {
				detected++
				continue
			}
			harmless++
			require.Equal(t, state, s.State(), what)
			require.Equal(t, map[journal.Key]string(m), journaltest.Contents(t, s), what)
			require.NoError(t, s.Close())
		}
	}
	require.Positive(t, detected)
	require.Positive(t, harmless)
	t.Logf("%d detected, %d harmless, 0 silent", detected, harmless)
}

func rng32(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}
