package main

import (
	"strings"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/kernel"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

func (a *app) attachCommand() *cobra.Command {
	o := kernel.AttachOptions{}
	c := &cobra.Command{
		Use:   "attach VOLUME/NAME /dev/nbdN",
		Short: "Bind an export to a block device of the kernel",
		Long: `Binds an export to /dev/nbdN, with several connections. No process stays for it. When the daemon was
restarted, the same command again gives the device its new connections; until then requests wait,
for --dead-timeout at most.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume, name, err := volumes.SplitExport(args[0])
			if err != nil {
				return err
			}
			if o.Connections < 1 || o.Connections > 16 {
				return control.Refuse("E_USAGE", "%d connections: 1 to 16 are possible", o.Connections).WithTry("--connections 4")
			}
			o.Device, o.Export = args[1], name
			if _, err := kernel.ParseDevice(o.Device); err != nil {
				return err
			}
			s, err := a.statusOf(cmd.Context(), []string{volume})
			if err != nil {
				return err
			}
			if o.Socket = unixSocket(s); o.Socket == "" {
				return control.Refuse("E_ADDRESS", "volume %s is not served on a unix socket", volume).WithTry("ballast serve %s", volume)
			}
			o.Backend = "ballast:" + s.UUID + "/" + name
			e, err := kernel.Attach(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.done(volume, "export %s of volume %s is %s now, %d bytes", name, volume, o.Device, e.Size)
		},
	}
	c.Flags().IntVar(&o.Connections, "connections", 4, "connections, 1 to 16")
	c.Flags().DurationVar(&o.Timeout, "timeout", 2*time.Minute, "how long a request may take")
	c.Flags().DurationVar(&o.DeadTimeout, "dead-timeout", 10*time.Minute, "how long requests wait while the daemon is gone")
	return c
}

func unixSocket(s *control.Status) string {
	for _, address := range s.Daemon.NBD {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			return path
		}
	}
	return ""
}

func (a *app) detachCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "detach /dev/nbdN",
		Short: "End what attach began",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := kernel.Detach(args[0]); err != nil {
				return err
			}
			return a.done("", "%s is detached", args[0])
		},
	}
}
