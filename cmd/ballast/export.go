package main

import (
	"context"
	"errors"
	"io"

	"ballast/cmd/control"
	"ballast/cmd/daemon"
	"ballast/cmd/show"
	"ballast/cmd/size"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

func (a *app) exportCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "export",
		Short: "Exports: the disk images that clients see",
		Long: `Exports are thin: space is used as it is written, and comes back as it is trimmed. They can be made,
resized and removed while the volume is served, and while it is not.`,
	}, a.exportCreate(), a.exportLs(), a.exportResize(), a.exportRm())
}

func (a *app) exportCreate() *cobra.Command {
	return &cobra.Command{
		Use:   "create VOLUME/NAME SIZE",
		Short: "Make an export",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, name, bytes, err := exportAndSize(args)
			if err != nil {
				return err
			}
			return a.withDaemon(cmd.Context(), volume, func(ctx context.Context, c *control.Client) error {
				if err := c.CreateExport(ctx, name, bytes); err != nil {
					return err
				}
				return a.done(volume, "export %s of %s created on volume %s", name, size.Format(bytes), volume)
			})
		},
	}
}

func (a *app) exportLs() *cobra.Command {
	return &cobra.Command{
		Use:   "ls VOLUME",
		Short: "List a volume's exports and where clients find them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDaemon(cmd.Context(), args[0], func(ctx context.Context, c *control.Client) error {
				e, err := c.Exports(ctx)
				if err != nil {
					return err
				}
				return a.print(e, func(w io.Writer) { show.Exports(w, e) })
			})
		},
	}
}

func (a *app) exportResize() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "resize VOLUME/NAME SIZE",
		Short: "Change an export's size; --force to make it smaller",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, name, bytes, err := exportAndSize(args)
			if err != nil {
				return err
			}
			return a.withDaemon(cmd.Context(), volume, func(ctx context.Context, c *control.Client) error {
				s, err := c.Status(ctx)
				if err == nil {
					err = c.ResizeExport(ctx, name, bytes, force, s.UUID)
				}
				if err != nil {
					return err
				}
				return a.done(volume, "export %s of volume %s has %s now", name, volume, size.Format(bytes))
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also if it gets smaller, which destroys what lies beyond the new end")
	return c
}

func (a *app) exportRm() *cobra.Command {
	var yes, force bool
	c := &cobra.Command{
		Use:   "rm VOLUME/NAME",
		Short: "Remove an export and all data in it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, name, err := volumes.SplitExport(args[0])
			if err != nil {
				return err
			}
			return a.withDaemon(cmd.Context(), volume, func(ctx context.Context, c *control.Client) error {
				s, err := c.Status(ctx)
				if err != nil {
					return err
				}
				if err := confirmRemoval(s, name, yes || force); err != nil {
					return err
				}
				if err := c.RemoveExport(ctx, name, force, s.UUID); err != nil {
					return err
				}
				return a.done(volume, "export %s of volume %s removed", name, volume)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "really: the data in it is gone afterwards")
	c.Flags().BoolVar(&force, "force", false, "--yes, and cut off clients that have it open")
	return c
}

// confirmRemoval refuses to remove an export that holds data, and says how much, unless it is meant.
func confirmRemoval(s *control.Status, name string, meant bool) error {
	for _, e := range s.Exports {
		if e.Name == name && e.UsedBytes > 0 && !meant {
			return control.Refuse("E_EXPORT_DATA", "export %s of volume %s holds %s, which would be gone", name, s.Volume, size.Format(e.UsedBytes)).
				WithTry("ballast export rm %s/%s --yes", s.Volume, name)
		}
	}
	return nil
}

func exportAndSize(args []string) (volume, name string, bytes int64, err error) {
	if volume, name, err = volumes.SplitExport(args[0]); err != nil {
		return
	}
	if bytes, err = size.Parse(args[1]); err != nil {
		err = control.Refuse("E_SIZE", "%v", err).WithTry("ballast export ... %s 10GiB", args[0])
		return
	}
	err = daemon.CheckExportSize(bytes)
	return
}

// withDaemon calls fn with a client of the volume's daemon. If none runs, this process is the
// daemon meanwhile, without serving anybody else.
func (a *app) withDaemon(ctx context.Context, volume string, fn func(context.Context, *control.Client) error) error {
	client, err := a.client(volume)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Status(ctx)
	var r *control.Refusal
	if !errors.As(err, &r) || r.Code != "E_NOT_RUNNING" {
		if err != nil {
			return err
		}
		return fn(ctx, client)
	}
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	var result error
	err = daemon.Run(ctx, daemon.Options{Dirs: dirs, Volume: volume, Logger: a.logger(false), Preflight: preflightArgs(), During: func(ctx context.Context) {
		result = fn(ctx, client)
		client.Close()
	}})
	if result != nil {
		return result
	}
	return err
}
