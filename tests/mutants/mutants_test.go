package mutants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mutant is one bug: in file, the text old becomes new.
type mutant struct {
	name     string
	file     string // of package striping
	old, new string // old stands there exactly once
	tests    string // that are to find it
	crashes  int    // power cuts allowed until it is found; 0: the tests' own number
	every    bool   // part of the short run
	equal    string // not empty: why no test can tell it from the original
}

const crash = "TestCrash$"

var only = flag.String("only", "", "run the planted bugs whose name this matches, and no others")

var mutants = []mutant{
	{name: "a flush does not sync", file: "commit.go", every: true, tests: crash,
		old: "if m.synced.Load() >= n || !may(m) {\n\t\t\tcontinue\n\t\t}",
		new: "if true {\n\t\t\tif m.synced.Load() < n {\n\t\t\t\tm.synced.Store(n)\n\t\t\t}\n\t\t\tcontinue\n\t\t}"},
	{name: "one mirror's sync is forgotten", file: "commit.go", every: true, tests: crash,
		old: "if m.synced.Load() >= n || !may(m) {\n\t\t\tcontinue\n\t\t}",
		new: "if len(need) > 1 && id == 1 {\n\t\t\tm.synced.Store(max(n, m.synced.Load()))\n\t\t}\n\t\tif m.synced.Load() >= n || !may(m) {\n\t\t\tcontinue\n\t\t}"},
	{name: "a failed sync counts", file: "commit.go", tests: "TestNthCall",
		old: "v.deviceError(id, fmt.Errorf(\"sync: %w\", err))\n\t\t\t\treturn",
		new: "v.deviceError(id, fmt.Errorf(\"sync: %w\", err))"},
	{name: "a flush is answered before its commit", file: "flush.go", every: true, tests: crash,
		old: "failed := v.writeAll(dirty)\n",
		new: "failed := v.writeAll(dirty)\n\tfor _, r := range requests {\n\t\tselect {\n\t\tcase r.done <- flushResult{}:\n\t\tdefault:\n\t\t}\n\t\tr.done = make(chan flushResult, 1)\n\t}\n"},
	{name: "a flush forgets what is being written out", file: "flush.go", tests: "TestNthCall|TestFlush",
		old: "} else if c.out != nil {\n\t\t\tid = c.out.id\n\t\t}", new: "}"},
	{name: "a flush commits only what is settled in the background", file: "commit.go", every: true, tests: crash,
		old: "return c.pending && (c.must || settle), nil", new: "return c.pending && settle, nil"},
	{name: "a commit does not wait for the write-out under way", file: "commit.go", tests: crash,
		old: "if c.out == nil && !c.holder {\n\t\t\treturn true", new: "if true {\n\t\t\treturn true"},
	{name: "two commits of a chunk run at once", file: "commit.go", tests: crash + "|TestFlush|TestConcurrent",
		old: "if h.mine || !c.inCommit {", new: "if true {"},
	{name: "what joined a commit counts although that failed", file: "commit.go", tests: "TestSyncFilesWith",
		old: "joined = err == nil && n > 0", new: "joined = true"},
	{name: "a commit is joined although a file failed", file: "commit.go", tests: "TestSyncFilesWith",
		old: "if with != nil && len(failed) == 0 && len(batch) > 0 {", new: "if with != nil {"},
	{name: "a chunk that moves takes unreadable blocks along as zeros", file: "writeout.go", tests: "TestMove",
		old: "Sum: lostSum(seed, b)", new: "Sum: bindSum(seed, b, zerosRawSum)"},
	{name: "a chunk that moves gives up what a silent disk has", file: "relocate.go", tests: "TestMove",
		old: "if !pl.stale && (awaited(err) || !m.answers()) {", new: "if false {"},
	{name: "a commit does not hold write-outs back", file: "writeout.go", tests: crash,
		old: "if c.dirty == nil || c.out != nil || c.inCommit || c.holder || o == nil {", new: "if c.dirty == nil || c.out != nil || c.holder || o == nil {"},
	{name: "intents are not committed", file: "writeout.go", every: true, tests: crash,
		old: "case len(p.candidates) > 0:\n\t\t\twithIntent", new: "case false:\n\t\t\twithIntent"},
	{name: "intents of before are forgotten", file: "writeout.go", tests: crash,
		old: "p.intents = append(p.c.intents[:len(p.c.intents):len(p.c.intents)], p.candidates...)", new: "p.intents = p.candidates"},
	{name: "no intent for blocks that the journal knows", file: "writeout.go", tests: crash,
		old: "if p.c.durable.has(int(s.Block)) {", new: "if p.c.durable.has(int(s.Block)) && len(p.sums) > 2 {"},
	{name: "overwriting new blocks in place needs no commit", file: "writeout.go", tests: crash,
		old: "\t\tif !c.durable.has(b) {\n\t\t\tc.must = true\n\t\t}\n", new: ""},
	{name: "the durable blocks of the old slots count for the new ones", file: "writeout.go", tests: crash,
		old: "c.durable = nil // the", new: "// the", equal: "more intents than needed are written; none too few"},
	{name: "old slots are freed before the commit", file: "writeout.go", every: true, tests: crash,
		old: "if c.fresh {\n\t\treturn refs", new: "if true {\n\t\treturn refs"},
	{name: "a copy that missed a write is not marked stale", file: "writeout.go", every: true, tests: "TestNthCall",
		old: "places[i].stale = true\n\t\t\tc.must = true", new: "c.must = true"},
	{name: "a stale copy is not journaled before the flush", file: "writeout.go", tests: "TestBeyondBudget",
		old: "places[i].stale = true\n\t\t\tc.must = true", new: "places[i].stale = true"},
	{name: "a write error in place is ignored", file: "writeout.go", tests: "TestNthCall",
		old: "if err != nil && w.errs[c.i] == nil {", new: "if err != nil && w.errs[c.i] == nil && c.i > 0 {"},
	{name: "the last block of a run in place is not written", file: "writeout.go", every: true, tests: "TestWriteReadReopen|" + crash,
		old: "for _, run := range p.runs {\n", new: "for _, run := range p.runs {\n\t\t\tif n := len(run.Bufs) - 1; len(run.Bufs[n]) > blockSize {\n\t\t\t\trun.Bufs = append(run.Bufs[:n:n], run.Bufs[n][:len(run.Bufs[n])-blockSize])\n\t\t\t}\n"},
	{name: "a slot is freed while a hung write has it", file: "writeout.go", equal: "a device with a hung write is out until everything has returned; the slot's own count is a second lock",
		old: "if n := m.hung[s.off]; n != nil {", new: "if n := m.hung[s.off]; n != nil && false {"},
	{name: "trims are not journaled before a flush returns", file: "writeout.go", every: true, tests: crash,
		old: "c.pending, c.must = true, true\n\t}\n\tif p.ov.keep", new: "c.pending = true\n\t}\n\tif p.ov.keep"},
	{name: "a trimmed chunk's slots are given up without a commit", file: "writeout.go", equal: "what was written has made must true already; what was not reads as zeros in both",
		old: "c.pending, c.must, c.lost = true, true, false\n\treturn free", new: "c.pending, c.lost = true, false\n\treturn free"},
	{name: "a failed write-out drops its data", file: "writeout.go", tests: "TestNthCall|TestSpace",
		old: "c.dirty.under(ov)\n", new: "ov.release()\n"},
	{name: "sums know no address", file: "sum.go", tests: "TestSumIsBound",
		old: "binary.LittleEndian.PutUint64(b[24:], chunk)", new: "_ = chunk"},
	{name: "sums know no generation", file: "sum.go", tests: "TestSumIsBound",
		old: "binary.LittleEndian.PutUint64(b[32:], generation)", new: "_ = generation"},
	{name: "sums are not compared", file: "read.go", every: true, tests: "TestCorruption",
		old: "if from < 0 || blockSum(", new: "if from < 0 || i > 0 && blockSum("},
	{name: "recovery takes the oldest candidate", file: "recover.go", tests: "TestRecovery",
		old: "n > best {", new: "n >= 0 && (best < 0 || n < best) {"},
	{name: "what a flush settled is not marked", file: "commit.go", tests: "TestRecoveryNever",
		old: "cand.Settled = true\n", new: ""},
	{name: "intents are pruned although a write-out failed", file: "commit.go", tests: "TestFailedOverwrite",
		old: "len(c.keep) > 0 || c.err != nil {", new: "len(c.keep) > 0 {"},
	{name: "recovery decides about what it cannot read", file: "recover.go", tests: "TestRecoveryWaits|TestNthCall",
		old: "case best < 0 && unseen:", new: "case false && unseen:"},
	{name: "a failed commit is taken for one that did not happen", file: "commit.go", tests: "TestJournalDies",
		old: "if rec != nil && err != nil && !errors.Is(err, journal.ErrFull) {", new: "if false {"},
	{name: "block status looks at the journal first", file: "extents.go", tests: "TestExtentsSee",
		old: "touched := v.touchedList(o, from, to)\n", new: "touched := []*chunk{}\n"},
	{name: "a shrink does not wait for writers", file: "write.go", tests: "TestShrink",
		old: ">= o.size.Load() {\n\t\treturn ErrRange", new: "< 0 {\n\t\treturn ErrRange"},
	{name: "recovery does not make the copies equal", file: "recover.go", tests: crash,
		old: "if c.unseen || c.blocks[i] != nil && held[at] == sums[best] {", new: "if true {"},
	{name: "recovery does not sync what it wrote", file: "recover.go", tests: crash,
		old: "if err := m.Device.Do(&devices.Request{Kind: devices.Sync, Timeout: mirrorTimeout}); err != nil {", new: "if err := error(nil); err != nil {"},
	{name: "recovery forgets the copies that it could not make equal", file: "recover.go", tests: "TestRecoveryCatchesUp",
		old: "\tif behind {\n", new: "\tif false {\n"},
	{name: "recovery forgets the intent before the record", file: "recover.go", tests: crash,
		old: "if c.slot == 0 || in.Base != c.version {", new: "if true {"},
	{name: "recovery believes intents of an older record", file: "recover.go", equal: "the commit of a record takes its intent along; the base is a second lock",
		old: "|| in.Base != c.version {", new: "{"},
	{name: "healing takes any copy", file: "heal.go", tests: "TestHealing",
		old: "if blockSum(seed, block, buf.Bytes()) != vw.sums[block] {", new: "if _ = seed; false {"},
	{name: "healing does not hold the chunk", file: "heal.go", tests: "TestHeal",
		old: "c.holder = true\n", new: "c.holder = false\n"},
	{name: "another copy's block is not checked", file: "read.go", tests: "TestBeyondBudget",
		old: "if blockSum(seed, b, buf.Bytes()) == vw.sums[b] {", new: "if true {"},
	{name: "read-ahead does not notice changes", file: "readahead.go", tests: "TestReadAhead",
		old: "if f == nil || f.change != c.change {", new: "if f == nil {"},
	{name: "reads see the overlay being written out before newer data", file: "read.go", tests: "TestWriteReadReopen|" + crash,
		old: "for i := first; i < last; {\n\t\ts := segment{}", new: "c = &chunk{slot: c.slot, written: c.written, dirty: c.out, out: c.dirty}\n\tfor i := first; i < last; {\n\t\ts := segment{}"},
	{name: "a partial write does not notice changes", file: "write.go", tests: "TestUnaligned",
		old: "if c.change != change {", new: "if false && c.change != change {"},
	{name: "a read is off by one block", file: "read.go", tests: "TestWriteReadReopen",
		old: "s.buf, s.off = e.buf.Retain(), e.off+(i-e.first)*blockSize", new: "s.buf, s.off = e.buf.Retain(), e.off"},
	{name: "a write that grows a buffer is off by one block", file: "write.go", tests: "TestWriteReadReopen|" + crash,
		old: "at := e.off + e.n*blockSize\n", new: "at := e.off + (e.n-1)*blockSize\n"},
	{name: "the claim of space is not given back", file: "writeout.go", tests: crash,
		old: "v.claimed.Add(-v.regionShare(c.claim))\n\t\t\tp.o.claimed.Add(-c.claim)", new: "p.o.claimed.Add(-c.claim)"},
}

// TestTorturePlantedBugs runs the tests that each mutant names and requires that they fail.
func TestTorturePlantedBugs(t *testing.T) {
	var list []mutant
	for _, m := range mutants {
		wanted := m.every || os.Getenv("BALLAST_TORTURE") != ""
		if *only != "" {
			wanted = regexp.MustCompile(*only).MatchString(m.name)
		}
		if m.equal == "" && wanted {
			list = append(list, m)
		}
	}
	runMutants(t, list)
}

// TestMutantsMatch keeps the list in step with the source.
func TestMutantsMatch(t *testing.T) {
	for _, m := range mutants {
		text, err := os.ReadFile(filepath.Join(stripingDir(t), m.file))
		require.NoError(t, err)
		if n := strings.Count(string(text), m.old); n != 1 {
			t.Errorf("%s: its text stands in %s %d times", m.name, m.file, n)
		}
	}
}

func stripingDir(t *testing.T) string {
	dir, err := filepath.Abs("../../striping")
	require.NoError(t, err)
	return dir
}

func runMutants(t *testing.T, list []mutant) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var lines []string
	found := 0
	next := make(chan mutant)
	for range max(1, min(2, runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for m := range next {
				how, err := try(t.Context(), t, m)
				mu.Lock()
				if err != nil {
					t.Errorf("%s: %v", m.name, err)
				} else {
					found++
					lines = append(lines, fmt.Sprintf("%s (%s)", m.name, how))
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range list {
		next <- m
	}
	close(next)
	wg.Wait()
	for _, l := range lines {
		t.Log(l)
	}
	fmt.Printf("planted bugs: %d of %d found\n", found, len(list))
}

var (
	cuts   = regexp.MustCompile(`(\d+) power cuts`)
	failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
)

// try builds the tests with the bug and runs them. It tells what found the bug.
func try(ctx context.Context, t *testing.T, m mutant) (how string, err error) {
	dir := stripingDir(t)
	file := filepath.Join(dir, m.file)
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("its text stands in %s %d times", m.file, n)
	}
	tmp := t.TempDir()
	bad := filepath.Join(tmp, m.file)
	if err := os.WriteFile(bad, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: bad}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return "", err
	}
	bin := filepath.Join(tmp, "mutant.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlayFile, "-o", bin, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("does not build: %w\n%s", err, out)
	}
	crashes := m.crashes
	if crashes == 0 {
		crashes = 5000
	}
	run := exec.CommandContext(ctx, bin, "-test.run", m.tests, "-test.failfast", "-test.timeout", "120s", "-crashes", fmt.Sprint(crashes))
	run.Dir = dir
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	begun := time.Now()
	err = run.Run()
	if err == nil {
		return "", errors.New("survives " + m.tests)
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		return "", err
	}
	text = out.Bytes()
	how = fmt.Sprintf("%.1f s", time.Since(begun).Seconds())
	if f := failed.FindSubmatch(text); f != nil {
		how = string(f[1]) + ", " + how
	} else if i := bytes.Index(text, []byte("panic: ")); i >= 0 {
		line, _, _ := bytes.Cut(text[i:], []byte("\n"))
		how = string(line) + ", " + how
	} else {
		return "", fmt.Errorf("ended without a failed test: %w\n%.2000s", err, text)
	}
	if c := cuts.FindSubmatch(text); c != nil {
		how += ", " + string(c[1]) + " power cuts"
	}
	return how, nil
}
