package main

import (
	"io"
	"os"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/verify"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"

	"github.com/spf13/cobra"
)

func (a *app) checkCommand() *cobra.Command {
	o := verify.Options{}
	c := &cobra.Command{
		Use:   "check VOLUME",
		Short: "Verify a volume that is not being served; writes nothing to it",
		Long: `Verifies labels, journal and its copies on the devices, and every written block of every good copy against its sum. Nothing is
written to the volume; the journal is checked in a copy below $TMPDIR. Exit code 3 means damage.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Dirs, err = a.dirs(); err != nil {
				return err
			}
			o.Volume, o.Preflight = args[0], preflightArgs()
			r, err := verify.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if r.FaultCount > 0 {
				a.code = control.ExitPartial
			}
			return a.print(r, func(w io.Writer) { show.CheckReport(w, r) })
		},
	}
	c.Flags().StringArrayVar(&o.Look, "device", nil, "look for a device at this path too; may be repeated")
	return c
}

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
			if in.Label != nil {
				x.AddJournal(surveyOf(disk, in.Label))
			}
			return a.print(x, x.Write)
		},
	}
}

// preflightCommand is how a daemon has a journal checked in a process that a damage may kill.
func (a *app) preflightCommand() *cobra.Command {
	var build, settle bool
	c := &cobra.Command{
		Use:    "journal-preflight DIR",
		Short:  "Check a journal, or make its store of what is read from stdin, and print the verdict",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case build:
				a.code = journal.MakeMain(args[0], os.Stdin, a.out)
			case settle:
				a.code = journal.SettleMain(args[0], a.out)
			default:
				a.code = journal.PreflightMain(args[0], a.out)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&build, strings.TrimPrefix(journal.MakeFlag, "--"), false, "make it")
	c.Flags().BoolVar(&settle, strings.TrimPrefix(journal.SettleFlag, "--"), false, "only have Badger open and close it")
	return c
}
