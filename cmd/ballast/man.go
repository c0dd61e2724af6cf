package main

import (
	"os"

	"ballast/cmd/control"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages of all commands into a directory",
		Long: `Writes a manual page for each command into DIR, which is made if it is not there. They are read by
man -l DIR/ballast-serve.1, or by man ballast-serve if DIR is /usr/local/share/man/man1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return control.Refuse("E_FAILED", "%v", err).WithTry("another directory")
			}
			header := &doc.GenManHeader{Title: "BALLAST", Section: "1", Source: "Ballast " + control.Version, Manual: "Ballast"}
			if err := doc.GenManTree(cmd.Root(), header, args[0]); err != nil {
				return control.Refuse("E_FAILED", "%v", err)
			}
			return a.done("", "the manual pages are in %s", args[0])
		},
	}
}
