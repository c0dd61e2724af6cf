package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/show"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status [VOLUME]",
		Short: "What state a volume is in, and what to do about it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.statusOf(cmd.Context(), args)
			if check {
				return a.check(s, err)
			}
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { show.Status(w, s) })
		},
	}
	c.Flags().BoolVar(&check, "check", false, "one line and an exit code for monitoring: 0 ok, 1 warning, 2 critical, 3 unknown")
	return c
}

func (a *app) statusOf(ctx context.Context, args []string) (*control.Status, error) {
	volume, err := a.only(args)
	if err != nil {
		return nil, err
	}
	client, err := a.client(volume)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// check never fails: what it cannot tell is a result too.
func (a *app) check(s *control.Status, err error) error {
	doc := struct {
		Schema string `json:"schema"`
		Code   int    `json:"code"`
		Line   string `json:"line"`
	}{Schema: "ballast.check-status/1"}
	if err != nil {
		doc.Code, doc.Line = control.ExitCheckUnknown, "BALLAST UNKNOWN - "+show.Clean(err.Error())
	} else {
		doc.Code, doc.Line = show.Check(s)
	}
	a.code = doc.Code
	return a.print(&doc, func(w io.Writer) { fmt.Fprintln(w, doc.Line) })
}

func (a *app) usageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "usage VOLUME",
		Short: "How its space is used, by export and by device",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.statusOf(cmd.Context(), args)
			if err != nil {
				return err
			}
			u := show.UsageOf(s)
			return a.print(u, u.Write)
		},
	}
}

// listPatience is how long one daemon may take to answer before list goes on.
const listPatience = 2 * time.Second

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The volumes on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			names, err := dirs.Names()
			if err != nil {
				return err
			}
			l := &show.List{Schema: "ballast.list/1", Dir: dirs.State, Volumes: []show.Listed{}}
			for _, name := range names {
				l.Volumes = append(l.Volumes, listed(cmd.Context(), dirs, name))
			}
			return a.print(l, l.Write)
		},
	}
}

func listed(ctx context.Context, dirs volumes.Dirs, name string) show.Listed {
	v := show.Listed{Volume: name, State: "not running"}
	config, err := volumes.ReadConfig(dirs, name)
	if err != nil {
		v.State, v.Fault = "unreadable", err.Error()
		return v
	}
	v.Copies, v.Devices, v.UUID = config.Copies, len(config.Devices), config.UUID.String()
	for _, d := range config.Devices {
		v.Raw += d.Size
	}
	client := control.NewClient(name, dirs.Control(name))
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	s, err := client.Status(ctx)
	switch {
	case err == nil:
		v.State = s.State
	case ctx.Err() != nil:
		v.State = "does not answer"
	}
	return v
}

func (a *app) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop VOLUME",
		Short: "End a volume's daemon; everything acknowledged is on the disks when this returns",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.Stop(cmd.Context()); err != nil {
				return err
			}
			return a.done(args[0], "volume %s is no longer served", args[0])
		},
	}
}

func (a *app) iostatCommand() *cobra.Command {
	var queues, latencies bool
	c := &cobra.Command{
		Use:   "iostat VOLUME [INTERVAL [COUNT]]",
		Short: "What each device does, once or every INTERVAL seconds",
		Long: `Shows what each device does. OTHERS is the share of the time for which others than this volume kept the
disk busy, as the kernel tells ("-": it does not); with -q, KERNEL is how many requests are in it, whosever.`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			interval, count, err := intervalAndCount(args[1:])
			if err != nil {
				return err
			}
			client, err := a.client(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			return a.iostat(cmd.Context(), client, interval, count, func(s *show.IOStat) error {
				if a.json {
					return show.Line(a.out, s)
				}
				s.Write(a.out, queues, latencies)
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&queues, "queues", "q", false, "show queues")
	c.Flags().BoolVarP(&latencies, "latencies", "l", false, "show latencies, and how much slower than usual a device is")
	return c
}

// intervalAndCount reads [INTERVAL [COUNT]]; without an interval there is one look, without a
// count (0) no end.
func intervalAndCount(args []string) (time.Duration, int, error) {
	if len(args) == 0 {
		return 0, 1, nil
	}
	seconds, err := strconv.ParseFloat(args[0], 64)
	if err != nil || !(seconds >= 0.1 && seconds <= 86400) {
		return 0, 0, control.Refuse("E_USAGE", "%q is no interval of 0.1 to 86400 seconds", args[0]).WithTry("ballast iostat VOLUME 1")
	}
	count := 0
	if len(args) > 1 {
		if count, err = strconv.Atoi(args[1]); err != nil || count < 1 {
			return 0, 0, control.Refuse("E_USAGE", "%q is no count", args[1]).WithTry("ballast iostat VOLUME 1 10")
		}
	}
	return time.Duration(seconds * float64(time.Second)), count, nil
}

func (a *app) iostat(ctx context.Context, client *control.Client, interval time.Duration, count int, put func(*show.IOStat) error) error {
	before, err := client.Status(ctx)
	if err != nil {
		return err
	}
	last := time.Now()
	if interval == 0 {
		return put(show.IOStatOf(nil, before, 0, last))
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; count == 0 || n < count; n++ {
		select {
		case <-ctx.Done():
			return nil // ending it is how one ends it
		case <-tick.C:
		}
		now, err := client.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		at := time.Now()
		if err := put(show.IOStatOf(before, now, at.Sub(last), at)); err != nil {
			return err
		}
		before, last = now, at
	}
	return nil
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var since time.Duration
	c := &cobra.Command{
		Use:   "events VOLUME",
		Short: "What happened to a volume",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client(args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			oldest := time.Time{}
			if since > 0 {
				oldest = time.Now().Add(-since)
			}
			return client.Events(cmd.Context(), 0, follow, func(e control.Event) error {
				switch {
				case e.Time.Before(oldest):
				case a.json:
					return show.Line(a.out, e)
				default:
					show.Event(a.out, e)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().DurationVar(&since, "since", 0, "only the last so much time (1h30m)")
	return c
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			doc := struct {
				Schema   string `json:"schema"`
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{"ballast.version/1", control.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return a.print(&doc, func(w io.Writer) {
				fmt.Fprintf(w, "ballast %s (%s, %s)\n", doc.Version, doc.Go, doc.Platform)
			})
		},
	}
}
