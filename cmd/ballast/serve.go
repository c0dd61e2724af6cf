package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/daemon"
	"ballast/cmd/show"
	"ballast/cmd/size"

	"github.com/spf13/cobra"
)

func (a *app) serveCommand() *cobra.Command {
	var addresses, users, mountOptions []string
	var dirty, cache string
	var watch bool
	var floor float64
	o := daemon.Options{}
	c := &cobra.Command{
		Use:   "serve VOLUME",
		Short: "Serve a volume until SIGTERM, SIGINT or ballast stop",
		Long: `Serves the exports of a volume over NBD and, with --mount, its files as a file system, in the
foreground. Without --nbd, NBD is on a unix socket in the run directory. Sockets of a service manager
(LISTEN_FDS) are served too, and readiness is told to it (NOTIFY_SOCKET).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Dirs, err = a.dirs(); err != nil {
				return err
			}
			o.Volume = args[0]
			for _, s := range addresses {
				address, err := daemon.ParseAddress(s)
				if err != nil {
					return err
				}
				o.NBD = append(o.NBD, address)
			}
			if o.Users, err = userIDs(users); err != nil {
				return err
			}
			if err := o.MountOptions.ParseOptions(strings.Join(mountOptions, ","), false); err != nil {
				return err
			}
			if o.DirtyLimit, err = optionalSize("--dirty-limit", dirty); err != nil {
				return err
			}
			if o.CacheBytes, err = optionalSize("--cache", cache); err != nil {
				return err
			}
			if floor < 0.1 || floor > 90 {
				return control.Refuse("E_USAGE", "--background-floor %v is not between 0.1 and 90 percent", floor).WithTry("--background-floor 10")
			}
			o.BackgroundFloor = floor / 100
			o.Listen = true
			o.Logger = a.logger(!watch || !isTerminal(a.errs)) // lines would tear the picture
			o.Preflight = preflightArgs()
			o.Stdin, o.Stdout = os.Stdin, os.Stdout
			client := control.NewClient(o.Volume, o.Dirs.Control(o.Volume))
			defer client.Close()
			o.Ready = func(ctx context.Context) { a.serving(ctx, client, o.Stdio == "", watch) }
			o.OwnProcess = true
			return daemon.Run(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&addresses, "nbd", nil, "serve on unix:PATH or tcp:HOST:PORT (loopback); may be repeated")
	f.StringArrayVar(&users, "nbd-user", nil, "a user, by name or number, who may use unix sockets of --nbd besides root and yours; may be repeated")
	f.StringVar(&o.Mount, "mount", "", "mount the volume's files on this directory")
	f.StringArrayVarP(&mountOptions, "options", "o", nil, "options of the mount, as of ballast mount; may be repeated")
	f.BoolVar(&o.UntilUnmounted, "until-unmounted", false, "end when the volume is mounted no longer")
	f.StringVar(&o.HTTP, "http", "", "serve /metrics, /healthz and /readyz on HOST:PORT")
	f.StringVar(&o.Stdio, "stdio", "", "serve this export to one client on standard input and output, then end")
	f.StringArrayVar(&o.Look, "device", nil, "look for a device at this path too; may be repeated")
	f.BoolVar(&o.Degraded, "degraded", false, "serve a volume of one copy although devices are missing; reads of what is on them fail")
	f.BoolVar(&o.AcceptStale, "accept-stale", false, "take a disk for what it was although it is an older image; reads of blocks that it lost fail")
	f.BoolVar(&o.JournalSync, "journal-sync", false, "with one copy of data too, acknowledge only what two copies of the journal on the devices have")
	f.BoolVar(&o.ReadOnly, "read-only", false, "refuse all writes of clients")
	f.BoolVar(&o.NoRebalance, "no-rebalance", false, "do not even out what the disks hold while clients are quiet, only on \"ballast rebalance start\"")
	f.Float64Var(&floor, "background-floor", 2, "percent of a busy disk's time that jobs get in any case; data with one copy left gets 10 or more")
	f.BoolVar(&watch, "watch", false, "show the status until the end")
	f.StringVar(&dirty, "dirty-limit", "", "memory for writes that no disk has yet (default: what they write in 1s, from 64MiB to 2.5% of the RAM)")
	f.StringVar(&cache, "cache", "", "memory for what is known of placement (default 64MiB)")
	f.DurationVar(&o.FlushInterval, "flush-interval", 0, "how long written data may stay volatile if no client flushes (default 5s)")
	return c
}

// userIDs looks users up by name or number.
func userIDs(names []string) ([]uint32, error) {
	var ids []uint32
	for _, name := range names {
		id := name
		if u, err := user.Lookup(name); err == nil {
			id = u.Uid
		}
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, control.Refuse("E_USAGE", "--nbd-user %s: there is no such user", name).WithTry("getent passwd")
		}
		ids = append(ids, uint32(n))
	}
	return ids, nil
}

func optionalSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := size.Parse(s)
	if err == nil && n < 1<<20 {
		err = fmt.Errorf("size %q is less than 1MiB", s)
	}
	if err != nil {
		return 0, control.Refuse("E_SIZE", "%s: %v", flag, err).WithTry("%s 64MiB", flag)
	}
	return n, nil
}

// serving tells where clients find the exports, and shows the status if asked to.
func (a *app) serving(ctx context.Context, client *control.Client, talk, watch bool) {
	if !talk {
		return
	}
	e, err := client.Exports(ctx)
	if err != nil {
		return
	}
	if a.json {
		show.JSON(a.out, e)
		return
	}
	fmt.Fprintf(a.out, "serving volume %s\n\n", e.Volume)
	if s, err := client.Status(ctx); err == nil {
		for _, m := range s.Daemon.Mounts {
			fmt.Fprintf(a.out, "  mounted on %s\n\n", show.Clean(m.Dir))
		}
	}
	show.Exports(a.out, e)
	a.hints(e)
	if watch {
		a.watch(ctx, client)
	}
}

// hints shows command lines to try.
func (a *app) hints(e *control.Exports) {
	if len(e.Exports) == 0 || len(e.URIs[e.Exports[0].Name]) == 0 {
		return
	}
	uri := e.URIs[e.Exports[0].Name][0]
	fmt.Fprintf(a.out, "\ntry, in another terminal:\n  nbdinfo '%s'\n  fio --name=try --ioengine=nbd --uri='%s' --rw=write --bs=1M --iodepth=8 --size=256M --verify=crc32c\n  qemu-img convert -n disk.raw '%s'\n\n", uri, uri, uri)
}

// watchInterval is how often the status is shown.
const watchInterval = 2 * time.Second

// watch shows the status until ctx ends: over and over in the same place on a terminal, else only
// when the state changes.
func (a *app) watch(ctx context.Context, client *control.Client) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	terminal := isTerminal(a.out)
	state, lines := "", 0
	for {
		s, err := client.Status(ctx)
		if err != nil {
			return
		}
		switch {
		case terminal:
			var text strings.Builder
			show.Status(&text, s)
			if lines > 0 {
				fmt.Fprintf(a.out, "\x1b[%dA\x1b[J", lines)
			}
			lines = strings.Count(text.String(), "\n")
			io.WriteString(a.out, text.String())
		case s.State != state:
			show.Status(a.out, s)
		}
		state = s.State
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// logger writes to stderr, without the time if a service manager reads it. Unless it is to talk,
// it only warns.
func (a *app) logger(talk bool) *slog.Logger {
	level := slog.LevelInfo
	if !talk {
		level = slog.LevelWarn
	}
	o := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		o.ReplaceAttr = func(groups []string, at slog.Attr) slog.Attr {
			if at.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{} // the journal has its own
			}
			return at
		}
	}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.errs, o))
	}
	return slog.New(slog.NewTextHandler(a.errs, o))
}
