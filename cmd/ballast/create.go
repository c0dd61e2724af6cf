package main

import (
	"io"
	"os"

	"ballast/cmd/show"
	"ballast/cmd/volumes"

	"github.com/spf13/cobra"
)

func (a *app) createCommand() *cobra.Command {
	var copies int
	var chunk string
	var force bool
	var domains []string
	c := &cobra.Command{
		Use:   "create VOLUME DEVICE...",
		Short: "Make a volume out of disks",
		Long: `Makes a volume out of 1 to 64 devices of any sizes. A DEVICE is a block device (best by its name in
/dev/disk/by-id), a file, or PATH:SIZE to make a sparse file. Everything is checked first; unless all
is well, nothing is touched. A device that holds something is refused, and named, unless --force.

Copies of a chunk lie in different failure domains. Each device is one, unless --domain puts those together
that may fail together: the disks of one enclosure, one controller, one server.`,
		Example: `  ballast create vault /dev/disk/by-id/ata-A /dev/disk/by-id/nvme-B --copies 2
  ballast create vault /dev/sda /dev/sdb /dev/sdc /dev/sdd --copies 2 --domain left=/dev/sda,/dev/sdb --domain right=/dev/sdc,/dev/sdd
  ballast create try /tmp/a.img:2GiB /tmp/b.img:5GiB`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			bytes, err := volumes.ParseChunk(chunk)
			if err != nil {
				return err
			}
			made, err := volumes.Create(cmd.Context(), volumes.CreateOptions{Dirs: dirs, Name: args[0], Devices: args[1:], Domains: domains,
				Copies: copies, Chunk: bytes, Force: force, Child: preflightArgs(), Logger: a.logger(false)})
			if err != nil {
				return err
			}
			return a.print(made, func(w io.Writer) { show.Created(w, made) })
		},
	}
	c.Flags().IntVar(&copies, "copies", 1, "copies of each chunk: 1 stripes, 2 and 3 mirror")
	c.Flags().StringVar(&chunk, "chunk", "1MiB", "unit of placement, a power of two from 64KiB to 16MiB")
	c.Flags().StringArrayVar(&domains, "domain", nil, "NAME=DEVICE[,DEVICE...]: devices that may fail together (repeatable)")
	c.Flags().BoolVar(&force, "force", false, "overwrite what the devices hold")
	return c
}

// preflightArgs is the command line by which the journal has itself checked in another process.
func preflightArgs() []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, "journal-preflight"}
}
