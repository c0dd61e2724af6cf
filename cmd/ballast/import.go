package main

import (
	"io"
	"path/filepath"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/volumes"
	"ballast/devices"
	"ballast/journal"

	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	o := volumes.ImportOptions{}
	c := &cobra.Command{
		Use:   "import DEVICE...",
		Short: "Take in a volume from its disks: from another machine, or after its state was lost",
		Long: `Makes a volume of this machine out of disks that were one elsewhere, or here before the state directory
was lost. Name one of its devices or all: the labels tell which others belong to it, and those that are
block devices are found by themselves. The journal is made anew from the newest whole copy on the
disks. Nothing is written to them until the volume is served.

With --copies 2 or 3 one or two devices may be missing. A device that is being served, that the others
have gone on without, that is a copy of another one, or that belongs to no volume, is refused.

With --read-only clients may only read, now and at every later start; the daemon still settles what a
crash has left half done, and copies the journal.`,
		Example: `  ballast import /dev/disk/by-id/ata-A
  ballast import a.img b.img c.img --name old`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Dirs, err = a.dirs(); err != nil {
				return err
			}
			o.Devices, o.Child = args, preflightArgs()
			done, err := volumes.Import(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) { show.Imported(w, done) })
		},
	}
	c.Flags().StringVar(&o.Name, "name", "", "name of the volume here (default: the one it had)")
	c.Flags().BoolVar(&o.ReadOnly, "read-only", false, "let clients only read")
	c.Flags().BoolVar(&o.Degraded, "degraded", false, "although devices are missing that hold the only copy of something")
	return c
}

func (a *app) salvageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "salvage DEVICE...",
		Short: "What can be had of a volume without its journal: why, or why not",
		Long: `Tells what is left of a volume's journal on disks. One whole copy is enough to import the volume.

Without any, nothing can be put together: the disks hold the bytes of chunks and nothing that says whose
they are. Where each chunk lies, which of two versions is the newer, and the sums by which a block is
known to be right stand in the journal alone, which is therefore kept on up to three disks beside the
state directory. A header in every slot would cost 0.4 % of the space and a further write for each
overwrite, and still could not tell which of two slots that claim one chunk is the newer; three times
the journal costs a third of that. Chunks as such can be carved out by tools that look for files in raw
disks: they are whole where a file was written in one piece.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			x := &show.Salvage{Schema: "ballast.salvage/1", Devices: []show.SalvageDevice{}}
			whole := false
			for _, arg := range args {
				d := salvageable(arg)
				whole = whole || d.Whole
				x.Devices = append(x.Devices, d)
			}
			if err := a.print(x, x.Write); err != nil {
				return err
			}
			if whole {
				return nil
			}
			return control.Refuse("E_JOURNAL", "none of these devices has a whole copy of a journal, and without one nothing says what their bytes are").
				WithTry("the other devices of the volume").WithTry("ballast salvage --help, for the reasons")
		},
	}
}

// salvageable tells what copy of a journal is on a device.
func salvageable(arg string) show.SalvageDevice {
	d := show.SalvageDevice{Path: arg}
	disk, err := volumes.Peek(arg)
	if err != nil {
		d.Fault = volumes.PathRefusal(arg, err).Message
		return d
	}
	defer disk.Close()
	label, err := devices.ReadLabel(disk)
	if err != nil {
		d.Fault = err.Error()
		return d
	}
	d.Volume, d.Device = label.Name, label.ID.String()
	v := surveyOf(disk, &label)
	if v.Err == nil {
		_, v.Err = v.Content()
	}
	if v.Err != nil {
		d.Fault = v.Err.Error()
		return d
	}
	d.Whole, d.Seq, d.Records = true, uint64(v.State.Seq), v.State.Count
	return d
}

// surveyOf looks at the copy of the journal on a disk.
func surveyOf(disk devices.Disk, l *devices.Label) *journal.Survey {
	return journal.SurveyAll([]journal.Place{volumes.JournalPlace(disk, l, "")}, l.Volume)[0]
}

func (a *app) journalCommand() *cobra.Command {
	return group(&cobra.Command{Use: "journal", Short: "The journal of a volume that is not being served, and its copies"},
		a.journalVerifyCommand(), a.journalBackupCommand(), a.journalRebuildCommand())
}

func (a *app) journalVerifyCommand() *cobra.Command {
	var look []string
	c := &cobra.Command{
		Use:   "verify VOLUME",
		Short: "Read all of the journal and of each copy on the devices; changes nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withJournal(args[0], look, func(w *volumes.JournalWork) error {
				r := w.Verify(cmd.Context())
				if !r.Sound {
					a.code = control.ExitPartial
				}
				return a.print(r, func(out io.Writer) { show.JournalReport(out, r) })
			})
		},
	}
	c.Flags().StringArrayVar(&look, "device", nil, "look for a device at this path too; may be repeated")
	return c
}

func (a *app) journalBackupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup VOLUME FILE",
		Short: "Write the journal to a file that journal rebuild --from can use",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			return a.withJournal(args[0], nil, func(w *volumes.JournalWork) error {
				s, err := w.Backup(cmd.Context(), file)
				if err != nil {
					return err
				}
				return a.done(args[0], "journal of volume %s at sequence %d with %d records written to %s", args[0], s.Seq, s.Count, file)
			})
		},
	}
}

func (a *app) journalRebuildCommand() *cobra.Command {
	var look []string
	var from string
	c := &cobra.Command{
		Use:   "rebuild VOLUME",
		Short: "Make the journal anew from its newest copy on the devices, or from a backup",
		Long: `Makes the journal anew from its newest whole copy on the devices, verifies it, and puts it into its place;
the old one is kept beside it. serve does this by itself when the journal is damaged or lost. With --from
it is made from a backup, which must be as new as the disks say.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withJournal(args[0], look, func(w *volumes.JournalWork) error {
				r, err := w.Rebuild(cmd.Context(), from, a.logger(false))
				if err != nil {
					return err
				}
				return a.done(args[0], "journal of volume %s made anew from %s: %d records", args[0], r.From, r.Records)
			})
		},
	}
	c.Flags().StringArrayVar(&look, "device", nil, "look for a device at this path too; may be repeated")
	c.Flags().StringVar(&from, "from", "", "a file that journal backup wrote")
	return c
}

// withJournal calls fn with the journal of a volume that nobody serves.
func (a *app) withJournal(volume string, look []string, fn func(*volumes.JournalWork) error) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	w, err := volumes.OpenJournalWork(dirs, volume, look, preflightArgs())
	if err != nil {
		return err
	}
	defer w.Close()
	return fn(w)
}
