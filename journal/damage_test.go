package journal_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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

var damages = flag.Int("damages", 0, "how many damages TestTortureDamage does; 0: 300, or 10,000 with $BALLAST_TORTURE")

// often is how often a test repeats: as a flag says, or as usual, or as with $BALLAST_TORTURE.
func often(flag, usual, torture int) int {
	switch {
	case flag > 0:
		return flag
	case os.Getenv("BALLAST_TORTURE") != "":
		return torture
	}
	return usual
}

// copyTree copies a directory; blocks of zeros become holes, as logs are mostly such.
func copyTree(t testing.TB, from, to string) { require.NoError(t, tryCopyTree(from, to)) }

// copyLive copies a journal in use as a kill leaves it: again, if a table came or went meanwhile, as
// the copy may name one then that it has no more, or only half of.
func copyLive(t testing.TB, from, to string) {
	for before := []string(nil); !slices.Equal(before, tablesOf(t, from)); {
		before = tablesOf(t, from)
		require.NoError(t, os.RemoveAll(to))
		if err := tryCopyTree(from, to); !errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, err)
		}
	}
}

// tablesOf returns the names of a journal's files, and what tells of a change of their list.
func tablesOf(t testing.TB, dir string) []string {
	names, err := filepath.Glob(dir + "/badger/*")
	require.NoError(t, err)
	list, err := os.Stat(dir + "/badger/MANIFEST")
	require.NoError(t, err)
	return append(names, fmt.Sprint(list.Size(), list.ModTime()))
}

func tryCopyTree(from, to string) error {
	tree, err := readTree(from)
	if err != nil {
		return err
	}
	return tree.write(to)
}

// fileTree is the content of a directory by relative path; nil is a directory.
type fileTree map[string]*savedFile

// savedFile is a file without the zeros at its end.
type savedFile struct {
	b    []byte
	size int64
}

func readTree(from string) (fileTree, error) {
	tree := fileTree{}
	return tree, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			tree[rel] = nil
			return nil
		}
		if rel == "ballast" {
			tree[rel] = &savedFile{}
			return nil
		}
		b, err := os.ReadFile(path)
		tree[rel] = &savedFile{bytes.Clone(bytes.TrimRight(b, "\x00")), int64(len(b))}
		return err
	})
}

// write makes the tree's files anew.
func (tree fileTree) write(to string) error {
	for _, rel := range slices.Sorted(maps.Keys(tree)) {
		path, f := filepath.Join(to, rel), tree[rel]
		if f == nil {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return err
			}
			continue
		}
		if err := writeSparse(path, f.b); err != nil {
			return err
		}
		if err := os.Truncate(path, f.size); err != nil {
			return err
		}
	}
	return nil
}

var zeros [64 << 10]byte

func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for off := 0; off < len(b); off += len(zeros) {
		part := b[off:min(off+len(zeros), len(b))]
		if bytes.Equal(part, zeros[:len(part)]) {
			continue
		}
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(b)))
}

// golden makes a journal with several tables, and a live log that a kill left.
func golden(t *testing.T) (dir string, state journal.State, model map[journal.Key]string) {
	dir = create(t)
	for round := range 4 {
		s := open(t, dir)
		for i := range 40 {
			for w := range writers {
				require.NoError(t, s.Commit(t.Context(), writerBatch(w, 40*round+i)))
			}
		}
		require.NoError(t, s.Close())
	}
	killWriter(t, dir, 300, 0, false)
	twin := t.TempDir() + "/twin"
	copyTree(t, dir, twin)
	s := open(t, twin)
	defer func() { require.NoError(t, s.Close()) }()
	model = map[journal.Key]string{}
	for w := range writers {
		writerModel(model, w, 300)
	}
	require.Equal(t, model, journaltest.Contents(t, s))
	return dir, s.State(), model
}

// A damage changes one file of the journal in dir; other is an older copy of the journal. It
// tells what it did.
type damage func(rng *rand.Rand, path, other string) (string, error)

// somewhere is an offset in b, mostly where there is something else than zeros.
func somewhere(rng *rand.Rand, b []byte) int {
	n := len(bytes.TrimRight(b, "\x00"))
	if n == 0 || rng.IntN(8) == 0 {
		n = len(b)
	}
	return rng.IntN(n)
}

// changed makes a damage of a change to a file's bytes, which are not empty.
func changed(change func(rng *rand.Rand, b []byte) ([]byte, string)) damage {
	return func(rng *rand.Rand, path, _ string) (string, error) {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return "nothing: empty", err
		}
		b, what := change(rng, b)
		return what, writeSparse(path, b)
	}
}

var damageKinds = map[string]damage{
	"flip": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		at, bit := somewhere(rng, b), rng.IntN(8)
		b[at] ^= 1 << bit
		return b, fmt.Sprintf("bit %d of byte %d", bit, at)
	}),
	"zero": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		size := []int{16, 512, 4096}[rng.IntN(3)]
		at := somewhere(rng, b) / size * size
		clear(b[at:min(at+size, len(b))])
		return b, fmt.Sprintf("%d bytes at %d", size, at)
	}),
	"garbage": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		at, size := somewhere(rng, b), 1+rng.IntN(600)
		for i := at; i < min(at+size, len(b)); i++ {
			b[i] = byte(rng.Uint32())
		}
		return b, fmt.Sprintf("%d bytes at %d", size, at)
	}),
	"move": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		from, to := somewhere(rng, b)/512*512, somewhere(rng, b)/512*512
		copy(b[to:min(to+512, len(b))], bytes.Clone(b[from:min(from+512, len(b))]))
		return b, fmt.Sprintf("512 bytes from %d to %d", from, to)
	}),
	"cut": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		at := somewhere(rng, b)
		return b[:at], fmt.Sprintf("to %d bytes", at)
	}),
	"tail": changed(func(rng *rand.Rand, b []byte) ([]byte, string) {
		for range 1 + rng.IntN(100) {
			b = append(b, byte(rng.Uint32()))
		}
		return b, fmt.Sprintf("now %d bytes", len(b))
	}),
	"empty":  func(_ *rand.Rand, path, _ string) (string, error) { return "", os.Truncate(path, 0) },
	"delete": func(_ *rand.Rand, path, _ string) (string, error) { return "", os.Remove(path) },
	"older": func(_ *rand.Rand, path, other string) (string, error) {
		b, err := os.ReadFile(other)
		if errors.Is(err, fs.ErrNotExist) {
			return "was not there", os.Remove(path)
		}
		if err != nil {
			return "", err
		}
		return "", writeSparse(path, b)
	},
	"other": func(rng *rand.Rand, path, _ string) (string, error) { // the bytes of a neighbour
		paths, err := filepath.Glob(filepath.Dir(path) + "/*")
		if err != nil {
			return "", err
		}
		paths = slices.DeleteFunc(paths, func(p string) bool { return filepath.Base(p) == "badger" })
		from := paths[rng.IntN(len(paths))]
		b, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		return "of " + filepath.Base(from), writeSparse(path, b)
	},
}

// TestTortureDamage damages the files of a journal at random. Each damage is told at Open, or does no
// harm: the journal has all its records.
func TestTortureDamage(t *testing.T) {
	n := often(*damages, 300, 10_000)
	smallMemTable(t)
	t.Logf("repeat with -run TestTortureDamage -seed %d -damages %d", *seed, n)
	dir, state, model := golden(t)
	older := t.TempDir() + "/older"
	require.NoError(t, journal.Create(older, volume))
	s := open(t, older)
	require.NoError(t, s.Commit(t.Context(), writerBatch(0, 0)))
	require.NoError(t, s.Close())

	tree, err := readTree(dir)
	require.NoError(t, err)
	kinds := slices.Sorted(maps.Keys(damageKinds))
	// Both cores have work: half of what a case takes is the start of its child.
	var mu sync.Mutex
	detected, harmless := map[string]int{}, map[string]int{}
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			for i := worker; i < n; i += 2 {
				file, ok := damageCase(t, i, kinds, tree, older, state, model)
				mu.Lock()
				if ok {
					harmless[file]++
				} else {
					detected[file]++
				}
				mu.Unlock()
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	fmt.Printf("damages of a journal without copies: %d; detected %v, harmless %v, silent 0: %v\n", n, detected, harmless, !t.Failed())
	require.Greater(t, len(detected), 3)
}

// damageCase does damage i and returns the kind of file and whether the journal still opens.
func damageCase(t *testing.T, i int, kinds []string, golden fileTree, older string, state journal.State, model map[journal.Key]string) (string, bool) {
	rng := rand.New(rand.NewPCG(*seed, uint64(i)))
	dir, err := os.MkdirTemp("", "damage")
	if !noError(t, err) {
		return "", false
	}
	defer os.RemoveAll(dir)
	if !noError(t, golden.write(dir)) {
		return "", false
	}
	paths, err := filepath.Glob(dir + "/*")
	if !noError(t, err) {
		return "", false
	}
	inner, err := filepath.Glob(dir + "/badger/*")
	if !noError(t, err) {
		return "", false
	}
	paths = append(paths, inner...)
	// The kind of file first, so that rare ones have their share.
	byKind := map[string][]string{}
	var fileKinds []string
	for _, path := range paths {
		kind := filepath.Ext(path)
		if kind == "" {
			kind = filepath.Base(path)
		}
		if kind == "badger" {
			continue
		}
		if byKind[kind] == nil {
			fileKinds = append(fileKinds, kind)
		}
		byKind[kind] = append(byKind[kind], path)
	}
	for range 3 { // those that hold records have more
		fileKinds = append(fileKinds, ".sst", ".mem", "MANIFEST")
	}
	fileKind := fileKinds[rng.IntN(len(fileKinds))]
	path := byKind[fileKind][rng.IntN(len(byKind[fileKind]))]
	kind := kinds[rng.IntN(len(kinds))]
	what, err := damageKinds[kind](rng, path, older+strings.TrimPrefix(path, dir))
	if !noError(t, err) {
		return fileKind, false
	}
	name := fmt.Sprintf("damage %d: %s %s %s", i, kind, strings.TrimPrefix(path, dir), what)
	s, err := journal.Open(dir, journal.Options{UUID: volume, Anchors: []journal.State{state}, Preflight: preflight(t)})
	if err != nil {
		if strings.Contains(err.Error(), "deadline") {
			t.Errorf("%s: hangs: %v", name, err)
		}
		return fileKind, false
	}
	defer s.Close()
	if have := s.State(); have != state {
		t.Errorf("%s: SILENT: state %v", name, have)
	}
	if !equalContents(t, s, model) {
		t.Errorf("%s: SILENT: contents differ", name)
	}
	return fileKind, true
}

func equalContents(t *testing.T, s *journal.Store, model map[journal.Key]string) bool {
	have := journaltest.Contents(t, s)
	if len(have) != len(model) {
		return false
	}
	for k, v := range model {
		if have[k] != v {
			return false
		}
	}
	return true
}

func noError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}
