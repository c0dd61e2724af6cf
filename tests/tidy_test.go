package tests

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTopLevelIsFixed(t *testing.T) {
	allowed := []string{"cmd", "fusefs", "nbd", "striping", "devices", "journal", "tests",
		"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "bin", "bench.json"} // the last two are made, and ignored by git
	entries, err := os.ReadDir(root(t))
	require.NoError(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

func TestGoFilesAreFormatted(t *testing.T) {
	for file := range goFiles(t) {
		text, err := os.ReadFile(filepath.Join(root(t), file))
		require.NoError(t, err)
		formatted, err := format.Source(text)
		require.NoError(t, err, file)
		if !bytes.Equal(text, formatted) {
			t.Errorf("%s is not formatted by gofmt", file)
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for file := range goFiles(t) {
		dir := filepath.Dir(file)
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		documented[dir] = documented[dir] || false
		parsed := parse(t, file, parser.PackageClauseOnly|parser.ParseComments)
		if parsed.Doc != nil && len(parsed.Doc.Text()) > 40 {
			documented[dir] = true
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
	// The rooms say what they guarantee, and where they stand in a crash.
	for _, room := range []string{"devices", "journal", "striping", "nbd", "fusefs"} {
		if _, err := os.Stat(filepath.Join(root(t), room)); err != nil {
			continue
		}
		doc, err := os.ReadFile(filepath.Join(root(t), room, "doc.go"))
		if err != nil {
			t.Errorf("%s has no doc.go", room)
			continue
		}
		for _, head := range []string{"# Guarantees", "# Concurrency", "# Failures", "# On disk"} {
			if !bytes.Contains(doc, []byte(head)) {
				t.Errorf("%s/doc.go has no section %q", room, head)
			}
		}
	}
}

func TestLibrariesDoNotPrint(t *testing.T) {
	for file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "cmd/") || strings.HasPrefix(file, "tests/") {
			continue
		}
		ast.Inspect(parse(t, file, 0), func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch f := call.Fun.(type) {
			case *ast.Ident:
				if f.Name == "println" || f.Name == "print" {
					t.Errorf("%s calls %s", file, f.Name)
				}
			case *ast.SelectorExpr:
				if name := selected(f); name != "" {
					if slices.Contains([]string{"fmt.Print", "fmt.Println", "fmt.Printf", "log.Print", "log.Println", "log.Printf", "log.Fatal", "log.Fatalf", "os.Exit"}, name) {
						t.Errorf("%s calls %s", file, name)
					}
				}
			}
			return true
		})
	}
}

var slowDevices = []string{"journal/copies_model_test.go", "journal/copies_lazy_test.go"}

// TestNothingOrdersBySleeping: a sleep that waits for something to have happened is a flake. Fake
// time (testing/synctest) makes sleeping exact, and a bench gives things the time it measures them
// over, so such files are left alone. So are those in which devices take time: what they do is right
// however long that is.
func TestNothingOrdersBySleeping(t *testing.T) {
	for file, imports := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") || slices.Contains(imports, "testing/synctest") || strings.HasPrefix(file, "tests/bench/") || slices.Contains(slowDevices, file) {
			continue
		}
		ast.Inspect(parse(t, file, 0), func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 || selected(call.Fun) != "time.Sleep" {
				return true
			}
			if selected(call.Args[0]) != "time.Hour" { // that is a process that hangs until it is killed
				t.Errorf("%s sleeps; wait for the thing itself", file)
			}
			return true
		})
	}
}

func TestDependenciesArePinned(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	require.NoError(t, err)
	for _, want := range []string{
		"github.com/pojntfx/go-nbd v0.3.2",      // listing its versions is refused: exact or nothing
		"github.com/dgraph-io/badger/v4 v4.9.6", // its crash behaviour was measured at this version
	} {
		require.Contains(t, string(mod), want)
	}
	require.NotContains(t, string(mod), "replace ", "the module builds from published sources")
}

func TestWordsThatDoNotBelong(t *testing.T) {
	// Written in pieces, so that this file passes its own test.
	words := regexp.MustCompile(`/w` + `ork/|/f` + `arm/|/ro` + `ot/go|\.\./sh` + `ared|(?i:\bX` + `XX\b|FIX` + `ME)`)
	base := root(t)
	require.NoError(t, filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" && name != base || d.Name() == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil || len(text) > 1<<20 || bytes.IndexByte(text, 0) >= 0 || d.Name() == ".git" {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if found := words.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", name, i+1, found)
			}
		}
		return nil
	}))
}

// TestFileSizes lists files that want a second look and refuses what no one could read.
func TestFileSizes(t *testing.T) {
	for file := range goFiles(t) {
		text, err := os.ReadFile(filepath.Join(root(t), file))
		require.NoError(t, err)
		lines := bytes.Count(text, []byte("\n"))
		if lines > 600 && !strings.HasSuffix(file, "_test.go") {
			t.Logf("%s has %d lines: more than one noun?", file, lines)
		}
		if lines > 1500 {
			t.Errorf("%s has %d lines", file, lines)
		}
	}
}

// selected is "a.b" for that expression, else "".
func selected(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}

func parse(t *testing.T, file string, mode parser.Mode) *ast.File {
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), file), nil, mode)
	require.NoError(t, err)
	return parsed
}
