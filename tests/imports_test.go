package tests

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// policy says which rooms the packages of a room may import; imports go down only. A room may
// always import its own sub-packages, and those the room. Tests of a room may import anything
// that stands below it. Changing this table is a commit of its own, with the reason.
var policy = map[string][]string{
	"devices":  {},
	"journal":  {},
	"striping": {"devices", "journal"},
	"nbd":      {"striping"}, // for error values only: the volume comes in as nbd.Export
	"fusefs":   {"striping", "journal"},
	"cmd":      {"devices", "journal", "striping", "nbd", "fusefs"},
	"tests":    {"devices", "journal", "striping", "nbd", "fusefs", "cmd"},
}

// below says what test files may import besides: everything under the room.
var below = map[string][]string{
	"nbd":    {"devices", "journal", "striping"},
	"fusefs": {"devices", "journal", "striping"},
}

const module = "ballast"

func TestImportsGoDownOnly(t *testing.T) {
	for file, imports := range goFiles(t) {
		room, _, _ := strings.Cut(file, "/")
		allowed, known := policy[room]
		if !known {
			t.Errorf("%s: no room of this name: add it to the policy or move it", file)
			continue
		}
		allowed = append([]string{room}, allowed...)
		if strings.HasSuffix(file, "_test.go") || strings.HasSuffix(path.Dir(file), "test") {
			allowed = append(allowed, below[room]...)
		}
		for _, imported := range imports {
			rest, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			to, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s; %s may import of ours only %v", file, imported, room, allowed)
			}
		}
	}
}

func TestNbdUsesNothingOfStripingButErrors(t *testing.T) {
	for file := range goFiles(t) {
		if !strings.HasPrefix(file, "nbd/") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), file))
		require.NoError(t, err)
		for rest := string(text); ; {
			_, after, found := strings.Cut(rest, "striping.")
			if !found {
				break
			}
			if after[0] >= 'A' && after[0] <= 'Z' && !strings.HasPrefix(after, "Err") {
				t.Errorf("%s uses striping.%.20s", file, after)
			}
			rest = after
		}
	}
}

// root is the directory of go.mod.
func root(t *testing.T) string {
	dir, err := filepath.Abs("..")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "go.mod"))
	return dir
}

// goFiles returns the Go files of the tree, by slash path from the root, with their imports.
func goFiles(t *testing.T) map[string][]string {
	files := map[string][]string{}
	base := root(t)
	require.NoError(t, filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") && name != base {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(base, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		imports := []string{}
		for _, i := range parsed.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, imported)
		}
		files[filepath.ToSlash(rel)] = imports
		return nil
	}))
	return files
}
