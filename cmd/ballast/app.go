package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

// app is one run of the command line.
type app struct {
	in        io.Reader
	out, errs io.Writer

	name             string // that the program was called by
	stateDir, runDir string
	json             bool

	began bool // the command line was understood and the command began
	code  int  // of a command that ends well with another code than 0 (status --check)
}

const exitCodes = `
Exit codes: 0 ok, 1 failed, 2 usage, 3 partial, 10 no such volume or export, 11 busy, 12 not permitted,
13 no space, 14 daemon not running, 130 interrupted. Of status --check: 0 ok, 1 warning, 2 critical, 3 unknown.
`

// run carries out a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	if a.isMountHelper(root, args) {
		args = append([]string{"mount-helper", "--"}, args...)
	}
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	called, err := root.ExecuteContextC(ctx)
	if err == nil {
		return a.code
	}
	if !a.began && !isRefusal(err) {
		err = control.Refuse("E_USAGE", "%v", err).WithTry("%s --help", called.CommandPath())
	}
	if ctx.Err() != nil && !isRefusal(err) {
		err = control.Refuse("E_INTERRUPTED", "interrupted")
	}
	refusals := control.AsRefusals(err)
	if a.json {
		show.RefusalsJSON(a.errs, refusals)
	} else {
		show.Refusals(a.errs, refusals)
	}
	return refusals[0].Exit
}

func isRefusal(err error) bool {
	var one *control.Refusal
	var many control.Refusals
	return errors.As(err, &one) || errors.As(err, &many)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ballast",
		Short: "One volume out of unequal disks",
		Long: `Ballast makes one volume out of several disks of any size and speed. Data is striped or mirrored
by what the disks are measured to do, and served as a file system and as block devices over NBD.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRun:  func(*cobra.Command, []string) { a.began = true },
		DisableAutoGenTag: true,
	}
	root.SetUsageTemplate(root.UsageTemplate() + exitCodes)
	flags := root.PersistentFlags()
	flags.StringVar(&a.stateDir, "state-dir", "", "where volumes are kept (default $BALLAST_STATE_DIR, /var/lib/ballast)")
	flags.StringVar(&a.runDir, "run-dir", "", "where sockets are made (default $BALLAST_RUN_DIR, /run/ballast)")
	flags.BoolVar(&a.json, "json", false, "write JSON")
	root.AddCommand(a.createCommand(), a.serveCommand(), a.statusCommand(), a.usageCommand(), a.listCommand(), a.stopCommand(),
		a.exportCommand(), a.deviceCommand(), a.jobCommand(), a.kindCommand("scrub", "Read every copy of everything, check it, and repair what can be"),
		a.kindCommand("rebuild", "Make copies anew that are missing or behind"), a.kindCommand("rebalance", "Even out what the devices hold"),
		a.mapCommand(), a.whyCommand(), a.iostatCommand(), a.eventsCommand(), a.checkCommand(), a.inspectCommand(), a.importCommand(), a.journalCommand(), a.salvageCommand(),
		a.attachCommand(), a.detachCommand(), a.mountCommand(), a.mountHelperCommand(), a.versionCommand(), a.manCommand(), a.preflightCommand())
	root.SetHelpCommand(a.helpCommand(root))
	return root
}

func (a *app) dirs() (volumes.Dirs, error) { return volumes.FindDirs(a.stateDir, a.runDir) }

// client returns a client for the daemon of a volume that exists.
func (a *app) client(volume string) (*control.Client, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	if _, err := volumes.ReadConfig(dirs, volume); err != nil {
		return nil, err
	}
	return control.NewClient(volume, dirs.Control(volume)), nil
}

// only returns the volume that args name, or the only one there is.
func (a *app) only(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	dirs, err := a.dirs()
	if err != nil {
		return "", err
	}
	names, err := dirs.Names()
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0:
		return "", control.Refuse("E_NO_VOLUME", "there are no volumes in %s", dirs.State).WithTry("ballast create NAME DEVICE...")
	case 1:
		return names[0], nil
	}
	return "", control.Refuse("E_USAGE", "there are several volumes: %s", strings.Join(names, ", ")).WithTry("ballast status %s", names[0])
}

// print writes v as JSON, or text for people.
func (a *app) print(v any, text func(io.Writer)) error {
	if a.json {
		return show.JSON(a.out, v)
	}
	text(a.out)
	return nil
}

// done tells that something was done.
func (a *app) done(volume, format string, args ...any) error {
	d := &control.Done{Schema: control.SchemaDone, Volume: volume, Done: fmt.Sprintf(format, args...)}
	return a.print(d, func(w io.Writer) { fmt.Fprintln(w, show.Clean(d.Done)) })
}

func (a *app) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | CODE]",
		Short: "Help about a command, or what an error code means",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && strings.HasPrefix(args[0], "E_") {
				code, ok := control.Codes[args[0]]
				if !ok {
					return control.Refuse("E_USAGE", "there is no code %s", args[0])
				}
				fmt.Fprintf(a.out, "%s (exit code %d)\n  %s\n", args[0], code.Exit, code.Text)
				return nil
			}
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return control.Refuse("E_USAGE", "there is no command %s", strings.Join(args, " ")).WithTry("ballast help")
			}
			return cmd.Help()
		},
	}
}

// group makes c a command that only holds others.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	var names []string
	for _, sub := range commands {
		names = append(names, sub.Name())
	}
	c.AddCommand(commands...)
	c.RunE = func(_ *cobra.Command, args []string) error {
		what := "nothing"
		if len(args) > 0 {
			what = args[0]
		}
		return control.Refuse("E_USAGE", "%s wants one of %s, not %s", c.CommandPath(), strings.Join(names, ", "), what).WithTry("%s --help", c.CommandPath())
	}
	return c
}

// isTerminal tells whether w shows on a screen.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
