package journal_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ballast/journal"
	"ballast/journal/journaltest"
)

var modelRuns = flag.Int("model-runs", 0, "how many runs TestTortureCopiesModel makes; 0: 2, or 300 with $BALLAST_TORTURE")

// modelRun is a journal on three devices through sessions that begin with an opening and end with a
// stop, a kill or a power cut. In between devices come, go and fail. After each session some of the
// store and the devices are lost, and devices and stores that were lost come back as they were then.
type modelRun struct {
	t       *testing.T
	rng     *rand.Rand
	base    string
	need    int
	history map[journal.Seq]model // all that may be found
	acked   journal.Seq

	dir      string    // the store, "": lost
	stores   []string  // as they were after earlier sessions
	devices  [3][]byte // what each holds, attached or not
	attached [3]bool
	needed   [3]bool // which of them are within the budget
	last     string  // how the last session ended, for people
	lost     int
	ops      int
}

// cut is what a session leaves in the moment it ends.
type cut struct {
	taken  bool
	dir    string
	areas  [3][]byte
	acked  journal.Seq
	status journal.CopiesStatus
	good   [3]bool
	sound  bool // nothing has failed since the last but one acknowledgement
}

// modelSession is an open store, until its moment has come.
type modelSession struct {
	r     *modelRun
	s     *journal.Store
	areas [3]*journaltest.Area

	mu     sync.Mutex
	rng    *rand.Rand // of the cut, which other goroutines take
	left   int        // points until the cut
	cut    cut
	fails  [3]bool
	calm   int // acknowledgements since something has failed
	placed [3]bool
}

// point counts one point down and takes the cut at the last. It is called without locks of the journal.
func (m *modelSession) point() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left--; m.left == 0 {
		m.take()
	}
}

// slow makes some operations of a device slower than a commit of the store. Nothing is ordered by it:
// it is the device's service time, and the run is right with any.
func (m *modelSession) slow() {
	m.mu.Lock()
	d := max(0, time.Duration(m.rng.IntN(8)-4)*time.Millisecond)
	m.mu.Unlock()
	time.Sleep(d)
}

func (m *modelSession) take() {
	m.cut.taken, m.cut.acked, m.cut.sound = true, m.r.acked, m.calm > 1
	m.cut.status = m.s.Copies()
	m.cut.dir = fmt.Sprintf("%s/cut%d", m.r.base, m.rng.Uint64())
	for _, c := range m.cut.status.Copies {
		m.cut.good[c.Name[1]-'1'] = c.State == journal.CopyGood
	}
	for i, a := range m.areas {
		if a != nil {
			m.cut.areas[i] = a.PowerCut(m.rng)
		}
	}
	copyLive(m.r.t, m.r.dir, m.cut.dir)
}

func (m *modelSession) places() (at []journal.Place) {
	all := places(m.areas[0], m.areas[1], m.areas[2])
	for i := range all {
		if m.placed[i] {
			at = append(at, all[i])
		}
	}
	return at
}

func (r *modelRun) open() *modelSession {
	m := &modelSession{r: r, left: 1 << 30, calm: 2, rng: rand.New(rand.NewPCG(r.rng.Uint64(), 0))}
	for i := range m.areas {
		if r.attached[i] {
			m.areas[i], m.placed[i] = journaltest.AreaOf(r.devices[i]), true
			m.areas[i].Hook = func(op string, _ int64) error {
				m.mu.Lock()
				bad := m.fails[i]
				m.mu.Unlock()
				if bad {
					return journaltest.ErrDisk
				}
				if op != "read" {
					m.slow()
					m.point()
				}
				return nil
			}
		}
	}
	if r.dir == "" {
		r.dir = fmt.Sprintf("%s/store%d", r.base, r.rng.Uint64())
	}
	var err error
	m.s, err = tryOpen(r.t, r.dir, m.places())
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.told(m))
	}
	seq := m.s.State().Seq
	want, ok := r.history[seq]
	if seq < r.acked || !ok {
		r.t.Fatalf("opened at sequence %d, acknowledged is %d\n%s", seq, r.acked, r.told(m))
	}
	require.Equal(r.t, map[journal.Key]string(want), journaltest.Contents(r.t, m.s))
	maps.DeleteFunc(r.history, func(s journal.Seq, _ model) bool { return s > seq })
	return m
}

// told is what is known of an opening and of the end of the session before.
func (r *modelRun) told(m *modelSession) string {
	text := fmt.Sprintf("%s\nattached %v, needed %v, store %q", r.last, r.attached, r.needed, r.dir)
	for _, v := range journal.SurveyAll(m.places(), volume) {
		text += fmt.Sprintf("\n%s: life %v, %v, %v", v.Place.Name, v.Life, v.State, v.Err)
	}
	if m.s != nil {
		text += fmt.Sprintf("\nrecovery %+v", m.s.Recovery())
	}
	return text
}

// session commits, and has devices leave, join and fail.
func (r *modelRun) session() {
	m := r.open()
	m.s.SetCommit(func(real func() error) error {
		m.point()
		err := real()
		m.point()
		return err
	})
	require.NoError(r.t, m.s.StartCopies(journal.CopyOptions{Places: m.places(), Need: r.need, Retry: time.Millisecond, Timeout: time.Minute}))
	m.mu.Lock()
	r.acked = m.s.State().Seq // what has been read stays as well
	m.left = 1 + r.rng.IntN(200)
	m.mu.Unlock()
	for range 5 + r.rng.IntN(40) {
		m.step()
	}
	m.mu.Lock()
	if !m.cut.taken {
		m.left = 1 << 30
		m.take()
	}
	m.mu.Unlock()
	require.NoError(r.t, m.s.Close())
	r.after(&m.cut)
}

// step is a commit, sometimes with a change of the devices before it.
func (m *modelSession) step() {
	r, i := m.r, m.r.rng.IntN(3)
	r.ops++
	switch r.rng.IntN(8) {
	case 0: // leaves or joins
		if m.areas[i] != nil {
			m.mu.Lock()
			m.placed[i] = !m.placed[i]
			m.calm = 0
			m.mu.Unlock()
			m.s.SetPlaces(m.places())
		}
	case 1: // fails, or gets well
		m.mu.Lock()
		m.fails[i] = !m.fails[i] && r.rng.IntN(2) == 0
		m.calm = 0
		m.mu.Unlock()
	}
	b := randomBatch(r.rng, 12, 500)
	before := m.s.State().Seq
	next := maps.Clone(r.history[before])
	next.apply(b)
	m.mu.Lock()
	if !m.cut.taken {
		r.history[before+1] = next
	}
	m.mu.Unlock()
	require.NoError(r.t, m.s.Commit(r.t.Context(), b))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calm++
	if !m.cut.taken {
		r.acked = m.s.State().Seq
	} else {
		// What comes after the moment of the crash never was; the next step starts from here all the same.
		r.history[before+1] = next
	}
}

// after decides what is lost, within the budget: the store, or so many copies that one of those that
// Need waited for is left, is there.
func (r *modelRun) after(c *cut) {
	r.acked = c.acked
	r.last = fmt.Sprintf("cut: acknowledged %d, good %v, sound %v, %+v", c.acked, c.good, c.sound, c.status)
	maps.DeleteFunc(r.history, func(s journal.Seq, _ model) bool { return s > c.acked+1 })
	good := 0
	for i := range c.areas {
		if c.areas[i] != nil {
			r.devices[i] = c.areas[i]
		}
		if c.good[i] {
			good++
		}
	}
	keep := good - min(r.need, good) + 1 // so many copies are enough without the store
	if !c.sound {
		keep = good
	}
	r.dir = c.dir
	r.needed = [3]bool{}
	loseStore := good > 0 && r.rng.IntN(4) > 0
	if loseStore {
		r.lost++
		r.stores = append(r.stores, r.dir)
		r.dir = ""
		for _, i := range r.rng.Perm(3) {
			if c.good[i] && keep > 0 {
				r.needed[i] = true
				keep--
			}
		}
		if r.rng.IntN(3) == 0 { // an older one is put in its place
			r.dir = fmt.Sprintf("%s/store%d", r.base, r.rng.Uint64())
			copyTree(r.t, r.stores[r.rng.IntN(len(r.stores))], r.dir)
		}
	}
	for i := range r.attached {
		r.attached[i] = r.needed[i] || r.rng.IntN(4) > 0
	}
}

// TestTortureCopiesModel: whatever is lost within the budget, what was acknowledged is found, exactly
// as it was at some moment since.
func TestTortureCopiesModel(t *testing.T) {
	smallMemTable(t)
	runs, sessions := often(*modelRuns, 2, 300), 0
	t.Logf("repeat with -run TestTortureCopiesModel -seed %d -model-runs %d", *seed, runs)
	lost, ops := 0, 0
	for n := range runs {
		base, err := os.MkdirTemp("", "model")
		require.NoError(t, err)
		r := &modelRun{t: t, rng: rand.New(rand.NewPCG(*seed+20, uint64(n))), base: base, need: 2 + n%2,
			history: map[journal.Seq]model{0: {}}, attached: [3]bool{true, true, true}, dir: base + "/first"}
		for i := range r.devices {
			r.devices[i] = make([]byte, 96<<10)
		}
		require.NoError(t, journal.Create(r.dir, volume))
		for range 8 {
			r.session()
			sessions++
		}
		lost, ops = lost+r.lost, ops+r.ops
		require.NoError(t, os.RemoveAll(base))
	}
	fmt.Printf("model of a journal and its copies: %d sessions, %d commits, the store lost %d times, nothing acknowledged lost: %v\n",
		sessions, ops, lost, !t.Failed())
	require.Positive(t, lost)
}
