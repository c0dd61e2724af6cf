package main

import (
	"ballast/cmd/show"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"

	"github.com/spf13/cobra"
)

func (a *app) inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect DEVICE",
		Short: "What is on a disk: its label and what others left there. Changes nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			in, err := devices.Inspect(args[0])
			if err != nil {
				return volumes.PathRefusal(args[0], err)
			}
			disk, err := volumes.Peek(in.Path)
			if err != nil {
				return volumes.PathRefusal(args[0], err)
			}
			defer disk.Close()
			x := show.InspectionOf(in, devices.ReadLabelCopies(disk))
			return a.print(x, x.Write)
		},
	}
}

// preflightCommand is how a daemon has a journal checked in a process that a damage may kill.
func (a *app) preflightCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "journal-preflight DIR",
		Short:  "Check a journal and print the verdict",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a.code = journal.PreflightMain(args[0], a.out)
			return nil
		},
	}
}
