package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// TestManualPages: each command that help lists has a page with its text and its flags.
func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	r := call(t, t.Context(), "man", dir)
	require.Zero(t, r.code, r.errs)
	a := &app{}
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"))
		require.NoError(t, err)
		require.Contains(t, string(page), ".TH ")
		require.Contains(t, string(page), c.Short)
		for _, sub := range c.Commands() {
			each(sub)
		}
	}
	each(a.root())
	serve, err := os.ReadFile(filepath.Join(dir, "ballast-serve.1"))
	require.NoError(t, err)
	require.Contains(t, string(serve), "flush-interval")
	require.Equal(t, 1, call(t, t.Context(), "man", "/dev/null/x").code)
}
