package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

func (a *app) deviceCommand() *cobra.Command {
	return group(&cobra.Command{Use: "device", Short: "The devices of a volume",
		Long: `Devices join, leave and are replaced while the volume is served. DEVICE is an ID as status shows it (d2), or
the path of the disk.`},
		a.deviceLs(), a.deviceAdd(), a.deviceDrain(), a.deviceRemove(), a.deviceReplace(), a.deviceGrow(), a.deviceOffline(), a.deviceOnline(), a.deviceSet())
}

func (a *app) deviceLs() *cobra.Command {
	return &cobra.Command{
		Use:   "ls VOLUME",
		Short: "List them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.statusOf(cmd.Context(), args)
			if err != nil {
				return err
			}
			doc := struct {
				Schema  string `json:"schema"`
				Volume  string `json:"volume"`
				Devices any    `json:"devices"`
			}{"ballast.devices/1", s.Volume, s.Devices}
			return a.print(&doc, func(w io.Writer) { show.Devices(w, s.Devices) })
		},
	}
}

// askDevice sends a request about devices to the daemon and prints what it answers.
func (a *app) askDevice(ctx context.Context, volume string, q *control.DeviceRequest) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	var done control.Done
	var plan control.Plan
	if err := client.Device(ctx, q, &done, &plan); err != nil {
		return err
	}
	return a.printStarted(q.DryRun, &done, &plan)
}

func (a *app) printStarted(dry bool, done *control.Done, plan *control.Plan) error {
	if dry {
		return a.print(plan, func(w io.Writer) { show.Plan(w, plan) })
	}
	return a.print(done, func(w io.Writer) { fmt.Fprintln(w, show.Clean(done.Done)) })
}

// deviceNames makes paths absolute: the daemon has another working directory.
func deviceNames(args []string) (names []string) {
	for _, n := range args {
		if strings.ContainsRune(n, filepath.Separator) {
			if abs, err := filepath.Abs(n); err == nil {
				n = abs
			}
		}
		names = append(names, n)
	}
	return names
}

// newDisk fills in the disk that is to join.
func newDisk(q *control.DeviceRequest, arg string) error {
	s, err := volumes.ParseDevice(arg, func(path string) bool { _, err := os.Lstat(path); return err == nil })
	if err != nil {
		return err
	}
	q.Path, q.Size, q.Given = s.Path, s.Size, s.Given
	return nil
}

func (a *app) deviceAdd() *cobra.Command {
	q := &control.DeviceRequest{Op: "add"}
	c := &cobra.Command{
		Use:   "add VOLUME DEVICE",
		Short: "Add a disk; it takes new data at once, at its speed",
		Long: `DEVICE is a block device, a file, or PATH:SIZE to make a sparse file. What is on the volume already
stays where it is until clients are quiet for a minute; "ballast rebalance start" moves the new device's share
to it at once.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := newDisk(q, args[1]); err != nil {
				return err
			}
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
	c.Flags().BoolVar(&q.Force, "force", false, "destroy what the disk holds")
	c.Flags().StringVar(&q.Domain, "domain", "", "the failure domain it is in")
	return c
}

func (a *app) deviceDrain() *cobra.Command {
	q := &control.DeviceRequest{Op: "drain"}
	var cancel, reverse bool
	var pace string
	c := &cobra.Command{
		Use:   "drain VOLUME DEVICE...",
		Short: "Move everything off devices, while the volume is served",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reverse && !cancel {
				return control.Refuse("E_USAGE", "--reverse goes with --cancel").WithTry("ballast device drain %s %s --cancel --reverse", args[0], args[1])
			}
			if cancel {
				return a.cancelDrain(cmd.Context(), args[0], args[1:], reverse)
			}
			q.Devices = deviceNames(args[1:])
			var err error
			if q.Pace, err = parsePace(pace); err != nil {
				return err
			}
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
	c.Flags().StringVar(&pace, "pace", "", "move no more than so much per second (50MiB)")
	c.Flags().BoolVar(&q.DryRun, "dry-run", false, "only tell how much would be moved, how long it would take, and how full the others would be")
	c.Flags().BoolVar(&cancel, "cancel", false, "end the drain of these devices; they take part again")
	c.Flags().BoolVar(&reverse, "reverse", false, "with --cancel: move back what has been moved")
	c.Flags().StringVar(&q.Reason, "reason", "", "why, for the record")
	return c
}

// cancelDrain cancels the job that drains the devices.
func (a *app) cancelDrain(ctx context.Context, volume string, names []string, reverse bool) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	for _, n := range deviceNames(names) {
		for _, d := range s.Devices {
			if d.Name == n || d.Path == n {
				ids[d.Name] = true
			}
		}
	}
	for _, j := range s.Jobs {
		for _, d := range j.Devices {
			if ids[d] && (j.Kind == "drain" || j.Kind == "replace") {
				return a.askJob(ctx, volume, &control.JobRequest{Op: "cancel", ID: j.ID, Reverse: reverse})
			}
		}
	}
	return control.Refuse("E_NO_JOB", "no job drains %s", strings.Join(names, ", ")).WithTry("ballast job ls %s", volume)
}

func (a *app) deviceRemove() *cobra.Command {
	q := &control.DeviceRequest{Op: "remove"}
	return &cobra.Command{
		Use:   "remove VOLUME DEVICE",
		Short: "Take an empty device out of the volume for good",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices = deviceNames(args[1:])
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
}

func (a *app) deviceReplace() *cobra.Command {
	q := &control.DeviceRequest{Op: "replace"}
	c := &cobra.Command{
		Use:   "replace VOLUME DEVICE NEW",
		Short: "Add a disk and move to it what another device holds",
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices = deviceNames(args[1:2])
			if err := newDisk(q, args[2]); err != nil {
				return err
			}
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
	c.Flags().BoolVar(&q.Force, "force", false, "destroy what the new disk holds")
	return c
}

func (a *app) deviceGrow() *cobra.Command {
	q := &control.DeviceRequest{Op: "grow"}
	return &cobra.Command{
		Use:   "grow VOLUME DEVICE",
		Short: "Use all of a disk that has become larger",
		Long: `The file or block device may have grown while the volume was served (truncate -s, lvextend, losetup -c), or
before. What is new is used for data at once. It cannot be taken back: a device does not become smaller.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices = deviceNames(args[1:])
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
}

func (a *app) deviceOffline() *cobra.Command {
	q := &control.DeviceRequest{Op: "offline"}
	c := &cobra.Command{
		Use:   "offline VOLUME DEVICE",
		Short: "Stop using a device, so that its disk can be taken away",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices = deviceNames(args[1:])
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
	c.Flags().BoolVar(&q.Force, "force", false, "also if it holds the only good copy of something, which cannot be read then")
	return c
}

func (a *app) deviceOnline() *cobra.Command {
	q := &control.DeviceRequest{Op: "online"}
	c := &cobra.Command{
		Use:   "online VOLUME DEVICE",
		Short: "Use a device again that was missing, failed, or taken offline",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices = deviceNames(args[1:])
			if q.Path != "" {
				abs, err := filepath.Abs(q.Path)
				if err != nil {
					return err
				}
				q.Path = abs
			}
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
	c.Flags().StringVar(&q.Path, "path", "", "where its disk is now, if it is a file that was moved")
	c.Flags().BoolVar(&q.Resync, "resync", false, "although its disk is an older image: all that is on it is compared, and written anew where it is not true")
	return c
}

func (a *app) deviceSet() *cobra.Command {
	q := &control.DeviceRequest{Op: "set"}
	return &cobra.Command{
		Use:   "set VOLUME DEVICE online|slow|auto",
		Short: "Have a device used (online) or spared (slow) whatever is measured, or leave that to the volume (auto)",
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Devices, q.State = deviceNames(args[1:2]), args[2]
			return a.askDevice(cmd.Context(), args[0], q)
		},
	}
}
