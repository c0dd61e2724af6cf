package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/size"
	"ballast/cmd/volumes"
	"ballast/fusefs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// askJob sends a request about jobs to the daemon and prints what it answers.
func (a *app) askJob(ctx context.Context, volume string, q *control.JobRequest) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	var done control.Done
	var plan control.Plan
	if err := client.Job(ctx, q, &done, &plan); err != nil {
		return err
	}
	return a.printStarted(q.DryRun, &done, &plan)
}

// parsePace reads bytes per second; "" is no limit.
func parsePace(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := size.Parse(s)
	if err != nil {
		return 0, control.Refuse("E_SIZE", "--pace: %v", err).WithTry("--pace 50MiB")
	}
	return n, nil
}

// parseSince reads a date, a date with a time, or how long ago; "" is no time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", time.RFC3339} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, control.Refuse("E_USAGE", "--since: %q is neither a date nor a time that has passed", s).WithTry("--since 2026-01-31").WithTry("--since 7d")
}

// kindCommand holds what can be done with the jobs of one kind.
func (a *app) kindCommand(kind, short string) *cobra.Command {
	start := &control.JobRequest{Op: "start", Kind: kind}
	var pace, since string
	startCommand := &cobra.Command{
		Use:   "start VOLUME",
		Short: "Begin",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if start.Pace, err = parsePace(pace); err != nil {
				return err
			}
			if start.Since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			return a.askJob(cmd.Context(), args[0], start)
		},
	}
	startCommand.Flags().BoolVar(&start.DryRun, "dry-run", false, "only tell how much there is to do and how long it would take")
	if kind != "rebuild" {
		startCommand.Flags().StringVar(&pace, "pace", "", "do no more than so much per second (50MiB)")
	}
	if kind == "scrub" {
		startCommand.Flags().StringVar(&since, "since", "", "only what was written or moved since a date (2026-01-31), or in so much time (7d, 36h)")
	}
	commands := []*cobra.Command{startCommand, {
		Use:   "status VOLUME",
		Short: "How far it is",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.listJobs(cmd.Context(), args[0], kind) },
	}}
	for op, text := range map[string]string{"pause": "Have it rest", "resume": "Have it go on", "cancel": "End it; what it has done stays"} {
		commands = append(commands, &cobra.Command{
			Use:   op + " VOLUME",
			Short: text,
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.askJob(cmd.Context(), args[0], &control.JobRequest{Op: op, Kind: kind})
			},
		})
	}
	return group(&cobra.Command{Use: kind, Short: short}, commands...)
}

func (a *app) jobCommand() *cobra.Command {
	commands := []*cobra.Command{{
		Use:   "ls VOLUME",
		Short: "List the jobs, also those that are over",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.listJobs(cmd.Context(), args[0], "") },
	}, {
		Use:   "watch VOLUME [JOB]",
		Short: "Show a job until it is over, or blocked",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.watchJob(cmd.Context(), args[0], append(args, "")[1])
		},
	}}
	for op, text := range map[string]string{"pause": "Have a job rest", "resume": "Have a job go on", "cancel": "End a job; what it has done stays, devices that were to leave take part again"} {
		reverse := false
		c := &cobra.Command{
			Use:   op + " VOLUME [JOB]",
			Short: text,
			Args:  cobra.RangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.askJob(cmd.Context(), args[0], &control.JobRequest{Op: op, ID: append(args, "")[1], Reverse: reverse})
			},
		}
		if op == "cancel" {
			c.Flags().BoolVar(&reverse, "reverse", false, "of a drain or a replacement: move back what it has moved, as far as that is the devices' share")
		}
		commands = append(commands, c)
	}
	return group(&cobra.Command{Use: "job", Short: "Work in the background: drain, rebuild, replace, rebalance, scrub"}, commands...)
}

func (a *app) listJobs(ctx context.Context, volume, kind string) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	js, err := client.Jobs(ctx)
	if err != nil {
		return err
	}
	if kind != "" {
		list := js.Jobs
		js.Jobs = []control.Job{}
		for _, j := range list {
			if j.Kind == kind {
				js.Jobs = append(js.Jobs, j)
			}
		}
	}
	return a.print(js, func(w io.Writer) { show.Jobs(w, js) })
}

// jobInterval is how often a watched job is looked at.
const jobInterval = time.Second

// watchJob shows a job, or all, until it is over.
func (a *app) watchJob(ctx context.Context, volume, id string) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	tick := time.NewTicker(jobInterval)
	defer tick.Stop()
	for {
		js, err := client.Jobs(ctx)
		if ctx.Err() != nil {
			return nil // ending it is how one ends it
		}
		if err != nil {
			return err
		}
		found, under := false, false
		for i := range js.Jobs {
			j := &js.Jobs[i]
			if id != "" && j.ID != id || id == "" && j.Ended != nil {
				continue
			}
			found = true
			under = under || j.Ended == nil
			if err := a.watched(j); err != nil {
				return err
			}
		}
		if !found && id != "" {
			return control.Refuse("E_NO_JOB", "volume %s has no job %s", volume, id).WithTry("ballast job ls %s", volume)
		}
		if !under {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) watched(j *control.Job) error {
	if !a.json {
		show.Job(a.out, j)
		return nil
	}
	doc := struct {
		Schema string `json:"schema"`
		control.Job
	}{control.SchemaJob, *j}
	return show.Line(a.out, &doc)
}

func (a *app) mapCommand() *cobra.Command {
	var lost string
	c := &cobra.Command{
		Use:   "map VOLUME [--if-lost DEVICE,...]",
		Short: "What would be lost with some devices",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			var names []string
			if lost != "" {
				names = deviceNames(strings.Split(lost, ","))
			}
			m, err := client.Map(cmd.Context(), strings.Join(names, ","))
			if err != nil {
				return err
			}
			return a.print(m, func(w io.Writer) { show.Map(w, m) })
		},
	}
	c.Flags().StringVar(&lost, "if-lost", "", "these devices, besides those that are out now")
	return c
}

func (a *app) whyCommand() *cobra.Command {
	var offset string
	c := &cobra.Command{
		Use:   "why VOLUME/NAME | PATH",
		Short: "Where an export or a file stands, and by which rule",
		Long: `Where an export or a file stands, and by which rule.

VOLUME/NAME is an export; a PATH, which begins with '/', './' or '../', is a file on the mounted volume.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			off := int64(-1)
			var err error
			if offset == "0" {
				off = 0
			} else if offset != "" {
				if off, err = size.Parse(offset); err != nil {
					return control.Refuse("E_SIZE", "--offset: %v", err).WithTry("--offset 10GiB")
				}
			}
			y, err := a.askWhy(cmd.Context(), args[0], off)
			if err != nil {
				return err
			}
			return a.print(y, func(w io.Writer) { show.Why(w, y) })
		},
	}
	c.Flags().StringVar(&offset, "offset", "", "the byte whose chunk is shown")
	return c
}

// askWhy asks the daemon of what is meant by arg.
func (a *app) askWhy(ctx context.Context, arg string, off int64) (*control.Why, error) {
	isPath := strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "./") || strings.HasPrefix(arg, "../")
	var volume, name string
	var inode uint64
	var err error
	if isPath {
		volume, inode, err = mountedFile(arg)
	} else {
		volume, name, err = volumes.SplitExport(arg)
	}
	if err != nil {
		return nil, err
	}
	client, err := a.client(volume)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if !isPath {
		return client.Why(ctx, name, off)
	}
	y, err := client.WhyFile(ctx, inode, off)
	if err == nil {
		y.Name = arg
	}
	return y, err
}

// mountedFile finds out of which volume a regular file is, and its inode number there.
func mountedFile(path string) (volume string, inode uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", 0, control.Refuse("E_NO_FILE", "%s: %v", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", 0, control.Refuse("E_NO_FILE", "%s is not a regular file: nothing else has data of its own", path)
	}
	if f, err := os.Open(path); err == nil { // else without what the kernel has not written yet
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return "", 0, err
		}
	}
	volume, ok, err := fusefs.MountedVolume(st.Dev)
	if err == nil && !ok {
		err = control.Refuse("E_NO_FILE", "%s is not on a mounted volume", path).WithTry("VOLUME/NAME, for an export")
	}
	return volume, st.Ino, err
}
