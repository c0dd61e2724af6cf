package files

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var seed = flag.Uint64("seed", 0, "of the kills; 0: another one each time")

// content is what file number id holds at [off, off+n): its number and the offset in every 16
// bytes, so that foreign and misplaced data show.
func content(id uint64, off int64, n int) []byte {
	b := make([]byte, n+32)
	first := off &^ 15
	for i := 0; i < len(b)-15; i += 16 {
		binary.LittleEndian.PutUint64(b[i:], id^0x5a5a5a5a5a5a5a5a)
		binary.LittleEndian.PutUint64(b[i+8:], uint64(first)+uint64(i))
	}
	return b[off-first:][:n]
}

// file is what the model knows of one inode.
type file struct {
	id   uint64
	size int64 // as the programs see it
	// synced is the size that the last fsync or rename over another file promised, less what was
	// cut off since.
	synced int64
	max    int64 // the largest it can have had
}

// state is a name space: inode by path. It is copied, never changed.
type state map[string]uint64

// model is what a single program did on the mount.
type model struct {
	r     *rig
	rnd   *rand.Rand
	root  string
	files map[uint64]*file // by inode
	dirs  map[uint64]bool
	// states after each operation; the first is one that was synced.
	states  []state
	pending state // after the operation under way
	ids     uint64
	ops     int
}

func newModel(r *rig, seed uint64) *model {
	m := &model{r: r, rnd: rand.New(rand.NewPCG(seed, 1)), root: filepath.Join(r.dir, "model"), files: map[uint64]*file{}, dirs: map[uint64]bool{}}
	require.NoError(r, os.Mkdir(m.root, 0o755))
	m.states = []state{{"": m.ino("")}}
	m.dirs[m.ino("")] = true
	return m
}

func (m *model) path(p string) string { return filepath.Join(m.root, p) }

func (m *model) ino(p string) uint64 {
	var st unix.Stat_t
	require.NoError(m.r, unix.Lstat(m.path(p), &st))
	return st.Ino
}

func (m *model) now() state { return m.states[len(m.states)-1] }

// try does one operation on the name space. The daemon may die in it, after it was done.
func (m *model) try(change func(state), call func() error) error {
	m.pending = maps.Clone(m.now())
	change(m.pending)
	err := call()
	if err == nil {
		m.states = append(m.states, m.pending)
		m.pending = nil
	}
	return err
}

// unknown stands for the inode of what was made, until its number is seen.
const unknown = ^uint64(0)

// fits tells whether found is the state s.
func (s state) fits(found state) bool {
	return maps.EqualFunc(s, found, func(a, b uint64) bool { return a == b || a == unknown })
}

// synced records that everything so far is durable.
func (m *model) synced() { m.states = m.states[len(m.states)-1:] }

// pick returns a path of a directory or a file, "" and false if there is none.
func (m *model) pick(dir bool) (string, bool) {
	var list []string
	for p, ino := range m.now() {
		if m.dirs[ino] == dir {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return "", false
	}
	slices.Sort(list)
	return list[m.rnd.IntN(len(list))], true
}

// fresh returns a path that is not there.
func (m *model) fresh() string {
	dir, _ := m.pick(true)
	for {
		p := filepath.Join(dir, fmt.Sprintf("n%d", m.rnd.IntN(1000)))
		if _, there := m.now()[p]; !there {
			return p
		}
	}
}

// gone tells whether err is what system calls return when the daemon has been killed.
func gone(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ENODEV)
}

// step does one operation. It returns what the system call did; the model is changed if that is
// nil.
func (m *model) step() error {
	m.ops++
	file, haveFile := m.pick(false)
	switch k := m.rnd.IntN(20); {
	case k < 6 || !haveFile:
		return m.create(m.fresh())
	case k < 8:
		p := m.fresh()
		if len(m.dirs) > 40 {
			return nil
		}
		return m.mkdir(p)
	case k < 10:
		p := m.fresh()
		return m.try(func(s state) { s[p] = s[file]; delete(s, file) }, func() error { return unix.Rename(m.path(file), m.path(p)) })
	case k < 12:
		return m.replace(file)
	case k < 13:
		p := m.fresh()
		return m.try(func(s state) { s[p] = s[file] }, func() error { return unix.Link(m.path(file), m.path(p)) })
	case k < 15:
		return m.try(func(s state) { delete(s, file) }, func() error { return unix.Unlink(m.path(file)) })
	case k < 17:
		return m.write(file, m.rnd.IntN(3) == 0)
	case k < 18:
		return m.truncate(file)
	case k < 19:
		dir, _ := m.pick(true)
		return m.moveDir(dir)
	}
	return m.syncDir()
}

// mkdir makes a directory.
func (m *model) mkdir(p string) error {
	return m.try(func(s state) { s[p] = unknown }, func() error {
		if err := unix.Mkdir(m.path(p), 0o755); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(m.path(p), &st); err != nil {
			return err
		}
		m.dirs[st.Ino] = true
		m.pending[p] = st.Ino
		return nil
	})
}

// create makes a file, writes it, and syncs it or not.
func (m *model) create(p string) error {
	fd := -1
	var st unix.Stat_t
	err := m.try(func(s state) { s[p] = unknown }, func() (err error) {
		if fd, err = unix.Open(m.path(p), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644); err != nil {
			return err
		}
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		m.pending[p] = st.Ino
		return nil
	})
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err != nil {
		return err
	}
	m.ids++
	m.files[st.Ino] = &file{id: m.ids}
	return m.append(fd, m.files[st.Ino], m.rnd.IntN(4) == 0)
}

// append writes at the end of a file.
func (m *model) append(fd int, f *file, sync bool) error {
	b := content(f.id, f.size, 1+m.rnd.IntN(1<<uint(4+m.rnd.IntN(14))))
	f.max = max(f.max, f.size+int64(len(b)))
	if _, err := unix.Pwrite(fd, b, f.size); err != nil {
		return err
	}
	f.size += int64(len(b))
	if !sync {
		return nil
	}
	if err := unix.Fsync(fd); err != nil {
		return err
	}
	f.synced = f.size
	m.synced()
	return nil
}

func (m *model) write(p string, sync bool) error {
	fd, err := unix.Open(m.path(p), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return m.append(fd, m.files[m.now()[p]], sync)
}

// replace writes a new file and renames it over another one, without any sync.
func (m *model) replace(p string) error {
	fresh := m.fresh()
	if err := m.create(fresh); err != nil {
		return err
	}
	f := m.files[m.now()[fresh]]
	was := f.synced
	f.synced = f.size // from the rename on
	err := m.try(func(s state) { s[p] = s[fresh]; delete(s, fresh) }, func() error { return unix.Rename(m.path(fresh), m.path(p)) })
	if err != nil {
		f.synced = was // whether it happened is not known
	}
	return err
}

func (m *model) truncate(p string) error {
	f := m.files[m.now()[p]]
	size := int64(0)
	if f.size > 0 {
		size = m.rnd.Int64N(f.size)
	}
	f.synced = min(f.synced, size)
	err := unix.Truncate(m.path(p), size)
	if err == nil {
		f.size = size
	}
	return err
}

// moveDir renames a directory, if it is not the root, to a new name beside others.
func (m *model) moveDir(dir string) error {
	p := m.fresh()
	if dir == "" || p == dir || len(p) > len(dir) && p[:len(dir)+1] == dir+"/" {
		return nil
	}
	return m.try(func(s state) {
		for name, ino := range maps.Clone(s) {
			if name == dir || len(name) > len(dir) && name[:len(dir)+1] == dir+"/" {
				delete(s, name)
				s[p+name[len(dir):]] = ino
			}
		}
	}, func() error { return unix.Rename(m.path(dir), m.path(p)) })
}

func (m *model) syncDir() error {
	d, err := os.Open(m.root)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	m.synced()
	return nil
}

// verify compares what is found after a crash with what may be found, and goes on from there.
func (m *model) verify() {
	found := state{}
	links := map[uint64]uint64{}
	stats := map[uint64]unix.Stat_t{}
	require.NoError(m.r, filepath.WalkDir(m.root, func(path string, _ os.DirEntry, err error) error {
		require.NoError(m.r, err)
		var st unix.Stat_t
		require.NoError(m.r, unix.Lstat(path, &st))
		rel, err := filepath.Rel(m.root, path)
		require.NoError(m.r, err)
		if rel == "." {
			rel = ""
		}
		found[rel] = st.Ino
		links[st.Ino]++
		stats[st.Ino] = st
		return nil
	}))
	// The operation that was under way when the daemon died may have been done.
	matches := slices.ContainsFunc(m.states, func(s state) bool { return s.fits(found) }) || m.pending != nil && m.pending.fits(found)
	require.True(m.r, matches, "the name space is none of the %d since the last sync\nfound: %v\nlast: %v", len(m.states), found, m.now())
	for ino, st := range stats {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			m.dirs[ino] = true // also one that was made just before the daemon died
			continue
		}
		require.EqualValues(m.r, links[ino], st.Nlink, "links of inode %d", ino)
		m.verifyFile(found, ino)
	}
	m.states, m.pending = []state{found}, nil
}

func (m *model) verifyFile(found state, ino uint64) {
	var path string
	for p, i := range found {
		if i == ino {
			path = p
		}
	}
	b, err := os.ReadFile(m.path(path))
	require.NoError(m.r, err)
	f := m.files[ino]
	if f == nil { // made just before the daemon died
		require.Empty(m.r, b)
		m.ids++
		m.files[ino] = &file{id: m.ids}
		return
	}
	require.GreaterOrEqual(m.r, int64(len(b)), f.synced, "%s is shorter than what was synced", path)
	require.LessOrEqual(m.r, int64(len(b)), f.max, "%s is longer than it ever was", path)
	want := content(f.id, 0, len(b))
	for off := 0; off < len(b); off += 4096 {
		end := min(off+4096, len(b))
		if !bytes.Equal(b[off:end], want[off:end]) {
			require.GreaterOrEqual(m.r, int64(end), f.synced, "%s at %d: synced data is not there", path, off)
			// A part may be missing, none may be foreign.
			for i := off; i < end; i++ {
				require.True(m.r, b[i] == want[i] || b[i] == 0, "%s at %d: foreign data", path, i)
			}
		}
	}
	// From here on the file is what was found.
	if !bytes.Equal(b, want) {
		require.NoError(m.r, os.WriteFile(m.path(path), want, 0o644))
		f.synced = 0
	}
	f.size, f.max = int64(len(b)), int64(len(b))
	f.synced = min(f.synced, f.size)
}

// crashes has the model work until the daemon is ended, n times, and looks at what is there then. end has that
// happen after a while; what it returns waits for it, and starts the daemon again.
func (m *model) crashes(n int, rnd *rand.Rand, end func(after time.Duration) (again func())) {
	for k := range n {
		again := end(time.Duration(rnd.IntN(1200)) * time.Millisecond)
		var err error
		for err == nil {
			err = m.step()
		}
		again()
		require.True(m.r, gone(err), "step %d: %v", m.ops, err)
		m.verify()
		if k%10 == 9 {
			require.Zero(m.r, m.r.d.Stop())
			m.r.check()
			m.r.again()
		}
	}
}

// killLoop has the model work until the daemon is killed, over and over.
func killLoop(t *testing.T, kills int) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("again: go test ./tests/files -run '^%s$' -seed %d", t.Name(), s)
	r := mount(t, 1+int(s%2))
	m := newModel(r, s)
	require.NoError(t, m.syncDir())
	rnd := rand.New(rand.NewPCG(s, 2))
	m.crashes(kills, rnd, func(after time.Duration) func() {
		timer := time.AfterFunc(after, r.d.Kill)
		return func() {
			timer.Stop()
			r.crash()
		}
	})
	t.Logf("%d kills, %d operations, %d names at the end", kills, m.ops, len(m.now()))
}

func TestNamesSurviveKills(t *testing.T) { killLoop(t, 5) }
