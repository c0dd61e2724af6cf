// Command tally reads what go test -json writes and tells people what matters: a line for each
// package, the output of what failed, the skips with their reasons, and one closing line with the
// count. It ends with status 1 if anything failed.
//
// A test with subtests is not counted itself, its subtests are, unless it failed and none of them
// did. A package that fails without a failed test (it does not build, or leaks) counts as one.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Output     string
	Elapsed    float64
}

type key struct{ pkg, test string }

type tally struct {
	out     io.Writer
	output  map[key][]string // of tests that run, and of packages
	result  map[key]string
	parent  map[key]bool // has subtests
	order   []key
	builds  map[string][]string
	failed  int
	passed  int
	skips   []string
	strange []string
}

func main() {
	t := newTally(os.Stdout)
	if err := t.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	if !t.finish() {
		os.Exit(1)
	}
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, output: map[key][]string{}, result: map[key]string{}, parent: map[key]bool{}, builds: map[string][]string{}}
}

func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			t.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		t.strange = append(t.strange, line)
		fmt.Fprint(t.out, line)
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		t.builds[e.ImportPath] = append(t.builds[e.ImportPath], e.Output)
	case "build-fail":
		fmt.Fprint(t.out, strings.Join(t.builds[e.ImportPath], ""))
	case "output":
		t.output[k] = append(t.output[k], e.Output)
	case "pass", "fail", "skip":
		t.ended(k, e)
	}
}

func (t *tally) ended(k key, e event) {
	if k.test == "" {
		t.packageEnded(e)
		return
	}
	t.result[k] = e.Action
	t.order = append(t.order, k)
	if i := strings.LastIndexByte(k.test, '/'); i >= 0 {
		t.parent[key{k.pkg, k.test[:i]}] = true
	}
}

// packageEnded counts the package's tests and forgets them: a package may come again.
func (t *tally) packageEnded(e event) {
	passed, failed, skipped := 0, 0, 0
	badChild := map[key]bool{}
	for _, k := range t.order {
		if k.pkg != e.Package {
			continue
		}
		result := t.result[k]
		if result == "fail" {
			for i, c := range k.test {
				if c == '/' {
					badChild[key{k.pkg, k.test[:i]}] = true
				}
			}
		}
		switch {
		case result == "fail" && !badChild[k]:
			failed++
			fmt.Fprintf(t.out, "\n%s", strings.Join(t.output[k], ""))
		case result == "fail":
			fmt.Fprint(t.out, strings.Join(t.output[k], ""))
		case t.parent[k]:
		case result == "skip":
			skipped++
			t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", k.pkg, k.test, reason(t.output[k])))
		default:
			passed++
		}
	}
	if e.Action == "fail" {
		if failed == 0 {
			failed++
		}
		// Tests that were running when the process ended badly have no result of their own.
		for k, lines := range t.output {
			if k.pkg == e.Package && k.test != "" && t.result[k] == "" {
				fmt.Fprintf(t.out, "\n%s did not end:\n%s", k.test, strings.Join(lines, ""))
			}
		}
		fmt.Fprint(t.out, strings.Join(t.output[key{e.Package, ""}], ""))
	}
	t.passed += passed
	t.failed += failed
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "-"}[e.Action]
	fmt.Fprintf(t.out, "%-5s%-32s %7.1fs  %d passed, %d failed, %d skipped\n", word, e.Package, e.Elapsed, passed, failed, skipped)
	t.order = slices.DeleteFunc(t.order, func(k key) bool { return k.pkg == e.Package })
	for _, k := range keysOf(t.output, e.Package) {
		delete(t.output, k)
		delete(t.result, k)
		delete(t.parent, k)
	}
}

func keysOf(m map[key][]string, pkg string) []key {
	var keys []key
	for k := range m {
		if k.pkg == pkg {
			keys = append(keys, k)
		}
	}
	return keys
}

// reason is what the test said when it skipped.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

// finish prints the skips and the closing line and reports whether all is well.
func (t *tally) finish() bool {
	if len(t.skips) > 0 {
		fmt.Fprintln(t.out, "\nskipped:")
		for _, s := range t.skips {
			fmt.Fprintln(t.out, "  "+s)
		}
	}
	if t.passed+t.failed == 0 {
		t.failed++ // nothing ran at all
	}
	fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, len(t.skips))
	return t.failed == 0
}
